"""Lists of edges, (2, E), as other libraries have them, made the edges of a simple graph."""

import torch
from torch import Tensor


def simple(edge_index: Tensor, nodes: int) -> Tensor:
    """The edges (2, E) of the simple undirected graph: both ways, once, no loops, in order."""
    edge_index = edge_index.long()  # the keys go up to N^2, for which int32 has no room
    both = torch.cat([edge_index, edge_index.flip(0)], dim=1)
    return unique(both[:, both[0] != both[1]], nodes)


def unique(pairs: Tensor, nodes: int) -> Tensor:
    """The pairs of nodes (2, P) once each, in order."""
    keys = (pairs[0].long() * nodes + pairs[1]).unique()
    return torch.stack([keys // nodes, keys % nodes])


def composed(first: Tensor, second: Tensor, nodes: int) -> Tensor:
    """Where an edge of the first kind and then one of the second lead: from, to, (2, P), once."""
    source, target = second[:, second[0].argsort(stable=True)]
    onward = torch.bincount(source, minlength=nodes)
    start = onward.cumsum(0) - onward
    many = onward[first[1]]
    place = torch.arange(int(many.sum()), device=many.device)
    place = place - (many.cumsum(0) - many - start[first[1]]).repeat_interleave(many)
    return unique(torch.stack([first[0].repeat_interleave(many), target[place]]), nodes)


def said(edge_index: Tensor, simple: Tensor, nodes: int) -> list[str]:
    """What became of edges on the way to the simple undirected graph, in words; [] if nothing."""
    source, target = edge_index.long()
    loops = int((source == target).sum())
    keys = (source * nodes + target)[source != target]
    once = len(keys.unique())
    found = {
        f"{loops:,} self-loops left out": loops,
        f"{len(keys) - once:,} repeated edges left out": len(keys) - once,
        f"{simple.shape[1] - once:,} edges had no opposite and now go both ways": (
            simple.shape[1] - once
        ),
    }
    return [words for words, count in found.items() if count]


def keys(pairs: Tensor, nodes: int) -> Tensor:
    """A number for each pair of nodes (2, P), the same both ways: (P,)."""
    low, high = pairs.min(0).values, pairs.max(0).values
    return low * nodes + high


def non_edges(known: Tensor, nodes: int, count: int, generator: torch.Generator) -> Tensor:
    """Pairs of nodes that are not joined, uniformly drawn, each once, with the lower id first.

    Fewer than `count` if there are no more.

    Shapes:
        known: (E,) keys of the edges, each once; gives (2, count), on the CPU.
    """
    known = known.cpu()
    count = min(count, nodes * (nodes - 1) // 2 - len(known))
    found = known[:0]
    while len(found) < count:
        drawn = torch.randint(nodes, (2, 2 * (count - len(found)) + 8), generator=generator)
        fresh = keys(drawn[:, drawn[0] != drawn[1]], nodes)
        found = torch.cat([found, fresh[~torch.isin(fresh, known)]]).unique()
    found = found[torch.randperm(len(found), generator=generator)[:count]]
    return torch.stack([found // nodes, found % nodes])
