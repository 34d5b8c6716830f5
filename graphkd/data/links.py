"""Tasks on links: pairs of nodes as examples, and edges split so that none is seen too early.

`Pairs` has what the phases of a run ask of a `Graph`: a number of examples and their targets. So
views, early stopping and evaluation are those of node classification, with a pair where there a
node is. Messages pass along the edges of training alone, in every phase.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from graphkd.conversion import integers
from graphkd.core import Split
from graphkd.data import splits
from graphkd.graph import HIDDEN, Graph, TypedGraph
from graphkd.ops.edges import keys, non_edges, said, simple
from kdcore.rng import generator

VAL, TEST = 0.05, 0.1  # shares of the edges
LEAST = 20  # edges of a part, below which Hits@20 means nothing
PROTOCOL = "transductive"


@dataclass(frozen=True, eq=False)
class Pairs(Graph):
    """Pairs of nodes, joined or not, in a graph of which some edges are known.

    Shapes:
        x: (N, D) features; edge_index: (2, E) the known edges, both ways; pairs: (2, P) nodes;
        y: (P,) 1 if joined, else 0, or HIDDEN; `classes` is 1, a logit for each pair.
    """

    readout = "hadamard"
    pairs: Tensor = field(kw_only=True)

    def __post_init__(self) -> None:
        """As `Graph`, and the pairs are int64."""
        super().__post_init__()
        object.__setattr__(self, "pairs", integers(self.pairs))

    @property
    def num_nodes(self) -> int:
        """How many examples there are, P: what is a node to a phase of a run is a pair here."""
        return self.pairs.shape[1]

    @cached_property
    def union(self) -> Graph:
        """The nodes and the known edges, N nodes."""
        unknown = self.y.new_full((len(self.x),), HIDDEN)
        return Graph(self.x, self.edge_index, unknown, self.classes, self.name)

    def subgraph(self, nodes: Tensor) -> "Pairs":
        """Some of the pairs, in this order, on the same graph."""
        return replace(self, pairs=self.pairs[:, nodes], y=self.y[nodes])

    def to(self, device: torch.device | str) -> "Pairs":
        """The same pairs on another device."""
        moved = {n: getattr(self, n).to(device) for n in ("x", "edge_index", "y", "pairs")}
        return replace(self, **moved)


def split(graph: Graph, seed: int, val: float = VAL, test: float = TEST) -> Split:
    """The edges of a graph in three parts, and as many pairs without an edge to select and test.

    The transductive setting of Guo, Shiao, Zhang, Liu, Chawla, Shah and Zhao, "Linkless Link
    Prediction via Relational Distillation", ICML 2023, https://arxiv.org/abs/2210.05801, and the
    semantics of PyG's `RandomLinkSplit`: all nodes are there, edges are undirected and each is in
    one part with both directions, and only those of training pass messages, at the test too. What
    is no edge is drawn from the pairs that none of the three parts joins; training draws its own,
    from all that training does not join, since to spare the edges of the test would tell them.

    Parts: "train" (edges alone), "val", and "ind", the test: held out of every other phase.

    Args:
        graph: any graph; its labels are not looked at.
        seed: of the draw.
        val: the share of the edges that select.
        test: the share of the edges that test.

    Raises:
        ValueError: a share is not between 0 and 1, or the graph has too few edges, too few pairs
            without one, or features that are not finite.
    """
    if not (0 < val < 1 and 0 < test < 1 and val + test < 1):
        raise ValueError(
            f"val is {val} and test {test}; expected shares of the edges whose sum is below 1, "
            f"such as {VAL} and {TEST}"
        )
    if isinstance(graph, TypedGraph):
        raise ValueError(
            f"{graph.name} has nodes and edges of several types, and links are predicted among "
            "nodes of one: take a graph such as cora"
        )
    n = graph.x.shape[0]
    splits.check(replace(graph, y=graph.x.new_zeros(n), classes=1))  # as if labels were no matter
    edges = simple(graph.edge_index, n)
    once = edges[:, edges[0] < edges[1]].cpu()
    sizes = [int(share * once.shape[1]) for share in (test, val)]
    if min(sizes) < LEAST:
        raise ValueError(
            f"{graph.name} has {once.shape[1]} edges, of which {sizes[1]} would select and "
            f"{sizes[0]} test; links need {LEAST} of each, which is {round(LEAST / min(val, test))}"
            " edges in all: take a larger graph"
        )
    order = torch.randperm(once.shape[1], generator=generator(seed, "split", "links"))
    tested, selected, known = once[:, order].split([*sizes, once.shape[1] - sum(sizes)], dim=1)
    apart = non_edges(keys(once, n), n, sum(sizes), generator(seed, "split", "no links"))
    if apart.shape[1] < sum(sizes):
        raise ValueError(
            f"{graph.name} has {apart.shape[1]} pairs of nodes without an edge, and {sum(sizes)} "
            "are needed to select and test by: take a sparser graph"
        )
    groups = [known, selected, apart[:, sizes[0] :], tested, apart[:, : sizes[0]]]
    y = torch.tensor([1, 1, 0, 1, 0]).repeat_interleave(
        torch.tensor([group.shape[1] for group in groups])
    )
    ends, device = torch.cat(groups, dim=1), graph.x.device
    known_edges = simple(known, n).to(device)
    pairs = Pairs(graph.x, known_edges, y.to(device), 1, graph.name, pairs=ends.to(device))
    places = torch.arange(len(y)).split([known.shape[1], 2 * sizes[1], 2 * sizes[0]])
    parts = dict(zip(("train", "val", "ind"), places, strict=True))
    notes = (*graph.notes, *said(graph.edge_index, edges, n))
    return Split(PROTOCOL, seed, parts, torch.arange(pairs.num_nodes), pairs, notes=notes)
