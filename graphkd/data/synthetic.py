"""Graphs that are drawn from a seed: stochastic block models, small and large, and many trees.

Holland, Laskey and Leinhardt, "Stochastic blockmodels: First steps", Social Networks 1983,
https://doi.org/10.1016/0378-8733(83)90021-7.
"""

import torch
from torch import Generator, Tensor

from graphkd.data.graph_collection import Graphs
from graphkd.graph import Graph
from kdcore.rng import generator

COLOURS = 3


def blocks(
    nodes: int = 170_000,
    edges: int = 1_200_000,
    features: int = 128,
    classes: int = 40,
    *,
    homophily: float = 0.65,
    signal: float = 0.1,
    seed: int = 0,
    name: str = "blocks",
) -> Graph:
    r"""A stochastic block model with a given number of edges and features that tell of the class.

    A class is drawn for every node, an edge is one of `edges` pairs drawn without repetition: with
    probability `homophily` of two nodes of one class, else of two nodes of any classes. Features
    are \mu_{y_i} + \epsilon_i, the mean of each class drawn from N(0, signal), the noise from
    N(0, 1). The defaults have the size of ogbn-arxiv, 0.66 of its edges within a class, and the
    statistics of nothing else of it.

    Args:
        nodes: N.
        edges: undirected ones, without loops or repetitions.
        features: D.
        classes: C.
        homophily: share of the edges drawn within a class.
        signal: variance of the means of the classes, against 1 of the noise.
        seed: of the draw.
        name: of the graph.

    Raises:
        ValueError: a size is not positive, a share is none, or there are fewer pairs than edges.
    """
    _check(nodes, edges, features, classes, homophily, signal)
    draw = generator(seed, "blocks", nodes, edges, features, classes)
    y = torch.randint(classes, (nodes,), generator=draw)
    means = torch.randn(classes, features, generator=draw) * signal**0.5
    x = torch.randn(nodes, features, generator=draw) + means[y]
    keys = torch.empty(0, dtype=torch.long)
    while len(keys) < edges:
        count = int(1.05 * (edges - len(keys))) + 100
        keys = torch.unique(torch.cat([keys, _pairs(y, count, homophily, draw)]))
    keys = keys[torch.randperm(len(keys), generator=draw)[:edges]]
    keys = torch.cat([keys, keys % nodes * nodes + keys // nodes]).sort().values
    return Graph(x, torch.stack([keys // nodes, keys % nodes]), y, classes, name)


def coloured_trees(trees: int = 600, seed: int = 0, name: str = "coloured-trees") -> Graphs:
    """Many trees, to classify: do more than half of a tree's edges join nodes of one colour?

    A tree has 8 to 24 nodes, each joined to an earlier one at random, of one of three colours,
    one-hot: that of the node that it is joined to with a chance of 0.35 or of 0.65, as is drawn for
    each tree, and else another. So the answer is in the edges; the colours alone tell a part of it.

    Args:
        trees: G.
        seed: of the draw.
        name: of the data set.
    """
    draw = generator(seed, "coloured trees", trees)
    sizes = torch.randint(8, 25, (trees,), generator=draw)
    starts = sizes.cumsum(0) - sizes
    owner = torch.arange(trees).repeat_interleave(sizes)
    place = torch.arange(len(owner)) - starts[owner]
    parent, lot = torch.rand(2, len(owner), generator=draw, dtype=torch.float32)
    before = (parent * place).long()
    chance = torch.tensor([0.35, 0.65])[torch.randint(2, (trees,), generator=draw)][owner]
    same = lot < chance
    turn = torch.randint(1, COLOURS, (len(owner),), generator=draw)
    turn = turn.where(~same | (place == 0), 0)
    colour = turn.clone()
    for depth in range(1, 24):  # a node's colour follows from that of an earlier one
        now = (place == depth).nonzero().flatten()
        colour[now] = (colour[starts[owner[now]] + before[now]] + turn[now]) % COLOURS
    child = (place > 0).nonzero().flatten()
    pairs = torch.stack([starts[owner[child]] + before[child], child])
    votes = 2 * (turn[child] == 0).long() - 1
    y = (owner.new_zeros(trees).index_add(0, owner[child], votes) > 0).long()
    x = torch.eye(COLOURS, dtype=torch.float32)[colour]
    return Graphs(x, torch.cat([pairs, pairs.flip(0)], dim=1), y, 2, name, owner=owner)


def _pairs(y: Tensor, count: int, homophily: float, draw: Generator) -> Tensor:
    """Drawn pairs i < j as numbers i N + j, the ones that are no loops."""
    nodes = len(y)
    order, sizes = y.argsort(stable=True), torch.bincount(y)
    starts = sizes.cumsum(0) - sizes
    i = torch.randint(nodes, (count,), generator=draw)
    chance = torch.rand(count, generator=draw, dtype=torch.float64)
    mate = order[starts[y[i]] + (chance * sizes[y[i]]).long()]
    within = torch.rand(count, generator=draw) < homophily
    j = torch.where(within, mate, torch.randint(nodes, (count,), generator=draw))
    return (torch.minimum(i, j) * nodes + torch.maximum(i, j))[i != j]


def _check(
    nodes: int, edges: int, features: int, classes: int, homophily: float, signal: float
) -> None:
    if min(nodes, edges, features, classes) < 1:
        raise ValueError(
            f"{nodes} nodes, {edges} edges, {features} features and {classes} classes: expected 1 "
            "or more of each"
        )
    if not 0 <= homophily <= 1 or not signal >= 0:
        raise ValueError(
            f"homophily is {homophily} and signal {signal}; expected a share from 0 to 1 and a "
            "variance from 0"
        )
    pairs = nodes * (nodes - 1) // 2
    within = max(nodes // classes, 1) ** 2 * classes // 2
    if 4 * edges > (pairs if homophily < 1 else within):
        raise ValueError(
            f"{edges} edges among {nodes} nodes are more than a quarter of all pairs; ask for "
            "fewer edges or more nodes"
        )
