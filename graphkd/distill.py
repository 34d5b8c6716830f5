"""One run: the teacher, the student alone, the student taught; every epoch, then the result."""

from collections.abc import Callable, Generator, Hashable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from graphkd import inputs, methods
from graphkd.core import Epoch, Result, Split, Trained, View
from graphkd.data import registry
from graphkd.data.graph_collection import Graphs
from graphkd.data.links import Pairs
from graphkd.data.sources import graph_of
from graphkd.evaluation import metrics as evaluation
from graphkd.graph import Graph, TypedGraph
from graphkd.inputs import Encoder
from graphkd.method import DistillationContext, Method, Plan
from graphkd.models import networks
from graphkd.models.readout import Hadamard
from graphkd.ops.dropout import drawn_on_device
from graphkd.training import given, published
from graphkd.training.distillation import (
    fit_one_teacher,
    fit_student,
    fit_student_on_links,
    fit_teacher,
    fit_together,
)
from graphkd.training.given import Given
from graphkd.training.links import LinkDistillation
from graphkd.training.loop import Fit, Fitted, build, predict, seeded


def run(
    method: Method | str,
    data: Any = "digits-knn",
    protocol: str | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    download: bool = False,
    device: str = "cpu",
    teacher: Any = None,
    student: Any = None,
) -> Iterator[Epoch | Result]:
    """One run of a method on a data set: every epoch, and at last the result.

    The seed decides the split, the weights and every draw. Nothing else is random, and torch's
    global state is left as it was.

    Args:
        method: a method, or the name of one for its default settings.
        data: the name of a data set in `graphkd.data.registry`; a graph or many, in any form of
            `graphkd.data.sources`; or a `Split`, which has a protocol and a seed of its own draw.
        protocol: one of `graphkd.data.registry.PROTOCOLS`; by default that of the split, or
            transductive, or folds of whole graphs.
        seed: of the run.
        root: where data sets are, see `graphkd.data.datasets.load`.
        download: whether missing data may be fetched.
        device: where the graph and the networks live.
        teacher: in place of the method's, see `graphkd.training.given.Given`: a name, a module
            that is trained, a class or function that makes one to be trained, or `TeacherLogits`.
        student: in place of the method's: a name, a module, or a class or function.

    Raises:
        ValueError: a name, a setting or the graph cannot be used; the message says how to mend it.
        FileNotFoundError: a file of the data set is missing.
    """
    if isinstance(method, str):
        method = methods.get(method)()
    split = split_of(data, protocol, seed, root, download, method.task)
    yield from distill(method, split.to(device), seed=seed, teacher=teacher, student=student)


def split_of(
    data: Any,
    protocol: str | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    download: bool = False,
    task: str = "nodes",
) -> Split:
    """The split of a data set, a graph of any form that `run` takes, or a split itself.

    `task` is that of the method (`graphkd.method.Method`): its nodes are split, or its links.

    Raises:
        ValueError: it cannot be split so, or has been split otherwise.
        FileNotFoundError: a file of the data set is missing.
    """
    if isinstance(data, Split):
        if protocol not in (None, data.protocol):
            raise ValueError(
                f"the split is {data.protocol}, and the protocol asked for is {protocol}: leave it "
                "out, or give the graph"
            )
        return data
    graph = registry.load(data, root, download) if isinstance(data, str) else graph_of(data)
    usual = registry.FOLDS if isinstance(graph, Graphs) else "transductive"
    return registry.split(graph, protocol or usual, seed, task=task)


def distill(
    method: Method,
    split: Split,
    *,
    seed: int,
    train: Callable[..., Fit] = fit_one_teacher,
    teacher: Any = None,
    student: Any = None,
) -> Iterator[Epoch | Result]:
    """A method on a graph that is split already: `planned`, then `carry_out`.

    Args:
        method: a method.
        split: of a graph.
        seed: of the run.
        train: see `carry_out`.
        teacher: as for `run`.
        student: as for `run`.
    """
    method, own = given.named(method, teacher, student)
    plan = planned(method, split.view("evaluate").graph, split.protocol, own)
    yield from carry_out(plan, split, seed=seed, train=train, own=own)


