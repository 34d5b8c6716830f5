"""How well a student does, how closely it follows its teacher, how honest its confidence is.

These look at values and give plain floats, so they are for evaluation and do not run under `vmap`.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from knowledge.vectors import check_rows, root, squared_distances


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The share of examples whose largest logit is that of the label, between 0 and 1.

    Of tied logits the first class counts. A row that holds NaN predicts nothing: it is wrong.

    Shapes:
        logits: (N, C), or probabilities; labels: (N,), integers 0..C-1.

    Raises:
        ValueError: the shapes do not fit, N is 0, or a label is not an integer of 0..C-1.
    """
    _check_matrix("logits", logits)
    _check_labels(logits, labels)
    return _share(_predicted(logits) == labels)


def agreement(student_logits: Tensor, teacher_logits: Tensor) -> float:
    """Top-1 agreement: the share of examples on which student and teacher pick the same class.

    Stanton, Izmailov, Kirichenko, Alemi and Wilson, "Does Knowledge Distillation Really Work?",
    NeurIPS 2021, https://arxiv.org/abs/2106.05945.

    Of tied logits the first class counts. A row that holds NaN predicts nothing: no agreement.

    Shapes:
        student_logits, teacher_logits: (N, C), or probabilities.

    Raises:
        ValueError: the shapes differ or are not (N, C), or N is 0.
    """
    _check_matrix("student_logits", student_logits)
    if teacher_logits.shape != student_logits.shape:
        raise ValueError(
            f"student_logits have shape {tuple(student_logits.shape)} and teacher_logits "
            f"{tuple(teacher_logits.shape)}; expected the same (N, C): compare them on the same "
            "examples and classes"
        )
    student, teacher = _predicted(student_logits), _predicted(teacher_logits)
    return _share((student == teacher) & (student >= 0))


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    r"""Expected calibration error (ECE): the mean gap between confidence and accuracy.

    Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017,
    https://arxiv.org/abs/1706.04599.

        \sum_b |B_b| / N  |accuracy(B_b) - confidence(B_b)|

    Convention: confidence is the largest softmax probability; bins have equal width and are closed
    on the right, ((b-1)/bins, b/bins], as in the paper: a confidence of 0.8 is in (0.6, 0.8] when
    there are five. The value depends on the number of bins: compare like with like.

    Shapes:
        logits: (N, C), before the softmax; labels: (N,), integers 0..C-1.

    Raises:
        ValueError: the shapes do not fit, N is 0, a label is not an integer of 0..C-1, a row has
            no softmax (NaN or infinite logits), or bins < 1.
    """
    _check_matrix("logits", logits)
    _check_labels(logits, labels)
    if bins < 1:
        raise ValueError(f"bins is {bins}; it has to be at least 1: the paper takes 15")
    confidence, predicted = logits.double().softmax(-1).max(-1)
    if confidence.isnan().any():
        raise ValueError(
            f"{int(confidence.isnan().sum())} of {len(logits)} rows of logits are NaN or infinite; "
            "confidence needs finite ones: did training diverge?"
        )
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=logits.device)[1:-1]
    gap = (predicted == labels).double() - confidence
    per_bin = torch.bincount(torch.bucketize(confidence, edges), weights=gap)
    return float(per_bin.abs().sum() / len(gap))


def linear_cka(student: Tensor, teacher: Tensor) -> float:
    r"""Linear centred kernel alignment (CKA): how alike two representations are, from 0 to 1.

    Kornblith, Norouzi, Lee and Hinton, "Similarity of Neural Network Representations Revisited",
    ICML 2019, https://arxiv.org/abs/1905.00414.

        |Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F),   columns centred

    1 where one is the other, rotated, scaled and shifted. Convention: the plain, biased value: two
    independent representations of few examples by many features look alike, so take N far above
    the widths. A representation that is the same for all examples is alike to none: 0.

    Shapes:
        student: (N, D_s); teacher: (N, D_t), the same examples in the same order.

    Raises:
        ValueError: not two matrices with the same N, or N < 2.
    """
    check_rows(student, teacher, least=2)
    x, y = (rows.detach().double() - rows.detach().double().mean(0) for rows in (student, teacher))
    return _ratio(_frobenius(y.T @ x) ** 2, _frobenius(x.T @ x) * _frobenius(y.T @ y))


def distance_correlation(student: Tensor, teacher: Tensor) -> float:
    r"""Distance correlation: 0 only where two representations are independent, at most 1.

    Székely, Rizzo and Bakirov, "Measuring and Testing Dependence by Correlation of Distances",
    Annals of Statistics 2007, https://arxiv.org/abs/0803.4101.

        \sqrt{ \sum A B / \sqrt{\sum A^2 \sum B^2} },   A, B: pairwise distances, double-centred

    Unlike `linear_cka` it sees dependences that are no linear ones. Convention: the biased
    V-statistic, well above 0 for few independent examples. A representation that is the same for
    all examples gives 0. Memory grows as N^2 D.

    Shapes:
        student: (N, D_s); teacher: (N, D_t), the same examples in the same order.

    Raises:
        ValueError: not two matrices with the same N, or N < 2.
    """
    check_rows(student, teacher, least=2)

    def centred(rows: Tensor) -> Tensor:
        apart = root(squared_distances(rows.detach().double()))
        return apart - apart.mean(0) - apart.mean(1, keepdim=True) + apart.mean()

    a, b = centred(student), centred(teacher)
    shared = (a * b).sum().clamp(min=0)  # below 0 by rounding alone
    return math.sqrt(_ratio(shared, _frobenius(a) * _frobenius(b)))


