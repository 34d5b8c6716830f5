"""GNN-SD: a network teaches itself, from its more diverse layers to its smoother ones."""

from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from graphkd.graph import Graph, Part
from graphkd.method import DEEPEST, DistillationContext, LossTerm, Method
from graphkd.ops import sparse
from kdcore.outputs import Outputs
from kdcore.settings import Setting


@dataclass(frozen=True)
class GNNSD(Method):
    r"""A graph network without a teacher keeps in deep layers how nodes differ in early ones.

    Chen, Bian, Xiao, Rong, Xu and Huang, "On Self-Distilling Graph Neural Network", IJCAI 2021,
    https://arxiv.org/abs/2011.02255: adaptive discrepancy retaining.

        L = mean_{train} CE + w mean_i \sum_{l > l*} [S^{l-1} > S^l] (S_i^{l-1} - S_i^l)^2
        S_i^l = 1 - cos(h_i^l, mean(h_j^l, j in N(i) + {i}))

    S is the neighbourhood discrepancy rate, S^l its size in layer l, l* the layer in which that is
    largest, and the earlier layer of each pair is the teacher, without a gradient; a layer that has
    lost nothing is left alone. By default a GCN of three layers. Convention: the mean over a node
    and its neighbours, where the paper has the normalised adjacency; the size is the mean over the
    nodes; the paper's further term on class probabilities is left out.
    """

    scheme = "own"

    student: str = "gcn"
    hidden: int | None = 64
    layers: Annotated[int | None, Setting("layers", ge=3, le=DEEPEST)] = 3
    discrepancy_weight: Annotated[float, Setting("w, of the discrepancy", ge=0)] = 0.1

    def hidden_states(self) -> int:
        """Earlier ones teach later ones."""
        return 2

    def terms(self, context: DistillationContext) -> tuple[LossTerm, ...]:
        """What later layers lose of the discrepancy of earlier ones."""
        return (LossTerm(lost_discrepancy, self.discrepancy_weight),)


def discrepancy(h: Tensor, graph: Graph | Part) -> Tensor:
    """The neighbourhood discrepancy rate of each node, (N,), 0 to 2; 0 for equal neighbours."""
    around = sparse.mean(graph.edge_index, graph.num_nodes, h.dtype) @ h
    return 1 - F.cosine_similarity(h, around, dim=1)


def lost_discrepancy(student: Outputs, teacher: Outputs, graph: Graph | Part) -> Tensor:
    """Adaptive discrepancy retaining, (N,); the teacher's side is the earlier layer's.

    Raises:
        ValueError: there are fewer than two hidden layers.
    """
    if len(student.hidden) < 2:
        raise ValueError(
            f"the student shows {len(student.hidden)} hidden states and one teaches the next: take "
            "a network with 3 layers or more"
        )
    rates = [discrepancy(h, graph) for h in student.hidden]
    size = [float(rate.detach().mean()) for rate in rates]
    start = max(range(len(rates) - 1), key=size.__getitem__)
    value = rates[0].new_zeros(len(rates[0]))
    for layer in range(start + 1, len(rates)):
        less = size[layer] < size[layer - 1]
        value = value + less * (rates[layer - 1].detach() - rates[layer]).square()
    return value
