"""Small data for the tests of tasks on whole graphs."""

import torch

from graphkd.data.graph_collection import Graphs
from graphkd.ops.edges import simple


def graphs(count=30, real=False, seed=0):
    """Rings and paths of 4 to 8 nodes; the classes are ring or path, the real target the size."""
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.randint(4, 9, (count,), generator=draw).tolist()
    edges, owner, start = [], [], 0
    for i, size in enumerate(sizes):
        ring = i % 2
        edges += [(start + k, start + k + 1) for k in range(size - 1)]
        edges += [(start, start + size - 1)] if ring else []
        owner += [i] * size
        start += size
    x = torch.ones(start, 2)
    y = torch.tensor(sizes).float() if real else torch.arange(count) % 2
    edge_index = simple(torch.tensor(edges).T, start)
    owner = torch.tensor(owner)
    return Graphs(x, edge_index, y, 1 if real else 2, "rings", owner=owner)
