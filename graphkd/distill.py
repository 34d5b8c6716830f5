"""One run: the teacher, the student alone, the student taught; every epoch, then the result."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from graphkd import data as datasets
from graphkd import evaluation, inputs, methods, networks, settings, splits
from graphkd.core import Epoch, LeakError, Method, Result, Split, Student, Teacher, Term, View
from graphkd.graph import Graph, Part
from graphkd.training import Fit, Step, build, descend, fit, predict, supervised
from knowledge import response
from knowledge.outputs import Outputs


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
        data: a graph, or the name of one in `graphkd.data`.
        protocol: "transductive" or "inductive".
        seed: of the run.
        root: where data sets are, see `graphkd.data.load`.
        download: whether missing data may be fetched.
        device: where the graph and the networks live.

    Raises:
        ValueError: a name, a setting or the graph cannot be used; the message says how to mend it.
        FileNotFoundError: a file of the data set is missing.
    """
    if isinstance(method, str):
        method = methods.get(method)()
    check(method)
    graph = datasets.load(data, root, download) if isinstance(data, str) else data
    yield from distill(method, splits.split(graph, protocol, seed).to(device), seed=seed)


def distill(method: Method, split: Split, *, seed: int) -> Iterator[Epoch | Result]:
    """A method on a graph that is split already: every epoch, and at last the result.

    Phases in order: "teacher"; "baseline", the same student trained on the labels alone from the
    same weights; "student". Without terms there is no teacher, and the baseline is the student.
    """
    check(method)
    view, terms = split.view("distill"), taught(method)
    seen = replace(view, graph=inputs.get(method.inputs)(view.graph))
    student = settings.student(method, view.graph.name)
    if not terms:
        alone = yield from fit_student(student, seen, hard_weight=method.hard_weight, seed=seed)
        logits = evaluation.everywhere(alone.network, split, method.inputs)
        metrics = evaluation.measure(split, logits, logits, None)
        yield _result(method, split, seed, metrics, {"student": alone.epoch})
        return
    teacher = yield from fit_teacher(settings.teacher(method), split, seed=seed)
    targets = predict(teacher.network, view.graph)
    alone = yield from fit_student(student, seen, phase="baseline", seed=seed)
    pupil = yield from fit_student(
        student, seen, targets, terms, hard_weight=method.hard_weight, seed=seed
    )
    metrics = evaluation.measure(
        split,
        evaluation.everywhere(pupil.network, split, method.inputs),
        evaluation.everywhere(alone.network, split, method.inputs),
        evaluation.everywhere(teacher.network, split),
    )
    epochs = {"teacher": teacher.epoch, "baseline": alone.epoch, "student": pupil.epoch}
    yield _result(method, split, seed, metrics, epochs)


def fit_teacher(teacher: Teacher, split: Split, *, seed: int) -> Fit:
    """Train a teacher on the labels of the training nodes, on the graph that it may see.

    Yields its epochs and returns it `Fitted`, with frozen weights: `yield from`, or `finish`.
    """
    view = split.view("train")
    network = build(teacher, view.graph, seed, "teacher")
    step = supervised(view.graph, view.part("train"))
    return fit("teacher", network, teacher, view.graph, view.part("val"), step, seed)


def fit_student(
    student: Student,
    view: View,
    targets: Outputs | None = None,
    terms: tuple[Term, ...] = (),
    *,
    hard_weight: float = 1.0,
    phase: str = "student",
    seed: int,
) -> Fit:
    """Train a student on a teacher's outputs by some terms, or without terms on labels alone.

    Args:
        student: the network and how it is trained.
        view: of the phase "distill", its graph with the student's inputs.
        targets: the teacher's outputs on exactly the nodes of the view, in its order.
        terms: of the loss, each with a weight other than 0.
        hard_weight: of the cross-entropy on the training nodes; 0 skips it.
        phase: the name of the epochs.
        seed: of the weights, of dropout and of the draws.

    Raises:
        LeakError: the targets are not those of the view's nodes.
        ValueError: there is nothing to learn from.
    """
    graph, train = view.graph, view.part("train")
    if terms and (targets is None or len(targets.logits) != graph.num_nodes):
        rows = "no" if targets is None else len(targets.logits)
        raise LeakError(
            f"the teacher's outputs have {rows} rows, the view has {graph.num_nodes} nodes; give "
            "the outputs at its nodes in their order: predict(teacher, view.graph)"
        )
    if not terms and not hard_weight:
        raise ValueError(
            "hard_weight is 0 and there are no terms of another weight: the student has nothing "
            "to learn from; raise one of them"
        )
    network = build(student, graph, seed, "student")
    if terms:
        step = _taught_by(targets, terms, graph, train, hard_weight, student.batch)
    else:
        step = supervised(graph, train, hard_weight)
    return fit(phase, network, student, graph, view.part("val"), step, seed)


def taught(method: Method) -> tuple[Term, ...]:
    """The terms of a method that count: a weight of 0 is skipped, not multiplied by 0."""
    return tuple(term for term in method.terms() if term.weight)


def check(method: Method) -> None:
    """Raise ValueError if a network or the inputs of a method do not exist, before any training."""
    networks.get(method.teacher)
    networks.get(method.student)
    inputs.get(method.inputs)


def _taught_by(
    targets: Outputs,
    terms: tuple[Term, ...],
    graph: Graph,
    train: Tensor,
    hard_weight: float,
    batch: int,
) -> Step:
    """An epoch of distillation: the nodes in batches, each with all labelled ones beside it."""

    def loss(network: nn.Module, nodes: Tensor | None, draw: Generator) -> Tensor:
        part = graph if nodes is None else Part(graph, nodes)
        asked = nodes if nodes is None or not hard_weight else torch.cat([nodes, train])
        outputs = network(graph, asked)
        own = networks.rows(outputs, slice(part.num_nodes))
        teacher = targets if nodes is None else networks.rows(targets, nodes)
        total = sum(_value(term, own, teacher, part, draw) for term in terms)
        if hard_weight:
            logits = outputs.logits[train if nodes is None else slice(part.num_nodes, None)]
            hard = response.cross_entropy(logits, graph.y[train]).mean()
            total = total + hard_weight * hard
        return total

    def step(network: nn.Module, optimiser: torch.optim.Optimizer, draw: Generator) -> float:
        batches = _batches(graph.num_nodes, batch, draw)
        return sum(descend(loss(network, nodes, draw), optimiser) for nodes in batches) / len(
            batches
        )

    return step


def _value(
    term: Term, student: Outputs, teacher: Outputs, part: Graph | Part, draw: Generator
) -> Tensor:
    if term.nodes is not None:
        chosen = term.nodes(part.num_nodes, draw)
        student, teacher = networks.rows(student, chosen), networks.rows(teacher, chosen)
        part = part.take(chosen)
    return term.weight * term.loss(student, teacher, part).mean()


def _batches(nodes: int, size: int, draw: Generator) -> list[Tensor | None]:
    """A fresh order cut into full batches, the rest dropped as in GLNN; None is all nodes."""
    if size == 0 or size >= nodes:
        return [None]
    order = torch.randperm(nodes, generator=draw)
    return list(order[: nodes // size * size].split(size))


def _result(
    method: Method, split: Split, seed: int, metrics: dict[str, float], epochs: dict[str, int]
) -> Result:
    name, data = type(method).__name__.lower(), split.view("evaluate").graph.name
    return Result(name, data, split.protocol, seed, metrics, epochs)
