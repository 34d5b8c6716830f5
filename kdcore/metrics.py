"""How well a student does, how closely it follows its teacher, how honest its confidence is.

These look at values and give plain floats, so they are for evaluation and do not run under `vmap`.
"""

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from kdcore.losses.numerics import check_rows, root, squared_distances


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


def accuracies(logits: Tensor, labels: Tensor, sizes: Sequence[int]) -> list[float]:
    """`accuracy` of each of several models, whose examples stand one under the other.

    Shapes:
        logits: (N, C); labels: (N,); sizes: how many rows each model has, N in all.

    Raises:
        ValueError: as for `accuracy`, or a model has no rows, or sizes are not N in all.
    """
    _check_matrix("logits", logits)
    _check_labels(logits, labels)
    if sum(sizes) != len(labels) or min(sizes) < 1:
        raise ValueError(
            f"sizes are {list(sizes)} for {len(labels)} examples; expected how many each model "
            "has, one at least, and all of them together"
        )
    right = (_predicted(logits) == labels).cumsum(dim=0)
    ends = right[[end - 1 for end in accumulate(sizes)]].tolist()
    return [(b - a) / n for a, b, n in zip([0, *ends], ends, sizes, strict=False)]


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


def auc(scores: Tensor, labels: Tensor) -> float:
    r"""The area under the ROC curve: how often a positive example is put above a negative one.

    Hanley and McNeil, "The Meaning and Use of the Area under a Receiver Operating Characteristic
    (ROC) Curve", Radiology 1982, https://doi.org/10.1148/radiology.143.1.7063747.

        mean_{i: y_i = 1, j: y_j = 0} [s_i > s_j] + 1/2 [s_i = s_j]

    Shapes:
        scores: (N,), higher is more positive; labels: (N,), 1 or 0.

    Raises:
        ValueError: the shapes do not fit, or one of the two labels is not there.
    """
    positive, negative = _positives(scores, labels)
    order = negative.sort().values
    below = torch.searchsorted(order, positive, right=False)
    not_above = torch.searchsorted(order, positive, right=True)
    return float((below + not_above).double().mean()) / (2 * len(negative))


def hits_at(scores: Tensor, labels: Tensor, k: int) -> float:
    """Hits@K: the share of positive examples above all but the K - 1 highest negative ones.

    Hu, Fey, Zitnik, Dong, Ren, Liu, Catasta and Leskovec, "Open Graph Benchmark: Datasets for
    Machine Learning on Graphs", NeurIPS 2020, https://arxiv.org/abs/2005.00687: a positive example
    counts if its score is above the K-th highest of the negative ones, a tie does not; 1 where
    there are fewer than K of them.

    Shapes:
        scores: (N,), higher is more positive; labels: (N,), 1 or 0.

    Raises:
        ValueError: the shapes do not fit, or one of the two labels is not there.
    """
    positive, negative = _positives(scores, labels)
    if len(negative) < k:
        return 1.0
    return _share(positive > negative.topk(k).values[-1])


def _positives(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The scores of positive and of negative examples."""
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(
            f"scores have shape {tuple(scores.shape)} and labels {tuple(labels.shape)}; expected "
            "(N,) for both"
        )
    scores = scores.detach()
    positive, negative = scores[labels == 1], scores[labels == 0]
    if not len(positive) or not len(negative):
        raise ValueError(
            f"{len(positive)} labels are 1 and {len(negative)} are 0; a ranking needs some of each"
        )
    return positive, negative


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
