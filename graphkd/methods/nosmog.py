"""NOSMOG: positions as inputs, similarities, and inputs moved against the student."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn

from graphkd import losses
from graphkd.core import View
from graphkd.graph import Graph, Part
from graphkd.inputs import Encoder, positions
from graphkd.losses.projectors import rectified
from graphkd.method import DistillationContext, LossTerm, Method, sample
from graphkd.training import published
from kdcore.losses import response
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.settings import WIDEST, Setting


@dataclass(frozen=True)
class NOSMOG(Method):
    r"""A graph network teaches an MLP that knows where in the graph a node is.

    Tian, Zhang, Guo, Zhang and Chawla, "Learning MLPs on Graphs: A Unified View of Effectiveness,
    Robustness, and Efficiency", ICLR 2023, https://arxiv.org/abs/2208.10010.

        L = \lambda mean_{train} CE + mean_i KL(teacher_i || student(x_i))
            + w mean_ij (t_i . t_j - g_i . g_j)^2 + 0.1 mean_i KL(teacher_i || student(x_i + d_i))

    x are the features beside `dimensions` codes of random walks (`inputs.positions`), g a learned
    map of the student's embedding (`losses.structural_similarity`), and d the noise of size
    `radius` that `steps` of projected gradient ascent on the last KL find (Madry et al., "Towards
    Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
    https://arxiv.org/abs/1706.06083), each of a quarter of the radius, from a random start.

    Convention: lambda 0 and the settings of the authors' code, but codes by factorisation instead
    of gensim's skip-gram, on the graph that training may see. The embeddings that are compared are
    those after the ReLU on both sides; in the authors' code those of MLP and SAGE are from before
    it. A node that was held out needs its neighbours at inference, if only for their codes. Of each
    batch `moved` nodes, drawn anew, are moved, where the authors move all (`moved=0`): on average
    the same loss, in less time. With a student that uses edges, these are moved in the graph among
    themselves.
    """

    published_settings = published.NOSMOG

    inputs: str = "positions"
    hard_weight: float | None = 0.0
    batch: int = 512
    dimensions: Annotated[int | None, Setting("of a code", ge=1, le=WIDEST)] = None
    walks: Annotated[int | None, Setting("from each node", ge=1)] = None
    walk_length: Annotated[int | None, Setting("nodes of a walk", ge=2)] = None
    window: Annotated[int | None, Setting("steps apart that count as near", ge=1)] = None
    radius: Annotated[float | None, Setting("size of the noise", ge=0)] = None
    steps: Annotated[int, Setting("of gradient ascent on the noise", ge=0)] = 5
    similarity_weight: Annotated[float | None, Setting("w, of the similarities", ge=0)] = None
    adversarial_weight: Annotated[float, Setting("of the noised nodes", ge=0)] = 0.1
    moved: Annotated[int, Setting("nodes of a batch; 0: all", ge=0, le=WIDEST)] = 128

    def encoder(self, view: View, seed: int) -> Encoder:
        """Features beside codes of random walks with this method's settings."""
        if self.inputs != "positions":
            return super().encoder(view, seed)
        sizes = (self.dimensions, self.walks, self.walk_length, self.window)
        return positions(view, seed, *(size for size in sizes if size is not None))

    def hidden_states(self) -> int:
        """The last one is compared."""
        return 0 if self.similarity_weight == 0 else 1

    def terms(self, context: DistillationContext) -> tuple[LossTerm, ...]:
        """Soft labels, similarities, and soft labels under noise."""
        assert self.similarity_weight is not None
        assert self.radius is not None
        found = [LossTerm(losses.soft_labels, 1.0)]
        if self.similarity_weight:
            found.append(LossTerm(_Similar(context, self.dropout or 0.0), self.similarity_weight))
        if self.adversarial_weight:
            noise = generator(context.seed, "adversary")
            moved = partial(adversarial, context.student, context.view.graph, self.radius)
            loss = partial(moved, steps=self.steps, draw=noise)
            nodes = partial(sample, count=self.moved) if self.moved else None
            found.append(LossTerm(loss, self.adversarial_weight, nodes))
        return tuple(found)


class _Similar(nn.Module):
    """Structural similarity of the teacher's embedding and a learned map of the student's."""

    def __init__(self, context: DistillationContext, dropout: float):
        super().__init__()
        student, teacher = context.widths()
        self.maps = nn.ModuleDict(rectified(student, teacher, dropout))
        self.to(context.seen.x)

    def forward(self, student: Outputs, teacher: Outputs, graph: Graph | Part) -> Tensor:
        """One value per node."""
        return losses.structural_similarity(student, teacher, graph, **self.maps)


def adversarial(
    network: nn.Module,
    whole: Graph,
    radius: float,
    student: Outputs,
    teacher: Outputs,
    graph: Graph | Part,
    steps: int,
    draw: torch.Generator,
) -> Tensor:
    r"""Soft labels at features that projected gradient ascent has moved, (N,); see `NOSMOG`."""
    x = whole.x if isinstance(graph, Graph) else whole.x[graph.nodes]
    target = teacher.logits.detach()

    def value(moved: Tensor) -> Tensor:
        return response.kl(network(_Moved(graph, moved)).logits, target)

    # In place wherever it can be: these are the largest tensors of a run, and memory is the limit.
    low, high = x - radius, x + radius
    drawn = torch.empty(x.shape, dtype=torch.float32)  # the same draw for features of any type
    moved = drawn.uniform_(-radius, radius, generator=draw).to(x)
    moved.add_(x).requires_grad_()
    for _ in range(steps):
        (slope,) = torch.autograd.grad(value(moved).sum(), moved)
        with torch.no_grad():
            moved.add_(slope.sign_(), alpha=radius / 4).clamp_(low, high)
    return value(moved.detach())


class _Moved:
    """The nodes of a step with other, dense features; all else is the graph's own."""

    def __init__(self, graph: Graph | Part, x: Tensor):
        self.x = self.features = x
        self._graph = graph

    def __getattr__(self, name: str) -> object:
        graph = self._graph
        if isinstance(graph, Part):
            self._graph = graph = graph.graph.subgraph(graph.nodes)
        if name.endswith("_features"):  # an adjacency times the features
            return getattr(graph, name.removesuffix("_features")) @ self.x
        return getattr(graph, name)
