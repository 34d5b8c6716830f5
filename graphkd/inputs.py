"""What the student sees of a graph: its features, or features mixed along the edges.

Each public function takes a graph and gives the same graph with the student's features. It is
applied to the graph that a phase may see, so the inputs of training hold nothing that is held out.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from graphkd.graph import Graph
from graphkd.names import unknown


def features(graph: Graph) -> Graph:
    """The features of each node alone, (N, D)."""
    return graph


def propagated(graph: Graph) -> Graph:
    """Each node's features beside their mean over the node and its neighbours, (N, 2 D).

    Zhang, Liu, Sun and Shah, "Graph-less Neural Networks", ICLR 2022,
    https://arxiv.org/abs/2110.08727, section 5.9 (1-hop GA-MLP). The student then needs the
    neighbours of a node at inference, but only their features.
    """
    return replace(graph, x=torch.cat([graph.x, graph.mean @ graph.x], dim=1))


INPUTS = {"features": features, "propagated": propagated}


def get(name: str) -> Callable[[Graph], Graph]:
    """The inputs of this name; ValueError if there are none."""
    if name not in INPUTS:
        raise unknown("inputs", name, INPUTS)
    return INPUTS[name]
