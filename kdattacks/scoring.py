"""How well scores tell what is so from what is not: the ROC curve, its area, its low end.

Nicholas Carlini, Steve Chien, Milad Nasr, Shuang Song, Andreas Terzis, Florian Tramer. "Membership
Inference Attacks From First Principles". IEEE S&P 2022. https://arxiv.org/abs/2112.03570 on why the
low end is what counts: an attack that is sure of few members is worse than one that is a little
better than a guess about all.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

FALSE_POSITIVES = 10  # a rate of fewer, to the nearest whole number, is not told: it is chance
RATES = {"tpr_01": 0.01, "tpr_001": 0.001}
LEVEL = 1.959964  # standard normal deviations, of an interval of 95 %


class Decisions(NamedTuple):
    """Scores beside what is so, and beside what is so shuffled, which nobody can know.

    Shapes:
        values: (M,), truth, control: (M,) bool.
    """

    values: Tensor
    truth: Tensor
    control: Tensor

    @staticmethod
    def pooled(parts: "Sequence[Decisions]") -> "Decisions":
        """All of them as one, such as those about several targets."""
        return Decisions(*(torch.cat(column) for column in zip(*parts, strict=True)))


class Curve(NamedTuple):
    """The ROC curve: a point for each threshold, from (0, 0) to (1, 1). (J,) each."""

    fpr: Tensor
    tpr: Tensor


def decisions(values: Tensor, truth: Tensor, generator: torch.Generator) -> Decisions:
    """Decisions with their control: the truth shuffled over all that is in question."""
    values, truth = values.double().flatten(), truth.flatten()
    return Decisions(values, truth, truth[torch.randperm(len(truth), generator=generator)])


def roc(values: Tensor, truth: Tensor) -> Curve:
    """The curve of "it is so where the score is at least t", for every t; ties are one point."""
    order = values.argsort(descending=True, stable=True)
    values, truth = values[order], truth[order].double()
    last = torch.ones(len(values), dtype=torch.bool)
    last[:-1] = values[1:] != values[:-1]
    start = torch.zeros(1, dtype=torch.float64)
    hits = torch.cat([start, truth.cumsum(0)[last]])
    alarms = torch.cat([start, (1 - truth).cumsum(0)[last]])
    return Curve(alarms / alarms[-1].clamp(min=1), hits / hits[-1].clamp(min=1))


def auc(values: Tensor, truth: Tensor) -> float | None:
    """The area under the curve: how often what is so has the higher score, ties counting half.

    None where all is so, or nothing.
    """
    if truth.all() or not truth.any():
        return None
    return float(torch.trapezoid(*reversed(roc(values, truth))))


def tpr_at(rate: float, values: Tensor, truth: Tensor) -> float | None:
    """The largest true-positive rate with a false-positive rate of no more than this.

    None where that would rest on fewer than ten false positives, to the nearest whole number.
    """
    negatives = int((~truth).sum())
    if round(rate * negatives) < FALSE_POSITIVES or not truth.any():
        return None
    curve = roc(values, truth)
    return float(curve.tpr[curve.fpr <= rate].max())


def interval(values: Tensor, truth: Tensor, deviations: float = LEVEL) -> tuple[float, float]:
    """Where the area lies if scores have nothing to do with the truth: about 95 % of the time.

    The normal approximation of the Mann-Whitney statistic (Annals of Mathematical Statistics 1947,
    https://doi.org/10.1214/aoms/1177730491), with the correction for ties.
    """
    n, m = int(truth.sum()), int((~truth).sum())
    total = n + m
    if not n or not m or total < 2:
        return 0.0, 1.0
    ties = values.unique(return_counts=True)[1].double()
    tied = float((ties**3 - ties).sum()) / (total * (total - 1))
    spread = deviations * math.sqrt(max((total + 1 - tied) / (12 * n * m), 0.0))
    return max(0.0, 0.5 - spread), min(1.0, 0.5 + spread)


def measures(found: Decisions) -> dict[str, float | int | list[float] | None]:
    """What is told of decisions, as records hold it."""
    values, truth, control = found
    return {
        "auc": auc(values, truth),
        **{name: tpr_at(rate, values, truth) for name, rate in RATES.items()},
        "control_auc": auc(values, control),
        "control_interval": list(interval(values, control)),
        "positives": int(truth.sum()),
        "negatives": int((~truth).sum()),
    }


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation along the last axis; zero with what does not vary."""
    a, b = (one - one.mean(-1, keepdim=True) for one in (a, b))
    size: Tensor = (a.norm(dim=-1) * b.norm(dim=-1)).clamp(min=1e-12)
    return (a * b).sum(-1) / size
