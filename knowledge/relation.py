"""Relation-based knowledge: how the teacher arranges the examples of a batch among themselves.

Each loss gives one value per example i, the mean over the pairs or triplets in which i is the
anchor, so that the plain mean over the examples is the paper's batch value. Still, these values
belong to a whole batch, not to its examples: they change with the batch's composition, so leave
padded rows out, drop a short last batch, and do not average them over micro-batches or clients
as if they were per-example losses.

Only the student receives a gradient. It is finite everywhere: where rows coincide, which dead
units and dropout make common, the distance is 0, the direction is the zero vector, and neither
passes a gradient on. Rows that differ by rounding alone do not coincide, and get the true
gradient, of order 1 / distance.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def distance(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Distance-wise relational distillation (RKD-D): keep the teacher's pairwise distances.

    Park, Kim, Lu and Cho, "Relational Knowledge Distillation", CVPR 2019,
    https://arxiv.org/abs/1904.05068.

        value_i = 1/(N-1) \sum_{j != i} huber(\psi_t(i, j) - \psi_s(i, j))
        \psi(i, j) = |x_i - x_j| / \mu,   \mu = mean distance over the pairs that do not coincide

    with Huber's loss of threshold 1. Each side is divided by its own mean distance, so the loss
    does not change when either embedding is scaled, shifted or rotated.

    Convention: the mean over examples is the mean over the N(N-1) distinct pairs. The authors'
    code divides by N^2, the zero diagonal included: it is (N-1)/N times ours, and their weights
    go with it. A coincident pair stays in the loss with distance 0 but out of \mu.
    Memory grows as N^2 D.

    Shapes:
        student: (N, D_s); teacher: (N, D_t); N >= 2; gives (N,), without unit.

    Raises:
        ValueError: not two matrices with the same N, or N < 2.
    """
    _check_rows(student, teacher, least=2)
    gap = _relative_distances(student) - _relative_distances(teacher.detach())
    return _huber(gap).sum(-1) / (student.shape[0] - 1)


def angle(student: Tensor, teacher: Tensor, block: int | None = None) -> Tensor:
    r"""Angle-wise relational distillation (RKD-A): keep the angles that the rows form.

    Park, Kim, Lu and Cho, "Relational Knowledge Distillation", CVPR 2019,
    https://arxiv.org/abs/1904.05068.

        value_i = 1/((N-1)(N-2)) \sum_{j != k, both != i} huber(\cos_t(j, i, k) - \cos_s(j, i, k))
        \cos(j, i, k) = <e_ij, e_ik>,   e_ij = (x_j - x_i) / |x_j - x_i|

    with Huber's loss of threshold 1; i is the corner of the angle. The loss does not change when
    either embedding is scaled, shifted, rotated or mirrored.

    Convention: the mean over examples is the mean over the N(N-1)(N-2) distinct triplets. The
    authors' code divides by N^3, degenerate triplets included, and their weights go with it.
    Where two rows coincide, e is the zero vector and the cosine 0: the triplet stays in the loss,
    so that collapsing the student is not rewarded, but passes no gradient through that pair.

    Time grows as N^3 D. The cosines of `block` corners are held at a time and computed again in
    the backward pass, so memory grows as block * N * (N + D), times the problems under `vmap`.

    Args:
        student: see Shapes.
        teacher: see Shapes.
        block: corners per block; None chooses about 2^24 numbers a block. It does not change the
            result beyond rounding.

    Shapes:
        student: (N, D_s); teacher: (N, D_t); N >= 3; gives (N,), without unit.

    Raises:
        ValueError: not two matrices with the same N, N < 3, or block < 1.
    """
    _check_rows(student, teacher, least=3)
    n = student.shape[0]
    if block is None:
        block = max(1, 2**24 // (n * (n + max(student.shape[1], teacher.shape[1]))))
    if block < 1:
        raise ValueError(f"block is {block}; it has to be at least 1, or None to have it chosen")
    value: Tensor = _BlockedAngle.apply(student, teacher.detach(), block)  # type: ignore[no-untyped-call]
    return value


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Similarity-preserving distillation (SP): rows alike for the teacher stay alike.

    Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019,
    https://arxiv.org/abs/1907.09682.

        value_i = 1/N \sum_j (G_t - G_s)_ij^2,   G = X X^T with every row scaled to length 1

    The loss does not change when either embedding is rotated or scaled; it does when one is
    shifted, since G holds inner products.

    Convention: the mean over examples is the paper's |G_t - G_s|_F^2 / N^2, diagonal included.
    A row of zeros has a row of zeros in G. Memory grows as N (N + D).

    Shapes:
        student: (N, D_s); teacher: (N, D_t); gives (N,), without unit.

    Raises:
        ValueError: not two matrices with the same N.
    """
    _check_rows(student, teacher, least=1)
    gap = _unit(student @ student.mT) - _unit(teacher.detach() @ teacher.detach().mT)
    return gap.square().mean(-1)


class _BlockedAngle(torch.autograd.Function):
    """`angle` that keeps its inputs for the backward pass, not the N^3 cosines."""

    generate_vmap_rule = True

    @staticmethod
    def forward(student: Tensor, teacher: Tensor, block: int) -> Tensor:
        corners = range(0, student.shape[0], block)
        return torch.cat([_angle_at(student, teacher, i, block) for i in corners])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        student, teacher, ctx.block = inputs
        ctx.save_for_backward(student, teacher)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        student, teacher = ctx.saved_tensors
        gradient = torch.zeros_like(student)
        for i in range(0, student.shape[0], ctx.block):
            at = partial(_angle_at, teacher=teacher, start=i, block=ctx.block)
            pull_back = torch.func.vjp(at, student)[1]
            gradient = gradient + pull_back(upstream[0][i : i + ctx.block])[0]
        return gradient, None, None


def _angle_at(student: Tensor, teacher: Tensor, start: int, block: int) -> Tensor:
    """The values of `angle` at the corners start .. start + block - 1."""
    n = student.shape[0]
    gap = _cosines(student, start, block) - _cosines(teacher, start, block)  # (block, N, N)
    distinct = 1 - torch.eye(n, dtype=gap.dtype, device=gap.device)  # j == k is no angle
    return (_huber(gap) * distinct).sum((1, 2)) / ((n - 1) * (n - 2))


def _cosines(rows: Tensor, start: int, block: int) -> Tensor:
    e = _unit(rows.unsqueeze(0) - rows[start : start + block].unsqueeze(1))  # (block, N, D)
    return e @ e.mT


def _relative_distances(rows: Tensor) -> Tensor:
    # The differences themselves, not |x|^2 + |y|^2 - 2xy, which loses all digits once the rows
    # are far from the origin; and not cdist, which cannot be differentiated twice.
    squared = (rows.unsqueeze(0) - rows.unsqueeze(1)).square().sum(-1)  # (N, N)
    apart = squared > 0
    distances = torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0)
    mean = distances.sum() / apart.sum().clamp(min=1)
    return distances / torch.where(mean > 0, mean, 1)


def _unit(vectors: Tensor) -> Tensor:
    # `where` twice: sqrt has an infinite slope at 0, and infinity times a masked 0 is not a number.
    squared = vectors.square().sum(-1, keepdim=True)
    some = squared > 0
    return torch.where(some, vectors, 0) / torch.where(some, squared, 1).sqrt()


def _huber(gap: Tensor) -> Tensor:
    return F.huber_loss(gap, torch.zeros_like(gap), reduction="none")


def _check_rows(student: Tensor, teacher: Tensor, least: int) -> None:
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
