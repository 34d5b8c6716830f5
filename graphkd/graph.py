"""A graph, some nodes of a graph, and the edges among them."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from graphkd import conversion
from graphkd.conversion import hidden, integers
from graphkd.ops import edges, sparse

if TYPE_CHECKING:
    from torch_geometric.data import Data

HIDDEN = conversion.HIDDEN  # a label that may not be seen; losses skip it, accuracy refuses


class Types(NamedTuple):
    """The types of nodes by name, of each relation those of its two ends, and which has labels."""

    nodes: tuple[str, ...] = ("node",)
    relations: tuple[tuple[int, int], ...] = ((0, 0),)
    target: int = 0

    @property
    def meta_paths(self) -> tuple[tuple[int, ...], ...]:
        """Ways from nodes with labels to such nodes, as relations by number.

        They are a relation among them, or one to another type and one back from it.
        """
        ends = list(enumerate(self.relations))
        direct = tuple((r,) for r, end in ends if end == (self.target, self.target))
        by_others = tuple(
            (there, back)
            for there, (a, b) in ends
            for back, (c, d) in ends
            if a == d == self.target and b == c != self.target
        )
        return direct + by_others


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes with features and labels, and the edges among them, without self-loops.

    An edge (j, i) makes j a neighbour of i; an undirected edge is there in both directions. Edges
    and labels may come as integers of any width or as whole numbers in floating point, labels as a
    column too: they are kept as int64, and labels as (N,).

    Shapes:
        x: (N, D) features; edge_index: (2, E) from, to; y: (N,) labels 0..C-1, or HIDDEN; or, if
            `classes` is 1, real targets in floating point, or NaN.
        node_names: what the user calls the N nodes; () if that is their numbers.
        parts: the split that the graph comes with, "train", "val" and "test" (and "held_out"), as
            `graphkd.splits.own` takes them; {} if a protocol draws one.
        notes: what was done to the graph before it came here, in words.
    """

    readout: ClassVar[str] = ""  # by which nodes become one example; "" where a node is one
    x: Tensor
    edge_index: Tensor
    y: Tensor
    classes: int
    name: str = "graph"
    node_names: tuple[Hashable, ...] = field(default=(), repr=False, compare=False)
    parts: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        """Bring edges and labels into the form that all else takes for granted."""
        y = self.y[:, 0] if self.y.ndim == 2 and self.y.shape[1] == 1 else self.y
        real = self.classes == 1  # one output of real numbers, or nothing to tell apart
        object.__setattr__(self, "edge_index", integers(self.edge_index))
        object.__setattr__(self, "y", y if real and y.is_floating_point() else integers(y))

    @classmethod
    def from_pyg(cls, data: Any, name: str = "graph", classes: int | None = None) -> "Graph":
        """The graph of PyTorch Geometric's `Data`; its train, val and test masks are its parts.

        Args:
            data: with x (N, D), edge_index (2, E) and y (N,) or (N, 1), -1 or NaN where a node has
                no label; see `graphkd.conversion` for what is made of directed edges and loops. Or
                `HeteroData`, with y of one type of nodes: a `TypedGraph`.
            name: of the graph, in results.
            classes: C; by default one more than the largest label, or 1 for real targets.

        Raises:
            ValueError: something is missing, or not of such a form.
        """
        if hasattr(data, "edge_types") and hasattr(data, "node_types"):
            parts, typed = conversion.from_hetero(data, name, classes)
            return TypedGraph(*parts, **typed._asdict())
        return cls(*conversion.from_pyg(data, name, classes))

    @classmethod
    def from_networkx(
        cls,
        graph: Any,
        features: str | Sequence[str] = "x",
        label: str = "y",
        name: str = "graph",
        classes: int | None = None,
    ) -> "Graph":
        """The graph of networkx's `Graph` of any kind; nodes keep their names in `node_names`.

        Args:
            graph: its nodes in their order.
            features: the attribute that holds the features of a node, or several, side by side.
            label: the attribute that holds its label: a number, or text, which is numbered in the
                order of the alphabet. A node without it has no label.
            name: of the graph, in results.
            classes: C; by default one more than the largest label.

        Raises:
            ValueError: an attribute is missing, or cannot be read.
        """
        return cls(*conversion.from_networkx(graph, features, label, name, classes))

    @classmethod
    def from_scipy(
        cls, adjacency: Any, x: Any, y: Any, name: str = "graph", classes: int | None = None
    ) -> "Graph":
        """The graph of a sparse adjacency (N, N) of scipy, features (N, D) and labels (N,).

        Features may be sparse too, and the adjacency dense; what is not zero is an edge.

        Raises:
            ValueError: the sizes differ, or something is not of such a form.
        """
        return cls(*conversion.from_scipy(adjacency, x, y, name, classes))

    def to_pyg(self) -> "Data":
        """The graph as PyTorch Geometric's `Data`, -1 where there is no label, parts as masks."""
        masks = {part: self._mask(ids) for part, ids in self.parts.items()}
        return conversion.to_pyg(self.x, self.edge_index, self.y, masks)

    def _mask(self, nodes: Any) -> Tensor:
        ids: Tensor = torch.as_tensor(nodes)
        if ids.dtype == torch.bool:
            return ids
        mask = torch.zeros(self.num_nodes, dtype=torch.bool)
        mask[ids] = True
        return mask

    @property
    def num_nodes(self) -> int:
        """How many nodes there are, N."""
        return self.x.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes to send features and edges: four a number; of an edge both ways two ends, once."""
        return 4 * (self.x.numel() + self.edge_index.shape[1])

    @property
    def union(self) -> "Graph":
        """All nodes in one graph: this one."""
        return self

    @property
    def lacks(self) -> frozenset[str]:
        """What the data has not of that which a `Method` may need: "edges", "classes"."""
        real = self.classes == 1 and self.y.is_floating_point()
        return frozenset({"classes"} if real else ())

    @property
    def examples(self) -> Tensor:
        """Which nodes a run is about, (N,): all of them."""
        return torch.ones(self.num_nodes, dtype=torch.bool)

    @property
    def types(self) -> Types:
        """The types of nodes and of edges: one of each."""
        return Types()

    @property
    def node_type(self) -> Tensor:
        """The type of each node, (N,)."""
        return self.edge_index.new_zeros(self.num_nodes)

    @property
    def relations(self) -> tuple[Tensor, ...]:
        """The edges (2, E) of each relation: all of them."""
        return (self.edge_index,)

    @cached_property
    def relation_means(self) -> tuple[sparse.Matrix, ...]:
        """For each relation the mean over the neighbours by it, (N, N), 0 without any."""
        n, dtype = self.num_nodes, self.x.dtype
        return tuple(sparse.neighbour_mean(pairs, n, dtype) for pairs in self.relations)

    @cached_property
    def meta_paths(self) -> tuple[Tensor, ...]:
        """For each of `Types.meta_paths` the nodes (2, P) that it joins: from, to.

        Each node of the type with labels is joined to itself, and no other pair is there twice.
        """
        n, relations = self.num_nodes, self.relations
        own = (self.node_type == self.types.target).nonzero()[:, 0]
        found = []
        for path in self.types.meta_paths:
            pairs = relations[path[0]]
            if len(path) > 1:
                pairs = edges.composed(pairs, relations[path[1]], n)
            found.append(edges.unique(torch.cat([pairs, own.expand(2, -1)], dim=1), n))
        return tuple(found)

    @property
    def labelled(self) -> Tensor:
        """Which nodes have a label that may be seen, (N,)."""
        return ~hidden(self.y)

    @cached_property
    def features(self) -> sparse.Matrix | Tensor:
        """The features, (N, D), as they multiply fastest."""
        return sparse.features(self.x)

    @cached_property
    def mean(self) -> sparse.Matrix:
        """The mean over a node and its neighbours, (N, N)."""
        return sparse.mean(self.edge_index, self.num_nodes, self.x.dtype)

    @cached_property
    def normalized(self) -> sparse.Matrix:
        """The symmetrically normalised adjacency with self-loops, (N, N)."""
        return sparse.normalized(self.edge_index, self.num_nodes, self.x.dtype)

    @cached_property
    def total(self) -> sparse.Matrix:
        """The sum over a node and its neighbours, (N, N)."""
        return sparse.total(self.edge_index, self.num_nodes, self.x.dtype)

    @cached_property
    def neighbours(self) -> sparse.Rows:
        """The neighbours of each node, row i being N(i); the values are the edges' numbers."""
        return _neighbours(self)

    @cached_property
    def mean_features(self) -> Tensor:
        """The mean features of a node and its neighbours, (N, D)."""
        return self.mean @ self.x

    @cached_property
    def normalized_features(self) -> Tensor:
        """The normalised adjacency times the features, (N, D)."""
        return self.normalized @ self.x

    @cached_property
    def total_features(self) -> Tensor:
        """The summed features of a node and its neighbours, (N, D)."""
        return self.total @ self.x

    def subgraph(self, nodes: Tensor) -> "Graph":
        """The graph induced by some nodes, numbered in the order given; it has no parts."""
        edge_index = Part(self, nodes).edge_index
        names = tuple(self.node_names[i] for i in nodes.tolist()) if self.node_names else ()
        return replace(
            self,
            x=self.x[nodes],
            edge_index=edge_index,
            y=self.y[nodes],
            node_names=names,
            parts={},
        )

    def take(self, nodes: Tensor) -> "Part":
        """Some of the nodes, and the edges among them when asked for."""
        return Part(self, nodes)

    def to(self, device: torch.device | str) -> "Graph":
        """The same graph on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("x", "edge_index", "y")}
        return replace(self, **moved)


@dataclass(frozen=True, eq=False)
class TypedGraph(Graph):
    """A heterogeneous graph: nodes and edges of several types, and labels of nodes of one of them.

    Its `edge_index` is all edges as those of a simple graph, for networks that know no types.
    Methods that compare neighbours do not take it, since its edges do not join like with like.

    Shapes:
        kinds: (N,) the type of each node; typed_edges: (3, Z) from, to, relation, both ways;
        type_names, relation_types: see `Types`; target: the type that has labels.
    """

    kinds: Tensor = field(kw_only=True)
    typed_edges: Tensor = field(kw_only=True)
    type_names: tuple[str, ...] = field(kw_only=True)
    relation_types: tuple[tuple[int, int], ...] = field(kw_only=True)
    target: int = field(kw_only=True)

    @property
    def lacks(self) -> frozenset[str]:
        """Edges that all mean the same; and classes, if the targets are real."""
        return super().lacks | {"edges"}

    @property
    def examples(self) -> Tensor:
        """Which nodes are of the type that has labels, (N,)."""
        return (self.kinds == self.target).cpu()

    @property
    def types(self) -> Types:
        """The types of nodes and relations."""
        return Types(self.type_names, self.relation_types, self.target)

    @property
    def node_type(self) -> Tensor:
        """The type of each node, (N,)."""
        return self.kinds

    @property
    def relations(self) -> tuple[Tensor, ...]:
        """The edges (2, E) of each relation."""
        ends, relation = self.typed_edges[:2], self.typed_edges[2]
        return tuple(ends[:, relation == r] for r in range(len(self.relation_types)))

    def subgraph(self, nodes: Tensor) -> "TypedGraph":
        """The graph induced by some nodes, numbered in the order given; it has no parts."""
        place = self.kinds.new_full((self.num_nodes,), -1)
        place[nodes] = torch.arange(len(nodes), device=place.device)
        ends = place[self.typed_edges[:2]]
        kept = (ends >= 0).all(0)
        typed = torch.cat([ends, self.typed_edges[2:]])[:, kept]
        found = super().subgraph(nodes)
        assert isinstance(found, TypedGraph)
        return replace(found, kinds=self.kinds[nodes], typed_edges=typed)

    def to(self, device: torch.device | str) -> "TypedGraph":
        """The same graph on another device."""
        names = ("x", "edge_index", "y", "kinds", "typed_edges")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


@dataclass(frozen=True, eq=False)
class Part:
    """Some nodes of a graph, in order, and the edges among them, worked out if a loss asks."""

    graph: Graph
    nodes: Tensor

    @property
    def num_nodes(self) -> int:
        """How many nodes there are."""
        return len(self.nodes)

    @cached_property
    def edge_index(self) -> Tensor:
        """The edges with both ends in the part, by place in `nodes`: (2, E)."""
        place = self.graph.edge_index.new_full((self.graph.num_nodes,), -1)
        place[self.nodes] = torch.arange(len(self.nodes), device=place.device)
        ends = place[self.graph.edge_index]
        return ends[:, (ends >= 0).all(0)]

    @cached_property
    def neighbours(self) -> sparse.Rows:
        """The neighbours of each node in the part, as `Graph.neighbours`."""
        return _neighbours(self)

    @cached_property
    def total(self) -> sparse.Matrix:
        """The sum over a node and its neighbours in the part, (N, N)."""
        return sparse.total(self.edge_index, self.num_nodes, self.graph.x.dtype)

    def take(self, places: Tensor) -> "Part":
        """The part of these places in `nodes`."""
        return Part(self.graph, self.nodes[places])


def check_labels(graph: Graph, of: str) -> None:
    """Raise ValueError unless the labels are 0..C-1 or hidden and each is there, of nodes say."""
    y, classes, name = graph.y[graph.y != HIDDEN], graph.classes, graph.name
    if not len(y):
        raise ValueError(f"{name} has no {of} with a label; expected some of each of its classes")
    anew = "number the classes anew, such as y.unique(return_inverse=True)[1]"
    if y.is_floating_point():
        first = int((y.frac() != 0).nonzero()[0, 0])
        raise ValueError(
            f"{name} has the label {float(y[first]):g} at {of} {first}; expected whole numbers "
            f"from 0 to {classes - 1}: {anew}, and leave out what has no label"
        )
    low, high = int(y.min()), int(y.max())
    if not 0 <= low <= high < classes:
        raise ValueError(
            f"{name} has labels from {low} to {high}; expected 0 to {classes - 1}: {anew}"
            f"{', and leave out what has no label' if low < 0 else ''}"
        )
    held = torch.bincount(y, minlength=classes) > 0
    if not held.all():
        raise ValueError(
            f"{name} has no {of} of class {int((~held).nonzero()[0, 0])}, of {classes} classes; "
            f"expected one at least of each from 0 to {classes - 1}: {anew}, with classes="
            f"{int(held.sum())}"
        )


def _neighbours(graph: Graph | Part) -> sparse.Rows:
    source, target = graph.edge_index
    return sparse.rows(target, source, torch.arange(len(source)).to(source), graph.num_nodes)
