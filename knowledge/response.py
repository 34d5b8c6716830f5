"""Response-based knowledge: what the teacher's last layer says about each example.

Every loss gives one value per example, in nats where it is a divergence; the caller reduces.
Divergences between two networks take logits on both sides and carry T^2, so that their gradient
keeps its size when the temperature changes. Losses towards an ensemble take the target as
probabilities and carry no T^2. The teacher's side never receives a gradient.

A logit of -inf rules a class out, and 0 log 0 = 0: in KL(teacher || student), what the teacher
rules out has no part, and what the student alone rules out makes it infinite. Gradients are finite
where the value is. A row of nothing but -inf is no distribution and gives NaN.

Logits of 16 bits are worked with in float32. Even so a divergence of near equals may be below 0 by
rounding, by some 1e-7 T^2; it is not clamped, which would take the gradient from these examples.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from knowledge.logarithms import divergence, log_mean, times_log
from knowledge.precision import in_float32


@in_float32
def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    r"""The classic distillation loss: KL divergence of the softened student from the teacher.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", NIPS 2014 Deep
    Learning Workshop, https://arxiv.org/abs/1503.02531.

        T^2 \sum_c q_c (\log q_c - \log p_c),   q = softmax(teacher / T),  p = softmax(student / T)

    Convention: forward direction KL(teacher || student), logits in, T^2 included, summed over the
    classes. The mean over examples is `kl_div(..., reduction="batchmean")` times T^2; torch's
    default "mean" is C times smaller. As T grows, the value tends to half the squared gap of the
    centred logits over C; in float32 the relative error of a value is some 1e-3 at T = 100 and some
    0.1 at T = 1000 (far smaller for a batch's mean, and for the gradient): use float64, or centred
    `logit_matching`, above that.

    Shapes:
        student, teacher: (N, C) logits; gives (N,), in nats.

    Raises:
        ValueError: the shapes differ or are not (N, C), or the temperature is not positive.
    """
    _check_pair(student, teacher)
    log_p, log_q = _soften(student, temperature), _soften(teacher.detach(), temperature)
    return temperature**2 * divergence(log_q, log_p)


@in_float32
def reverse_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    r"""KL divergence the other way round: the student seeks one mode of the teacher.

    Gu, Dong, Wei and Huang, "MiniLLM: Knowledge Distillation of Large Language Models", ICLR
    2024, https://arxiv.org/abs/2306.08543.

        T^2 \sum_c p_c (\log p_c - \log q_c),   q = softmax(teacher / T),  p = softmax(student / T)

    Convention: KL(student || teacher), logits in, T^2 included, summed over the classes.

    Shapes:
        student, teacher: (N, C) logits; gives (N,), in nats.

    Raises:
        ValueError: the shapes differ or are not (N, C), or the temperature is not positive.
    """
    _check_pair(student, teacher)
    log_p, log_q = _soften(student, temperature), _soften(teacher.detach(), temperature)
    return temperature**2 * divergence(log_p, log_q)


@in_float32
def jensen_shannon(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Jensen-Shannon divergence: the symmetric, bounded relative of KL.

    Lin, "Divergence Measures Based on the Shannon Entropy", IEEE Transactions on Information
    Theory 1991, https://doi.org/10.1109/18.61115.

        T^2 (KL(p || m) + KL(q || m)) / 2,   m = (p + q) / 2,
        q = softmax(teacher / T),  p = softmax(student / T)

    Convention: the divergence, not its square root (scipy's `jensenshannon` gives the root);
    logits in, T^2 included. The value is symmetric in its arguments and lies between 0 and
    T^2 log 2. The gradient is not symmetric: only the student gets one.

    Shapes:
        student, teacher: (N, C) logits; gives (N,), in nats.

    Raises:
        ValueError: the shapes differ or are not (N, C), or the temperature is not positive.
    """
    _check_pair(student, teacher)
    log_p, log_q = _soften(student, temperature), _soften(teacher.detach(), temperature)
    log_m = log_mean(log_p, log_q)
    return temperature**2 * 0.5 * (divergence(log_p, log_m) + divergence(log_q, log_m))


@in_float32
def symmetric_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Jeffreys' divergence: KL both ways.

    Jeffreys, "An Invariant Form for the Prior Probability in Estimation Problems", Proceedings of
    the Royal Society A 1946, https://doi.org/10.1098/rspa.1946.0056.

        T^2 \sum_c (q_c - p_c) (\log q_c - \log p_c),
        q = softmax(teacher / T),  p = softmax(student / T)

    Convention: the sum of both directions, not their mean; logits in, T^2 included. The value is
    symmetric in its arguments, the gradient is not: only the student gets one.

    Shapes:
        student, teacher: (N, C) logits; gives (N,), in nats.

    Raises:
        ValueError: the shapes differ or are not (N, C), or the temperature is not positive.
    """
    return kl(student, teacher, temperature) + reverse_kl(student, teacher, temperature)


@in_float32
def mutual(students: Sequence[Tensor], temperature: float = 1.0) -> tuple[Tensor, ...]:
    r"""Deep mutual learning (DML): every student learns from all of its peers.

    Zhang, Xiang, Hospedales and Lu, "Deep Mutual Learning", CVPR 2018,
    https://arxiv.org/abs/1706.00384.

        value_k = 1 / (K - 1) \sum_{l != k} kl(student_k, student_l)

    Convention: the mean over the peers, each of them a fixed teacher: the value of student k has
    no gradient for the others. T^2 included; the paper has T = 1.

    Shapes:
        students: K tensors of (N, C) logits, K >= 2; gives K values of (N,), in nats.

    Raises:
        ValueError: there are fewer than two, the shapes differ or are not (N, C), or the
            temperature is not positive.
    """
    if len(students) < 2:
        raise ValueError(f"got {len(students)} student; mutual learning needs at least 2 peers")
    values = []
    for k, student in enumerate(students):
        peers = [peer for other, peer in enumerate(students) if other != k]
        values.append(torch.stack([kl(student, p, temperature) for p in peers]).mean(0))
    return tuple(values)


@in_float32
def soft_cross_entropy(
    student_logits: Tensor, target_probabilities: Tensor, temperature: float = 1.0
) -> Tensor:
    r"""Cross-entropy towards soft targets: `kl_to_probabilities` plus the target's entropy.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", NIPS 2014 Deep
    Learning Workshop, https://arxiv.org/abs/1503.02531.

        -\sum_c q_c \log softmax(student / T)_c

    Convention: the target is probabilities, not logits, and is not softened here; only the
    student is. No T^2: multiply by it where the loss is mixed with a hard one. A row of zeros
    means "no teacher for this example" and gives exactly 0, with no gradient. Rows are not
    checked to sum to 1 (that cannot be looked at under `vmap`): check at the border.

    Shapes:
        student_logits, target_probabilities: (N, C); gives (N,), in nats.

    Raises:
        ValueError: the shapes differ or are not (N, C), or the temperature is not positive.
    """
    _check_pair(student_logits, target_probabilities)
    log_p = _soften(student_logits, temperature)
    return times_log(target_probabilities.detach(), -log_p).sum(-1)


@in_float32
def kl_to_probabilities(
    student: Tensor, target_probabilities: Tensor, temperature: float = 1.0
) -> Tensor:
    r"""KL divergence of the student from a target that is given as probabilities.

    Lin, Kong, Stich and Jaggi, "Ensemble Distillation for Robust Model Fusion in Federated
    Learning" (FedDF), NeurIPS 2020, https://arxiv.org/abs/2006.07242.

        \sum_c q_c (\log q_c - \log softmax(student / T)_c),   0 \log 0 = 0

    Convention: forward direction KL(target || student), no T^2, and the target is not softened
    here; it may hold exact zeros, as averaged, one-hot or sharpened targets do. A row of zeros
    means "no teacher for this example" and gives exactly 0, with no gradient.

    Shapes:
        student, target_probabilities: (N, C), the student as logits; gives (N,), in nats.

    Raises:
        ValueError: the shapes differ or are not (N, C), or the temperature is not positive.
    """
    target = target_probabilities.detach()
    negative_entropy: Tensor = torch.special.xlogy(target, target).sum(-1)
    return soft_cross_entropy(student, target, temperature) + negative_entropy


@in_float32
def cross_entropy(student_logits: Tensor, labels: Tensor) -> Tensor:
    r"""Cross-entropy towards hard labels: the loss of ordinary training.

    Good, "Rational Decisions", Journal of the Royal Statistical Society B 1952,
    https://doi.org/10.1111/j.2517-6161.1952.tb00104.x.

        -\log softmax(student)_y

    Convention: a label of -100 means "no label", as everywhere in torch, and gives 0.

    Shapes:
        student_logits: (N, C); labels: (N,), integers 0..C-1; gives (N,), in nats.

    Raises:
        ValueError: the shapes are not (N, C) and (N,), or the labels are not integers.
    """
    _check_labels(student_logits, labels)
    return F.cross_entropy(student_logits, labels.long(), reduction="none")


@in_float32
def decoupled(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    r"""Decoupled distillation (DKD): "is it the label?" and "which of the others?" apart.

    Zhao, Cui, Song, Qiu and Liang, "Decoupled Knowledge Distillation", CVPR 2022,
    https://arxiv.org/abs/2203.08679.

        \alpha TCKD + \beta NCKD
        TCKD = T^2 KL([q_y, 1 - q_y] || [p_y, 1 - p_y])
        NCKD = T^2 KL(q without y || p without y), both renormalised

    with q = softmax(teacher / T) and p = softmax(student / T). Exactly
    kl = TCKD + (1 - q_y) NCKD: plain distillation mutes NCKD where the teacher is sure.

    Convention: direction KL(teacher || student), logits in, T^2 on both terms. The label's class
    is taken out exactly, where the authors' code subtracts 1000 from its logit. A teacher that
    rules out all others has an NCKD of 0. A term of weight 0 is left out.

    Shapes:
        student, teacher: (N, C) logits with C >= 2; labels: (N,), integers 0..C-1; gives (N,),
        in nats.

    Raises:
        ValueError: the shapes do not fit, C < 2, the labels are not integers, or the temperature
            is not positive.
    """
    _check_pair(student, teacher)
    _check_labels(student, labels)
    if student.shape[1] < 2:
        raise ValueError("decoupled got 1 class; it needs C >= 2: use kl for a single output")
    is_label_p, rest_p = _split(student, labels, temperature)
    is_label_q, rest_q = _split(teacher.detach(), labels, temperature)
    target, others = divergence(is_label_q, is_label_p), divergence(rest_q, rest_p)
    terms = [weight * term for weight, term in ((alpha, target), (beta, others)) if weight]
    return temperature**2 * sum(terms, torch.zeros_like(target))


@in_float32
def logit_matching(
    student: Tensor, teacher: Tensor, norm: Literal["l2", "l1"] = "l2", centre: bool = False
) -> Tensor:
    r"""Regression of the student's logits on the teacher's, without a softmax.

    "l2": Ba and Caruana, "Do Deep Nets Really Need to be Deep?", NIPS 2014,
    https://arxiv.org/abs/1312.6184: half the squared distance, **summed** over the classes.
    "l1": Li and Wang, "FedMD: Heterogenous Federated Learning via Model Distillation", NeurIPS
    2019 workshop, https://arxiv.org/abs/1910.03581: the absolute error, **averaged** over the
    classes, as in the authors' code (Keras' mean absolute error).

        l2: 1/2 \sum_c (s_c - t_c)^2        l1: 1/C \sum_c |s_c - t_c|

    Convention: raw logits, so unlike `kl` this sees a constant shift. `centre` takes the mean of
    each row off first: then the l2 value over C is the limit of `kl` as T grows.

    Shapes:
        student, teacher: (N, C) logits; gives (N,), in squared logits (l2) or logits (l1).

    Raises:
        ValueError: the shapes differ or are not (N, C), or the norm is unknown.
    """
    _check_pair(student, teacher)
    gap = student - teacher.detach()
    if centre:
        gap = gap - gap.mean(-1, keepdim=True)
    if norm == "l2":
        return 0.5 * gap.square().sum(-1)
    if norm == "l1":
        return gap.abs().mean(-1)
    raise ValueError(f"unknown norm {norm!r}; choose one of 'l2', 'l1'")


@in_float32
def generalised(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    imitation: float = 1.0,
    temperature: float = 1.0,
    t_squared: bool = False,
) -> Tensor:
    r"""Generalised distillation: a teacher that saw privileged features, and labels.

    Lopez-Paz, Bottou, Schölkopf and Vapnik, "Unifying Distillation and Privileged Information",
    ICLR 2016, https://arxiv.org/abs/1511.03643.

        (1 - \lambda) CE(y, softmax(s)) + \lambda w CE(softmax(t / T), softmax(s))

    Convention: the student is **not** softened, which tells this from `kl` and its T^2; w is 1 as
    in the paper, or T^2 with `t_squared`, as in the authors' code. Not 0 where the student is the
    teacher: these are cross-entropies. A single logit f of a binary classifier is the pair (0, f),
    which gives the paper's sigmoid. A term of weight 0 is left out; a label of -100 means no label.

    Args:
        student: see Shapes.
        teacher: see Shapes.
        labels: see Shapes.
        imitation: \lambda, between 0 (labels alone) and 1 (the teacher alone).
        temperature: T, of the teacher alone.
        t_squared: whether w is T^2 instead of 1.

    Shapes:
        student, teacher: (N, C) logits; labels: (N,), integers 0..C-1; gives (N,), in nats.

    Raises:
        ValueError: the shapes do not fit, the labels are not integers, the imitation is not
            between 0 and 1, or the temperature is not positive.
    """
    _check_pair(student, teacher)
    _check_labels(student, labels)
    if not 0 <= imitation <= 1:
        raise ValueError(f"imitation is {imitation}; expected 0 (labels) to 1 (the teacher)")
    target = _soften(teacher.detach(), temperature).exp()
    weight = imitation * (temperature**2 if t_squared else 1.0)
    if imitation == 0:
        return cross_entropy(student, labels)
    if imitation == 1:
        return weight * soft_cross_entropy(student, target)
    hard = (1 - imitation) * cross_entropy(student, labels)
    return hard + weight * soft_cross_entropy(student, target)


@in_float32
def unified(
    student: Tensor,
    teachers: Sequence[Tensor],
    classes: Sequence[Tensor],
    temperature: float = 1.0,
) -> Tensor:
    r"""Unified classifier of teachers who know different classes (UHC).

    Vongkulbhisal, Vinayavekhin and Visentini-Scarzanella, "Unifying Heterogeneous Classifiers with
    Distillation", CVPR 2019, https://arxiv.org/abs/1904.06062.

        \sum_m kl(student among the classes of m, teacher_m)

    Convention: the paper's cross-entropy method: each teacher is compared with the student's
    probabilities *given* that the class is one of the teacher's. T^2 included, summed over the
    teachers. Nothing says which of two teachers with separate classes is right about an example:
    `knowledge.ensemble.amalgamate` has it by the size of their logits.

    Shapes:
        student: (N, C) logits; teachers: M tensors (N, C_m) of logits; classes: M tensors (C_m,),
        which of the classes 0..C-1 its columns are; gives (N,), in nats.

    Raises:
        ValueError: the shapes do not fit, there is no teacher, or the temperature is not positive.
    """
    if student.ndim != 2 or not teachers or len(teachers) != len(classes):
        raise ValueError(
            f"student has shape {tuple(student.shape)} beside {len(teachers)} teachers and "
            f"{len(classes)} lists of classes; expected (N, C), a teacher at least, and a list for "
            "each"
        )
    terms = [
        kl(student[:, columns], teacher, temperature)
        for teacher, columns in zip(teachers, classes, strict=True)
    ]
    return torch.stack(terms).sum(0)


def virtual_teacher(labels: Tensor, classes: int, correct: float = 0.9) -> Tensor:
    r"""A teacher made of nothing but the label (Tf-KD): right, and equally unsure of all others.

    Yuan, Tay, Li, Wang and Feng, "Revisiting Knowledge Distillation via Label Smoothing
    Regularization", CVPR 2020, https://arxiv.org/abs/1909.11723.

        p_y = correct,   p_c = (1 - correct) / (C - 1) for any other c

    Its logarithm is a teacher's logits, for `kl` at a temperature; as it is, it is the target of
    `kl_to_probabilities`. The paper takes correct >= 0.9. A label of -100 means no label and has
    a row of zeros: no teacher.

    Shapes:
        labels: (N,), integers 0..C-1; gives (N, C) probabilities.

    Raises:
        ValueError: the labels are not (N,) integers, there are fewer than two classes, or correct
            is not between 1/C and 1.
    """
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}; expected (N,) integers: "
            "take the argmax of one-hot labels"
        )
    if classes < 2 or not 1 / classes <= correct <= 1:
        raise ValueError(
            f"correct is {correct} among {classes} classes; expected 2 classes or more, and a "
            "probability from 1/C, which knows nothing, to 1, which is the label itself"
        )
    right = labels.unsqueeze(1) == torch.arange(classes, device=labels.device)
    unsure = (1 - correct) / (classes - 1)
    target = torch.where(right, correct, unsure)
    return torch.where(labels.unsqueeze(1) >= 0, target, 0.0)


def smoothed_labels(labels: Tensor, classes: int, smoothing: float = 0.1) -> Tensor:
    r"""Smoothed labels: some of the probability is spread evenly over all classes.

    Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, "Rethinking the Inception Architecture for Computer
    Vision", CVPR 2016, https://arxiv.org/abs/1512.00567.

        p_c = (1 - \epsilon) [c = y] + \epsilon / C

    It is `virtual_teacher` with correct = 1 - \epsilon + \epsilon / C.

    Shapes:
        labels: (N,), integers 0..C-1; gives (N, C) probabilities.

    Raises:
        ValueError: the labels are not (N,) integers, there are fewer than two classes, or the
            smoothing is not between 0 and 1.
    """
    return virtual_teacher(labels, classes, 1 - smoothing + smoothing / classes)


class LabelMeans(NamedTuple):
    """What a model says of each label on average, and how many examples say so.

    Shapes:
        means: (C, D), a row of NaN where there is no example; counts: (C,).
    """

    means: Tensor
    counts: Tensor


def label_means(outputs: Tensor, labels: Tensor, classes: int) -> LabelMeans:
    r"""Means of the outputs for each label, which is what federated distillation exchanges.

    Jeong, Oh, Kim, Park, Bennis and Kim, "Communication-Efficient On-Device Machine Learning:
    Federated Distillation and Augmentation under Non-IID Private Data", NeurIPS 2018 workshop,
    https://arxiv.org/abs/1811.11479.

        mean_c = \sum_i [y_i = c] outputs_i / count_c

    A label without examples has a mean of NaN and a count of 0: a row of zeros would be taken for
    an answer. Leave its term out. A label of -100 counts for nobody.

    Shapes:
        outputs: (N, D), logits, probabilities or features; labels: (N,), integers 0..C-1; gives
        (C, D) and (C,).

    Raises:
        ValueError: the shapes are not (N, D) and (N,), or the labels are not integers.
    """
    _check_labels(outputs, labels)
    member = labels == torch.arange(classes, device=labels.device).unsqueeze(1)  # (C, N)
    counts = member.sum(1)
    total = member.to(outputs.dtype) @ outputs
    return LabelMeans(total / counts.to(outputs.dtype).unsqueeze(1), counts)


def _soften(logits: Tensor, temperature: float) -> Tensor:
    # Log-probabilities straight from the logits: log(softmax) is -inf from gaps of about 100 on.
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; it has to be positive and finite, e.g. 4")
    return (logits / temperature).log_softmax(-1)


def _split(logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of [the label, any other], (N, 2), and among the others, (N, C - 1).

    The latter are -inf where all others are ruled out.
    """
    label = labels.long().unsqueeze(1)  # (N, 1)
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = others + (others >= label)  # (N, C - 1): every class but the label's
    log_p = _soften(logits, temperature)
    log_others = log_p.gather(1, others)
    none = (log_others == -math.inf).all(1, keepdim=True)
    some = torch.where(none, 0, log_others)
    any_other = some.logsumexp(1, keepdim=True)
    is_label = torch.cat([log_p.gather(1, label), torch.where(none, -math.inf, any_other)], dim=1)
    return is_label, torch.where(none, -math.inf, some - any_other)


def _check_pair(student: Tensor, target: Tensor) -> None:
    if student.ndim != 2 or student.shape != target.shape:
        raise ValueError(
            f"student has shape {tuple(student.shape)} and its target {tuple(target.shape)}; both "
            "have to be (N, C), examples by the same classes: flatten any other axes into N"
        )


def _check_labels(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and labels {tuple(labels.shape)}; expected "
            "(N, C) and (N,): flatten other axes into N, take the argmax of one-hot labels"
        )
    if labels.is_floating_point():
        raise ValueError(
            f"labels are {labels.dtype}; expected integers 0..C-1: call labels.long(), or "
            "soft_cross_entropy for probabilities"
        )
