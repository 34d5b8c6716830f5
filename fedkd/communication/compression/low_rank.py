"""Matrices written by their largest singular triplets."""

from collections.abc import Callable

import torch
from torch import Tensor

from fedkd.messages import Message, Transform

LEFT, RIGHT = ":left", ":right"


def low_rank(energy: float) -> Transform:
    r"""As many of the largest singular triplets as carry a share of a matrix's energy.

        A = \sum_i s_i u_i v_i^T,   s_1 >= s_2 >= ...;   keep the least K >= 1 with
        \sum_{i <= K} s_i^2 >= energy \sum_i s_i^2

    Carl Eckart, Gale Young. "The approximation of one matrix by another of lower rank".
    Psychometrika 1936. https://doi.org/10.1007/BF02288367: nothing of rank K is nearer.

    A kernel (o, c, k, k) is the matrix (o, c k k). What has fewer than two axes, no fewer numbers
    as triplets, entries that are not finite, or is no floating-point tensor, goes as it is.

    Raises:
        ValueError: the energy is not between 0 and 1.
    """
    if not 0 <= energy <= 1:
        raise ValueError(f"energy must be a share between 0 and 1, got {energy}")

    def encode(message: Message, generator: torch.Generator) -> Message:
        sent: Message = {}
        for name, value in message.items():
            sent |= _triplets(name, value, energy)
        return sent

    return Transform(encode, _multiplied)


def by_broadcast(key: str) -> Callable[[Message], Transform]:
    """`low_rank` with the energy that the broadcast names under a key."""

    def given_broadcast(broadcast: Message) -> Transform:
        return low_rank(float(broadcast[key].double().clamp(0, 1)) if key in broadcast else 1.0)

    return given_broadcast


def rank(singular: Tensor, energy: float) -> int:
    """How many singular values, in falling order, carry a share of the energy; one at least."""
    squares = singular.double().square()
    before = squares.cumsum(dim=0) - squares
    return max(1, int(((before < energy * squares.sum()) & (squares > 0)).sum()))


def _triplets(name: str, value: Tensor, energy: float) -> Message:
    if value.dim() < 2 or not value.is_floating_point() or not value.isfinite().all():
        return {name: value}
    matrix = value.flatten(1).double()
    left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
    kept = rank(singular, energy)
    if kept * sum(matrix.shape) >= matrix.numel():
        return {name: value}
    rows = right[:kept].reshape(kept, *value.shape[1:])
    columns = (left[:, :kept] * singular[:kept]).contiguous()
    return {name + LEFT: columns.to(value.dtype), name + RIGHT: rows.to(value.dtype)}


def _multiplied(sent: Message) -> Message:
    read: Message = {}
    for key, value in sent.items():
        if key.endswith(LEFT):
            name = key.removesuffix(LEFT)
            read[name] = torch.tensordot(value, sent[name + RIGHT], dims=1)
        elif not key.endswith(RIGHT):
            read[key] = value
    return read
