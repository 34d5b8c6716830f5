"""Targets without a teacher network: virtual teachers, smoothed labels, label means."""

from typing import NamedTuple

import torch
from torch import Tensor

from kdcore.losses.response import _check_labels


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
