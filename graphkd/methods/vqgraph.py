"""VQGraph: the neighbourhood of a node as one of many codes, and which codes it is like."""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Annotated, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from graphkd import losses
from graphkd.graph import Graph, Part
from graphkd.losses.embeddings import unit
from graphkd.method import DistillationContext, Epochs, LossTerm, Method, Share, Temperature
from graphkd.models.layers import answering, convolution, first, outputs_of
from graphkd.ops.dropout import dropout
from kdcore.losses import response
from kdcore.outputs import Outputs
from kdcore.settings import Setting

BLOCK = 4096  # nodes that are compared with all codes at a time


class Tokenizer(nn.Module):
    r"""A GCN that goes on from the nearest of its codes in place of its first hidden state.

        h = dropout(relu(\hat A X W + b)),   z_i = argmax_m cos(h_i, e_m),   q_i = U e_{z_i}
        H' = relu(\hat A q W' + b'), ...,   logits = W'' H' + b''

    In training it learns, beside the labels,

        v mean (h - V e_z)^2 + \epsilon sqrt(mean_ij (A_ij - s_ij)^2) + 1/4 mean (h - e_z)^2

    where s is q q^T, brought to 0..1 by its least and greatest entry, and A has self-loops; a code
    follows the mean direction of the h that have chosen it, by a fifth of the way at each step, and
    no gradient. The gradient at e_z goes on to h as it is (van den Oord, Vinyals and Kavukcuoglu,
    "Neural Discrete Representation Learning", NIPS 2017, https://arxiv.org/abs/1711.00937).

    Shapes:
        codes: (M, H); hidden: h, and the states of the convolutions after it, (N, H) each.
    """

    layers: Any
    codebook: Tensor
    follow, commitment = 0.2, 0.25

    def __init__(
        self,
        sizes: list[int],
        dropout: float,
        codes: int,
        node_weight: float = 0.001,
        edge_weight: float = 0.03,
    ):
        super().__init__()
        width = sizes[1]
        self.layers = nn.ModuleList(convolution("GCNConv", a, b) for a, b in pairwise(sizes[:-1]))
        self.outputs = nn.Linear(width, sizes[-1])
        self.of_nodes, self.of_edges = nn.Linear(width, width), nn.Linear(width, width)
        self.register_buffer("codebook", unit(nn.init.uniform_(torch.empty(codes, width), -1, 1)))
        self.dropout, self.node_weight, self.edge_weight = dropout, node_weight, edge_weight

    @answering
    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Outputs:
        """See the module."""
        h = self._states(graph)
        return self._onward(graph, h, self.of_edges(self._coded(h, self._nearest(h))), nodes)

    def learning(self, graph: Graph, nodes: Tensor | None = None) -> tuple[Outputs, Tensor]:
        """What it shows in training, and its own losses; the codes are moved on."""
        h = self._states(graph)
        chosen = self._nearest(h)
        coded = self._coded(h, chosen)
        edges = self.of_edges(coded)
        own = self.node_weight * (self.of_nodes(coded) - h).square().mean()
        own = own + self.edge_weight * edge_error(graph, edges, chosen)
        own = own + self.commitment * (h - coded.detach()).square().mean()
        self._follow(h.detach(), chosen)
        return self._onward(graph, h, edges, nodes), own

    def _states(self, graph: Graph) -> Tensor:
        layer = self.layers[0]
        h = first(graph, "normalized", layer.lin.weight, layer.bias).relu_()
        return dropout(h, self.dropout, self.training)

    @torch.no_grad()
    def _nearest(self, h: Tensor) -> Tensor:
        """The code of each node, (N,)."""
        codes = unit(self.codebook).T
        return torch.cat([(part @ codes).argmax(1) for part in h.split(BLOCK)])

    def _coded(self, h: Tensor, chosen: Tensor) -> Tensor:
        """The codes of the nodes, with the gradient of h."""
        return h + (self.codebook[chosen] - h).detach()

    def _onward(self, graph: Graph, h: Tensor, edges: Tensor, nodes: Tensor | None) -> Outputs:
        hidden = [h]
        state = edges
        for layer in self.layers[1:]:
            state = (graph.normalized @ F.linear(state, layer.lin.weight) + layer.bias).relu_()
            hidden.append(state)
        return outputs_of(self.outputs(state), hidden, nodes)

    @torch.no_grad()
    def _follow(self, h: Tensor, chosen: Tensor) -> None:
        """Move each code on: by those who chose it, or towards its own length of 1."""
        sums = torch.zeros_like(self.codebook).index_add(0, chosen, unit(h))
        used = torch.bincount(chosen, minlength=len(sums))[:, None] > 0
        self.codebook = self.codebook.lerp(
            torch.where(used, unit(sums), unit(self.codebook)), self.follow
        )


