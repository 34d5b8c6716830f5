"""Small graphs for the tests of graph clients."""

from dataclasses import replace

import torch

from graphkd.data import datasets, synthetic
from graphkd.graph import Graph
from kdcore.rng import generator


def rings(count=3, size=6, features=5, classes=3):
    """Rings side by side with real features; the label of a node is its place modulo `classes`."""
    start = torch.arange(count).repeat_interleave(size) * size
    place = torch.arange(count * size) % size
    after = start + (place + 1) % size
    pairs = torch.stack([start + place, after])
    edges = torch.cat([pairs, pairs.flip(0)], dim=1)
    x = torch.randn(count * size, features, generator=generator(0, "rings"))
    return Graph(x, edges, place % classes, classes, "rings")


def fake(classes=4, size=60):
    """A graph of a stochastic block model, whose features tell of the class."""
    found = datasets.fake(classes, size)
    return replace(found, x=found.x.to(torch.get_default_dtype()))


def found(root):
    """The same, as a data set of one's own is named: by where this function is."""
    return fake()


def ragged(sizes=(5, 9, 3)):
    """Rings of several sizes, a block each."""
    whole = rings(len(sizes), max(sizes))
    starts = [i * max(sizes) for i in range(len(sizes))]
    return [
        whole.subgraph(torch.arange(start, start + size))
        for start, size in zip(starts, sizes, strict=True)
    ]


def trees(count=60):
    """Small whole graphs with two classes, and real features, so that no two nodes are alike."""
    found = synthetic.coloured_trees(count)
    noise = torch.randn(found.x.shape, generator=generator(0, "trees"))
    return replace(found, x=(found.x + 0.1 * noise).to(torch.get_default_dtype()))
