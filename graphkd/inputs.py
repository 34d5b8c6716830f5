"""What the student sees of a node: its features, and what can be learnt about it from the edges.

Each public function learns on the `View` of the phase "distill" and gives an `Encoder`, which
gives any view's graph with the student's features. So inputs can be worked out for nodes that
were held out, and what was learnt holds nothing of them.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from graphkd.core import View
from graphkd.graph import Graph
from graphkd.ops.random_walks import deepwalk
from kdcore.registry import unknown
from kdcore.rng import generator

Encoder = Callable[[View], Graph]


class Inputs(Protocol):
    """Learns on a view how to encode any; the seed is of what it draws."""

    def __call__(self, view: View, seed: int) -> Encoder: ...  # noqa: D102


def features(view: View, seed: int) -> Encoder:
    """The features of each node alone, (N, D)."""
    return lambda other: other.graph


def propagated(view: View, seed: int) -> Encoder:
    """Each node's features beside their mean over the node and its neighbours, (N, 2 D).

    Zhang, Liu, Sun and Shah, "Graph-less Neural Networks", ICLR 2022,
    https://arxiv.org/abs/2110.08727, section 5.9 (1-hop GA-MLP). The student then needs the
    neighbours of a node at inference, but only their features.
    """
    return lambda other: _beside(other.graph, other.graph.mean @ other.graph.x)


def positions(
    view: View,
    seed: int,
    dimensions: int = 64,
    walks: int = 5,
    length: int = 50,
    window: int = 5,
) -> Encoder:
    """Each node's features beside its place in the graph, (N, D + dimensions): `deepwalk`.

    Tian, Zhang, Guo, Zhang and Chawla, "Learning MLPs on Graphs: A Unified View of Effectiveness,
    Robustness, and Efficiency", ICLR 2023, https://arxiv.org/abs/2208.10010.

    A node that the view does not have gets the mean of the codes of those of its neighbours that
    it has, or 0, as in the authors' code.
    """
    graph, draw = view.graph, generator(seed, "positions")
    codes = deepwalk(graph.edge_index, graph.num_nodes, dimensions, draw, walks, length, window).to(
        graph.x
    )

    def encode(other: View) -> Graph:
        own, known = _at(other, view, codes)
        source, target = other.graph.edge_index
        use = known[source] & ~known[target]
        total = own.new_zeros(own.shape).index_add(0, target[use], own[source[use]])
        count = torch.bincount(target[use], minlength=len(own)).clamp(min=1)
        return _beside(other.graph, torch.where(known[:, None], own, total / count[:, None]))

    return encode


def labelled(view: View, seed: int) -> Encoder:
    """Each node's features beside its label if it is a training node, one-hot, (N, D + C).

    What label propagation starts from: Zhu and Ghahramani, "Learning from Labeled and Unlabeled
    Data with Label Propagation", CMU-CALD-02-107, 2002.
    """
    graph, train = view.graph, view.part("train")
    known = graph.x.new_zeros(graph.num_nodes, graph.classes)
    known[train] = F.one_hot(graph.y[train], graph.classes).to(known)
    return lambda other: _beside(other.graph, _at(other, view, known)[0])


INPUTS: dict[str, Inputs] = {
    "features": features,
    "propagated": propagated,
    "positions": positions,
    "labelled": labelled,
}


def get(name: str) -> Inputs:
    """The inputs of this name; ValueError if there are none."""
    if name not in INPUTS:
        raise unknown("inputs", name, INPUTS)
    return INPUTS[name]


def _at(other: View, view: View, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of a view's nodes at another view's, 0 where it has others; and which it has."""
    size = 1 + int(torch.cat([view.ids, other.ids]).max())
    place = torch.full((size,), -1)
    place[view.ids] = torch.arange(len(view.ids))
    places = place[other.ids].to(rows.device)
    known = places >= 0
    return rows[places.clamp(min=0)] * known[:, None], known


def _beside(graph: Graph, more: Tensor) -> Graph:
    return replace(graph, x=torch.cat([graph.x, more], dim=1))
