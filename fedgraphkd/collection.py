"""Many graphs of several parties: what the numbers of whole graphs stand for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from graphkd.data.graph_collection import Graphs, ranges
from graphkd.graph import Graph
from graphkd.ops.sparse import Matrix, Rows

T = TypeVar("T")
KEPT = 64  # batches: those of clients who train on all of their graphs come in each step again
NOBODY = 0  # the number that is no graph's


class GraphBatch(NamedTuple):
    """Graphs that K models are asked about, G each, side by side as one of K H nodes.

    Nodes of a model are padded to the number H of the one that has most, by nodes of no graph.

    Shapes:
        first: (K, H, D) features, among neighbours once, as all networks begin.
        adjacency: (K H, K H), block-diagonal; None for networks that see no edges.
        owner: (K H,) the place k G + g of each node's graph; K G of a node of none.
        each: G.
    """

    first: Tensor
    adjacency: Matrix | None
    owner: Tensor
    each: int


class _Tables(NamedTuple):
    """All graphs as one, cut where one ends: of graph g the nodes from nodes[g], and entries."""

    first: Tensor
    adjacency: Matrix
    nodes: Tensor
    entries: Tensor


class Collection:
    """Graphs, each with a label: an example is the number of a graph.

    Graph i has the number i + 1. Number 0 is nobody's, a graph without nodes: padding may point
    there. There are edges within graphs alone, so that the rows of an adjacency are cut from those
    of all graphs, and a mini-batch costs what its own graphs do.

    Shapes:
        table: (N + 1, 1) the numbers themselves, whole: the inputs of all networks.
        y: (N + 1,) labels; of nobody, and of graphs that are not here, 0.
        sizes: (N + 1,) how many nodes each has.
    """

    whole = False  # a few graphs cost less than all

    def __init__(self, graphs: Graphs, mean_size: float | None = None) -> None:
        """The graphs; `mean_size` is by what networks divide sums over nodes, by default theirs."""
        self._graphs = graphs
        self.table = torch.arange(graphs.num_nodes + 1).unsqueeze(1)
        self._places = self.table[:, 0] - 1
        none = torch.tensor([0])
        self.y = torch.cat([none, graphs.y])
        self.sizes = torch.cat([none, torch.bincount(graphs.owner, minlength=graphs.num_nodes)])
        self.features, self.classes = graphs.x.shape[1], graphs.classes
        self.mean_size = mean_size or len(graphs.x) / max(1, graphs.num_nodes)
        self._known: dict[Any, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What is worked out is worked out again elsewhere."""
        return self.__dict__ | {"_known": {}}

    def __deepcopy__(self, memo: Any) -> "Collection":
        return self  # it does not change, and networks that are copied have it in common

    @property
    def held(self) -> frozenset[int]:
        """The numbers whose graphs are here."""
        return frozenset((1 + (self._places[1:] >= 0).nonzero().flatten()).tolist())

    def only(self, numbers: Tensor) -> "Collection":
        """The same numbers, with none but the graphs of some of them."""
        kept = numbers.cpu().unique()
        kept = kept[kept != NOBODY]
        other = object.__new__(Collection)
        other.__dict__ = self.__getstate__()
        other._graphs = self._graphs.cut(self._found(kept))
        other._places = torch.full_like(self._places, -1)
        other._places[kept] = torch.arange(len(kept))
        other.y = self.y.where(other._places >= 0, 0)
        return other

    def contents(self, x: Tensor) -> int:
        """Bytes of some graphs (n, 1)."""
        numbers = x.long().cpu()
        return self.cut(numbers[numbers[:, 0] != NOBODY]).nbytes

    def cut(self, x: Tensor) -> Graphs:
        """The graphs of some numbers (B, 1), in this order; of nobody any."""
        places = self._found(x[..., 0])
        return self._once(("graphs", x.device), lambda: self._graphs.to(x.device)).take(places)

    def batch(self, x: Tensor, adjacency: str) -> tuple[GraphBatch, Tensor]:
        """The graphs that K models are asked about by numbers (K, B, 1), each once.

        Args:
            x: the numbers.
            adjacency: by which neighbours are mixed, an attribute of `Graph`; "" for none.

        Returns:
            The graphs, and where among its own each model finds those that it was asked for (K, B).

        Raises:
            LookupError: a graph is not here.
        """
        numbers = x[..., 0].contiguous()
        asked = _distinct(numbers)
        key = "batch", adjacency, x.device, asked.shape, asked.cpu().numpy().tobytes()
        made = self._once(key, lambda: self._batch(asked, adjacency))
        return made, torch.searchsorted(asked, numbers)

    def nodes(self, x: Tensor) -> int:
        """The most nodes that a model is asked about by numbers (K, B, 1)."""
        sizes = self._once(("sizes", x.device), lambda: self.sizes.to(x.device))
        return int(sizes[_distinct(x[..., 0])].sum(dim=1).max())

    def _batch(self, asked: Tensor, adjacency: str) -> GraphBatch:
        """Of numbers (K, G), each once in its row but for that of nobody."""
        tables = self._once(
            ("tables", adjacency, asked.device), lambda: self._tables(adjacency, asked.device)
        )
        graph, there = self._found(asked).flatten(), (asked != NOBODY).flatten()
        start = tables.nodes[graph]
        size = (tables.nodes[graph + 1] - start) * there
        ends = size.view_as(asked).cumsum(1)
        height = max([1, *ends[:, -1:].flatten().tolist()])
        above = torch.arange(len(asked), device=asked.device) * height
        moved = (ends + above.unsqueeze(1)).flatten() - size - start
        which, source = ranges(start, size)
        target = source + moved[which]
        rows = len(asked) * height
        first = tables.first.new_zeros(rows, tables.first.shape[1])
        first[target] = tables.first[source]
        owner = which.new_full((rows,), asked.numel())
        owner[target] = which
        mixing = None
        if adjacency:
            there_to = _Moved(graph, there, moved, source, target, rows)
            mixing = _moved(tables, there_to)
        return GraphBatch(first.view(len(asked), height, -1), mixing, owner, asked.shape[1])

    def _tables(self, adjacency: str, device: torch.device) -> _Tables:
        graphs = self._graphs.to(device)
        size = torch.bincount(graphs.owner, minlength=graphs.num_nodes)
        nodes = torch.cat([size.new_zeros(1), size.cumsum(0)])
        union: Graph = graphs.union
        matrix: Matrix = getattr(union, adjacency or "total")
        first = matrix @ graphs.x if adjacency else graphs.x
        return _Tables(first, matrix, nodes, matrix.rows.offsets[nodes])

    def _found(self, numbers: Tensor) -> Tensor:
        """Where graphs are among those that are here; of nobody 0."""
        own = self._places
        moved = self._once(("places", numbers.device), lambda: own.to(numbers.device))
        places = moved[numbers]
        if bool(((places < 0) & (numbers != NOBODY)).any()):
            lost = numbers[(places < 0) & (numbers != NOBODY)][0]
            raise LookupError(f"graph {int(lost)} is not here, but {len(self.held)} others are")
        return places.clamp(min=0)

    def _once(self, key: Any, make: Callable[[], T]) -> T:
        """What is worked out, kept for as long as there are not many newer ones of its kind."""
        if key not in self._known:
            self._known[key] = make()
            same = [k for k in self._known if k[0] == key[0]]
            if key[0] == "batch" and len(same) > KEPT:
                del self._known[same[0]]
        found: T = self._known[key]
        return found


