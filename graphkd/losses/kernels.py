"""What makes two embeddings alike: the kernels that local and global structure have in common.

linear: a . b   cosine: a . b / (|a| |b|)   polynomial: (a . b)^2
l2: -|a - b|^2   rbf: exp(-|a - b|^2 / (2 scale))
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from graphkd.losses.embeddings import unit
from kdcore.registry import unknown


class Kernel(NamedTuple):
    """A function of two vectors' inner product, or of their squared distance."""

    unit: bool  # whether the vectors are scaled to length 1
    squared: bool  # squared distance, or else inner product
    shape: Callable[[Tensor, float], Tensor]  # what becomes of that with the scale

    def of(self, rows: Tensor) -> Tensor:
        """The vectors that are compared, (N, D)."""
        return unit(rows) if self.unit else rows

    def between(self, some: Tensor, rows: Tensor, scale: float) -> Tensor:
        """Its values between each of some of these vectors and all of them, (B, N)."""
        if not self.squared:
            return self.shape(some @ rows.mT, scale)
        # The differences themselves, not |a|^2 + |b|^2 - 2ab, which loses all digits far from 0.
        return self.shape(distances(some, rows).square(), scale)


KERNELS: dict[str, Kernel] = {
    "linear": Kernel(False, False, lambda value, scale: value),
    "cosine": Kernel(True, False, lambda value, scale: value),
    "polynomial": Kernel(False, False, lambda value, scale: value.square()),
    "rbf": Kernel(False, True, lambda value, scale: (-value / (2 * scale)).exp()),
    "l2": Kernel(False, True, lambda value, scale: -value),
}


def check_kernel(kernel: str, scale: float) -> None:
    """Raise ValueError if there is no such kernel or scale."""
    if kernel not in KERNELS:
        raise unknown("kernel", kernel, KERNELS)
    if not scale > 0:
        raise ValueError(f"scale is {scale}; the rbf kernel needs a positive one, such as 1")


def distances(some: Tensor, rows: Tensor) -> Tensor:
    """Euclidean distances, (B, D) and (N, D) -> (B, N); coincident vectors pass no gradient."""
    return torch.cdist(some, rows, compute_mode="donot_use_mm_for_euclid_dist")
