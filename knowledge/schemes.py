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

The axes are those of the survey of Ku et al. 2020: the knowledge and its loss (a `Term`), the
teachers and students (the lessons of a `Stage`), the process (the order of stages).
"""

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from knowledge import response
from knowledge.batches import Examples, draw, rows
from knowledge.learners import Learner, Learners, fingerprint
from knowledge.optimizers import Training
from knowledge.outputs import Outputs
from knowledge.stacking import Params
from knowledge.training import fit

UNLABELLED = -100  # as everywhere in torch

# (what the student says, labels, what each teacher says...) -> one value per example
TermLoss = Callable[..., Tensor]
Said = MutableMapping[str, Outputs]


class Term(NamedTuple):
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
        lessons: student -> its terms.
        examples: what they see, in the same batches; y is -100 where there is no label. Or a
            function (learners, generator) -> Examples, if that depends on what was learnt before.
        training: how.
    """

    lessons: Mapping[str, tuple[Term, ...]]
    examples: Examples | Callable[[Learners, torch.Generator], Examples]
    training: Training


Scheme = Iterable[Stage]


def run(
    scheme: Scheme, learners: Learners, generator: torch.Generator, said: Said | None = None
) -> dict[str, Learner]:
    """The learners after all stages of a scheme, one after another.

    Args:
        scheme: the stages.
        learners: by name; those that do not study stay what they are.
        generator: of the order of examples.
        said: what frozen teachers have said already, by `fingerprint`; new answers are added. A
            result is the same with it and without it.
    """
    now = dict(learners)
    for stage in scheme:
        now = teach(stage, now, generator, said)
    return now


def teach(
    stage: Stage, learners: Learners, generator: torch.Generator, said: Said | None = None
) -> dict[str, Learner]:
    """The learners after one stage; see `run`.

    Students are fitted together: one set of parameters, one sum of losses, the same batches. As
    optimisers work element by element, a student that nobody listens to learns what it would alone.
    A frozen teacher is asked once about each example.

    Raises:
        ValueError: a learner that is not there, or a stage in which nobody has anything to learn.
    """
    lessons = {who: _kept(terms) for who, terms in stage.lessons.items()}
    named = {name for terms in lessons.values() for term in terms for name in term.teachers}
    _check(lessons, named, learners)
    examples = stage.examples
    if not isinstance(examples, Examples):
        examples = examples(learners, generator)
    x, y = rows(examples.x, examples.rows), rows(examples.y, examples.rows)
    frozen = {name: _answers(learners[name], x, said) for name in sorted(named - lessons.keys())}
    places = Examples(tree_leaves(x)[0], y, torch.arange(len(examples)))
    batches = draw(places, stage.training, generator)._replace(x=x, y=(y, frozen))

    def predict(params: Params, seen: Any) -> Any:
        return {who: learners[who].predict(_part(params, who), seen) for who in lessons}

    def loss(outputs: Any, target: tuple[Any, dict[str, Outputs]]) -> Tensor:
        labels, told = target[0], {**target[1], **{k: _detached(v) for k, v in outputs.items()}}
        values = [
            term.weight * term.loss(outputs[who], labels, *(told[name] for name in term.teachers))
            for who, terms in lessons.items()
            for term in terms
        ]
        return torch.stack(values).sum(0)

    together = {f"{who}.{k}": v for who in lessons for k, v in learners[who].params.items()}
    trained = fit(predict, together, batches, stage.training, loss)
    return {
        who: learner._replace(params=_part(trained, who)) if who in lessons else learner
        for who, learner in learners.items()
    }


# ---------------------------------------------------------------- losses of terms


def labels(student: Outputs, y: Tensor) -> Tensor:
    """The loss of labels: cross-entropy, 0 where there is no label."""
    return response.cross_entropy(student.logits, y)


def soft(temperature: float = 1.0) -> TermLoss:
    """The loss of one teacher's soft answers: `response.kl`."""

    def loss(student: Outputs, y: Tensor, teacher: Outputs) -> Tensor:
        return response.kl(student.logits, teacher.logits, temperature)

    return loss


def pooled(pool: Callable[[Tensor], Tensor], temperature: float = 1.0) -> TermLoss:
    """The loss of several teachers as one: their probabilities (M, B, C) pooled into (B, C)."""

    def loss(student: Outputs, y: Tensor, *teachers: Outputs) -> Tensor:
        crowd = torch.stack([(one.logits / temperature).softmax(-1) for one in teachers])
        gap = response.kl_to_probabilities(student.logits, pool(crowd), temperature)
        return temperature**2 * gap

    return loss


# ---------------------------------------------------------------- schemes