def planned(method: Method, graph: Graph, protocol: str, own: Given = Given()) -> Plan:  # noqa: B008
    """The plan of a method on this data, before any training.

    Raises:
        ValueError: the method cannot run on it; the message says which can.
    """
    check(method, graph)
    given.check(method, own, methods.REGISTRY.name_of(method))
    return given.renamed(published.resolve(method, graph.name, protocol), own)


def carry_out(
    plan: Plan,
    split: Split,
    *,
    seed: int,
    train: Callable[..., Fit] = fit_one_teacher,
    own: Given = Given(),  # noqa: B008  (frozen)
) -> Iterator[Epoch | Result]:
    """A plan on a graph that is split: every epoch, and at last the result.

    Phases in order: "teacher", if the scheme has one that is not trained yet; "baseline", the same
    student trained on the labels alone from the same weights; "student". In the scheme "alone" the
    baseline is the student; in the scheme "mutual" the teachers learn in the phase of the student.
    A teacher of the phase "teacher" that the plan names is trained by `train`, which may as well
    know it from before; what the user gives in place of names is `own`.

    Raises:
        ValueError: see `check_device` and `check_links`.
    """
    check_device(plan.method, split.view("evaluate").graph.x.device)
    check_links(plan.method, split, own)
    steps = _carried_out(plan, split, seed, train, own)
    while True:  # whoever takes the steps is outside of the block between two of them
        with drawn_on_device(plan.method.device_dropout):
            step = next(steps, None)
        if step is None:
            return
        yield step


def check_device(method: Method, device: torch.device) -> None:
    """Raise ValueError where dropout is to be drawn on a device whose draws no seed decides."""
    if method.device_dropout and device.type == "mps":
        raise ValueError(
            "device_dropout with the device mps: no seed decides what is drawn there; leave it out"
        )


def check_links(method: Method, split: Split, own: Given = Given()) -> None:  # noqa: B008
    """Raise ValueError where a method and a split are of unlike tasks, or a teacher of another."""
    name, graph = methods.REGISTRY.name_of(method), split.view("evaluate").graph
    if method.task == "links" and not isinstance(graph, Pairs):
        raise ValueError(
            f"{name} predicts links, and the split is one of nodes: give the graph, or "
            "graphkd.data.links.split(graph, seed)"
        )
    if method.task == "links" and own.ready is not None:
        raise ValueError(
            f"{name} predicts links, and a teacher that is trained already says nothing of them: "
            "give its class, which is made and trained in the run"
        )


def _carried_out(
    plan: Plan, split: Split, seed: int, train: Callable[..., Fit], own: Given
) -> Iterator[Epoch | Result]:
    scheme, task = plan.method.scheme, _task(plan, split, seed, own)
    teacher, epochs = _checked(task, split), {}
    if scheme == "offline" and teacher is None:
        module = own.module or plan.method.own_teacher()
        if module is not None:
            train = partial(train, network=module)
        fitted = yield from fit_teacher(plan.teachers, split, seed=seed, train=train)
        teacher = Trained(fitted.network, inputs.features(task.view, seed))
        epochs["teacher"] = fitted.epoch
    phase = "student" if scheme == "alone" else "baseline"
    pupil = alone = yield from _alone(task, phase)
    epochs[phase] = alone.epoch
    if scheme == "mutual":
        pupil, other = yield from _together(task)
        teacher = Trained(other.network, inputs.features(task.view, seed))
    elif scheme != "alone":
        pupil = yield from _taught(task, teacher)
    epochs["student"] = pupil.epoch
    trained = {"baseline": Trained(alone.network, task.encode)}
    if pupil is not alone:
        trained["student"] = Trained(pupil.network, task.encode)
    if teacher is not None:
        trained["teacher"] = teacher
    yield Result(
        methods.REGISTRY.name_of(plan.method),
        task.view.graph.name,
        split.protocol,
        seed,
        _measured(split, trained),
        epochs,
        trained,
        "+".join(one.network for one in plan.teachers),
        plan.student.network,
        split.notes,
        split.node_names,
    )


