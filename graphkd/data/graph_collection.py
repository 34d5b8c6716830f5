"""Tasks on whole graphs: many graphs as examples, a readout, and folds; all else is as for nodes.

`Graphs` has what the phases of a run ask of a `Graph`: features, targets, a number of examples.
So views, losses on embeddings, fitting and evaluation are those of node classification, with a
graph where there a node is. Targets are classes, or real numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from graphkd.conversion import from_pyg_graphs, integers
from graphkd.core import Split
from graphkd.graph import HIDDEN, Graph, check_labels
from kdcore.rng import generator

FOLDS = 10


KEPT = 64  # batches; the validation fold is asked for in every epoch


KINDS = 256  # different nodes, up to which graphs are also counted as bags of them


@dataclass(frozen=True, eq=False)
class Graphs(Graph):
    """Many graphs, side by side in one without edges between them.

    Shapes:
        x: (N, D) features of all nodes, in the order of the graphs; edge_index: (2, E) among them;
        owner: (N,) the graph of each node; y: (G,) classes 0..C-1, or real numbers if `classes`
        is 1.
    """

    readout = "sum"
    owner: Tensor = field(kw_only=True)

    def __post_init__(self) -> None:
        """As `Graph`, and the owners are int64."""
        super().__post_init__()
        object.__setattr__(self, "owner", integers(self.owner))

    @classmethod
    def from_pyg(
        cls, data: Sequence[Any], name: str = "graphs", classes: int | None = None
    ) -> "Graphs":
        """The graphs of a list of PyTorch Geometric's `Data`, each with one label.

        Args:
            data: each with x (n, D), edge_index (2, e) and one value y: a class, or a real number;
                see `graphkd.conversion` for what is made of directed edges and loops.
            name: of the data set, in results.
            classes: C; by default one more than the largest label, or 1 for real targets.

        Raises:
            ValueError: something is missing, or not of such a form.
        """
        parts, owner = from_pyg_graphs(data, name, classes)
        return cls(*parts, owner=owner)

    @property
    def num_nodes(self) -> int:
        """How many examples there are, G: what is a node to a phase of a run is a graph here."""
        return len(self.y)

    @property
    def lacks(self) -> frozenset[str]:
        """Edges between the examples; and classes, if the targets are real."""
        return super().lacks | {"edges"}

    @cached_property
    def union(self) -> Graph:
        """All of them as one graph of N nodes."""
        unknown = self.owner.new_full((len(self.owner),), HIDDEN)
        return Graph(self.x, self.edge_index, unknown, self.classes, self.name)

    @cached_property
    def bags(self) -> tuple[Graph, Tensor] | None:
        """The different nodes, K alone, and how many of each a graph has, (G, K); if K is small."""
        x, kind = self.x.unique(dim=0, return_inverse=True)
        if len(x) > KINDS:
            return None
        unknown = self.owner.new_full((len(x),), HIDDEN)
        nodes = Graph(x, self.edge_index[:, :0], unknown, self.classes, self.name)
        place, size = self.owner * len(x) + kind, self.num_nodes * len(x)
        return nodes, torch.bincount(place, minlength=size).view(-1, len(x)).to(x)

    def take(self, examples: Tensor) -> "Graphs":  # type: ignore[override]  # no `Part`
        """Some of the graphs, in this order; those that are asked for again are kept."""
        return self._kept(tuple(examples.tolist()))

    @cached_property
    def _kept(self) -> Callable[[tuple[int, ...]], "Graphs"]:
        return lru_cache(KEPT)(lambda examples: self.cut(torch.tensor(examples)))

    def cut(self, examples: Tensor) -> "Graphs":
        """Some of the graphs, in this order, cut out anew."""
        examples = examples.long().to(self.y.device)
        size, (edges, count) = torch.bincount(self.owner, minlength=self.num_nodes), self._edges
        start, first = (many.cumsum(0) - many for many in (size, count))
        owner, nodes = ranges(start[examples], size[examples])
        graph, kept = ranges(first[examples], count[examples])
        moved = size[examples].cumsum(0) - size[examples] - start[examples]  # of the first node
        return replace(
            self,
            x=self.x[nodes],
            edge_index=edges[:, kept] + moved[graph],
            owner=owner,
            y=self.y[examples],
        )

    @cached_property
    def _edges(self) -> tuple[Tensor, Tensor]:
        """The edges (2, E) in the order of the graphs, and how many each of these has, (G,)."""
        graph = self.owner[self.edge_index[0]]
        order = graph.argsort(stable=True)
        return self.edge_index[:, order], torch.bincount(graph, minlength=self.num_nodes)

    def subgraph(self, nodes: Tensor) -> "Graphs":
        """Some of the graphs, in this order."""
        return self.take(nodes)

    def to(self, device: torch.device | str) -> "Graphs":
        """The same graphs on another device."""
        moved = {n: getattr(self, n).to(device) for n in ("x", "edge_index", "y", "owner")}
        return replace(self, **moved)


def ranges(start: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """All places start[i] .. start[i] + count[i], one range after another, and the i of each."""
    which = torch.arange(len(count), device=count.device).repeat_interleave(count)
    first = start - (count.cumsum(0) - count)
    return which, torch.arange(len(which), device=count.device) + first[which]


def folds(graphs: Graphs, seed: int, train: int | None = None) -> Split:
    """Ten-fold cross-validation: one fold tests, the next one selects, the other eight train.

    Xu, Hu, Leskovec and Jegelka, ICLR 2019, and many after them report the best epoch on the test
    folds; here nothing is selected there. Classes are spread evenly over the folds.

    Parts: "train", "val", "ind" (the test fold) and, if not all are labelled, "tran": the other
    graphs of the eight folds, of which a teacher may speak.

    Args:
        graphs: the data.
        seed: seed // 10 decides how the folds are drawn, seed % 10 which of them tests.
        train: labelled graphs per class (of real targets: in all); by default all.

    Raises:
        ValueError: there are too few graphs, one class, labels that are not 0..C-1, nodes without
            features or with such that are not finite, or nodes and edges out of their graphs. (A
            graph without edges or even nodes is an example as any other; its sum is 0.)
    """
    _check(graphs)
    real = graphs.y.is_floating_point()
    state = int(torch.randint(2**31 - 1, (), generator=generator(seed // FOLDS, "folds")))
    from sklearn.model_selection import KFold, StratifiedKFold  # late: as long as torch

    kind = KFold if real else StratifiedKFold
    drawn = kind(FOLDS, shuffle=True, random_state=state).split(graphs.y, graphs.y)
    tests = [torch.from_numpy(test) for _, test in drawn]
    test, val = (tests[(seed + i) % FOLDS] for i in (0, 1))
    rest = torch.cat([tests[(seed + i) % FOLDS] for i in range(2, FOLDS)]).sort().values
    parts = {"train": rest, "val": val, "ind": test}
    if train is not None:
        parts["train"] = _few(graphs.y[rest], rest, train, seed, real)
        others = rest[~torch.isin(rest, parts["train"])]
        parts |= {"tran": others} if len(others) else {}
    origin = torch.arange(graphs.num_nodes)
    return Split("folds", seed, parts, origin, graphs, notes=graphs.notes)


def _few(y: Tensor, rest: Tensor, count: int, seed: int, real: bool) -> Tensor:
    if count < 1:
        raise ValueError(f"train is {count} labelled graphs per class; it has to be 1 or more")
    order = torch.randperm(len(rest), generator=generator(seed, "labelled graphs"))
    groups = [order] if real else [order[y[order] == label] for label in y.unique()]
    return rest[torch.cat([group[:count] for group in groups])].sort().values


def _check(graphs: Graphs) -> None:
    _check_places(graphs)
    if not graphs.x.shape[1] or not graphs.x.is_floating_point():
        raise ValueError(
            f"{graphs.name} has nodes with {graphs.x.shape[1]} features of {graphs.x.dtype}; "
            "expected one or more of float32: give each node some, such as its degree"
        )
    if not graphs.x.isfinite().all() or not graphs.y.isfinite().all():
        raise ValueError(
            f"{graphs.name} has features or targets that are NaN or infinite; drop or fill them"
        )
    least = FOLDS
    if graphs.num_nodes and (graphs.classes > 1 or not graphs.y.is_floating_point()):
        if graphs.classes < 2:
            raise ValueError(
                f"{graphs.name} has one class; there is nothing to tell apart: give two, or real "
                "targets in floating point"
            )
        check_labels(graphs, "graph")
        least = int(torch.bincount(graphs.y, minlength=graphs.classes).min())
    if graphs.num_nodes < FOLDS or least < FOLDS:
        raise ValueError(
            f"{graphs.name} has {graphs.num_nodes} graphs, {least} of its rarest class; {FOLDS} "
            f"folds take {FOLDS} or more of each: leave the class out"
        )


def _check_places(graphs: Graphs) -> None:
    """Every node in one of the graphs, in their order, and every edge within a graph."""
    owner, edges, count = graphs.owner, graphs.edge_index, graphs.num_nodes
    if owner.shape != graphs.x.shape[:1] or (owner.diff() < 0).any():
        raise ValueError(
            f"{graphs.name} has {len(graphs.x)} nodes and an owner {tuple(owner.shape)} of them; "
            "expected the graph of each node, in the order of the graphs: sort nodes by graph"
        )
    if len(owner) and not 0 <= owner[0] <= owner[-1] < count:
        raise ValueError(
            f"{graphs.name} has {count} targets and nodes of graph {int(owner[-1])} (least "
            f"{int(owner[0])}); expected graphs 0 to {count - 1}, each with a target"
        )
    if edges.numel() and not 0 <= edges.min() <= edges.max() < len(owner):
        raise ValueError(
            f"{graphs.name} has edges to node {int(edges.max())} (least {int(edges.min())}); "
            f"expected ids from 0 to {len(owner) - 1}: renumber the nodes"
        )
    if (owner[edges[0]] != owner[edges[1]]).any():
        raise ValueError(
            f"{graphs.name} has edges from one graph to another; expected them within graphs: "
            "take such edges away, or make one graph of the two"
        )
