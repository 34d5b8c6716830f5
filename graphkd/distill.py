"""One run: the teacher, the student alone, the student taught; every epoch, then the result."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import nn

from graphkd import inputs, methods
from graphkd.core import Epoch, Result, Split, Trained, View
from graphkd.data import registry
from graphkd.data.graph_collection import Graphs
from graphkd.evaluation import metrics as evaluation
from graphkd.graph import Graph
from graphkd.inputs import Encoder
from graphkd.method import DistillationContext, Method
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
    check(method, graph)
    yield from distill(method, registry.split(graph, protocol, seed).to(device), seed=seed)


def distill(
    method: Method, split: Split, *, seed: int, train: Callable[..., Fit] = fit_one_teacher
) -> Iterator[Epoch | Result]:
    """A method on a graph that is split already: every epoch, and at last the result.

    Phases in order: "teacher", if the scheme has one; "baseline", the same student trained on the
    labels alone from the same weights; "student". In the scheme "alone" the baseline is the
    student; in the scheme "mutual" the teachers learn in the phase of the student. A teacher of
    the phase "teacher" is trained by `train`, which may as well know it from before.
    """
    check(method, split.view("evaluate").graph)
    task = _task(method, split, seed)
    teacher, epochs = None, {}
    if method.scheme == "offline":
        teacher = yield from fit_teacher(task.method, split, seed=seed, train=train)
        epochs["teacher"] = teacher.epoch
    phase = "student" if method.scheme == "alone" else "baseline"
    pupil = alone = yield from _alone(task, phase)
    epochs[phase] = alone.epoch
    if method.scheme == "mutual":
        pupil, teacher = yield from _together(task)
    elif method.scheme != "alone":
        pupil = yield from _taught(task, teacher)
    epochs["student"] = pupil.epoch
    metrics = evaluation.measure(
        split,
        evaluation.everywhere(pupil.network, split, task.encode),
        evaluation.everywhere(alone.network, split, task.encode),
        None if teacher is None else evaluation.everywhere(teacher.network, split),
    )
    data = task.view.graph.name
    name = type(method).__name__.lower()
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
    lacks = set()
    if isinstance(graph, Graphs):
        lacks = {"edges"} | ({"classes"} if graph.y.is_floating_point() else set())
        if method.inputs != "features":
            lacks |= {"inputs"}
    if missing := lacks & (method.needs | {"inputs"}):
        fit = [name for name in methods.names() if not methods.get(name).needs & lacks]
        raise ValueError(
            f"{graph.name} has no {' and no '.join(sorted(missing))} of the kind that "
            f"{type(method).__name__.lower()} needs: its examples are whole graphs"
            f"{' with real targets' if 'classes' in lacks else ''}; choose one of "
            f"{', '.join(fit)}, with inputs 'features'"
        )


class _Task(NamedTuple):
    """A resolved method, the view to learn on, and the same view with the student's inputs."""

    method: Method
    view: View
    encode: Encoder
    seen: View
    seed: int

    def fresh(self) -> nn.Module:
        """The student before any training."""
        graph = self.seen.graph
        network = build(published.student(self.method), graph, self.seed, "student")
        with seeded(self.seed, graph.x.device, "student", "more weights"):
            return self.method.build(network, graph).to(graph.x)


def _task(method: Method, split: Split, seed: int) -> _Task:
    view = split.view("distill")
    method = published.resolve(method, view.graph.name, split.protocol)
    encode = method.encoder(view, seed)
    return _Task(method, view, encode, replace(view, graph=encode(view)), seed)


def _alone(task: _Task, phase: str) -> Fit:
    """The student from the labels alone."""
    weight = task.method.hard_weight if task.method.scheme == "alone" else 1.0
    student = published.student(task.method)
    return fit_student(
        task.fresh(), student, task.seen, hard_weight=weight or 0.0, phase=phase, seed=task.seed
    )


def _taught(task: _Task, teacher: Fitted | None) -> Fit:
    """The student from a teacher, or from itself."""
    method, view, _, seen, seed = task
    network = task.fresh()
    guide = None if teacher is None else teacher.network
    targets = None if guide is None else predict(guide, view.graph)
    with seeded(seed, seen.graph.x.device, "student", "terms"):
        terms = method.terms(DistillationContext(network, seen, guide, view.graph, targets, seed))
    for term in terms:
        if isinstance(term.loss, nn.Module):
            term.loss.to(seen.graph.x)  # its device and floating type
    weight = method.hard_weight or 0.0
    student = published.student(method)
    return fit_student(network, student, seen, targets, terms, hard_weight=weight, seed=seed)


def _together(task: _Task) -> Generator[Epoch, None, tuple[Fitted, Fitted]]:
    """The student and its teachers at once; the student, and the first of the others."""
    method, view, _, seen, seed = task
    others = [build(t, view.graph, seed, t.network) for t in published.teachers(method)]
    found = yield from fit_together(
        [task.fresh(), *others], published.student(method), method, seen, view.graph, seed=seed
    )
    return found[0], found[1]
