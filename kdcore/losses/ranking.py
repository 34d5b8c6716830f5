"""Knowledge in an order: which items the teacher puts first.

A row is a query (a user, say), its columns are the scores of items, higher is better. Each loss
gives one value per query. Items are told by their place in the row; what does not belong to the
list is masked, or left out of the indices. The teacher never gets a gradient.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from kdcore.losses.logarithms import times_log
from kdcore.losses.numerics import check_temperature
from kdcore.losses.precision import in_float32


@in_float32
def ranking_distillation(
    student: Tensor,
    top: Tensor,
    ranks: Tensor | None = None,
    position: float = 1.0,
    discrepancy: float = 0.1,
) -> Tensor:
    r"""Ranking distillation (RD): the teacher's first items are taken for liked ones.

    Tang and Wang, "Ranking Distillation: Learning Compact Ranking Models With High Performance for
    Recommender System", KDD 2018, https://arxiv.org/abs/1809.07428.

        -\sum_{r=1}^K a_r b_r \log \sigma(s_{top_r})
        a_r = e^{-r / \lambda} / \sum_k e^{-k / \lambda},   b_r = max(0, \tanh(\mu (rank_r - r)))

    Convention: as in the authors' code the weights a are scaled to sum 1 and their product with b
    is not scaled again; rank_r - r is 0 where the student puts the item where the teacher does, so
    such items carry no weight, nor do those that it puts too high. Not 0 where the student is the
    teacher, unless `ranks` are given. At \lambda = 1 the first item has 63% of all weight.

    Args:
        student: see Shapes.
        top: see Shapes.
        ranks: see Shapes, of `student_ranks`; None is b = 1, with which the authors begin.
        position: \lambda, how many places count; math.inf weighs all alike.
        discrepancy: \mu, how soon a misplaced item has its whole weight.

    Shapes:
        student: (N, I), N queries by I items; top: (N, K), the teacher's K first items in its
        order, integers 0..I-1; ranks: (N, K), the student's places of them, counted from 0; gives
        (N,).

    Raises:
        ValueError: the shapes do not fit, an index is not an integer, or the position is not
            positive.
    """
    _check_items(student, top, "top")
    if not position > 0:
        raise ValueError(f"position is {position}; it has to be positive: the paper takes 1")
    place = torch.arange(top.shape[1], dtype=student.dtype, device=student.device)
    weight = (-place / position).softmax(0)
    if ranks is not None:
        _check_items(student, ranks, "ranks")
        weight = weight * (discrepancy * (ranks.to(student.dtype) - place)).tanh().clamp(min=0)
    return -times_log(weight, F.logsigmoid(student.gather(1, top))).sum(-1)


def student_ranks(student: Tensor, top: Tensor) -> Tensor:
    r"""The places, counted from 0, that a student gives to the teacher's first items.

    Tang and Wang, "Ranking Distillation", KDD 2018, https://arxiv.org/abs/1809.07428, who estimate
    from a sample of items what is counted here over all of them.

        rank_r = #{items of a higher score than top_r}

    Items that are not to be counted, such as those of the training set, need a score of -inf.
    Memory grows as N K I.

    Shapes:
        student: (N, I); top: (N, K), integers 0..I-1; gives (N, K), without gradient.

    Raises:
        ValueError: the shapes do not fit, or an index is not an integer.
    """
    _check_items(student, top, "top")
    scores = student.detach()
    return (scores.unsqueeze(1) > scores.gather(1, top).unsqueeze(2)).sum(-1)


@in_float32
def relaxed_ranking(student: Tensor, top: Tensor, others: Tensor) -> Tensor:
    r"""Relaxed ranking distillation (RRD): the teacher's first items in order, all others below.

    Kang, Hwang, Kweon and Yu, "DE-RRD: A Knowledge Distillation Framework for Recommender System",
    CIKM 2020, https://arxiv.org/abs/2012.04357.

        -\sum_{r=1}^K \log ( e^{s_{top_r}} / (\sum_{k>=r} e^{s_{top_k}} + \sum_l e^{s_{others_l}}) )

    Convention: the negative log-likelihood of the teacher's order, the uninteresting items in no
    order, see `plackett_luce`; through logcumsumexp, where the authors' code takes e^s of raw
    scores. Not 0 where the student is the teacher.

    Shapes:
        student: (N, I), N queries by I items; top: (N, K), the teacher's K first items in its
        order; others: (N, L), items that it puts far behind, integers 0..I-1; gives (N,), in nats.

    Raises:
        ValueError: the shapes do not fit, or an index is not an integer.
    """
    _check_items(student, top, "top")
    _check_items(student, others, "others")
    return plackett_luce(student.gather(1, top), student.gather(1, others))


@in_float32
def plackett_luce(scores: Tensor, rest: Tensor | None = None) -> Tensor:
    r"""Minus the log-likelihood that items are drawn in this order, by their scores.

    Plackett, "The Analysis of Permutations", Applied Statistics 1975,
    https://doi.org/10.2307/2346567.

        -\sum_r (s_r - \log (\sum_{k>=r} e^{s_k} + \sum_l e^{rest_l}))

    Scores of -inf are no items: nothing is asked of their place.

    Shapes:
        scores: (N, K), in the order that was observed; rest: (N, L), of items never drawn; gives
        (N,), in nats.

    Raises:
        ValueError: the shapes are not (N, K) and (N, L).
    """
    if scores.ndim != 2 or (rest is not None and rest.shape[:-1] != scores.shape[:1]):
        raise ValueError(
            f"scores have shape {tuple(scores.shape)} and the rest "
            f"{None if rest is None else tuple(rest.shape)}; expected (N, K) and (N, L)"
        )
    drawn = scores > -math.inf
    low = torch.finfo(scores.dtype).min / 2  # as good as -inf, but its differences are numbers
    finite = torch.where(drawn, scores, low)
    still = finite.flip(-1).logcumsumexp(-1).flip(-1)
    if rest is not None and rest.shape[-1]:
        others = torch.where(rest > -math.inf, rest, low)
        still = torch.logaddexp(still, others.logsumexp(-1, keepdim=True))
    return torch.where(drawn, still - finite, 0).sum(-1)


@in_float32
def listwise_softmax(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    r"""Listwise softmax cross-entropy: which item comes first, as a distribution (ListNet).

    Cao, Qin, Liu, Tsai and Li, "Learning to Rank: From Pairwise Approach to Listwise Approach",
    ICML 2007, https://doi.org/10.1145/1273496.1273513.

        -\sum_i q_i \log p_i,   q = softmax(teacher / T),  p = softmax(student / T), of the list

    Convention: a cross-entropy without T^2, as the paper has it, top-one probabilities of the whole
    list. Not 0 where the student is the teacher: there it is the entropy of q, and its gradient
    is 0. A query whose list is empty gives 0.

    Shapes:
        student, teacher: (N, I) scores; mask: (N, I), true for the items of the query's list, None
        for all; gives (N,), in nats.

    Raises:
        ValueError: the shapes differ or are not (N, I), or the temperature is not positive.
    """
    items = _listed(student, teacher, mask)
    check_temperature(temperature, such_as=1)
    low = torch.finfo(student.dtype).min / 2
    q = torch.where(items, teacher.detach() / temperature, low).softmax(-1)
    log_p = torch.where(items, student / temperature, low).log_softmax(-1)
    return -torch.where(items, times_log(q, log_p), 0).sum(-1)


@in_float32
def listmle(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""ListMLE: the likelihood of the teacher's order under the student's scores.

    Xia, Liu, Wang, Zhang and Li, "Listwise Approach to Learning to Rank: Theory and Algorithm",
    ICML 2008, https://doi.org/10.1145/1390156.1390306.

        -\sum_r \log ( e^{s_{\pi_r}} / \sum_{k>=r} e^{s_{\pi_k}} ),   \pi sorts the teacher's scores

    Convention: only the order of the teacher's scores matters, the whole list counts; of tied
    scores the first item comes first. Not 0 where the student is the teacher.

    Shapes:
        student, teacher: (N, I) scores; mask: (N, I), true for the items of the query's list, None
        for all; gives (N,), in nats.

    Raises:
        ValueError: the shapes differ or are not (N, I).
    """
    items = _listed(student, teacher, mask)
    order = teacher.detach().argsort(dim=-1, descending=True, stable=True)
    return plackett_luce(torch.where(items, student, -math.inf).gather(1, order))


