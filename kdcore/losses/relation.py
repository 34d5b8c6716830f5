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

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from kdcore.losses.numerics import check_rows, check_temperature, root, squared_distances, unit
from kdcore.losses.precision import in_float32
from kdcore.losses.ranking import plackett_luce
from kdcore.losses.response import kl_to_probabilities


@in_float32
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
    check_rows(student, teacher, least=2)
    gap = _relative_distances(student) - _relative_distances(teacher.detach())
    return _huber(gap).sum(-1) / (student.shape[0] - 1)


@in_float32
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
    check_rows(student, teacher, least=3)
    n = student.shape[0]
    if block is None:
        block = max(1, 2**24 // (n * (n + max(student.shape[1], teacher.shape[1]))))
    if block < 1:
        raise ValueError(f"block is {block}; it has to be at least 1, or None to have it chosen")
    value: Tensor = _BlockedAngle.apply(student, teacher.detach(), block)
    return value


@in_float32
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
    check_rows(student, teacher)
    gap = unit(student @ student.mT) - unit(teacher.detach() @ teacher.detach().mT)
    return gap.square().mean(-1)


@in_float32
def correlation_congruence(
    student: Tensor, teacher: Tensor, gamma: float = 0.4, order: int | None = 2
) -> Tensor:
    r"""Correlation congruence (CC): the kernel matrix of the batch is kept.

    Peng, Jin, Liu, Zhou, Wu, Liu, Zhou and Zhang, "Correlation Congruence for Knowledge
    Distillation", ICCV 2019, https://arxiv.org/abs/1904.01802.

        value_i = 1/N \sum_j (C_t - C_s)_ij^2,   C_ij = exp(-\gamma |x_i - x_j|^2)
                = e^{-2 \gamma} \sum_{p=0}^{order} (2 \gamma <x_i, x_j>)^p / p!   for |x| = 1

    Convention: rows are scaled to length 1, which the series needs; the mean over examples is the
    paper's |C_t - C_s|_F^2 / N^2, diagonal included. The paper takes gamma = 0.4 and order 2; None
    is the kernel itself. Some public code of this name is another expression. Invariant to scale
    and rotation. Memory grows as N (N + D).

    Shapes:
        student: (N, D_s); teacher: (N, D_t); gives (N,), without unit.

    Raises:
        ValueError: not two matrices with the same N, or gamma or order is not positive.
    """
    check_rows(student, teacher)
    if not gamma > 0 or (order is not None and order < 1):
        raise ValueError(
            f"gamma is {gamma} and order {order}; expected a positive gamma and an order of 1 or "
            "more, or None for the kernel itself: the paper takes 0.4 and 2"
        )

    def kernel(rows: Tensor) -> Tensor:
        exponent = 2 * gamma * _cosine(rows)
        if order is None:
            return (exponent - 2 * gamma).exp()
        series = term = torch.ones_like(exponent)
        for p in range(1, order + 1):
            term = term * exponent / p
            series = series + term
        return math.exp(-2 * gamma) * series

    return (kernel(teacher.detach()) - kernel(student)).square().mean(-1)


@in_float32
def probabilistic_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Probabilistic knowledge transfer (PKT): who is whose neighbour, as probabilities.

    Passalis and Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV
    2018, https://arxiv.org/abs/1803.10837.

        value_i = \sum_{j != i} q_ij (\log q_ij - \log p_ij),   q of the teacher, p of the student
        p_ij = K_ij / \sum_{k != i} K_ik,   K_ij = (\cos(x_i, x_j) + 1) / 2

    Convention: KL(teacher || student), a row without itself. The authors' code keeps the diagonal,
    where K is 1 for everybody, and takes the mean over N^2: weights of 3e4 go with it. K is at
    least 1e-7, where its slope is 0. Invariant to scale and rotation. With N = 2 there is one
    neighbour, and nothing to tell. Memory grows as N (N + D).

    Shapes:
        student: (N, D_s); teacher: (N, D_t); N >= 2; gives (N,), in nats.

    Raises:
        ValueError: not two matrices with the same N, or N < 2.
    """
    check_rows(student, teacher, least=2)
    n = len(student)
    itself = torch.eye(n, dtype=torch.bool, device=student.device)

    def log_neighbour(rows: Tensor) -> Tensor:
        kernel = torch.where(itself, 0, ((_cosine(rows) + 1) / 2).clamp(min=1e-7))
        share = kernel / kernel.sum(-1, keepdim=True)
        return torch.where(itself, 1, share).log()  # 0 on the diagonal of both

    log_q, log_p = log_neighbour(teacher.detach()), log_neighbour(student)
    return torch.where(itself, 0, log_q.exp() * (log_q - log_p)).sum(-1)


@in_float32
def darkrank(
    student: Tensor,
    teacher: Tensor,
    neighbours: int = 4,
    alpha: float = 3.0,
    beta: float = 3.0,
) -> Tensor:
    r"""DarkRank, hard: the order of the teacher's nearest rows is likely for the student.

    Chen, Wang and Zhang, "DarkRank: Accelerating Deep Metric Learning via Cross Sample Similarities
    Transfer", AAAI 2018, https://arxiv.org/abs/1707.01220.

        value_i = -\sum_{r=1}^k \log ( e^{S_{i \pi_r}} / \sum_{l>=r} e^{S_{i \pi_l}} )
        S_ij = -\alpha |s_i - s_j|^\beta,   \pi: the k rows nearest to i for the teacher, in order

    Convention: only the k nearest are ranked, among themselves, as in public code; rows are not
    scaled, the paper's have length 1. A row never is its own neighbour, whatever coincides with
    it. Not 0 where the student is the teacher. Memory grows as N^2 D.

    Args:
        student: see Shapes.
        teacher: see Shapes.
        neighbours: k, at most N - 1 of them are there.
        alpha: how sharply similarity falls with the distance.
        beta: the power of the distance.

    Shapes:
        student: (N, D_s); teacher: (N, D_t); N >= 3; gives (N,), in nats.

    Raises:
        ValueError: not two matrices with the same N, N < 3, or fewer than two neighbours.
    """
    check_rows(student, teacher, least=3)
    if neighbours < 2:
        raise ValueError(f"neighbours is {neighbours}; an order needs at least 2: the usual are 4")
    itself = torch.eye(len(student), dtype=torch.bool, device=student.device)
    theirs = torch.where(itself, math.inf, squared_distances(teacher.detach()))
    nearest = theirs.argsort(dim=-1, stable=True)[:, : min(neighbours, len(student) - 1)]
    similarity = -alpha * root(squared_distances(student)) ** beta
    return plackett_luce(similarity.gather(1, nearest))


@in_float32
def similarity_distribution(
    student: Tensor,
    teacher: Tensor,
    queue: Tensor,
    student_temperature: float = 0.2,
    teacher_temperature: float = 0.01,
) -> Tensor:
    r"""Self-supervised distillation (SEED): which of many others an example is like.

    Fang, Wang, Wang, Zhang, Yang and Liu, "SEED: Self-supervised Distillation For Visual
    Representation", ICLR 2021, https://arxiv.org/abs/2101.04731.

        KL(q || p),   q = softmax(\cos(t, d_k) / T_t),   p = softmax(\cos(s, d_k) / T_s)

    with d the queue and, last, the example's own t.

    Convention: the divergence, which has the gradient of the paper's cross-entropy; no T^2, since
    the two temperatures differ, the teacher's being the sharper. The queue holds the *teacher's*
    rows of other examples and is the same for both. Not 0 where the student is the teacher, unless
    the temperatures are equal. Other than the rest of this module it is a value of the example
    and the queue alone, and may be averaged like any per-example loss.

    Shapes:
        student, teacher: (N, D); queue: (Q, D); gives (N,), in nats.

    Raises:
        ValueError: the shapes do not fit, or a temperature is not positive.
    """
    check_rows(student, teacher)
    if student.shape != teacher.shape or queue.ndim != 2 or queue.shape[1] != student.shape[1]:
        raise ValueError(
            f"student has shape {tuple(student.shape)}, teacher has shape {tuple(teacher.shape)} "
            f"and queue has shape {tuple(queue.shape)}; expected (N, D), (N, D) and (Q, D): a "
            "kdcore.losses.feature.Regressor maps the student to the teacher's width"
        )
    s, t, d = unit(student), unit(teacher.detach()), unit(queue.detach())

    def logits(rows: Tensor) -> Tensor:
        return torch.cat([rows @ d.mT, (rows * t).sum(-1, keepdim=True)], dim=1)

    check_temperature(teacher_temperature, such_as=0.01, name="teacher_temperature")
    target = (logits(t) / teacher_temperature).softmax(-1)
    return kl_to_probabilities(logits(s), target, student_temperature)


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
    e = unit(rows.unsqueeze(0) - rows[start : start + block].unsqueeze(1))  # (block, N, D)
    return e @ e.mT


def _relative_distances(rows: Tensor) -> Tensor:
    distances = root(squared_distances(rows))  # (N, N)
    mean = distances.sum() / (distances > 0).sum().clamp(min=1)
    return distances / torch.where(mean > 0, mean, 1)


def _cosine(rows: Tensor) -> Tensor:
    """The cosine of all pairs, (N, D) -> (N, N)."""
    directions = unit(rows)
    return directions @ directions.mT


def _huber(gap: Tensor) -> Tensor:
    return F.huber_loss(gap, torch.zeros_like(gap), reduction="none")
