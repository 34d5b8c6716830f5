"""What the layers of several networks share: linear maps, first products."""

from collections.abc import Callable, Iterable
from functools import wraps
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from graphkd.graph import HIDDEN, Graph
from graphkd.ops import edges
from graphkd.ops.sparse import Matrix
from kdcore.outputs import Outputs


def rows(outputs: Outputs, index: Tensor | slice) -> Outputs:
    """The outputs at some of their rows."""
    return Outputs(outputs.logits[index], tuple(h[index] for h in outputs.hidden))


def answering(forward: Callable[..., Outputs]) -> Callable[..., Any]:
    """A network's forward(graph, nodes) that answers to (x) and (x, edge_index) with logits, too.

    Edges are taken as those of the graph that it was trained on: both ways, once, without loops.
    """

    @wraps(forward)
    def answer(self: Any, graph: Graph | Tensor, nodes: Tensor | None = None) -> Any:
        if not isinstance(graph, Tensor):
            return forward(self, graph, nodes)
        none = graph.new_zeros(2, 0, dtype=torch.long)
        pairs = none if nodes is None else edges.simple(nodes, len(graph))
        unknown = pairs.new_full((len(graph),), HIDDEN)
        return forward(self, Graph(graph, pairs, unknown, 2)).logits

    return answer


def convolution(name: str, *sizes: Any, **settings: Any) -> nn.Module:
    """PyG's layer of this name, "GCNConv"; late, since PyG takes longer to import than torch."""
    made: nn.Module = getattr(import_module("torch_geometric.nn"), name)(*sizes, **settings)
    return made


def linear(
    h: Matrix | Tensor, weight: Tensor, bias: Tensor | None = None, nodes: Tensor | None = None
) -> Tensor:
    """The map h W^T + b on some rows of h: a sparse h is cut last, a dense one first."""
    if isinstance(h, Tensor):
        return F.linear(h if nodes is None else h[nodes], weight, bias)
    product = h @ weight.T
    product = product if nodes is None else product[nodes]
    return product if bias is None else product + bias


def first(graph: Graph, adjacency: str, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The first product of a network, A X W^T + b, with the adjacency of this name.

    Of dense features A X is worked out once for all epochs. Sparse ones would lose their zeros:
    there X W^T comes first.
    """
    if isinstance(graph.features, Tensor):
        return F.linear(getattr(graph, f"{adjacency}_features"), weight, bias)
    matrix: Matrix = getattr(graph, adjacency)
    product = matrix @ linear(graph.features, weight)
    return product if bias is None else product + bias


def outputs_of(logits: Tensor, hidden: Iterable[Tensor], nodes: Tensor | None) -> Outputs:
    """What a network shows of some nodes, or of all, after it has run on all."""
    outputs = Outputs(logits, tuple(hidden))
    return outputs if nodes is None else rows(outputs, nodes)
