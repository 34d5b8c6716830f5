"""One run: the teacher, the student alone, the student taught; every epoch, then the result."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import nn

from graphkd import inputs, methods
from graphkd.core import Epoch, Result, Split, Trained, View
from graphkd.data import registry
from graphkd.evaluation import metrics as evaluation
from graphkd.graph import Graph
from graphkd.inputs import Encoder
from graphkd.method import DistillationContext, Method, Plan
from graphkd.models import networks
from graphkd.training import published
from graphkd.training.distillation import fit_one_teacher, fit_student, fit_teacher, fit_together
from graphkd.training.loop import Fit, Fitted, build, predict, seeded


def run(
    method: Method | str,
    data: Graph | str = "digits-knn",
    protocol: str = "transductive",
    seed: int = 0,
    root: str | Path | None = None,
    download: bool = False,
    device: str = "cpu",
) -> Iterator[Epoch | Result]:
    """One run of a method on a data set: every epoch, and at last the result.

    The seed decides the split, the weights and every draw. Nothing else is random, and torch's
    global state is left as it was.

    Args:
        method: a method, or the name of one for its default settings.
        data: a graph, many (`graphkd.data.graph_collection.Graphs`), or the name of a data set in
        `graphkd.data.registry`.
        protocol: one of `graphkd.data.registry.PROTOCOLS`.
        seed: of the run.
        root: where data sets are, see `graphkd.data.datasets.load`.
        download: whether missing data may be fetched.
        device: where the graph and the networks live.

    Raises:
        ValueError: a name, a setting or the graph cannot be used; the message says how to mend it.
        FileNotFoundError: a file of the data set is missing.
    """
    if isinstance(method, str):
        method = methods.get(method)()
    graph = registry.load(data, root, download) if isinstance(data, str) else data
    plan = planned(method, graph, protocol)
    yield from carry_out(plan, registry.split(graph, protocol, seed).to(device), seed=seed)


def distill(
    method: Method, split: Split, *, seed: int, train: Callable[..., Fit] = fit_one_teacher
) -> Iterator[Epoch | Result]:
    """A method on a graph that is split already: `planned`, then `carry_out`."""
    plan = planned(method, split.view("evaluate").graph, split.protocol)
    yield from carry_out(plan, split, seed=seed, train=train)


def planned(method: Method, graph: Graph, protocol: str) -> Plan:
    """The plan of a method on this data, before any training.

    Raises:
        ValueError: the method cannot run on it; the message says which can.
    """
    check(method, graph)
    return published.resolve(method, graph.name, protocol)


def carry_out(
    plan: Plan, split: Split, *, seed: int, train: Callable[..., Fit] = fit_one_teacher
) -> Iterator[Epoch | Result]:
    """A plan on a graph that is split: every epoch, and at last the result.

    Phases in order: "teacher", if the scheme has one; "baseline", the same student trained on the
    labels alone from the same weights; "student". In the scheme "alone" the baseline is the
    student; in the scheme "mutual" the teachers learn in the phase of the student. A teacher of
    the phase "teacher" is trained by `train`, which may as well know it from before.
    """
    scheme, task = plan.method.scheme, _task(plan, split, seed)
    teacher, epochs = None, {}
    if scheme == "offline":
        teacher = yield from fit_teacher(plan.teachers, split, seed=seed, train=train)
        epochs["teacher"] = teacher.epoch
    phase = "student" if scheme == "alone" else "baseline"
    pupil = alone = yield from _alone(task, phase)
    epochs[phase] = alone.epoch
    if scheme == "mutual":
        pupil, teacher = yield from _together(task)
    elif scheme != "alone":
        pupil = yield from _taught(task, teacher)
    epochs["student"] = pupil.epoch
    metrics = evaluation.measure(
        split,
        evaluation.everywhere(pupil.network, split, task.encode),
        evaluation.everywhere(alone.network, split, task.encode),
        None if teacher is None else evaluation.everywhere(teacher.network, split),
    )
    data = task.view.graph.name
    name = methods.REGISTRY.name_of(plan.method)
    trained = {"baseline": Trained(alone.network, task.encode)}
    if pupil is not alone:
        trained["student"] = Trained(pupil.network, task.encode)
    if teacher is not None:
        trained["teacher"] = Trained(teacher.network, inputs.get("features")(task.view, seed))
    yield Result(name, data, split.protocol, seed, metrics, epochs, trained)


def check(method: Method, graph: Graph) -> None:
    """Raise ValueError if a method cannot run on this data, before any training."""
    for name in (method.student, *method.teacher.split("+")):
        networks.get(name)
    inputs.get(method.inputs)
    lacks = graph.lacks
    if "edges" in lacks and method.inputs != "features":
        lacks |= {"inputs"}
    if missing := lacks & (method.needs | {"inputs"}):
        fit = [name for name in methods.names() if not methods.get(name).needs & lacks]
        raise ValueError(
            f"{graph.name} has no {' and no '.join(sorted(missing))} of the kind that "
            f"{methods.REGISTRY.name_of(method)} needs: its examples are whole graphs"
            f"{' with real targets' if 'classes' in lacks else ''}; choose one of "
            f"{', '.join(fit)}, with inputs 'features'"
        )


class _Task(NamedTuple):
    """A plan, the view to learn on, and the same view with the student's inputs."""

    plan: Plan
    view: View
    encode: Encoder
    seen: View
    seed: int

    def fresh(self) -> nn.Module:
        """The student before any training."""
        graph = self.seen.graph
        network = build(self.plan.student, graph, self.seed, "student")
        with seeded(self.seed, graph.x.device, "student", "more weights"):
            return self.plan.method.build(network, graph).to(graph.x)


def untrained(plan: Plan, split: Split, *, seed: int) -> nn.Module:
    """The student of a run before any training."""
    return _task(plan, split, seed).fresh()


def _task(plan: Plan, split: Split, seed: int) -> _Task:
    view = split.view("distill")
    encode = plan.method.encoder(view, seed)
    return _Task(plan, view, encode, replace(view, graph=encode(view)), seed)


def _alone(task: _Task, phase: str) -> Fit:
    """The student from the labels alone."""
    method, student = task.plan.method, task.plan.student
    weight = method.hard_weight if method.scheme == "alone" else 1.0
    return fit_student(
        task.fresh(), student, task.seen, hard_weight=weight or 0.0, phase=phase, seed=task.seed
    )


def _taught(task: _Task, teacher: Fitted | None) -> Fit:
    """The student from a teacher, or from itself."""
    plan, view, _, seen, seed = task
    network = task.fresh()
    guide = None if teacher is None else teacher.network
    targets = None if guide is None else predict(guide, view.graph)
    with seeded(seed, seen.graph.x.device, "student", "terms"):
        terms = plan.method.terms(
            DistillationContext(network, seen, guide, view.graph, targets, seed)
        )
    for term in terms:
        if isinstance(term.loss, nn.Module):
            term.loss.to(seen.graph.x)  # its device and floating type
    weight = plan.method.hard_weight or 0.0
    return fit_student(network, plan.student, seen, targets, terms, hard_weight=weight, seed=seed)


def _together(task: _Task) -> Generator[Epoch, None, tuple[Fitted, Fitted]]:
    """The student and its teachers at once; the student, and the first of the others."""
    plan, view, _, seen, seed = task
    others = [build(one, view.graph, seed, one.network) for one in plan.teachers]
    exchange = plan.method.exchange()
    found = yield from fit_together(
        [task.fresh(), *others], plan.student, exchange, seen, view.graph, seed=seed
    )
    return found[0], found[1]
