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

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from kdcore.losses.logarithms import divergence, log_mean, times_log
from kdcore.losses.numerics import check_temperature
from kdcore.losses.precision import in_float32


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


def _soften(logits: Tensor, temperature: float) -> Tensor:
    # Log-probabilities straight from the logits: log(softmax) is -inf from gaps of about 100 on.
    check_temperature(temperature)
    return (logits / temperature).log_softmax(-1)


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