def edge_error(graph: Graph, q: Tensor, chosen: Tensor) -> Tensor:
    r"""The root of the mean over all pairs of (A_ij - s_ij)^2, see `Tokenizer`; a scalar.

    Nodes of one code have one q, so that s has but a row for each code that is in use: the sum over
    all pairs is one over pairs of these, with their counts, and what is left are the edges.

    Shapes:
        q: (N, H); chosen: (N,), equal only where the rows of q are.
    """
    _, place, counts = chosen.unique(return_inverse=True, return_counts=True)
    weight = counts.to(q)
    each = q.new_zeros(len(counts), q.shape[1]).index_add(0, place, q) / weight[:, None]
    products = each @ each.T
    low = products.min()
    span = products.max() - low
    # Where all products are one but for rounding, s is 0, and no rounding is divided by next to 0.
    span = span.masked_fill(span <= torch.finfo(q.dtype).eps * products.abs().max(), torch.inf)
    everywhere = (weight @ ((products - low) / span).square() @ weight).sum()
    entries = len(graph.total.rows.values)
    along = ((q * (graph.total @ q)).sum() - entries * low) / span
    error: Tensor = (everywhere - 2 * along + entries) / len(q) ** 2
    return error.clamp(min=0).sqrt()


@dataclass(frozen=True)
class VQGraph(Method):
    r"""A graph network that knows nodes by codes teaches an MLP its labels, and which codes fit.

    Yang, Tian, Xu, Liu, Hong, Qu, Zhang, Cui, Zhang and Leskovec, "VQGraph: Rethinking Graph
    Representation Space for Bridging GNNs and MLPs", ICLR 2024, https://arxiv.org/abs/2308.02117;
    the authors' code is at https://github.com/YangLing0818/VQGraph.

        L = \lambda mean_{train} CE + (1 - \lambda) mean_i KL(teacher_i || student_i)
            + w T^2 mean_i KL(softmax(r^teacher_i / T) || softmax(r^student_i / T))
        r^teacher_im = cos(h_i, e_m),   r^student_im = cos(P g_i, e_m)

    where e are the codes of the teacher, a `Tokenizer`, h what it makes codes of, g the student's
    last hidden state, and P a linear map that is learnt and thrown away.

    Convention: lambda 0, T 4, w 1e-8, the size of the codebook and the weights of the tokenizer's
    losses are those of the authors' code, and so is its GCN, which they recommend over their SAGE.
    With w 1e-8 codes teach nothing that can be measured; what the student learns are the labels of
    this teacher. Theirs compares the student by minus the distance where it takes the teacher's
    cosine, gives `KLDivLoss(log_target=True)` probabilities, does not put the teacher's codes into
    the order of the features, and chooses the student's epoch by test accuracy where all nodes are
    seen; here both sides are compared by cosine, as the paper's one r has it, of the same node, and
    the epoch is by validation. Ours are also: one step on the sum, where theirs takes one for each
    term; g from before dropout; and codes as wide as the teacher, where theirs are as the features.
    """

    taught_by = Tokenizer

    teacher: str = "gcn"
    teacher_hidden: Annotated[int | None, Setting("width of the teacher and its codes", ge=1)] = 128
    teacher_layers: Annotated[
        int | None, Setting("convolutions, and one linear map at last", ge=2)
    ] = 3
    teacher_epochs: Epochs = 100
    hard_weight: Share = 0.0
    batch: int = 512
    epochs: Epochs = 500
    temperature: Temperature = 4.0
    code_weight: Annotated[float, Setting("w, of the codes", ge=0)] = 1e-8
    codes: Annotated[int, Setting("of the teacher", ge=2)] = 5000
    node_weight: Annotated[float, Setting("of hidden states made again of codes", ge=0)] = 0.001
    edge_weight: Annotated[float, Setting("of edges made again of codes", ge=0)] = 0.03

    def __post_init__(self) -> None:
        """Refuse a teacher that is no tokenizer."""
        super().__post_init__()
        if self.teacher != "gcn":
            raise ValueError(
                f"the teacher is {self.teacher}; vqgraph has a gcn with codes: take this, or glnn"
            )

    def own_teacher(self) -> Any:
        """A GCN with codes."""
        return partial(
            Tokenizer,
            codes=self.codes,
            node_weight=self.node_weight,
            edge_weight=self.edge_weight,
        )

    def hidden_states(self) -> int:
        """The last one is compared."""
        return 1

    def terms(self, context: DistillationContext) -> tuple[LossTerm, ...]:
        """Soft labels and soft assignments of codes."""
        assert self.hard_weight is not None
        assert self.temperature is not None
        soft = partial(losses.soft_labels, temperature=1.0)
        found = [LossTerm(soft, 1 - self.hard_weight)]
        if self.code_weight:
            found.append(LossTerm(_Assignments(context, self.temperature), self.code_weight))
        return tuple(found)


class _Assignments(nn.Module):
    """How the student's place among the codes differs from the teacher's."""

    codes: Tensor

    def __init__(self, context: DistillationContext, temperature: float):
        super().__init__()
        assert context.teacher is not None
        inside = context.teacher.modules()
        codes = unit(next(one for one in inside if isinstance(one, Tokenizer)).codebook)
        student, _ = context.widths()
        self.project, self.temperature = nn.Linear(student, codes.shape[1]), temperature
        self.register_buffer("codes", codes)

    def forward(self, student: Outputs, teacher: Outputs, graph: Graph | Part) -> Tensor:
        """One value per node."""
        own = unit(self.project(student.hidden[-1])) @ self.codes.T
        return response.kl(own, unit(teacher.hidden[0]) @ self.codes.T, self.temperature)