class _Moved(NamedTuple):
    """Which graphs go where: `moved` is by how much the places of a graph's nodes change."""

    graph: Tensor
    there: Tensor
    moved: Tensor
    source: Tensor
    target: Tensor
    rows: int


def _moved(tables: _Tables, to: _Moved) -> Matrix:
    """The adjacency of some graphs, cut from that of all and not worked out anew."""
    start = tables.entries[to.graph]
    count = (tables.entries[to.graph + 1] - start) * to.there
    which, entries = ranges(start, count)
    shift = to.moved[which]

    def cut(given: Rows) -> Rows:
        many = given.offsets.new_zeros(to.rows)
        many[to.target] = given.offsets[to.source + 1] - given.offsets[to.source]
        offsets = torch.cat([many.new_zeros(1), many.cumsum(0)])
        return Rows(offsets, given.columns[entries] + shift, given.values[entries])

    earlier = start - (count.cumsum(0) - count)
    order = tables.adjacency.order[entries] - earlier[which]
    return Matrix(cut(tables.adjacency.rows), cut(tables.adjacency.transposed), order)


def _distinct(numbers: Tensor) -> Tensor:
    """Each row (K, B) in order, with nobody in the place of what comes again."""
    ordered = numbers.sort(dim=1).values
    again = ordered[:, 1:] == ordered[:, :-1]
    ordered[:, 1:] = ordered[:, 1:].masked_fill(again, NOBODY)
    return ordered.sort(dim=1).values


@dataclass(frozen=True, eq=False)
class GraphDomains(Graphs):
    """Graphs of several domains. Each has features and classes of its own, one after another.

    Shapes:
        domain_of: (C,), the domain of each class.
    """

    domain_of: Tensor = field(kw_only=True)

    @property
    def domains(self) -> Tensor:
        """(G,), the domain of each graph."""
        return self.domain_of[self.y]


def side_by_side(sets: Sequence[Graphs]) -> GraphDomains:
    """Data sets as domains: D = sum D_i features, of which others are 0, and C = sum C_i classes.

    So no label of one is taken for a label of another.

    Raises:
        ValueError: one has real targets.
    """
    for one in sets:
        if "classes" in one.lacks:
            raise ValueError(f"{one.name} has real targets; domains are told apart by classes")
    features, classes = ([getattr(one, key) for one in sets] for key in ("x", "classes"))
    before = _starts([x.shape[1] for x in features])
    labels, nodes, graphs = (
        _starts(sizes)
        for sizes in (classes, list(map(len, features)), [one.num_nodes for one in sets])
    )
    width = sum(x.shape[1] for x in features)
    wide = [
        F.pad(x, (start, width - start - x.shape[1]))
        for x, start in zip(features, before, strict=True)
    ]
    return GraphDomains(
        torch.cat(wide),
        torch.cat([one.edge_index + start for one, start in zip(sets, nodes, strict=True)], dim=1),
        torch.cat([one.y + start for one, start in zip(sets, labels, strict=True)]),
        sum(classes),
        "+".join(one.name for one in sets),
        owner=torch.cat([one.owner + start for one, start in zip(sets, graphs, strict=True)]),
        domain_of=torch.arange(len(sets)).repeat_interleave(torch.tensor(classes)),
    )


def _starts(sizes: Sequence[int]) -> list[int]:
    return [sum(sizes[:place]) for place in range(len(sizes))]
