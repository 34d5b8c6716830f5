"""Losses that treat the true class apart from the others: DKD, and distillation of labels."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kdcore.losses.logarithms import divergence
from kdcore.losses.precision import in_float32
from kdcore.losses.response import (
    _check_labels,
    _check_pair,
    _soften,
    cross_entropy,
    kl,
    soft_cross_entropy,
)


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
    `kdcore.ensemble.amalgamate` has it by the size of their logits.

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