@in_float32
def margin_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Margin-MSE: by how much one item beats another.

    Hofstätter, Althammer, Schröder, Sertkan and Hanbury, "Improving Efficient Neural Ranking Models
    with Cross-Architecture Knowledge Distillation", 2020, https://arxiv.org/abs/2010.02666.

        2 / (I (I-1)) \sum_{i<j} ((s_i - s_j) - (t_i - t_j))^2

    Convention: the mean over all pairs of the list, which is the paper's value where a list is a
    relevant item and another one. It is twice the sample variance of s - t, and computed so. The
    loss does not change when all scores of a query are shifted. A list of one item gives 0.

    Shapes:
        student, teacher: (N, I) scores; mask: (N, I), true for the items of the query's list, None
        for all; gives (N,), in squared scores.

    Raises:
        ValueError: the shapes differ or are not (N, I).
    """
    items = _listed(student, teacher, mask)
    count = items.sum(-1, keepdim=True)
    gap = torch.where(items, student - teacher.detach(), 0)
    centred = torch.where(items, gap - gap.sum(-1, keepdim=True) / count.clamp(min=1), 0)
    return 2 * centred.square().sum(-1) / (count.squeeze(-1) - 1).clamp(min=1)


@in_float32
def margin_ranking(student: Tensor, teacher: Tensor, margin: float = 0.1) -> Tensor:
    r"""Margin ranking: of two items that the teacher tells apart, the student puts one first.

    Rank-based matching of Guo, Shiao, Zhang, Liu, Chawla, Shah and Zhao, "Linkless Link Prediction
    via Relational Distillation", ICML 2023, https://arxiv.org/abs/2210.05801.

        2 / (I (I-1)) \sum_{i<j} max(0, -r_ij (s_i - s_j) + \delta)
        r_ij = 1 if t_i - t_j > \delta,  -1 if t_i - t_j < -\delta,  else 0

    Convention: one margin for what the teacher tells apart and what the student has to, and the
    mean over the pairs of a query, as in the authors' code; the paper has the sum. A pair that the
    teacher does not tell apart adds \delta, without gradient. Not 0 where the student is the
    teacher: there it is what such pairs add. Memory grows as N I^2.

    Shapes:
        student, teacher: (N, I) scores; gives (N,), 0 for a list of one item.

    Raises:
        ValueError: the shapes differ or are not (N, I), or the margin is negative.
    """
    _listed(student, teacher, None)
    if not margin >= 0:
        raise ValueError(f"margin is {margin}; it has to be 0 or more: the authors take 0.1")
    i, j = torch.triu_indices(student.shape[1], student.shape[1], 1, device=student.device)
    apart = teacher.detach()[:, i] - teacher.detach()[:, j]
    order = (apart > margin).to(student.dtype) - (apart < -margin).to(student.dtype)
    hinge = (margin - order * (student[:, i] - student[:, j])).clamp(min=0)
    return hinge.sum(-1) / max(1, len(i))


def _listed(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """Which scores count, as truth values."""
    shapes_fit = student.ndim == 2 and student.shape == teacher.shape
    if not shapes_fit or (mask is not None and mask.shape != student.shape):
        raise ValueError(
            f"student has shape {tuple(student.shape)} and teacher has shape "
            f"{tuple(teacher.shape)}, the mask {None if mask is None else tuple(mask.shape)}; "
            "expected (N, I), queries by items, for all: pad short lists and mask the padding"
        )
    return torch.ones_like(student, dtype=torch.bool) if mask is None else mask.bool()


def _check_items(student: Tensor, items: Tensor, name: str) -> None:
    if student.ndim != 2 or items.ndim != 2 or items.shape[0] != student.shape[0]:
        raise ValueError(
            f"student has shape {tuple(student.shape)} and {name} has shape {tuple(items.shape)}; "
            "expected (N, I), queries by items, and (N, K), places in these rows"
        )
    if items.is_floating_point():
        raise ValueError(
            f"{name} is {items.dtype}; expected integers 0..I-1, as topk(...).indices gives"
        )