def _measured(split: Split, trained: Mapping[str, Trained]) -> dict[str, float]:
    """The metrics of a run; of a teacher that does not know all test nodes there are none."""
    said = {
        who: evaluation.everywhere(one.network, split, one.encode) for who, one in trained.items()
    }
    teacher = said.get("teacher")
    if teacher is not None and teacher[split.view("evaluate").part("test")].isnan().any():
        teacher = None
    return evaluation.measure(
        split, said.get("student", said["baseline"]), said["baseline"], teacher
    )


def predictions(result: Result, split: Split, who: str = "student") -> dict[Hashable, Tensor]:
    """What a network of a run says of each node, by what the user calls it: its logits, (C,).

    Args:
        result: of a run.
        split: that it was run on, such as `split_of(data, protocol, seed)`.
        who: "student", "baseline" or "teacher".
    """
    found = result.trained.get(who) or result.trained["baseline"]
    rows = evaluation.everywhere(found.network, split, found.encode)
    return dict(zip(split.node_names, rows.cpu(), strict=True))


def check(method: Method, graph: Graph) -> None:
    """Raise ValueError if a method cannot run on this data, before any training."""
    for name in (method.student, *method.teacher.split("+")):
        networks.get(name)
    inputs.get(method.inputs)
    lacks = graph.lacks
    if isinstance(graph, Pairs) and method.task != "links":
        fit = [name for name in methods.names() if methods.get(name).task == "links"]
        raise ValueError(
            f"{methods.REGISTRY.name_of(method)} classifies nodes, and the split is one of links: "
            f"take {' or '.join(fit)}, or a split of nodes"
        )
    if "edges" in lacks and method.inputs != "features":
        lacks |= {"inputs"}
    if "classes" in lacks and method.inputs == "labelled":
        lacks |= {"inputs"}
    if missing := lacks & (method.needs | {"inputs"}):
        fit = [name for name in methods.names() if not methods.get(name).needs & lacks]
        typed = "its edges are of several types"
        edges = typed if isinstance(graph, TypedGraph) else "its examples are whole graphs"
        about = {"edges": edges, "classes": "its targets are real"}
        raise ValueError(
            f"{graph.name} has no {' and no '.join(sorted(missing))} of the kind that "
            f"{methods.REGISTRY.name_of(method)} needs: "
            f"{' and '.join(why for what, why in about.items() if what in lacks)}; choose one of "
            f"{', '.join(fit)}, with inputs 'features'"
        )
    if "classes" in lacks and method.scheme == "offline" and "+" in method.teacher:
        raise ValueError(
            f"{graph.name} has real targets, and several teachers ({method.teacher}) are mixed by "
            "the probabilities of classes: take one teacher"
        )


class _Task(NamedTuple):
    """A plan, the view to learn on, the same view with the student's inputs, and what is given."""

    plan: Plan
    view: View
    encode: Encoder
    seen: View
    seed: int
    own: Given

    def fresh(self) -> nn.Module:
        """The student before any training."""
        graph = self.seen.graph
        network = build(self.plan.student, graph, self.seed, "student", self.own.student)
        with seeded(self.seed, graph.x.device, "student", "more weights"):
            return self.plan.method.build(network, graph).to(graph.x)


def untrained(plan: Plan, split: Split, *, seed: int) -> nn.Module:
    """The student of a run before any training."""
    return _task(plan, split, seed, Given()).fresh()


def _task(plan: Plan, split: Split, seed: int, own: Given) -> _Task:
    view = split.view("distill")
    encode = plan.method.encoder(view, seed)
    return _Task(plan, view, encode, replace(view, graph=encode(view)), seed, own)