def alone(student: str, examples: Examples, training: Training) -> list[Stage]:
    """No teacher: the control of all others."""
    return [Stage({student: (Term(labels),)}, examples, training)]


def offline(
    student: str,
    teachers: Sequence[str],
    loss: TermLoss,
    examples: Examples,
    training: Training,
    hard: float = 0.0,
) -> list[Stage]:
    """Frozen teachers, one student: classic distillation, and from many teachers.

    Geoffrey Hinton, Oriol Vinyals, Jeff Dean. "Distilling the Knowledge in a Neural Network". NIPS
    2014 Deep Learning Workshop. https://arxiv.org/abs/1503.02531

        (1 - hard) loss(student, teachers) + hard CE(student, y)

    Where teacher and student look at different views of an example (`learners.seeing`), this is
    cross-modal distillation (Gupta, Hoffman, Malik, CVPR 2016, https://arxiv.org/abs/1507.00448);
    with a view that only the teacher has, and labels, generalised distillation (Lopez-Paz et al.,
    ICLR 2016, https://arxiv.org/abs/1511.03643).
    """
    terms = (Term(loss, tuple(teachers), 1 - hard), Term(labels, (), hard))
    return [Stage({student: terms}, examples, training)]


def online(
    peers: Sequence[str], loss: TermLoss, examples: Examples, training: Training
) -> list[Stage]:
    r"""Mutual learning: all learn at once, from labels and from each other as they are now.

    Ying Zhang, Tao Xiang, Timothy Hospedales, Huchuan Lu. "Deep Mutual Learning". CVPR 2018.
    https://arxiv.org/abs/1706.00384

        CE(k, y) + 1/(K - 1) \sum_{l != k} loss(k, l)

    Convention: peers step together on the same batch, each towards what the others said before the
    step; the paper lets them step in turn.
    """
    if len(peers) < 2:
        raise ValueError(f"online got {len(peers)} peers; mutual learning takes at least 2")
    share = 1 / (len(peers) - 1)
    lessons = {
        peer: (Term(labels), *(Term(loss, (other,), share) for other in peers if other != peer))
        for peer in peers
    }
    return [Stage(lessons, examples, training)]


def multi_step(
    chain: Sequence[str],
    loss: TermLoss,
    examples: Examples,
    training: Training,
    hard: float = 0.0,
) -> list[Stage]:
    """Each learner of a chain teaches the next: teacher, assistants, student.

    Seyed-Iman Mirzadeh, Mehrdad Farajtabar, Ang Li, Nir Levine, Akihiro Matsukawa, Hassan
    Ghasemzadeh. "Improved Knowledge Distillation via Teacher Assistant". AAAI 2020.
    https://arxiv.org/abs/1902.03393. With learners of one architecture these are the generations of
    Born-Again Networks (Furlanello et al., ICML 2018, https://arxiv.org/abs/1805.04770).
    """
    pairs = zip(chain, chain[1:], strict=False)
    return [
        stage
        for teacher, student in pairs
        for stage in offline(student, (teacher,), loss, examples, training, hard)
    ]


def multi_exit(
    student: str,
    examples: Examples,
    training: Training,
    exits: Sequence[int] = (0,),
    weight: float = 0.5,
    temperature: float = 3.0,
) -> list[Stage]:
    r"""A network whose shallow exits learn from its deepest: be your own teacher.

    Linfeng Zhang, Jiebo Song, Anni Gao, Jingwei Chen, Chenglong Bao, Kaisheng Ma. "Be Your Own
    Teacher". ICCV 2019. https://arxiv.org/abs/1905.08094

        CE(deep, y) + \sum_i (1 - weight) CE(exit_i, y) + weight T^2 KL(deep || exit_i)

    `hidden[i]` of the network's outputs are the logits of its exit i. The hint on features of the
    paper is left out. Weight 0 is deep supervision, the control.
    """

    def at(i: int) -> tuple[Term, Term]:
        def hard(own: Outputs, y: Tensor) -> Tensor:
            return response.cross_entropy(own.hidden[i], y)

        def deep(own: Outputs, y: Tensor, itself: Outputs) -> Tensor:
            return response.kl(own.hidden[i], itself.logits, temperature)

        return Term(hard, (), 1 - weight), Term(deep, (student,), weight)

    terms = (Term(labels), *(term for i in exits for term in at(i)))
    return [Stage({student: terms}, examples, training)]


