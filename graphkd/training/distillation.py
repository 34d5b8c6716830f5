"""Fitting teachers and students: on labels, on a teacher's outputs by terms, or together."""

from collections.abc import Callable, Sequence
from collections.abc import Generator as Steps
from dataclasses import replace

import torch
from torch import Generator, Tensor, nn

from graphkd.core import Epoch, LeakError, Split, StudentSpec, TeacherSpec, View
from graphkd.data.links import Pairs
from graphkd.graph import Graph, Part
from graphkd.method import LossTerm
from graphkd.models import networks
from graphkd.models.teacher_ensemble import TeacherEnsemble, learn_weights
from graphkd.training import links, stacked
from graphkd.training.loop import (
    Fit,
    Fitted,
    Learner,
    Step,
    batches,
    build,
    descend,
    fit,
    hard,
    predict,
    supervised,
)
from graphkd.training.online import MutualLearners, together
from kdcore.outputs import Outputs


def fit_one_teacher(
    teacher: TeacherSpec,
    split: Split,
    *,
    phase: str = "teacher",
    seed: int,
    network: Callable[..., nn.Module] | nn.Module | None = None,
) -> Fit:
    """Train one network on the labels of the training nodes, on the graph that it may see.

    It is the one that is described, or made of a class of the user's.
    """
    view = split.view("train")
    fresh = build(teacher, view.graph, seed, phase, network)
    return _on_labels(fresh, teacher, view, 1.0, teacher.batch, phase, seed)


def fit_teacher(
    teachers: Sequence[TeacherSpec],
    split: Split,
    *,
    seed: int,
    train: Callable[..., Fit] = fit_one_teacher,
) -> Fit:
    """Train the teacher of a student on the labels of the training nodes, on what it may see.

    Of several teachers, each is trained, and then the weights of their mixture are learnt on the
    validation nodes; the epoch is that of the first. Yields epochs and returns it `Fitted`, with
    frozen weights: `yield from`, or `finish`. `train` takes the place of `fit_one_teacher`.
    """
    found = []
    for one in teachers:
        phase = "teacher" if len(teachers) == 1 else f"teacher {one.network}"
        found.append((yield from train(one, split, phase=phase, seed=seed)))
    if len(found) == 1:
        return found[0]
    view = split.view("train")
    graph, val = view.graph, view.part("val")
    said = [predict(one.network, graph, val).logits.softmax(-1) for one in found]
    weights = learn_weights(torch.stack(said), graph.y[val])
    return Fitted(TeacherEnsemble([one.network for one in found], weights), found[0].epoch)


def fit_student(
    network: nn.Module,
    student: StudentSpec,
    view: View,
    targets: Outputs | None = None,
    terms: Sequence[LossTerm] = (),
    *,
    hard_weight: float = 1.0,
    phase: str = "student",
    seed: int,
) -> Fit:
    """Train a student on a teacher's outputs by some terms, or without terms on labels alone.

    Args:
        network: a fresh one.
        student: how it is trained.
        view: of the phase "distill", its graph with the student's inputs.
        targets: the teacher's outputs on exactly the nodes of the view, in its order; None if the
            student is its own teacher.
        terms: of the loss; one of weight 0 is skipped, not multiplied by 0.
        hard_weight: of the cross-entropy on the training nodes; 0 skips it.
        phase: the name of the epochs.
        seed: of dropout and of the draws.

    Raises:
        LeakError: the targets are not those of the view's nodes.
        ValueError: there is nothing to learn from.
    """
    graph, train = view.graph, view.part("train")
    terms = [term for term in terms if term.weight]
    if targets is not None and len(targets.logits) != graph.num_nodes:
        raise LeakError(
            f"the teacher's outputs have {len(targets.logits)} rows, the view has "
            f"{graph.num_nodes} nodes; give the outputs at its nodes in their order: "
            "predict(teacher, view.graph)"
        )
    if not terms and not hard_weight:
        raise ValueError(
            "hard_weight is 0 and there are no terms of another weight: the student has nothing "
            "to learn from; raise one of them"
        )
    if not terms:
        batch = student.batch if len(train) > student.batch else 0
        return _on_labels(network, student, view, hard_weight, batch, phase, seed)
    step = _taught_by(targets, terms, view, hard_weight, student.batch)
    return _on_terms(network, student, view, terms, step, phase, seed)


def fit_student_on_links(
    network: nn.Module,
    student: StudentSpec,
    view: View,
    distillation: links.LinkDistillation,
    *,
    hard_weight: float,
    seed: int,
) -> Fit:
    """Train a student of links on a teacher's logits by some terms.

    Args:
        network: a fresh one.
        student: how it is trained.
        view: of the phase "distill", its pairs with the student's inputs.
        distillation: what the teacher says; terms of weight 0 are skipped.
        hard_weight: of the binary cross-entropy on the edges; 0 skips it.
        seed: of dropout and of the draws.

    Raises:
        ValueError: there is nothing to learn from.
    """
    graph, train = view.graph, view.part("train")
    terms = [term for term in distillation.terms if term.weight]
    if not terms:
        return fit_student(network, student, view, hard_weight=hard_weight, seed=seed)
    assert isinstance(graph, Pairs)
    kept = replace(distillation, terms=terms)
    step = links.supervised(graph, train, hard_weight, student.batch, kept)
    return _on_terms(network, student, view, terms, step, "student", seed)