class Comparison(NamedTuple):
    """What one way does better than another, over pairs of runs.

    Attributes:
        mean: the mean difference, first minus second.
        low: the lower end of its 95% interval, NaN where there is one pair.
        high: the upper end.
        wins: in how many pairs the first is larger.
        n: how many pairs there are.
    """

    mean: float
    low: float
    high: float
    wins: int
    n: int


def paired_comparison(first: Sequence[float], second: Sequence[float]) -> Comparison:
    r"""Whether a difference is more than chance: its mean over pairs, with a 95% t-interval.

    Student, "The Probable Error of a Mean", Biometrika 1908, https://doi.org/10.1093/biomet/6.1.1.

        mean \pm t_{0.975, n-1} s / \sqrt n,   of the differences first_i - second_i

    Pairs share what varies beside the two ways: the seed, the split, the initial weights. A tie is
    no win. An interval that holds 0 says that the sign is not known, not that there is no
    difference; of twenty comparisons of equals one excludes it.

    Args:
        first: one number per pair, such as the accuracies with a teacher.
        second: the numbers to take off, of the same pairs in the same order.

    Raises:
        ValueError: the lengths differ, there is no pair, or a number is not finite.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(
            f"got {len(first)} and {len(second)} numbers; expected as many of both, one pair at "
            "least: leave out the seeds that only one of them has"
        )
    gaps = [float(a) - float(b) for a, b in zip(first, second, strict=True)]
    if not all(math.isfinite(gap) for gap in gaps):
        raise ValueError(
            f"{sum(not math.isfinite(gap) for gap in gaps)} of {len(gaps)} differences are not "
            "finite; expected numbers: did a run diverge?"
        )
    n, wins = len(gaps), sum(gap > 0 for gap in gaps)
    mean = statistics.fmean(gaps)
    half = math.nan
    if n > 1:
        half = t_quantile(n - 1) * statistics.stdev(gaps) / math.sqrt(n)
    return Comparison(mean, mean - half, mean + half, wins, n)


def t_quantile(freedom: int, level: float = 0.95) -> float:
    r"""How far from 0 Student's t is in all but 1 - level of the cases: two-sided.

    Abramowitz and Stegun, "Handbook of Mathematical Functions", 1964, 26.7.3 and 26.7.4,
    https://personal.math.ubc.ca/~cbm/aands/page_948.htm: for whole degrees of freedom the
    distribution is a finite sum, which is inverted by halving an interval.

    Raises:
        ValueError: there is no degree of freedom, or the level is not between 0 and 1.
    """
    if freedom < 1 or not 0 < level < 1:
        raise ValueError(
            f"got {freedom} degrees of freedom at level {level}; expected at least 1, and a level "
            "between 0 and 1 such as 0.95"
        )
    low, high = 0.0, math.pi / 2  # the angle whose tangent is t / sqrt(freedom)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _within(angle: float, freedom: int) -> float:
    """P(|t| <= sqrt(freedom) tan(angle)) for Student's t."""
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= k / (k + 1) * math.cos(angle) ** 2
    total *= math.sin(angle)
    return (angle + total) * 2 / math.pi if odd else total


def _frobenius(matrix: Tensor) -> Tensor:
    return matrix.square().sum().sqrt()


def _ratio(part: Tensor, whole: Tensor) -> float:
    return float(part / whole) if whole > 0 else 0.0


def _predicted(logits: Tensor) -> Tensor:
    # argmax takes NaN for the largest value; -1 is nobody's class.
    return torch.where(logits.isnan().any(-1), -1, logits.argmax(-1))


def _share(right: Tensor) -> float:
    return float(right.double().mean())


def _check_matrix(name: str, logits: Tensor) -> None:
    if logits.ndim != 2 or logits.numel() == 0:
        raise ValueError(
            f"{name} have shape {tuple(logits.shape)}; expected (N, C) with at least one example: "
            "is the evaluation set or the client's share of it empty?"
        )


def _check_labels(logits: Tensor, labels: Tensor) -> None:
    n, classes = logits.shape
    if labels.shape != (n,) or labels.is_floating_point():
        raise ValueError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)} beside logits of "
            f"{tuple(logits.shape)}; expected {n} integers: take the argmax of one-hot labels"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels run from {low} to {high}; expected 0 to {classes - 1}: leave unlabelled and "
            "padded examples out"
        )