def lifelong(
    student: str,
    before: str,
    old: Sequence[int],
    examples: Examples,
    training: Training,
    weight: float = 1.0,
    temperature: float = 2.0,
) -> list[Stage]:
    """Learning without forgetting: new labels, and on the same inputs what one said before.

    Zhizhong Li, Derek Hoiem. "Learning without Forgetting". ECCV 2016.
    https://arxiv.org/abs/1606.09282

        CE(student, y) + weight T^2 KL(before || student, among the old classes)

    on examples of the new task alone.

    Convention: one head for all classes, where the paper has one for each task; T^2 as everywhere
    here, where the paper has none: divide the weight by T^2 for its loss.

    Args:
        student: starts as a copy of `before`.
        before: the network as it was, frozen.
        old: the classes of the old task.
        examples: of the new task.
        training: of the stage.
        weight: of the divergence; 0 is plain fine-tuning.
        temperature: T.
    """
    classes = list(old)

    def keep(now: Outputs, y: Tensor, then: Outputs) -> Tensor:
        return response.kl(now.logits[:, classes], then.logits[:, classes], temperature)

    terms = (Term(labels), Term(keep, (before,), weight))
    return [Stage({student: terms}, examples, training)]


def self_training(
    student: str,
    teacher: str,
    x: Tensor,
    shares: Sequence[float],
    training: Training,
) -> list[Stage]:
    """Pseudo-labels that the teacher is surest of, as many of each class; then the student's own.

    Yang Zou, Zhiding Yu, B. V. K. Vijaya Kumar, Jinsong Wang. "Unsupervised Domain Adaptation for
    Semantic Segmentation via Class-Balanced Self-Training". ECCV 2018.
    https://arxiv.org/abs/1810.07911

    Args:
        student: learns from the labels of the stage before it, the first time from the teacher's.
        teacher: knows the source domain.
        x: (N, ...) unlabelled examples of the target domain.
        shares: of the examples of each predicted class that count, one for each stage.
        training: of a stage.
    """
    who = [teacher] + [student] * (len(shares) - 1)

    def surest(name: str, share: float) -> Callable[[Learners, torch.Generator], Examples]:
        def choose(learners: Learners, generator: torch.Generator) -> Examples:
            return confident(learners[name], x, share)

        return choose

    return [
        Stage({student: (Term(labels),)}, surest(name, share), training)
        for name, share in zip(who, shares, strict=True)
    ]


def confident(learner: Learner, x: Tensor, share: float) -> Examples:
    """The examples that a learner is surest of, a share of each class it predicts, so labelled.

    Shapes:
        x: (N, ...); the result refers to all of x, with as many rows as were chosen.
    """
    sure, label = learner(x).logits.softmax(-1).max(-1)
    kept = []
    for c in sorted(set(label.tolist())):
        members = (label == c).nonzero().squeeze(1)
        count = max(1, round(share * len(members)))
        kept.append(members[sure[members].argsort(descending=True, stable=True)[:count]])
    return Examples(x, label, torch.cat(kept).sort().values)


def noisy_student(
    students: Sequence[str],
    teacher: str,
    labelled: Examples,
    unlabelled: Tensor,
    noise: Callable[[Tensor, torch.Generator], Tensor],
    copies: int,
    training: Training,
) -> list[Stage]:
    """A student as large or larger learns labels and the teacher's answers, through noise; again.

    Qizhe Xie, Minh-Thang Luong, Eduard Hovy, Quoc Le. "Self-training with Noisy Student improves
    ImageNet classification". CVPR 2020. https://arxiv.org/abs/1911.04252

    Each student is the next one's teacher. Labels of the labelled, soft answers to the unlabelled:
    both as probabilities, so that one loss will do.

    Args:
        students: one for each iteration.
        teacher: of the first.
        labelled: those that have labels.
        unlabelled: (N, ...), asked about without noise.
        noise: (x, generator) -> x of the same shape; drawn `copies` times for each example.
        copies: see `noise`; an epoch passes by each copy once.
        training: of each student.
    """

    def lesson(name: str) -> Callable[[Learners, torch.Generator], Examples]:
        def ask(learners: Learners, generator: torch.Generator) -> Examples:
            known, y = rows(labelled.x, labelled.rows), rows(labelled.y, labelled.rows)
            answers = learners[name](unlabelled).logits.softmax(-1)
            hard = torch.nn.functional.one_hot(y, answers.shape[1]).to(answers.dtype)
            x, target = torch.cat([known, unlabelled]), torch.cat([hard, answers])
            return copied(x, target, noise, copies, generator)

        return ask

    def follow(student: Outputs, target: Tensor) -> Tensor:
        return response.soft_cross_entropy(student.logits, target)

    return [
        Stage({student: (Term(follow),)}, lesson(name), training)
        for name, student in zip([teacher, *students], students, strict=False)
    ]


