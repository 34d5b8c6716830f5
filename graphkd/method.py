"""The Method, what its loss is made of, and the Plan that it becomes for a data set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn

from graphkd import inputs
from graphkd.core import StudentSpec, TeacherSpec, View
from graphkd.graph import Graph, Part
from graphkd.inputs import Encoder
from kdcore.outputs import Outputs
from kdcore.settings import WIDEST, Setting, check_ranges

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


DEEPEST = 1_000  # layers
NETWORKS = "graphkd.models.networks"  # where they are found by name
Width = Annotated[int | None, Setting("hidden units", ge=1, le=WIDEST)]
Depth = Annotated[int | None, Setting("layers", ge=2, le=DEEPEST)]
Dropout = Annotated[float | None, Setting("share that is dropped", ge=0, le=0.99)]
Rate = Annotated[float | None, Setting("learning rate", ge=1e-12)]
Decay = Annotated[float | None, Setting("weight decay", ge=0)]
Batch = Annotated[int, Setting("nodes in a mini-batch; 0: all at once", ge=0)]
Epochs = Annotated[int, Setting("passes, at the most", ge=1)]
Share = Annotated[float | None, Setting("weight of the labels", ge=0, le=1)]
Temperature = Annotated[float | None, Setting("T, which softens logits", ge=1e-6)]
Patience = Annotated[int, Setting("passes without gain, and it stops", ge=1)]


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
    are not. Its task is to classify nodes (or whole graphs), or to predict links.
    """

    task: ClassVar[Literal["nodes", "links"]] = "nodes"
    scheme: ClassVar[Literal["alone", "offline", "own", "mutual"]] = "offline"
    needs: ClassVar[frozenset[str]] = frozenset({"edges", "classes"})  # of the data
    asks_teacher_again: ClassVar[bool] = False  # about other features than those of the graph
    copies: ClassVar[tuple[str, ...]] = ()  # networks whose parameters the student takes over
    taught_by: ClassVar[type[nn.Module] | None] = None  # the kind of teacher that it makes itself
    # Its own settings by data set ("cora"), or data set and protocol ("cora inductive"); "" any.
    published_settings: ClassVar[Mapping[str, Mapping[str, Any]]] = {"": {}}

    teacher: Annotated[
        str, Setting("its networks; several, such as sage+gcn, teach as one", names=NETWORKS)
    ] = "sage"
    student: Annotated[str, Setting("its network", names=NETWORKS)] = "mlp"
    inputs: Annotated[str, Setting("what the student sees of a node")] = "features"
    hard_weight: Annotated[float | None, Setting("weight of the labels", ge=0)] = 1.0
    teacher_hidden: Width = None
    teacher_layers: Depth = None
    teacher_dropout: Dropout = None
    teacher_lr: Rate = None
    teacher_weight_decay: Decay = None
    teacher_epochs: Epochs = 200
    teacher_patience: Patience = 50
    teacher_batch: Batch = 0
    hidden: Width = None
    layers: Depth = None
    dropout: Dropout = None
    lr: Rate = None
    weight_decay: Decay = None
    batch: Batch = 0
    epochs: Epochs = 200
    patience: Patience = 50
    device_dropout: Annotated[
        bool, Setting("draw dropout on the GPU: quicker, and other numbers than on a CPU")
    ] = field(default=False, metadata={"added": True})

    def __post_init__(self) -> None:
        """Refuse settings out of the ranges that their annotations give; see `kdcore.settings`."""
        check_ranges(self)

    def begin(self, context: DistillationContext) -> None:
        """What the student takes over from the teacher before it learns: by default nothing."""

    def terms(self, context: DistillationContext) -> tuple[LossTerm, ...]:
        """The terms by which the teacher teaches."""
        return ()

    def hidden_states(self) -> int:
        """How many hidden states the terms need: of the student, and of a teacher one if any."""
        return 0

    def asked(self, ends: Tensor, graph: Graph, draw: Generator) -> Tensor:
        """In the task "links", about which pairs the teacher is asked at a step, (2, A, M).

        The terms see the logits of these, (A, M): A examples of M links each. By default they are
        the pairs (2, A) that the step learns from, joined and not, each an example of its own.
        """
        return ends.unsqueeze(-1)

    def exchange(self) -> tuple[float, float]:
        """In the scheme "mutual", the weight of what the others say, and its temperature."""
        return 1.0, 1.0

    def own_teacher(self) -> Callable[..., nn.Module] | None:
        """What makes the network of kind `taught_by`, if it is not the one that is named."""
        return None

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