def check_networks(plan: Plan, split: Split, *, seed: int, own: Given = Given()) -> None:  # noqa: B008
    """Raise ValueError if a network cannot do its part in a run, before any training."""
    _checked(_task(plan, split, seed, own), split)


def _checked(task: _Task, split: Split) -> Trained | None:
    """The teacher if it needs no training, after a look at whether the networks can do their part.

    Raises:
        ValueError: a network cannot run, or shows no hidden state where the method compares them.
    """
    plan, view, seed = task.plan, task.view, task.seed
    ready, teacher = task.own.ready, None
    offline, needed = plan.method.scheme == "offline", plan.method.hidden_states()
    if offline and ready is not None:
        teacher = given.teacher(ready, split, seed)
    if task.own.student is not None or needed:
        _check_hidden(task, "student", task.fresh(), task.seen.graph, needed)
    if not offline or not (needed or task.own.module):
        return teacher
    if teacher is not None:
        _check_hidden(task, "teacher", teacher.network, teacher.encode(view), min(needed, 1))
    elif len(plan.teachers) > 1:
        raise ValueError(
            f"{methods.REGISTRY.name_of(plan.method)} compares hidden states, and several teachers "
            "show no hidden state together: take a single teacher"
        )
    else:
        network = build(plan.teachers[0], view.graph, seed, "teacher", task.own.module)
        _check_hidden(task, "teacher", network, view.graph, min(needed, 1))
    return teacher


def _check_hidden(task: _Task, side: str, network: nn.Module, graph: Graph, needed: int) -> None:
    hidden = len(predict(network, graph).hidden)
    if hidden < needed:
        method = methods.REGISTRY.name_of(task.plan.method)
        raise ValueError(
            f"the {side} shows {hidden or 'no'} hidden state{'s' * (hidden > 1)}, and {method} "
            f"needs {needed}: take a network with {needed + 1} layers or more, or let a module of "
            "yours give (logits, hidden state, ...)"
        )


def _alone(task: _Task, phase: str) -> Fit:
    """The student from the labels alone."""
    method, student = task.plan.method, task.plan.student
    weight = method.hard_weight if method.scheme == "alone" else 1.0
    return fit_student(
        task.fresh(), student, task.seen, hard_weight=weight or 0.0, phase=phase, seed=task.seed
    )


def _taught(task: _Task, teacher: Trained | None) -> Fit:
    """The student from a teacher, or from itself."""
    plan, view, seen, seed = task.plan, task.view, task.seen, task.seed
    network = task.fresh()
    guide, known = (
        (None, view.graph) if teacher is None else (teacher.network, teacher.encode(view))
    )
    targets = None if guide is None else predict(guide, known)
    with seeded(seed, seen.graph.x.device, "student", "terms"):
        context = DistillationContext(network, seen, guide, known, targets, seed)
        plan.method.begin(context)
        terms = plan.method.terms(context)
    for term in terms:
        if isinstance(term.loss, nn.Module):
            term.loss.to(seen.graph.x)  # its device and floating type
    weight = plan.method.hard_weight or 0.0
    if isinstance(guide, Hadamard) and isinstance(known, Pairs):
        matched = LinkDistillation(guide, known, terms, plan.method.asked)
        return fit_student_on_links(
            network, plan.student, seen, matched, hard_weight=weight, seed=seed
        )
    return fit_student(network, plan.student, seen, targets, terms, hard_weight=weight, seed=seed)


def _together(task: _Task) -> Generator[Epoch, None, tuple[Fitted, Fitted]]:
    """The student and its teachers at once; the student, and the first of the others."""
    plan, view, seen, seed, own = task.plan, task.view, task.seen, task.seed, task.own.module
    others = [build(one, view.graph, seed, one.network, own) for one in plan.teachers]
    exchange = plan.method.exchange()
    found = yield from fit_together(
        [task.fresh(), *others], plan.student, exchange, seen, view.graph, seed=seed
    )
    return found[0], found[1]
