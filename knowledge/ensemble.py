"""Many teachers into one: what a crowd of predictions says together.

All of these act on **probabilities**, not on logits: averaged logits are another ensemble, in
which one teacher with huge logits outvotes all others, while a row of probabilities has a bounded
say. Sums run in float64 and in the order of the teachers, so the same teachers in the same order
give the same bits however many threads there are; the result has the dtype that came in. Rows are
not checked to sum to 1: check at the border, where the predictions arrive.
"""

import math
from collections.abc import Iterable
from functools import reduce
from operator import add

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
    _check_crowd(probabilities)
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
    _check_crowd(probabilities)
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
    _check_crowd(probabilities)
    if not 0 < temperature < math.inf:
        raise ValueError(
            f"temperature is {temperature}; it has to be positive and finite: the paper takes 0.1"
        )
    return (_average(probabilities) / temperature).softmax(-1).to(probabilities.dtype)


def _average(probabilities: Tensor) -> Tensor:
    return _sum_in_order(probabilities) / probabilities.shape[0]


def _sum_in_order(terms: Iterable[Tensor]) -> Tensor:
    # One teacher after another: `Tensor.sum` adds in an order that depends on the machine.
    return reduce(add, (term.double() for term in terms))


def _check_crowd(probabilities: Tensor) -> None:
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
