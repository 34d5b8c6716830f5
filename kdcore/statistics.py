"""Paired comparisons over seeds: mean difference, t-interval, how often one is ahead."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Comparison(NamedTuple):
    """What one way does better than another, over pairs of runs.

    Attributes:
        mean: the mean difference, first minus second.
        low: the lower end of its 95% interval, NaN where there is one pair.
        high: the upper end.
        wins: in how many pairs the first is larger.
        n: how many pairs there are.
    """

    mean: float
    low: float
    high: float
    wins: int
    n: int


def paired_comparison(first: Sequence[float], second: Sequence[float]) -> Comparison:
    r"""Whether a difference is more than chance: its mean over pairs, with a 95% t-interval.

    Student, "The Probable Error of a Mean", Biometrika 1908, https://doi.org/10.1093/biomet/6.1.1.

        mean \pm t_{0.975, n-1} s / \sqrt n,   of the differences first_i - second_i

    Pairs share what varies beside the two ways: the seed, the split, the initial weights. A tie is
    no win. An interval that holds 0 says that the sign is not known, not that there is no
    difference; of twenty comparisons of equals one excludes it.

    Args:
        first: one number per pair, such as the accuracies with a teacher.
        second: the numbers to take off, of the same pairs in the same order.

    Raises:
        ValueError: the lengths differ, there is no pair, or a number is not finite.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(
            f"got {len(first)} and {len(second)} numbers; expected as many of both, one pair at "
            "least: leave out the seeds that only one of them has"
        )
    gaps = [float(a) - float(b) for a, b in zip(first, second, strict=True)]
    if not all(math.isfinite(gap) for gap in gaps):
        raise ValueError(
            f"{sum(not math.isfinite(gap) for gap in gaps)} of {len(gaps)} differences are not "
            "finite; expected numbers: did a run diverge?"
        )
    n, wins = len(gaps), sum(gap > 0 for gap in gaps)
    mean = statistics.fmean(gaps)
    half = math.nan
    if n > 1:
        half = t_quantile(n - 1) * statistics.stdev(gaps) / math.sqrt(n)
    return Comparison(mean, mean - half, mean + half, wins, n)


def t_quantile(freedom: int, level: float = 0.95) -> float:
    r"""How far from 0 Student's t is in all but 1 - level of the cases: two-sided.

    Abramowitz and Stegun, "Handbook of Mathematical Functions", 1964, 26.7.3 and 26.7.4,
    https://personal.math.ubc.ca/~cbm/aands/page_948.htm: for whole degrees of freedom the
    distribution is a finite sum, which is inverted by halving an interval.

    Raises:
        ValueError: there is no degree of freedom, or the level is not between 0 and 1.
    """
    if freedom < 1 or not 0 < level < 1:
        raise ValueError(
            f"got {freedom} degrees of freedom at level {level}; expected at least 1, and a level "
            "between 0 and 1 such as 0.95"
        )
    low, high = 0.0, math.pi / 2  # the angle whose tangent is t / sqrt(freedom)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _within(angle: float, freedom: int) -> float:
    """P(|t| <= sqrt(freedom) tan(angle)) for Student's t."""
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= k / (k + 1) * math.cos(angle) ** 2
    total *= math.sin(angle)
    return (angle + total) * 2 / math.pi if odd else total
