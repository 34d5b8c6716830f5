"""Knowledge of a teacher that predicts real numbers: how far it is to be believed.

A regression has no other classes to tell of, so that what its teacher offers beside the labels is
a judgement of them: it bounds the student, it is imitated where it was right, it points out labels
that are wrong. Each loss is the whole objective of its paper, the term for the labels included,
and gives one value per example, summed over the outputs. So they are not 0 where the student is
the teacher: what is left there is the teacher's own error. The teacher never gets a gradient.

A teacher that has seen the labels makes their noise its own: predict out of fold.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from kdcore.losses.precision import in_float32


@in_float32
def teacher_bounded(
    student: Tensor, teacher: Tensor, targets: Tensor, margin: float = 0.0, weight: float = 0.5
) -> Tensor:
    r"""Teacher-bounded regression: no more pressure once the student is better than the teacher.

    Chen, Choi, Yu, Han and Chandraker, "Learning Efficient Object Detection Models with Knowledge
    Distillation", NIPS 2017, https://papers.nips.cc/paper/6676.

        smooth_1(s - y) + w |s - y|^2 [|s - y|^2 + m > |t - y|^2]

    with smooth_1(x) = x^2 / 2 up to |x| = 1 and |x| - 1/2 beyond, summed over the outputs.

    Convention: the target of the second term is y as well: the teacher says whether, not what. It
    jumps by w |s - y|^2 at the bound. Not 0 where the student is the teacher, but
    smooth_1(t - y) + w |t - y|^2 [m > 0]. The paper takes w = 0.5.

    Args:
        student: see Shapes.
        teacher: see Shapes.
        targets: see Shapes.
        margin: m, by how much the student has to be better, in squared targets.
        weight: w, of the bounded term.

    Shapes:
        student, teacher, targets: (N, D), D outputs; gives (N,), in squared targets near 0.

    Raises:
        ValueError: the shapes differ or are not (N, D).
    """
    _check(student, teacher, targets)
    targets = targets.detach()
    own, theirs = _squared(student, targets), _squared(teacher.detach(), targets)
    hard = F.smooth_l1_loss(student, targets, reduction="none").sum(-1)
    return hard + weight * torch.where(own + margin > theirs, own, 0)


@in_float32
def attentive_imitation(
    student: Tensor,
    teacher: Tensor,
    targets: Tensor,
    scale: Tensor | float,
    alpha: float = 0.5,
) -> Tensor:
    r"""Attentive imitation loss: the teacher is imitated where it was right.

    Saputra, Gusmao, Almalioglu, Markham and Trigoni, "Distilling Knowledge From a Deep Pose
    Regressor Network", ICCV 2019, https://arxiv.org/abs/1908.00858.

        a |s - y|^2 + (1 - a) \Phi |s - t|^2,   \Phi = 1 - |t - y|^2 / \eta

    Convention: \eta is the range of the teacher's error over the **training set**, `error_range`,
    not over the batch, so that the values of an example do not depend on its company. Where the
    error is above \eta, \Phi is 0 instead of negative: the student is never driven away from the
    teacher. Not 0 where the student is the teacher, but a |t - y|^2.

    Args:
        student: see Shapes.
        teacher: see Shapes.
        targets: see Shapes.
        scale: \eta, positive.
        alpha: a, the weight of the targets.

    Shapes:
        student, teacher, targets: (N, D), D outputs; scale: a number, or () as a tensor; gives
        (N,), in squared targets.

    Raises:
        ValueError: the shapes differ or are not (N, D), or the scale is a number that is not
            positive and finite.
    """
    _check(student, teacher, targets)
    if not isinstance(scale, Tensor) and not 0 < scale < math.inf:
        raise ValueError(
            f"scale is {scale}; it has to be positive and finite: error_range(teacher, targets) "
            "of the training set, and a teacher that is equally wrong everywhere has none"
        )
    teacher, targets = teacher.detach(), targets.detach()
    trust = (1 - _squared(teacher, targets) / scale).clamp(min=0)
    return alpha * _squared(student, targets) + (1 - alpha) * trust * _squared(student, teacher)


def error_range(teacher: Tensor, targets: Tensor) -> Tensor:
    r"""The range of the teacher's squared error, which scales `attentive_imitation`.

    Saputra et al., ICCV 2019, https://arxiv.org/abs/1908.00858.

        \max_i |t_i - y_i|^2 - \min_i |t_i - y_i|^2

    Shapes:
        teacher, targets: (N, D); gives (), in squared targets.

    Raises:
        ValueError: the shapes differ or are not (N, D).
    """
    _check(teacher, teacher, targets)
    error = _squared(teacher.detach(), targets.detach())
    return error.max() - error.min()


@in_float32
def outlier_rejecting(
    student: Tensor,
    teacher: Tensor,
    targets: Tensor,
    threshold: float,
    alpha: float = 0.5,
) -> Tensor:
    r"""Teacher outlier rejection: a label that the teacher finds far off is not learned.

    After Takamoto, Morishita and Imaoka, "An Efficient Method of Training Small Models for
    Regression Problems with Knowledge Distillation", MIPR 2020, https://arxiv.org/abs/2002.12597.

        a |s - y|^2 [|t - y| <= c] + (1 - a) |s - t|^2

    Convention: the rule "drop the term of a label at which the teacher's error is large" in its
    plainest form, with squared errors and a fixed c; it is not checked against the paper's exact
    function. Not 0 where the student is the teacher, but a |t - y|^2 for labels that are kept.

    Args:
        student: see Shapes.
        teacher: see Shapes.
        targets: see Shapes.
        threshold: c, the largest distance between label and teacher at which the label counts.
        alpha: a, the weight of the labels.

    Shapes:
        student, teacher, targets: (N, D), D outputs; gives (N,), in squared targets.

    Raises:
        ValueError: the shapes differ or are not (N, D), or the threshold is not positive.
    """
    _check(student, teacher, targets)
    if not threshold > 0:
        raise ValueError(
            f"threshold is {threshold}; it has to be positive, in the unit of the targets: two "
            "standard deviations of the teacher's error, say"
        )
    teacher, targets = teacher.detach(), targets.detach()
    believed = _squared(teacher, targets) <= threshold**2
    hard = torch.where(believed, _squared(student, targets), 0)
    return alpha * hard + (1 - alpha) * _squared(student, teacher)


def _squared(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum(-1)


def _check(student: Tensor, teacher: Tensor, targets: Tensor) -> None:
    if student.ndim != 2 or not student.shape == teacher.shape == targets.shape:
        raise ValueError(
            f"student has shape {tuple(student.shape)}, teacher has shape {tuple(teacher.shape)} "
            f"and targets have shape {tuple(targets.shape)}; expected (N, D) for all three: "
            "call unsqueeze(1) where there is one output, or (N, 1) would be broadcast against (N,)"
        )
