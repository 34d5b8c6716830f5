"""Several networks of one shape as one: their graphs side by side, a block-diagonal problem.

Layer by layer, only the rows that the asked nodes depend on are worked out. A network of the stack
gets the numbers that it gets alone, up to rounding, with any graph and any nodes of its own.

Shapes: K networks, H_l the width of layer l.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from graphkd.graph import Graph
from graphkd.models import networks
from graphkd.ops.dropout import draws, factors
from graphkd.ops.sparse import Matrix, block_diagonal

# What each layer multiplies with, an attribute of the graph; "" for nothing
ADJACENCY: dict[type[nn.Module], str] = {
    networks.MLP: "",
    networks.GCN: "normalized",
    networks.SAGE: "mean",
}

# Of each layer weights and biases (K, H_l). Weights are (K, H_l-1, H_l) in the first layer, whose
# rows a sparse product gathers, and (K, H_l, H_l-1) in the others, as fast as narrow ones can be.
Stacked = list[tuple[Tensor, Tensor]]


def maps(network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Weight (H_l, H_l-1) and bias (H_l,) of each layer: the network's own parameters."""
    layers: Any = network.layers
    if isinstance(network, networks.MLP):
        return [(layer.weight, layer.bias) for layer in layers]
    if isinstance(network, networks.GCN):
        return [(layer.lin.weight, layer.bias) for layer in layers]
    return [(layer.lin_l.weight, layer.lin_l.bias) for layer in layers]


@torch.no_grad()
def stack(fresh: Sequence[nn.Module]) -> Stacked:
    """The parameters of networks of one shape, stacked, as leaves."""
    first, *others = zip(*map(maps, fresh), strict=True)
    weights = [[weight.T for weight, _ in first], *([w for w, _ in layer] for layer in others)]
    biases = [[bias for _, bias in layer] for layer in (first, *others)]
    return [
        (torch.stack(own).requires_grad_(), torch.stack(bias).requires_grad_())
        for own, bias in zip(weights, biases, strict=True)
    ]