def _on_terms(
    network: nn.Module,
    student: StudentSpec,
    view: View,
    terms: Sequence[LossTerm],
    step: Step,
    phase: str,
    seed: int,
) -> Fit:
    """Train a network beside those of its terms that have parameters of their own."""
    beside = [term.loss for term in terms if isinstance(term.loss, nn.Module)]
    return fit(phase, network, student, view.graph, view.part("val"), step, seed, beside)


def _on_labels(
    network: nn.Module,
    how: TeacherSpec | StudentSpec,
    view: View,
    weight: float,
    batch: int,
    phase: str,
    seed: int,
) -> Fit:
    """Train a network on the labels of the training nodes, all at once or in batches."""
    graph, train, val = view.graph, view.part("train"), view.part("val")
    if isinstance(graph, Pairs):
        step = links.supervised(graph, train, weight, batch)
        return (yield from fit(phase, network, how, graph, val, step, seed))
    if batch or isinstance(network, Learner):
        step = supervised(graph, train, weight, batch)
        return (yield from fit(phase, network, how, graph, val, step, seed))
    member = stacked.Member(network, graph, val, stacked.labels(graph, train, weight), seed)
    fitting = stacked.fit(phase, how, [member])  # works out no more rows than these nodes need
    while True:
        try:
            yield next(fitting)[1]
        except StopIteration as stop:
            fitted: Fitted = stop.value[0]
            return fitted


def fit_together(
    fresh: Sequence[nn.Module],
    student: StudentSpec,
    exchange: tuple[float, float],
    view: View,
    plain: Graph,
    *,
    seed: int,
) -> Steps[Epoch, None, list[Fitted]]:
    """Train networks that teach each other; the epoch is that which is best for the first.

    Args:
        fresh: the student, then the others.
        student: how all of them are trained.
        exchange: the weight of what the others say, and its temperature.
        view: of the phase "distill", its graph with the student's inputs.
        plain: the same graph with the inputs of the others.
        seed: of dropout.
    """
    peers = MutualLearners(fresh)
    graphs = [view.graph] + [plain] * (len(fresh) - 1)
    step = together(peers, graphs, view, *exchange)
    fitted = yield from fit("student", peers, student, view.graph, view.part("val"), step, seed)
    return [Fitted(network, fitted.epoch) for network in fresh]


def _taught_by(
    targets: Outputs | None,
    terms: Sequence[LossTerm],
    view: View,
    hard_weight: float,
    batch: int,
) -> Step:
    """An epoch of distillation: the nodes in batches, each with labelled ones beside it.

    These are all that there are, or as many as a batch has, drawn anew.
    """
    graph, train, soft = view.graph, view.part("train"), view.part("soft")
    everything = len(soft) == graph.num_nodes

    def loss(network: nn.Module, places: Tensor | None, draw: Generator) -> Tensor:
        nodes = soft if places is None else soft[places]
        part: Graph | Part = graph
        asked, labelled, at = None, train, train
        if places is not None or not everything:
            labelled = _some(train, batch, draw)
            at = torch.arange(len(labelled)) + len(nodes)
            part, asked = graph.take(nodes), torch.cat([nodes, labelled]) if hard_weight else nodes
        outputs = network(graph, asked)
        own = networks.rows(outputs, slice(part.num_nodes))
        teacher = own if targets is None else targets
        if asked is not None and targets is not None:
            teacher = networks.rows(targets, nodes)
        total = torch.zeros((), device=own.logits.device, dtype=own.logits.dtype)
        for term in terms:
            total = total + _value(term, own, teacher, part, draw)
        if hard_weight:
            total = total + hard_weight * hard(outputs.logits[at], graph.y[labelled])
        return total

    def step(network: nn.Module, optimiser: torch.optim.Optimizer, draw: Generator) -> float:
        steps = batches(len(soft), batch, draw)
        return sum(descend(loss(network, nodes, draw), optimiser) for nodes in steps) / len(steps)

    return step


def _some(nodes: Tensor, count: int, draw: Generator) -> Tensor:
    if count == 0 or count >= len(nodes):
        return nodes
    return nodes[torch.randperm(len(nodes), generator=draw)[:count]]


def _value(
    term: LossTerm, student: Outputs, teacher: Outputs, part: Graph | Part, draw: Generator
) -> Tensor:
    if term.nodes is not None:
        chosen = term.nodes(part.num_nodes, draw)
        student, teacher = networks.rows(student, chosen), networks.rows(teacher, chosen)
        part = part.take(chosen)
    return term.weight * term.loss(student, teacher, part).mean()
