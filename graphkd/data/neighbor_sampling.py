"""Neighbours drawn from a graph, with vectorised torch and nothing compiled.

All seeds of a batch are drawn for at once, from the lists of neighbours that `Graph.neighbours` is.
Random walks are in `graphkd.ops.random_walks`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Generator, Tensor

from graphkd.graph import Graph, TypedGraph


def neighbour_sample(
    graph: Graph, nodes: Tensor, fanout: int, generator: Generator, *, replacement: bool = False
) -> tuple[Tensor, Tensor]:
    """Up to `fanout` neighbours of each node, drawn uniformly.

    Hamilton, Ying and Leskovec, "Inductive Representation Learning on Large Graphs" (GraphSAGE),
    NIPS 2017, https://arxiv.org/abs/1706.02216. Without replacement by Floyd's algorithm: Bentley
    and Floyd, "Programming Pearls: A Sample of Brilliance", CACM 1987,
    https://doi.org/10.1145/30401.315746. Time grows as n fanout^2, with replacement as n fanout.

    Convention: without replacement a node with `fanout` neighbours or fewer gets all of them, each
    once; with replacement a node with any neighbour gets `fanout`. A node without neighbours gets
    none.

    Shapes:
        nodes: (n,) ids; gives the place in `nodes` of each drawn edge's target and the id of its
        source, (E,) each, ordered by target.

    Raises:
        ValueError: the fan-out is less than 1.
    """
    if fanout < 1:
        raise ValueError(f"fanout is {fanout}; expected 1 or more neighbours a node, such as 10")
    lists = graph.neighbours
    start = lists.offsets[nodes]
    degree = lists.offsets[nodes + 1] - start
    uniform = torch.rand(len(nodes), fanout, generator=generator, dtype=torch.float64)
    if replacement:
        picked = (uniform * degree[:, None]).long()
        drawn = (degree > 0)[:, None].expand_as(picked)
    else:
        picked = _floyd(degree, uniform)
        drawn = torch.arange(fanout) < degree[:, None]
    place = torch.arange(len(nodes))[:, None].expand_as(picked)
    return place[drawn], lists.columns[(start[:, None] + picked)[drawn]]


def _floyd(degree: Tensor, uniform: Tensor) -> Tensor:
    """Distinct numbers below each degree, as many as fit, in the first columns: (n, fanout).

    Draw k of 0..d-1: for j from d-k to d-1 take a number t of 0..j, or j itself if t is taken.
    """
    n, fanout = uniform.shape
    first = (degree - fanout).clamp(min=0)
    picked = torch.full((n, fanout), -1)
    for step in range(fanout):
        top = first + step
        t = (uniform[:, step] * (top + 1)).long()
        taken = (picked[:, :step] == t[:, None]).any(1)
        picked[:, step] = torch.where(taken, top, t)
    return picked


def all_neighbours(graph: Graph, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """All neighbours of each node, as `neighbour_sample` gives some."""
    lists = graph.neighbours
    start = lists.offsets[nodes]
    sizes = lists.offsets[nodes + 1] - start
    moved = (start - sizes.cumsum(0) + sizes).repeat_interleave(sizes)
    entries = moved + torch.arange(len(moved), device=moved.device)
    place = torch.arange(len(nodes), device=moved.device).repeat_interleave(sizes)
    return place, lists.columns[entries]


def subgraph(
    graph: Graph,
    seeds: Tensor,
    fanouts: Sequence[int],
    generator: Generator,
    *,
    replacement: bool = False,
) -> tuple[Graph, Tensor]:
    """A sampled neighbourhood of some nodes as a graph of its own.

    For every hop in turn, from the seeds outwards, neighbours are drawn of the nodes that came in
    last. The seeds are the first nodes, in order.

    Convention: one graph for all layers, so a network runs on it as on any other; degrees are those
    of the drawn edges. Edges lead from a drawn neighbour to the node that drew it; a node may be
    drawn by several.

    Args:
        graph: the whole.
        seeds: (B,) ids, each once.
        fanouts: neighbours a node for each hop, such as (10, 5).
        generator: of the draws.
        replacement: whether a neighbour may be drawn twice.

    Returns:
        The graph of n nodes, and the ids (n,) that they have in the whole.
    """

    def draw(nodes: Tensor, fanout: int) -> tuple[Tensor, Tensor]:
        return neighbour_sample(graph, nodes, fanout, generator, replacement=replacement)

    return _grow(graph, seeds, [partial(draw, fanout=fanout) for fanout in fanouts])


def neighbourhood(graph: Graph, seeds: Tensor, hops: int) -> tuple[Graph, Tensor]:
    """Some nodes and all that is at most `hops` edges before them, as `subgraph` gives it.

    Edges into nodes of the last hop are left out: no output of as many layers depends on them. A
    GCN sees the degrees of this graph, which at its rim are lower than in the whole.
    """
    return _grow(graph, seeds, [partial(all_neighbours, graph)] * hops)


def _grow(
    graph: Graph, seeds: Tensor, hops: Sequence[Callable[[Tensor], tuple[Tensor, Tensor]]]
) -> tuple[Graph, Tensor]:
    """The seeds, and hop by hop what the function of the hop finds for what came in last."""
    nodes, edges, known = [seeds], [seeds.new_zeros(2, 0)], 0
    if hops:
        place = seeds.new_full((graph.num_nodes,), -1)
        place[seeds] = torch.arange(len(seeds), device=seeds.device)
    for hop in hops:
        frontier, before = nodes[-1], known
        known += len(frontier)
        target, source = hop(frontier)
        fresh = torch.unique(source[place[source] < 0])
        place[fresh] = known + torch.arange(len(fresh), device=seeds.device)
        nodes.append(fresh)
        edges.append(torch.stack([place[source], before + target]))
    ids = torch.cat(nodes)
    ends = torch.cat(edges, 1)
    part = replace(graph, x=graph.x[ids], y=graph.y[ids], edge_index=ends, node_names=(), parts={})
    return (_typed(part, ids, graph) if isinstance(part, TypedGraph) else part), ids


def _typed(part: TypedGraph, ids: Tensor, graph: Graph) -> TypedGraph:
    """The part with its nodes' types, and those typed edges that lie along its edges."""
    assert isinstance(graph, TypedGraph)
    place = ids.new_full((graph.num_nodes,), -1)
    place[ids] = torch.arange(len(ids), device=ids.device)
    source, target = place[graph.typed_edges[:2]]
    first, last = part.edge_index
    along = torch.isin(source * len(ids) + target, first * len(ids) + last)
    kept = (source >= 0) & (target >= 0) & (along | (source == target))
    typed = torch.stack([source, target, graph.typed_edges[2]])[:, kept]
    return replace(part, kinds=graph.kinds[ids], typed_edges=typed)


def batches(
    graph: Graph,
    nodes: Tensor,
    size: int,
    fanouts: Sequence[int],
    generator: Generator,
    *,
    replacement: bool = False,
) -> Iterator[tuple[Graph, Tensor]]:
    """An epoch of sampled mini-batches: the nodes in a fresh order, each with a neighbourhood.

    A batch is as `subgraph` gives it; its first nodes are the seeds, `size` of them or, at last,
    those that are left: ask a network for `torch.arange(size)` of it.

    Raises:
        ValueError: the size is less than 1.
    """
    if size < 1:
        raise ValueError(f"the batch size is {size}; expected 1 node or more, such as 1024")
    order = torch.randperm(len(nodes), generator=generator)
    for seeds in torch.split(nodes[order], size):
        yield subgraph(graph, seeds, fanouts, generator, replacement=replacement)
