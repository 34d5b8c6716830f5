"""Many teachers into one: what many predictions say together.

All but `mean_logits` and `amalgamate` act on **probabilities**, not on logits: averaged logits are
another ensemble, in which one teacher with huge logits outvotes all others, while a row of
probabilities has a bounded say. Averages run in float64 and in the order of the teachers, so the
same teachers in the same order give the same bits however many threads there are; the result has
the dtype that came in. Rows are not checked to sum to 1: check at the border, where the
predictions arrive.
"""

import math
from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor


def mean(probabilities: Tensor) -> Tensor:
    r"""The plain average of the teachers' probabilities.

    Stone, "The Opinion Pool", Annals of Mathematical Statistics 1961,
    https://doi.org/10.1214/aoms/1177704873; as a teacher: You, Xu, Xu and Tao, "Learning from
    Multiple Teacher Networks", KDD 2017, https://doi.org/10.1145/3097983.3098135.

        1/M \sum_m p_m

    Shapes:
        probabilities: (M, N, C), M teachers; gives (N, C).

    Raises:
        ValueError: the shape is not (M, N, C), or M is 0.
    """
    _check_teachers(probabilities)
    return _average(probabilities).to(probabilities.dtype)


def weighted(probabilities: Tensor, weights: Tensor) -> Tensor:
    r"""The weighted average of the teachers' probabilities: the linear opinion pool.

    Stone, "The Opinion Pool", Annals of Mathematical Statistics 1961,
    https://doi.org/10.1214/aoms/1177704873.

        \sum_m w_m p_m / \sum_m w_m

    Convention: weights are normalised here, so counts of examples will do. One weight per teacher,
    or one per teacher and example. An example without any teacher is an error, not a row of zeros.

    Shapes:
        probabilities: (M, N, C); weights: (M,) or (M, N); gives (N, C).

    Raises:
        ValueError: the shapes do not fit, a weight is negative or not finite, or all weights of
            an example are zero. Under `vmap` the values cannot be looked at: there, weights that
            are all zero give NaN, and negative ones pass.
    """
    _check_teachers(probabilities)
    if weights.shape not in (probabilities.shape[:1], probabilities.shape[:2]):
        raise ValueError(
            f"weights have shape {tuple(weights.shape)} and probabilities "
            f"{tuple(probabilities.shape)}; expected (M,) or (M, N) beside (M, N, C)"
        )
    total = _sum_in_order(weights)  # () or (N,)
    _check_weights(weights, total)
    shares = (weights.double() / total).unsqueeze(-1)  # (M, 1) or (M, N, 1)
    pooled = _sum_in_order(s * p.double() for s, p in zip(shares, probabilities, strict=True))
    return pooled.to(probabilities.dtype)


def entropy_reduced(probabilities: Tensor, temperature: float = 0.1) -> Tensor:
    r"""Entropy reduction aggregation (ERA): the average, sharpened by a second softmax.

    Itahara, Nishio, Koda, Morikura and Yamamoto, "Distillation-Based Semi-Supervised Federated
    Learning for Communication-Efficient Collaborative Training with Non-IID Private Data"
    (DS-FL), IEEE Transactions on Mobile Computing 2021, https://arxiv.org/abs/2008.06180.

        softmax(1/M \sum_m p_m / T)

    Convention: the softmax acts on the averaged **probabilities**, as if these were logits. So
    T = 1 does not give the average back, it flattens it almost to uniform; the paper's 0.1
    sharpens.

    Shapes:
        probabilities: (M, N, C), M teachers; gives (N, C).

    Raises:
        ValueError: the shape is not (M, N, C), M is 0, or the temperature is not positive.
    """
    _check_teachers(probabilities)
    if not 0 < temperature < math.inf:
        raise ValueError(
            f"temperature is {temperature}; it has to be positive and finite: the paper takes 0.1"
        )
    return (_average(probabilities) / temperature).softmax(-1).to(probabilities.dtype)


def entropy_weighted(probabilities: Tensor, sharpness: float = 1.0) -> Tensor:
    r"""The average in which, for each example, teachers who are sure of it count more.

    After Kwon, Na, Lee and Kim, "Adaptive Knowledge Distillation Based on Entropy", ICASSP 2020,
    https://doi.org/10.1109/ICASSP40776.2020.9054698.

        \sum_m w_m p_m,   w = softmax over the teachers of -\beta H(p_m)

    Convention: entropy in nats; the paper's principle, in a form of which sharpness 0 is `mean`. A
    teacher who is sure and wrong counts as much as one who is right.

    Shapes:
        probabilities: (M, N, C), M teachers; gives (N, C).

    Raises:
        ValueError: the shape is not (M, N, C), M is 0, or the sharpness is negative or infinite.
    """
    _check_teachers(probabilities)
    if not 0 <= sharpness < math.inf:
        raise ValueError(f"sharpness is {sharpness}; it has to be at least 0 and finite, e.g. 1")
    p = probabilities.double()
    surprise = torch.special.xlogy(p, p).sum(-1)  # minus the entropy, (M, N)
    return weighted(probabilities, (sharpness * surprise).softmax(0))


def mean_logits(logits: Tensor) -> Tensor:
    r"""The plain average of the teachers' logits: a geometric mean of their probabilities.

    Hinton, "Training Products of Experts by Minimizing Contrastive Divergence", Neural Computation
    2002, https://doi.org/10.1162/089976602760128018; as a teacher: Lin, Kong, Stich and Jaggi,
    "Ensemble Distillation for Robust Model Fusion in Federated Learning" (FedDF), NeurIPS 2020,
    https://arxiv.org/abs/2006.07242.

        1/M \sum_m z_m

    Convention: logits in, logits out. A class that one teacher rules out is ruled out, and a
    teacher with large logits has a large say: its softmax is not the `mean` of the softmaxes.

    Shapes:
        logits: (M, N, C), M teachers; gives (N, C).

    Raises:
        ValueError: the shape is not (M, N, C), or M is 0.
    """
    _check_teachers(logits)
    return _average(logits).to(logits.dtype)


