"""Lengths, directions and distances of rows, and what losses ask of their arguments.

Gradients are finite where rows are 0 or coincide: `where` stands twice wherever a root is taken,
since its slope at 0 is infinite, and infinity times a masked 0 is not a number. A length of 0
passes no gradient on.
"""

import math

import torch
from torch import Tensor


def root(squared: Tensor) -> Tensor:
    """The square root, whose slope at 0 is taken to be 0. Any shape."""
    some = squared > 0
    return torch.where(some, torch.where(some, squared, 1).sqrt(), 0)


def unit(vectors: Tensor) -> Tensor:
    """Every vector of the last axis scaled to length 1; a vector of zeros stays one.

    Shapes:
        vectors: (..., D); gives (..., D).
    """
    squared = vectors.square().sum(-1, keepdim=True)
    some = squared > 0
    return torch.where(some, vectors, 0) / torch.where(some, squared, 1).sqrt()


def squared_distances(rows: Tensor) -> Tensor:
    """Squared distances of all pairs of rows; memory grows as N^2 D.

    The differences themselves, not |x|^2 + |y|^2 - 2xy, which loses all digits once the rows are
    far from the origin; and not cdist, which cannot be differentiated twice.

    Shapes:
        rows: (N, D); gives (N, N).
    """
    return (rows.unsqueeze(0) - rows.unsqueeze(1)).square().sum(-1)


def check_temperature(value: float, such_as: float = 4, name: str = "temperature") -> None:
    """Fail unless scores can be divided by this.

    Raises:
        ValueError: it is not positive and finite; the message names a common one.
    """
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {value}; it has to be positive and finite, e.g. {such_as:g}")


def check_rows(student: Tensor, teacher: Tensor, least: int = 1) -> None:
    """Fail unless these are (N, D_s) and (N, D_t) with N at least `least`.

    Raises:
        ValueError: not two matrices with the same N, or N < least.
    """
    if student.ndim != 2 or teacher.ndim != 2 or student.shape[0] != teacher.shape[0]:
        raise ValueError(
            f"student has shape {tuple(student.shape)} and teacher {tuple(teacher.shape)}; "
            "expected (N, D_s) and (N, D_t), the same examples in the same order: call flatten(1) "
            "on feature maps"
        )
    if student.shape[0] < least:
        raise ValueError(
            f"got N = {student.shape[0]} examples; this loss relates at least {least} of them: "
            "use larger batches, or drop a short last one"
        )
