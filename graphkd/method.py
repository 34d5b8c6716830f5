"""The Method, what its loss is made of, and the Plan that it becomes for a data set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn

from graphkd import inputs
from graphkd.core import StudentSpec, TeacherSpec, View
from graphkd.graph import Graph, Part
from graphkd.inputs import Encoder
from kdcore.outputs import Outputs

Loss = Callable[[Outputs, Outputs, Graph | Part], Tensor]  # student, teacher, graph -> (N,)


class DistillationContext(NamedTuple):
    """What the terms of a loss may be made from, before the student is trained.

    Args:
        student: the network that is to learn.
        view: of the phase "distill", its graph with the student's inputs.
        teacher: the network that teaches, or None if the student is its own teacher.
        seen: the graph of the view with the teacher's inputs.
        targets: the teacher's outputs on all nodes of the view, or None likewise.
        seed: of the run.
    """

    student: nn.Module
    view: View
    teacher: nn.Module | None
    seen: Graph
    targets: Outputs | None
    seed: int

    def widths(self) -> tuple[int, int]:
        """The widths of the last hidden states of student and teacher.

        Raises:
            ValueError: one of them shows none.
        """
        with torch.no_grad():
            own = self.student.eval()(self.view.graph)
        taught = own if self.targets is None else self.targets
        for side, outputs in (("student", own), ("teacher", taught)):
            if not outputs.hidden:
                raise ValueError(
                    f"the {side} shows no hidden state, which this method compares: take a network "
                    "with 2 layers or more, and a single teacher"
                )
        return own.hidden[-1].shape[1], taught.hidden[-1].shape[1]


class LossTerm(NamedTuple):
    """One summand of a student's loss: weight times the mean of `loss` over the nodes of a step.

    A loss that is an `nn.Module` has parameters of its own, which are trained beside the student
    and thrown away; a run moves them to the device and the floating type of the graph.
    `nodes(n, generator)` may draw some of a step's n nodes; the loss then sees these alone, with
    the edges among them. A term of weight 0 is skipped, not multiplied by 0.
    """

    loss: Loss
    weight: float
    nodes: Callable[[int, Generator], Tensor] | None = None


ANY = 1e30  # above which no setting makes sense
RANGES: dict[str, tuple[float, float]] = {
    "hidden": (1, ANY),
    "layers": (2, ANY),
    "dropout": (0, 0.99),
    "weight_decay": (0, ANY),
    "lr": (1e-12, ANY),
    "batch": (0, ANY),
    "epochs": (1, ANY),
    "patience": (1, ANY),
    "temperature": (1e-6, ANY),
    "sample": (2, ANY),
}


@dataclass(frozen=True)
class Method:
    """Who teaches whom, from which inputs, by which terms. Its fields are its settings.

    A field that is None takes the published value for the data set or network, see
    `graphkd.training.published`, which makes a `Plan` of it. The loss is hard_weight * CE[train] +
    sum of the terms. Several teachers, such as "sage+gcn", teach as one, see
    `graphkd.models.teacher_ensemble`. Who is trained, and in which order, is the scheme: "alone"
    (no teacher), "offline" (a teacher, then the student), "own" (the student is its own teacher) or
    "mutual" (several students teach each other), see `graphkd.distill`. What it needs of the data
    is "edges" between the examples, which whole graphs have not, and "classes", which real targets
    are not.
    """

    scheme: ClassVar[Literal["alone", "offline", "own", "mutual"]] = "offline"
    needs: ClassVar[frozenset[str]] = frozenset({"edges", "classes"})  # of the data
    asks_teacher_again: ClassVar[bool] = False  # about other features than those of the graph
    ranges: ClassVar[dict[str, tuple[float, float]]] = {}  # of its own settings, both ends included
    # Its own settings by data set ("cora"), or data set and protocol ("cora inductive"); "" any.
    published_settings: ClassVar[Mapping[str, Mapping[str, Any]]] = {"": {}}

    teacher: str = "sage"
    student: str = "mlp"
    inputs: str = "features"
    hard_weight: float | None = 1.0
    teacher_hidden: int | None = None
    teacher_layers: int | None = None
    teacher_dropout: float | None = None
    teacher_lr: float | None = None
    teacher_weight_decay: float | None = None
    teacher_epochs: int = 200
    teacher_patience: int = 50
    teacher_batch: int = 0
    hidden: int | None = None
    layers: int | None = None
    dropout: float | None = None
    lr: float | None = None
    weight_decay: float | None = None
    batch: int = 0
    epochs: int = 200
    patience: int = 50

    def __post_init__(self) -> None:
        """Refuse settings that make no training."""
        for setting in fields(self):
            name, value = setting.name, getattr(self, setting.name)
            kind = name.removeprefix("teacher_")
            known = RANGES.get(kind, (0, ANY) if kind.endswith("_weight") else None)
            allowed = self.ranges.get(name, known)
            if value is None or allowed is None:
                continue
            least, most = allowed
            if not least <= value <= most:
                raise ValueError(f"{name} is {value}; expected a number from {least:g} to {most:g}")

    def terms(self, context: DistillationContext) -> tuple[LossTerm, ...]:
        """The terms by which the teacher teaches."""
        return ()

    def hidden_states(self) -> int:
        """How many hidden states the terms need: of the student, and of a teacher one if any."""
        return 0

    def exchange(self) -> tuple[float, float]:
        """In the scheme "mutual", the weight of what the others say, and its temperature."""
        return 1.0, 1.0

    def encoder(self, view: View, seed: int) -> Encoder:
        """The student's inputs, learnt on what it may see."""
        return inputs.get(self.inputs)(view, seed)

    def build(self, network: nn.Module, graph: Graph) -> nn.Module:
        """The student made of a fresh network for this graph: by default the network itself.

        A run moves it to the device and the floating type of the graph.
        """
        return network


class Plan(NamedTuple):
    """A method for a data set and a protocol, with nothing left open: made once, then passed on.

    Args:
        method: its fields have values; it knows the student's inputs and the terms of the loss.
        student: how the student is built and trained.
        teachers: likewise each teacher, or each that learns beside it; none without a teacher.
    """

    method: Method
    student: StudentSpec
    teachers: tuple[TeacherSpec, ...]


def sample(n: int, generator: Generator, count: int) -> Tensor:
    """`count` of n nodes, or all of them if there are fewer: for `LossTerm.nodes`."""
    return torch.randperm(n, generator=generator)[:count]