def copied(
    x: Tensor,
    y: Tensor,
    noise: Callable[[Tensor, torch.Generator], Tensor],
    copies: int,
    generator: torch.Generator,
) -> Examples:
    """Each example `copies` times, every time with other noise."""
    noised = torch.cat([noise(x, generator) for _ in range(copies)])
    return Examples(noised, torch.cat([y] * copies), torch.arange(len(noised)))


def data_free(
    student: str,
    teacher: str,
    generator: str,
    make: Callable[[Params, Tensor], Tensor],
    latent: int,
    rounds: int,
    at_once: int,
    inventing: Training,
    following: Training,
    balance: float = 5.0,
    temperature: float = 1.0,
) -> list[Stage]:
    r"""No data: a generator invents what the teacher is sure of, and the student learns from that.

    Hanting Chen, Yunhe Wang, Chang Xu, Zhaohui Yang, Chuanjian Liu, Boxin Shi, Chunjing Xu, Chao
    Xu, Qi Tian. "Data-Free Learning of Student Networks" (DAFL). ICCV 2019.
    https://arxiv.org/abs/1904.01186

        generator:  CE(t(g(z)), argmax t(g(z))) - balance H(mean over the batch of t(g(z)))
        student:    T^2 KL(t(g(z)) || s(g(z)))

    Convention: the paper's term on the size of activations is left out. The learner `generator`
    answers with the frozen teacher's outputs on what it makes: its gradient goes through them.

    Args:
        student: who follows.
        teacher: whom.
        generator: a learner with predict(params, z) = teacher(make(params, z)).
        make: (params, z) -> x.
        latent: numbers in z, standard normal.
        rounds: of both in turn.
        at_once: z of a round, for the generator and for the student.
        inventing: training of the generator in a round.
        following: training of the student in a round.
        balance: weight of the entropy.
        temperature: T.
    """

    def noise(learners: Learners, source: torch.Generator) -> Examples:
        z = torch.randn(at_once, latent, generator=source)
        return Examples(z, torch.full((at_once,), UNLABELLED), torch.arange(at_once))

    def invented(learners: Learners, source: torch.Generator) -> Examples:
        z = noise(learners, source)
        with torch.no_grad():
            return replace(z, x=make(learners[generator].params, z.x))

    def sure_and_balanced(said: Outputs, y: Tensor) -> Tensor:
        sure = response.cross_entropy(said.logits, said.logits.argmax(-1))
        mean = said.logits.softmax(-1).mean(0)
        disorder: Tensor = torch.special.xlogy(mean, mean).sum()
        return sure + balance * disorder

    invent = Stage({generator: (Term(sure_and_balanced),)}, noise, inventing)
    follow = Stage({student: (Term(soft(temperature), (teacher,)),)}, invented, following)
    return [invent, follow] * rounds


def kernel_generations(gram: Tensor, y: Tensor, ridges: Sequence[float]) -> list[Tensor]:
    r"""Self-distillation in closed form: kernel ridge regression on its own predictions.

    Hossein Mobahi, Mehrdad Farajtabar, Peter Bartlett. "Self-Distillation Amplifies Regularization
    in Hilbert Space". NeurIPS 2020. https://arxiv.org/abs/2002.05715

        a_t = (G + c_t I)^{-1} y_{t-1},   y_t = G a_t,   f_t(x) = k(x, X) a_t

    Each generation multiplies the coefficient of eigenvector j by d_j / (d_j + c_t): those of small
    eigenvalues vanish first, so it is regularisation and nothing more.

    Convention: the ridge c_t of each generation is given; the paper finds it from a tolerance.

    Shapes:
        gram: (N, N) kernel matrix of the examples; y: (N,) or (N, d) targets; gives for each
        generation its dual weights a_t, of the shape of y.
    """
    weights = []
    for ridge in ridges:
        eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        weights.append(torch.linalg.solve(gram + ridge * eye, y))
        y = gram @ weights[-1]
    return weights


# ---------------------------------------------------------------- of one stage


def _kept(terms: Sequence[Term]) -> tuple[Term, ...]:
    # Left out, not multiplied by 0: an infinite loss times 0 is not a number.
    return tuple(term for term in terms if term.weight != 0)


def _check(
    lessons: Mapping[str, tuple[Term, ...]], named: Iterable[str], learners: Learners
) -> None:
    missing = sorted({*lessons, *named} - learners.keys())
    if missing:
        raise ValueError(
            f"no learner is called {missing[0]!r}; there are {', '.join(sorted(learners))}"
        )
    idle = [who for who, terms in lessons.items() if not terms]
    if idle or not lessons:
        who = idle[0] if idle else "nobody"
        raise ValueError(
            f"{who} has nothing to learn; give a stage at least one student, and each student a "
            "term of a weight other than 0"
        )


def _answers(learner: Learner, x: Any, said: Said | None) -> Outputs:
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
