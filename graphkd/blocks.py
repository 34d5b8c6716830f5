"""Several networks of one shape as one: their graphs side by side, a block-diagonal problem.

Layer by layer, only the rows that the asked nodes depend on are worked out. A network of the stack
gets the numbers that it gets alone, up to rounding, with any graph and any nodes of its own.

Shapes: K networks, H_l the width of layer l.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from graphkd import networks
from graphkd.graph import Graph
from graphkd.layers import draws, factors
from graphkd.sparse import Matrix, block_diagonal

# What each layer multiplies with, an attribute of the graph; "" for nothing
ADJACENCY: dict[type[nn.Module], str] = {
    networks.MLP: "",
    networks.GCN: "normalized",
    networks.SAGE: "mean",
}

Stacked = list[tuple[Tensor, Tensor]]  # of each layer the weights (K, H_l-1, H_l), biases (K, H_l)


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
    return [
        (
            torch.stack([weight.T for weight, _ in layer]).requires_grad_(),
            torch.stack([bias for _, bias in layer]).requires_grad_(),
        )
        for layer in zip(*map(maps, fresh), strict=True)
    ]


class Plan(NamedTuple):
    """What one network works out in a pass.

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


def plan(kind: type[nn.Module], depth: int, graph: Graph, nodes: Tensor | None) -> Plan:
    """What a network of this kind and depth works out for some nodes, or for all."""
    if nodes is None:
        nodes = torch.arange(graph.num_nodes, device=graph.x.device)
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
    return Plan(inputs, mixes, rows[1:], [torch.searchsorted(ids, nodes) for ids in rows[1:]])


def _take(matrix: Matrix, rows: Tensor) -> Matrix:
    return matrix if len(rows) == len(matrix.rows.offsets) - 1 else matrix.take(rows)


class Joint(NamedTuple):
    """What K networks work out together: their plans, one under the other.

    Attributes as of `Plan`; places is None where the asked nodes are the rows of a layer, in
    order. counts: how many nodes are asked of each network; sizes: how many rows each layer has
    of each.
    """

    inputs: Matrix | list[Tensor]
    mixes: list[Matrix | None]
    rows: list[list[Tensor]]
    sizes: list[list[int]]
    places: list[Tensor | None]
    counts: list[int]


def join(plans: Sequence[Plan]) -> Joint:
    """The plans of several networks as one."""
    sparse = [one.inputs for one in plans if isinstance(one.inputs, Matrix)]
    dense = [one.inputs for one in plans if isinstance(one.inputs, Tensor)]
    rows = [list(layer) for layer in zip(*(one.rows for one in plans), strict=True)]
    sizes = [[len(ids) for ids in layer] for layer in rows]
    places = zip(*(one.places for one in plans), strict=True)
    return Joint(
        dense or block_diagonal(sparse),
        [_diagonal(layer) for layer in zip(*(one.mixes for one in plans), strict=True)],
        rows,
        sizes,
        [_moved(own, size) for own, size in zip(places, sizes, strict=True)],
        [len(one.places[0]) for one in plans],
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
    h = _first(stacked[0][0], joint) + _spread(stacked[0][1], joint.sizes[0])
    if not mixed and joint.places[0] is not None:  # a node asked for twice is dropped from twice
        h = h[joint.places[0]]
    sizes = joint.sizes if mixed else [joint.counts] * len(stacked)
    hidden: list[Tensor] = []
    for layer, (weight, bias) in enumerate(stacked[1:], 1):
        hidden.append(h.relu_())
        h = hidden[-1] * factors[layer - 1] if factors else hidden[-1]
        h = _each(h.split_with_sizes(sizes[layer - 1]), weight)
        mix = joint.mixes[layer]
        h = (h if mix is None else mix @ h) + _spread(bias, sizes[layer])
    if not mixed:
        return hidden, h
    *shown, h = (
        state if where is None else state[where]
        for state, where in zip([*hidden, h], joint.places, strict=True)
    )
    return shown, h


def _first(weight: Tensor, joint: Joint) -> Tensor:
    if isinstance(joint.inputs, list):
        return _each(joint.inputs, weight)
    product = joint.inputs @ weight.flatten(0, 1)
    return product if joint.mixes[0] is None else joint.mixes[0] @ product


def _each(parts: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Each network's rows times its weights, one under the other."""
    if len({len(part) for part in parts}) == 1:
        return torch.bmm(torch.stack(list(parts)), weight).flatten(0, 1)
    return torch.cat([h @ own for h, own in zip(parts, weight.unbind(), strict=True)])


def _spread(bias: Tensor, sizes: Sequence[int]) -> Tensor:
    own = zip(bias.unbind(), sizes, strict=True)
    return torch.cat([one.expand(size, -1) for one, size in own])
