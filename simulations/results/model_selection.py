"""Which setting of a method to report: the one that did best on data that no figure is from."""

import math
from collections.abc import Sequence
from itertools import groupby
from statistics import fmean
from typing import NamedTuple

from simulations.results.columns import is_lower
from simulations.results.run_results import Result
from simulations.results.tables import TASK


class Choice(NamedTuple):
    """A method's settings, with the mean metric of each over the seeds that all of them have.

    Attributes:
        chosen: the label of the best; of equal ones, the first in the order of labels.
        scores: from the label of a setting to its mean.
        results: the runs of the chosen one, all seeds.
    """

    chosen: str
    scores: dict[str, float]
    results: list[Result]


def choices(found: Sequence[Result], metric: str) -> list[Choice]:
    """For each method, data and protocol, the setting with the best mean of a metric.

    Settings of a method are compared where all else of the experiment is the same: what is dealt
    out to whom, for how many rounds. A seed without the metric, as that of a model which has
    diverged, counts as -1, which is below any share of right answers; where less is better, as
    infinite.

    Raises:
        ValueError: no run has the metric, or settings of a method have no seed in common.
    """
    if not any(metric in result.metrics for result in found):
        known = sorted({name for result in found for name in result.metrics})
        raise ValueError(
            f"no run has {metric} to select by; there are {', '.join(known)}. Federated runs have "
            "accuracy_validation where `validation` examples are set apart"
        )
    ordered = sorted(found, key=_task)
    return [_choice(list(same), metric) for _, same in groupby(ordered, key=_task)]


def _task(result: Result) -> tuple[str, ...]:
    """What has to be equal for two settings of a method to be alternatives."""
    shared = sorted(i for i in result.settings.items() if i[0] in TASK.get(result.kind, ()))
    return (*result.group, result.method, *(f"{key}={value}" for key, value in shared))


def _choice(same: Sequence[Result], metric: str) -> Choice:
    arms: dict[str, dict[int, Result]] = {}
    for result in sorted(same, key=lambda r: r.label):
        arms.setdefault(result.label, {})[result.seed] = result
    common = set.intersection(*(set(arm) for arm in arms.values()))
    if not common:
        raise ValueError(
            f"{same[0].method}: its {len(arms)} settings have no seed in common to be compared on; "
            "let the grid end, with the same seeds for all"
        )
    lower = is_lower(metric)
    lost = math.inf if lower else -1.0
    scores = {
        label: fmean(arm[seed].metrics.get(metric, lost) for seed in common)
        for label, arm in arms.items()
    }
    best = (min if lower else max)(scores, key=lambda label: scores[label])
    return Choice(best, scores, list(arms[best].values()))
