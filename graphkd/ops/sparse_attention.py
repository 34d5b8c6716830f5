"""Attention over neighbourhoods without a message for every edge.

The edges are the entries of a sparse matrix with rows of targets, sorted. A softmax over a row and
the sum that it weighs are one function with a backward pass of its own: the sum is a sparse product
for each head, and only E times the number of heads numbers are kept, never E times the width.

Shapes (everywhere): N nodes, E entries of the matrix (edges and self-loops), H heads, F features of
a head; nodes' values are (N, H F), heads one after the other.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from graphkd.ops.sparse import Matrix, Rows

SLOPE = 0.2  # of the leaky ReLU, as in both papers
CHUNK = 2**18  # numbers held at a time where edges are as wide as nodes: they stay in cache


def additive(source: Tensor, target: Tensor, edges: Matrix) -> Tensor:
    r"""GAT's scores, leaky_relu(s_j + t_i) for each edge j -> i.

    Velickovic et al., "Graph Attention Networks", ICLR 2018, https://arxiv.org/abs/1710.10903.

    Shapes:
        source, target: (N, H); gives (E, H).
    """
    scores: Tensor = _Additive.apply(source, target, edges)
    return scores


def dynamic(source: Tensor, target: Tensor, weight: Tensor, edges: Matrix) -> Tensor:
    r"""GATv2's scores, a^T leaky_relu(s_j + t_i) for each edge j -> i.

    Brody, Alon and Yahav, "How Attentive are Graph Attention Networks?", ICLR 2022,
    https://arxiv.org/abs/2105.14491.

    Shapes:
        source, target: (N, H F); weight: (H, F), the vectors a; gives (E, H).
    """
    scores: Tensor = _Dynamic.apply(source, target, weight, edges)
    return scores


def attend(scores: Tensor, values: Tensor, edges: Matrix, keep: Tensor | None = None) -> Tensor:
    r"""The mean of the neighbours' values, weighed by the softmax of the scores.

        out_i = \sum_j keep_ij softmax_j(scores_ij) values_j

    Shapes:
        scores: (E, H); values: (N, H F); keep: (E, H), the factors of dropout; gives (N, H F).
    """
    out: Tensor = _Attend.apply(scores, values, keep, edges)
    return out


class _Additive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source: Tensor, target: Tensor, edges: Matrix) -> Tensor:
        score = source.index_select(0, edges.rows.columns)
        score = score.add_(target.index_select(0, edges.row))
        score = F.leaky_relu(score, SLOPE, inplace=True)
        ctx.save_for_backward(score)
        ctx.edges = edges
        return score

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        slope = torch.where(ctx.saved_tensors[0] > 0, 1.0, SLOPE).to(upstream[0].dtype)
        gradient = slope.mul_(upstream[0])
        edges = ctx.edges
        at_source = _sums(edges.transposed.offsets, edges.order, gradient)
        return at_source, _by_target(edges, gradient), None


class _Dynamic(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source: Tensor, target: Tensor, weight: Tensor, edges: Matrix) -> Tensor:
        ctx.save_for_backward(source, target, weight)
        ctx.edges = edges
        heads = _by_head(weight)
        return torch.cat(
            [
                F.leaky_relu(source[j] + target[i], SLOPE, inplace=True) @ heads
                for j, i in _chunks(edges, source.shape[1])
            ]
        )

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        source, target, weight = ctx.saved_tensors
        heads = _by_head(weight)
        at_source, at_target = torch.zeros_like(source), torch.zeros_like(target)
        at_heads = torch.zeros_like(heads)
        start = 0
        for j, i in _chunks(ctx.edges, source.shape[1]):
            given = upstream[0][start : start + len(j)]
            start += len(j)
            both = source[j] + target[i]
            gradient = given @ heads.T
            gradient = torch.where(both > 0, gradient, SLOPE * gradient)
            at_source.index_add_(0, j, gradient)
            at_target.index_add_(0, i, gradient)
            at_heads.addmm_(F.leaky_relu(both, SLOPE, inplace=True).T, given)
        at_weight = at_heads.T[_by_head(torch.ones_like(weight)).T > 0].view_as(weight)
        return at_source, at_target, at_weight, None


class _Attend(torch.autograd.Function):
    """The softmax and the sum in one.

    With g the gradient of out, the sum_j alpha_ij dalpha_ij in the gradient of a softmax is
    g_i . out_i, which takes no pass over the edges.
    """

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, values: Tensor, keep: Tensor | None, edges: Matrix
    ) -> Tensor:
        top = torch.segment_reduce(scores, "max", offsets=edges.rows.offsets, axis=0)
        alpha = (scores - top.index_select(0, edges.row)).exp_()
        alpha.div_(_by_target(edges, alpha).index_select(0, edges.row))
        out = _weighed(edges.rows, alpha if keep is None else alpha * keep, values)
        ctx.save_for_backward(alpha, values, keep, out)
        ctx.edges = edges
        return out

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        alpha, values, keep, out = ctx.saved_tensors
        edges, given, heads = ctx.edges, upstream[0], alpha.shape[1]
        weight = alpha if keep is None else alpha * keep
        at_values = _weighed(edges.transposed, weight.index_select(0, edges.order), given)
        at_scores = _products(edges, values, given, heads)
        if keep is not None:
            at_scores.mul_(keep)
        mean = (given * out).view(len(out), heads, -1).sum(2)
        at_scores.sub_(mean.index_select(0, edges.row)).mul_(alpha)
        return at_scores, at_values, None, None


def _weighed(rows: Rows, weight: Tensor, values: Tensor) -> Tensor:
    """The sparse product of each head, with weight (E, H) in the order of these rows, (N, H F)."""
    heads = values.tensor_split(weight.shape[1], dim=1)
    parts = [
        Rows(rows.offsets, rows.columns, weight[:, h].contiguous()).times(part)
        for h, part in enumerate(heads)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _products(edges: Matrix, source: Tensor, target: Tensor, heads: int) -> Tensor:
    """The inner product of both ends of each edge within each head, (E, H)."""
    width = source.shape[1]
    within = _by_head(source.new_ones(heads, width // heads))
    return torch.cat(
        [
            source.index_select(0, j).mul_(target.index_select(0, i)) @ within
            for j, i in _chunks(edges, width)
        ]
    )


def _by_head(weight: Tensor) -> Tensor:
    """The vectors (H, F) as a matrix (H F, H) that takes each head's inner product with its own."""
    heads = len(weight)
    own = torch.eye(heads, dtype=weight.dtype, device=weight.device)[:, None, :]
    return (own * weight[:, :, None]).view(-1, heads)


def _chunks(edges: Matrix, width: int) -> list[tuple[Tensor, Tensor]]:
    """Source and target of the edges, some at a time."""
    size = max(1, CHUNK // width)
    sources, targets = torch.split(edges.rows.columns, size), torch.split(edges.row, size)
    return list(zip(sources, targets, strict=True))


def _by_target(edges: Matrix, value: Tensor) -> Tensor:
    """The sum of (E, H) over the edges into each node, (N, H)."""
    return _sums(edges.rows.offsets, torch.arange(len(value), device=value.device), value)


def _sums(offsets: Tensor, order: Tensor, value: Tensor) -> Tensor:
    return F.embedding_bag(order, value, offsets, mode="sum", include_last_offset=True)
