"""Who teaches whom, when, with which loss: the schemes of the surveys, in one shape.

A scheme is a sequence of *stages*. In a stage some learners study the same examples at the same
time, each by its *terms*: a loss, and the teachers that it listens to. A teacher that studies in
the same stage makes it online distillation, one that does not is frozen (offline), a learner may
listen to itself. Nothing else tells fourteen schemes apart:

    offline       {student: teacher}             online      {a: b, b: a}
    generations   {b: a}, {c: b}, ...            multi-step  {assistant: teacher}, ...
    many teachers {student: (t1, t2, t3)}        lifelong    {student: what it was}
    cross-modal   {student: teacher}, of which each sees another view
    data-free     {generator}, {student: teacher}, and so on in turn

The axes are those of the survey of Ku et al. 2020: the knowledge and its loss (a `LossTerm`), the
teachers and students (the terms of a `Stage`), the process (the order of stages).
"""

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from kdcore.losses import response
from kdcore.outputs import Outputs
from kdcore.schemes.learners import Learner, Learners, fingerprint
from kdcore.training.batches import Examples, draw, rows
from kdcore.training.loop import fit
from kdcore.training.optimizers import TrainingConfig
from kdcore.training.stacked import Params

UNLABELLED = -100  # as everywhere in torch


# (what the student says, labels, what each teacher says...) -> one value per example
TermLoss = Callable[..., Tensor]


TeacherOutputs = MutableMapping[str, Outputs]


class LossTerm(NamedTuple):
    """A part of what a student minimises.

    Attributes:
        loss: (student's Outputs, y, *teachers' Outputs) -> (B,).
        teachers: whom it listens to; nobody where labels alone teach.
        weight: 0 leaves the term out, and its teachers are not asked.
    """

    loss: TermLoss
    teachers: tuple[str, ...] = ()
    weight: float = 1.0


class Stage(NamedTuple):
    """What some learners study at the same time.

    Attributes:
        terms: student -> what it minimises the sum of.
        examples: what they see, in the same batches; y is -100 where there is no label. Or a
            function (learners, generator) -> Examples, if that depends on what was learnt before.
        training: how.
    """

    terms: Mapping[str, tuple[LossTerm, ...]]
    examples: Examples | Callable[[Learners, torch.Generator], Examples]
    training: TrainingConfig


Scheme = Iterable[Stage]


def run(
    scheme: Scheme,
    learners: Learners,
    generator: torch.Generator,
    said: TeacherOutputs | None = None,
) -> dict[str, Learner]:
    """The learners after all stages of a scheme, one after another.

    Args:
        scheme: the stages.
        learners: by name; those that do not study stay what they are.
        generator: of the order of examples.
        said: what frozen teachers have said already, by `fingerprint`; what is new is added. A
            result is the same with it and without it.
    """
    now = dict(learners)
    for stage in scheme:
        now = teach(stage, now, generator, said)
    return now


def teach(
    stage: Stage, learners: Learners, generator: torch.Generator, said: TeacherOutputs | None = None
) -> dict[str, Learner]:
    """The learners after one stage; see `run`.

    Students are fitted together: one set of parameters, one sum of losses, the same batches. As
    optimisers work element by element, a student that nobody listens to learns what it would alone.
    A frozen teacher is asked once about each example.

    Raises:
        ValueError: a learner that is not there, or a stage in which nobody has anything to learn.
    """
    terms = {who: _kept(own) for who, own in stage.terms.items()}
    named = {name for own in terms.values() for term in own for name in term.teachers}
    _check(terms, named, learners)
    examples = stage.examples
    if not isinstance(examples, Examples):
        examples = examples(learners, generator)
    x, y = rows(examples.x, examples.rows), rows(examples.y, examples.rows)
    frozen = {name: _outputs_of(learners[name], x, said) for name in sorted(named - terms.keys())}
    places = Examples(tree_leaves(x)[0], y, torch.arange(len(examples)))
    batches = draw(places, stage.training, generator)._replace(x=x, y=(y, frozen))

    def predict(params: Params, seen: Any) -> Any:
        return {who: learners[who].predict(_part(params, who), seen) for who in terms}

    def loss(outputs: Any, target: tuple[Any, dict[str, Outputs]]) -> Tensor:
        labels, teachers = target[0], target[1] | {k: _detached(v) for k, v in outputs.items()}
        values = [
            term.weight * term.loss(outputs[who], labels, *(teachers[n] for n in term.teachers))
            for who, own in terms.items()
            for term in own
        ]
        return torch.stack(values).sum(0)

    together = {f"{who}.{k}": v for who in terms for k, v in learners[who].params.items()}
    trained = fit(predict, together, batches, stage.training, loss)
    return {
        who: learner._replace(params=_part(trained, who)) if who in terms else learner
        for who, learner in learners.items()
    }


def labels(student: Outputs, y: Tensor) -> Tensor:
    """The loss of labels: cross-entropy, 0 where there is no label."""
    return response.cross_entropy(student.logits, y)


def soft(temperature: float = 1.0) -> TermLoss:
    """The loss of one teacher's soft targets: `response.kl`."""

    def loss(student: Outputs, y: Tensor, teacher: Outputs) -> Tensor:
        return response.kl(student.logits, teacher.logits, temperature)

    return loss


def pooled(pool: Callable[[Tensor], Tensor], temperature: float = 1.0) -> TermLoss:
    """The loss of several teachers as one: their probabilities (M, B, C) pooled into (B, C)."""

    def loss(student: Outputs, y: Tensor, *teachers: Outputs) -> Tensor:
        probabilities = torch.stack([(one.logits / temperature).softmax(-1) for one in teachers])
        gap = response.kl_to_probabilities(student.logits, pool(probabilities), temperature)
        return temperature**2 * gap

    return loss


def _kept(terms: Sequence[LossTerm]) -> tuple[LossTerm, ...]:
    # Left out, not multiplied by 0: an infinite loss times 0 is not a number.
    return tuple(term for term in terms if term.weight != 0)


def _check(
    terms: Mapping[str, tuple[LossTerm, ...]], named: Iterable[str], learners: Learners
) -> None:
    missing = sorted({*terms, *named} - learners.keys())
    if missing:
        raise ValueError(
            f"no learner is called {missing[0]!r}; there are {', '.join(sorted(learners))}"
        )
    idle = [who for who, own in terms.items() if not own]
    if idle or not terms:
        who = idle[0] if idle else "nobody"
        raise ValueError(
            f"{who} has nothing to learn; give a stage at least one student, and each student a "
            "term of a weight other than 0"
        )


def _outputs_of(learner: Learner, x: Any, said: TeacherOutputs | None) -> Outputs:
    """What a frozen teacher says of all examples, asked only if it is not known yet."""
    if said is None:
        return _detached(learner(x))
    key = fingerprint(learner, x)
    if key not in said:
        said[key] = _detached(learner(x))
    return said[key]


def _detached(outputs: Outputs) -> Outputs:
    return Outputs(outputs.logits.detach(), tuple(h.detach() for h in outputs.hidden))


def _part(params: Params, who: str) -> Params:
    return {k.removeprefix(f"{who}."): v for k, v in params.items() if k.startswith(f"{who}.")}