@torch.no_grad()
def unstack(network: nn.Module, weights: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Give a network its share of a stack: of each layer weight and bias."""
    for layer, (own, given) in enumerate(zip(maps(network), weights, strict=True)):
        own[0].copy_(given[0] if layer else given[0].T)
        own[1].copy_(given[1])


class MessageFlow(NamedTuple):
    """What one network works out in a pass (DGL's message flow graph).

    Shapes:
        inputs: the features, or first products, of the rows that the first layer takes.
        mixes: of each layer, its rows of the adjacency by the rows of the layer before, or None.
        rows: of each layer, the ids of its rows, sorted, each once.
        places: of each layer, where the asked nodes (n,) are among its rows.
    """

    inputs: Matrix | Tensor
    mixes: list[Matrix | None]
    rows: list[Tensor]
    places: list[Tensor]


def message_flow(
    kind: type[nn.Module], depth: int, graph: Graph, nodes: Tensor | None
) -> MessageFlow:
    """What a network of this kind and depth works out for some nodes, or for all."""
    if nodes is None:
        nodes = torch.arange(graph.num_nodes)
    nodes = nodes.to(graph.x.device)
    name = ADJACENCY[kind]
    mixes: list[Matrix | None] = []
    rows: list[Tensor] = [torch.unique(nodes)]
    for _ in range(depth):
        mix, before = None, rows[0]
        if name:
            taken = _take(getattr(graph, name), rows[0])
            before = torch.unique(taken.rows.columns)
            mix = _take(taken.T, before).T
        mixes, rows = [mix, *mixes], [before, *rows]
    if isinstance(graph.features, Matrix):
        inputs: Matrix | Tensor = _take(graph.features, rows[0])
    else:
        dense = getattr(graph, f"{name}_features") if name else graph.x
        inputs = dense if len(rows[1]) == len(dense) else dense[rows[1]]
    return MessageFlow(
        inputs, mixes, rows[1:], [torch.searchsorted(ids, nodes) for ids in rows[1:]]
    )


def _take(matrix: Matrix, rows: Tensor) -> Matrix:
    return matrix if len(rows) == len(matrix.rows.offsets) - 1 else matrix.take(rows)


class Joint(NamedTuple):
    """What K networks work out together: their flows, one under the other.

    Attributes as of `MessageFlow`; places is None where the asked nodes are the rows of a layer, in
    order. counts: how many nodes are asked of each network; sizes: how many rows each layer has
    of each.
    """

    inputs: Matrix | list[Tensor]
    mixes: list[Matrix | None]
    rows: list[list[Tensor]]
    sizes: list[list[int]]
    places: list[Tensor | None]
    counts: list[int]


def join(flows: Sequence[MessageFlow]) -> Joint:
    """The flows of several networks as one."""
    sparse = [one.inputs for one in flows if isinstance(one.inputs, Matrix)]
    dense = [one.inputs for one in flows if isinstance(one.inputs, Tensor)]
    rows = [list(layer) for layer in zip(*(one.rows for one in flows), strict=True)]
    sizes = [[len(ids) for ids in layer] for layer in rows]
    places = zip(*(one.places for one in flows), strict=True)
    return Joint(
        dense or block_diagonal(sparse),
        [_diagonal(layer) for layer in zip(*(one.mixes for one in flows), strict=True)],
        rows,
        sizes,
        [_moved(own, size) for own, size in zip(places, sizes, strict=True)],
        [len(one.places[0]) for one in flows],
    )


def _diagonal(mixes: Sequence[Matrix | None]) -> Matrix | None:
    found = [mix for mix in mixes if mix is not None]
    return block_diagonal(found) if found else None


def _moved(places: Sequence[Tensor], sizes: Sequence[int]) -> Tensor | None:
    starts = accumulate(sizes[:-1], initial=0)
    moved = torch.cat([own + start for own, start in zip(places, starts, strict=True)])
    same = len(moved) == sum(sizes) and bool((moved.diff() == 1).all())
    return None if same else moved


def draw(
    kind: type[nn.Module], graph: Graph, nodes: Tensor | None, widths: Sequence[int]
) -> list[Tensor]:
    """The random part of a network's dropout in a pass, as it draws it alone."""
    count = graph.num_nodes if ADJACENCY[kind] or nodes is None else len(nodes)
    return [draws((count, width), graph.x.device) for width in widths]


def dropped(
    joint: Joint, drawn: Sequence[Sequence[Tensor]], p: float, dtype: torch.dtype
) -> list[Tensor]:
    """The factors of dropout of each hidden layer, from all networks' draws."""
    found = []
    for rows, parts in zip(joint.rows, zip(*drawn, strict=True), strict=False):
        own = zip(parts, rows, strict=True)
        kept = parts if joint.mixes[0] is None else [part[ids] for part, ids in own]
        found.append(factors(torch.cat(list(kept)), p, dtype))
    return found


def forward(
    stacked: Stacked, joint: Joint, factors: Sequence[Tensor] = ()
) -> tuple[list[Tensor], Tensor]:
    """The hidden states and logits of all networks at the nodes asked of each, in order."""
    mixed = joint.mixes[0] is not None
    h = _shifted(_first(stacked[0][0], joint), stacked[0][1], joint.sizes[0])
    if not mixed and joint.places[0] is not None:  # a node asked for twice is dropped from twice
        h = h[joint.places[0]]
    sizes = joint.sizes if mixed else [joint.counts] * len(stacked)
    hidden: list[Tensor] = []
    for layer, (weight, bias) in enumerate(stacked[1:], 1):
        hidden.append(h.relu_())
        h = hidden[-1] * factors[layer - 1] if factors else hidden[-1]
        h = _each(h, sizes[layer - 1], weight)
        mix = joint.mixes[layer]
        h = _shifted(h if mix is None else mix @ h, bias, sizes[layer])
    if not mixed:
        return hidden, h
    *shown, h = (
        state if where is None else state[where]
        for state, where in zip([*hidden, h], joint.places, strict=True)
    )
    return shown, h


def _first(weight: Tensor, joint: Joint) -> Tensor:
    if isinstance(joint.inputs, list):
        return torch.cat([h @ own for h, own in zip(joint.inputs, weight.unbind(), strict=True)])
    product = joint.inputs @ weight.flatten(0, 1)
    return product if joint.mixes[0] is None else joint.mixes[0] @ product


def _each(h: Tensor, sizes: list[int], weight: Tensor) -> Tensor:
    """Each network's rows times its weights, one under the other."""
    if len(set(sizes)) == 1:
        product: Tensor = _Maps.apply(h.view(len(sizes), sizes[0], -1), weight)
        return product.flatten(0, 1)
    parts = zip(h.split_with_sizes(sizes), weight.unbind(), strict=True)
    return torch.cat([F.linear(own, maps) for own, maps in parts])


class _Maps(torch.autograd.Function):
    """K linear maps at once: (K, n, H) and (K, H', H) to (K, n, H').

    The gradient that `bmm` has of its own is 5 times slower where H' is small: the weights' comes
    out on its side.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(h, weight)
        return torch.bmm(h, weight.mT)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        h, weight = ctx.saved_tensors
        return torch.bmm(upstream, weight), torch.bmm(upstream.mT, h)


def _shifted(h: Tensor, bias: Tensor, sizes: Sequence[int]) -> Tensor:
    """Each network's rows plus its bias."""
    if len(set(sizes)) == 1:
        return (h.view(len(sizes), sizes[0], -1) + bias[:, None]).flatten(0, 1)
    own = zip(bias.unbind(), sizes, strict=True)
    return h + torch.cat([one.expand(size, -1) for one, size in own])
