"""How well a student does, how closely it follows its teacher, how honest its confidence is.

These look at values and give plain floats, so they are for evaluation and do not run under `vmap`.
"""

import torch
from torch import Tensor


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