class Votes(NamedTuple):
    """What an ensemble elects, and what an accountant has to know of it.

    Attributes:
        labels: (N,), the class with the most votes after the noise.
        noise: the Laplace scale over the L1 sensitivity of the votes, a teacher's data replaced.
        queries: N, how often it is asked.
    """

    labels: Tensor
    noise: float
    queries: int


def votes(probabilities: Tensor, gamma: float, generator: torch.Generator) -> Votes:
    r"""Private aggregation of teacher ensembles (PATE): the winner of a noisy vote.

    Papernot, Abadi, Erlingsson, Goodfellow and Talwar, "Semi-supervised Knowledge Transfer for Deep
    Learning from Private Training Data", ICLR 2017, https://arxiv.org/abs/1610.05755.

        argmax_c (n_c + Laplace(1 / \gamma)),   n_c = #{m: argmax p_m = c}

    Convention: replacing a teacher's data moves a vote, which is 2 in L1: noise is 1 / (2 \gamma),
    and each example that is asked for is of pure epsilon 2 \gamma. Many together cost less than the
    sum: `fedkd.privacy.Laplace(noise, queries)` is the event that an accountant composes. 300 at
    gamma = 0.1 are epsilon = 19.1 at delta = 1e-5, where the sum says 60. The paper's own bound
    depends on the votes, so that it is private itself. The promise holds where no two teachers
    share a private example. Of a teacher's tied classes the first counts. math.inf is a vote
    without noise, and without privacy.

    Shapes:
        probabilities: (M, N, C), M teachers; or logits; gives ((N,), a number, N).

    Raises:
        ValueError: the shape is not (M, N, C), M is 0, or gamma is not positive.
    """
    _check_teachers(probabilities)
    if not gamma > 0:
        raise ValueError(f"gamma is {gamma}; it has to be positive: the paper takes 0.05")
    classes = torch.arange(probabilities.shape[2], device=probabilities.device)
    count = (probabilities.argmax(-1).unsqueeze(-1) == classes).double().sum(0)  # exact
    # The difference of two exponentials is Laplace; drawn on the CPU, the same for any device.
    draw = torch.empty(2, *count.shape, dtype=torch.float64).exponential_(generator=generator)
    noise = (draw[0] - draw[1]) / gamma
    return Votes((count + noise.to(count.device)).argmax(-1), 1 / (2 * gamma), len(count))


def amalgamate(logits: Sequence[Tensor], classes: Sequence[Tensor]) -> Tensor:
    r"""Specialists side by side: each teacher's logits in the places of the classes that it knows.

    Shen, Wang, Song, Sun and Song, "Amalgamating Knowledge towards Comprehensive Classification",
    AAAI 2019, https://arxiv.org/abs/1811.02796.

        z_c = the mean of the logits for c, over the teachers who know c

    Convention: raw logits, side by side: teachers have to be of one kind, for whose are larger wins
    between them. `kdcore.losses.decoupled.unified` compares within each teacher's classes only.

    Shapes:
        logits: M tensors (N, C_m); classes: M tensors (C_m,), integers, which of the classes 0..C-1
        the columns are; together they name each; gives (N, C) logits.

    Raises:
        ValueError: there is no teacher, the shapes do not fit, or a class has no teacher.
    """
    fit = len(logits) == len(classes) > 0
    if not fit or any(
        z.ndim != 2 or z.shape != (len(logits[0]), *c.shape)
        for z, c in zip(logits, classes, strict=True)
    ):
        raise ValueError(
            f"the logits have shapes {[tuple(z.shape) for z in logits]} and the classes "
            f"{[tuple(c.shape) for c in classes]}; expected M of (N, C_m) and M of (C_m,), of the "
            "same N examples"
        )
    columns = torch.cat([c.long() for c in classes])
    count = torch.bincount(columns)
    if not count.all():
        raise ValueError(
            f"class {int((count == 0).nonzero()[0])} has no teacher, of {len(count)} classes; "
            "number the classes that are known from 0 on"
        )
    side_by_side = torch.cat(list(logits), dim=1)
    total = side_by_side.new_zeros(len(logits[0]), len(count)).index_add(1, columns, side_by_side)
    return total / count


def _average(probabilities: Tensor) -> Tensor:
    return _sum_in_order(probabilities) / probabilities.shape[0]


def _sum_in_order(terms: Iterable[Tensor]) -> Tensor:
    # One teacher after another: `Tensor.sum` adds in an order that depends on the machine.
    return reduce(add, (term.double() for term in terms))


def _check_teachers(probabilities: Tensor) -> None:
    if probabilities.ndim != 3 or probabilities.shape[0] == 0:
        raise ValueError(
            f"probabilities have shape {tuple(probabilities.shape)}; expected (M, N, C) with at "
            "least one teacher: torch.stack the teachers' (N, C) along a new first axis"
        )


def _check_weights(weights: Tensor, total: Tensor) -> None:
    try:
        bad = weights[~(weights.isfinite() & (weights >= 0))].tolist()
        orphans = int((total == 0).sum())
    except RuntimeError:  # under vmap no value can be looked at
        return
    if bad:
        raise ValueError(
            f"weights hold {bad[0]}; they have to be finite and at least 0: give a teacher that "
            "should not count the weight 0"
        )
    if orphans:
        raise ValueError(
            f"all weights are 0 (for {orphans} of {total.numel()} totals); every example needs a "
            "teacher of positive weight: leave out the examples that have none"
        )
