"""The nouns of graph distillation: Split, View, TeacherSpec, StudentSpec, Epoch, Result.

Read this first, then `graphkd.method`. A `Graph` is cut by a protocol (`graphkd.data.splits`) into
a `Split`, which hands each phase of a run a `View`: the graph that this phase may see, and no more.
A `Method` (`graphkd.method`) says who teaches whom and how; `graphkd.distill` makes a `Plan` of it,
carries that out and yields `Epoch`s, and at last a `Result`.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from graphkd.graph import HIDDEN, Graph


class LeakError(ValueError):
    """Something was asked for that this phase of a run may not see."""


@dataclass(frozen=True, eq=False)
class View:
    """What one phase of a run may see: a graph with its own, local node ids.

    Shapes:
        ids: (n,) the global id of each local node; parts: local ids by the name of the part.
    """

    phase: str
    graph: Graph
    ids: Tensor
    parts: Mapping[str, Tensor]

    def part(self, name: str) -> Tensor:
        """The local ids of a part of the nodes; `LeakError` if this phase may not know it."""
        if name not in self.parts:
            raise LeakError(
                f"the phase {self.phase!r} may not see the part {name!r}, only "
                f"{', '.join(self.parts)}: ask for it where the run is evaluated"
            )
        return self.parts[name]

    def local(self, ids: Tensor) -> Tensor:
        """The local ids of nodes given by global id; `LeakError` if one is not in this view."""
        place = {int(node): i for i, node in enumerate(self.ids)}
        unseen = [int(node) for node in ids if int(node) not in place]
        if unseen:
            raise LeakError(
                f"{len(unseen)} of {len(ids)} nodes, first {unseen[0]}, are held out of the phase "
                f"{self.phase!r}, which sees {len(place)} nodes: leave them to the evaluation"
            )
        return torch.tensor([place[int(node)] for node in ids], dtype=torch.long)


@dataclass(frozen=True, eq=False)
class Split:
    """A graph cut into parts by a protocol; it hands out views, never the whole.

    Args:
        protocol: how it was cut, one of `graphkd.data.splits.PROTOCOLS`.
        seed: of the draw.
        parts: global ids of "train", "val", "tran" and, unless transductive, "ind", all sorted.
        origin: (N,) the id that each node had in the graph that was cut.
        observed: whether the nodes of "ind" are in the graph that training sees.
        notes: what was left out or added on the way from the user's graph, in words.
    """

    protocol: str
    seed: int
    parts: Mapping[str, Tensor]
    origin: Tensor
    _graph: Graph = field(repr=False)
    observed: bool = False
    notes: tuple[str, ...] = ()

    @property
    def node_names(self) -> tuple[Hashable, ...]:
        """What the user calls the nodes, in global order: their names, or ids before the cut."""
        return self._graph.node_names or tuple(self.origin.tolist())

    def view(self, phase: str) -> View:
        """What "train", "distill" or "evaluate" may see.

        "train" and "distill" see the observed graph, with the labels of "train" and "val" only;
        "evaluate" sees everything. Nodes of the part "ind" are never in the part "soft", on which
        a teacher may teach, and in the observed graph only if the split says so.
        """
        if phase == "evaluate":
            test = torch.cat([self.parts[name] for name in self.parts if name in ("tran", "ind")])
            parts = {**self.parts, "test": test.sort().values}
            return View(phase, self._graph, torch.arange(self._graph.num_nodes), parts)
        if phase not in ("train", "distill"):
            raise LeakError(f"unknown phase {phase!r}; choose one of train, distill, evaluate")
        labelled = {name: self._place[self.parts[name]] for name in ("train", "val")}
        if phase == "distill":
            withheld = torch.isin(self._seen, self.parts.get("ind", self._seen[:0]))
            labelled["soft"] = (~withheld & self._observed.examples).nonzero()[:, 0]
        return View(phase, self._observed, self._seen, labelled)

    def to(self, device: torch.device | str) -> "Split":
        """The same split with its graph on another device; the ids stay where they are."""
        return replace(self, _graph=self._graph.to(device))

    @cached_property
    def _seen(self) -> Tensor:
        held_out = torch.zeros(self._graph.num_nodes, dtype=torch.bool)
        if not self.observed:
            held_out[self.parts.get("ind", [])] = True
        return (~held_out).nonzero()[:, 0]

    @cached_property
    def _place(self) -> Tensor:
        place = torch.full((self._graph.num_nodes,), -1)
        place[self._seen] = torch.arange(len(self._seen))
        return place

    @cached_property
    def _observed(self) -> Graph:
        observed = self._graph.subgraph(self._seen.to(self._graph.y.device))
        labelled = torch.cat([self._place[self.parts[name]] for name in ("train", "val")])
        labelled = labelled.to(observed.y.device)
        y = torch.full_like(observed.y, torch.nan if observed.y.is_floating_point() else HIDDEN)
        y[labelled] = observed.y[labelled]
        return replace(observed, y=y)


class TeacherSpec(NamedTuple):
    """A network and how it is trained.

    Its name in `graphkd.models.networks`; hidden width and number of layers; dropout, Adam's
    learning rate and weight decay (L2); the most epochs, and how many may pass without a best one;
    how many labelled nodes a step takes, 0 for all at once.
    """

    network: str
    hidden: int
    layers: int
    dropout: float
    lr: float
    weight_decay: float
    epochs: int
    patience: int
    batch: int = 0


class StudentSpec(NamedTuple):
    """As `TeacherSpec`; the batch is of the nodes on which a teacher teaches, 0 for all at once.

    Otherwise each epoch draws a fresh order and drops what does not fill a batch, as GLNN does.
    """

    network: str
    hidden: int
    layers: int
    dropout: float
    lr: float
    weight_decay: float
    epochs: int
    patience: int
    batch: int


@dataclass(frozen=True)
class Epoch:
    """One pass of training, of a "teacher", the "baseline" (a student alone) or the "student".

    `accuracy` is on the validation nodes, 0 to 1, or R^2 of real targets; if it is `best` so far,
    its weights are kept.
    """

    phase: str
    index: int
    loss: float
    accuracy: float
    best: bool


class Trained(NamedTuple):
    """A network with the chosen weights, and what makes the graph that it runs on of a view."""

    network: nn.Module
    encode: Callable[[View], Graph]


@dataclass(frozen=True)
class Result:
    """The outcome of a run on the test nodes, from the weights that validation has chosen.

    Args:
        method, data, protocol, seed: what was run.
        metrics: by name, 0 to 1; see `graphkd.evaluation.metrics`.
        epochs: the chosen one of each phase, counted from 0.
        trained: what was trained: "baseline" (the student alone), and as far as the method has
            them "teacher" and "student" (taught).
        teacher, student: what these networks are called; several teachers as "sage+gcn".
        notes: what was left out or added on the way from the user's graph, in words.
        node_names: what the user calls the nodes, in global order, as `Split.node_names`.
    """

    method: str
    data: str
    protocol: str
    seed: int
    metrics: Mapping[str, float]
    epochs: Mapping[str, int]
    trained: Mapping[str, Trained] = field(default_factory=dict, compare=False, repr=False)
    teacher: str = ""
    student: str = ""
    notes: tuple[str, ...] = ()
    node_names: tuple[Hashable, ...] = field(default=(), compare=False, repr=False)
