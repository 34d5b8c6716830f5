"""From the runs of several seeds to one record for each setting: mean, spread, number of seeds."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from simulations.config.experiments import FedExperiment
from simulations.config.schema import leaves
from simulations.results.columns import primary
from simulations.results.run_folder import Record, Run, line

TRAINING = "local."  # the settings of an algorithm that the baseline shares
ROUNDING = 1e-9  # of a mean: a smaller spread is that of last digits


def summaries(runs: Sequence[Run]) -> list[Record]:
    """A record "summary" for each setting of the complete runs, over its seeds.

    Seeds whose training diverged are counted like the others, and named under "diverged".
    Federated ones have an `accuracy_baseline` (`rmse_baseline`, ...), if local training with the
    same setting was run too: the same students without a federation, over the seeds that both have.
    """
    groups: dict[str, dict[int, Run]] = {}
    for run in runs:
        if run.complete:
            key = line(run.experiment | {"seed": None})
            groups.setdefault(key, {})[run.experiment["seed"]] = run
    found = list(groups.values())
    return [_summary(group, found) for group in found]


def _summary(group: Mapping[int, Run], groups: Sequence[Mapping[int, Run]]) -> Record:
    ends = {seed: _end(run) for seed, run in sorted(group.items())}
    first = next(iter(ends.values()))
    metrics = {seed: dict(end["metrics"]) for seed, end in ends.items()}
    for seed, run in _baseline(group, groups).items():
        if seed in metrics:
            alone = _end(run)["metrics"]
            metrics[seed][f"{primary(alone)}_baseline"] = alone.get(primary(alone))
    names = dict.fromkeys(name for values in metrics.values() for name in values)
    lost = [seed for seed, end in ends.items() if "diverged" in end]
    return {
        "record": "summary",
        **{key: first[key] for key in ("kind", "method", "data", "protocol")},
        "seeds": list(ends),
        **({"diverged": lost} if lost else {}),
        "settings": {k: v for k, v in next(iter(group.values())).experiment.items() if k != "seed"},
        "metrics": {
            name: spread(values.get(name) for values in metrics.values()) for name in names
        },
    }


def spread(values: Iterable[float | None]) -> dict[str, Any]:
    """Mean, sample standard deviation (null for one value) and how many values there are."""
    x = [value for value in values if value is not None]
    mean = statistics.fmean(x) if x else None
    std = statistics.stdev(x) if len(x) > 1 else None
    if std is not None and std < ROUNDING * abs(mean or 0):
        std = 0.0
    return {"mean": mean, "std": std, "n": len(x)}


def _baseline(group: Mapping[int, Run], groups: Sequence[Mapping[int, Run]]) -> Mapping[int, Run]:
    """Local training with the same setting; of several, that with the same training."""
    settings = next(iter(group.values())).experiment
    if settings["kind"] != "fed":
        return {}
    own = [name for name in leaves(FedExperiment) if name != "seed"]
    alike = [
        other
        for other in groups
        if _same(other, settings | {"algorithm": "local"}, ["kind", "algorithm", *own])
    ]
    exact = [other for other in alike if _same(other, settings, _training(settings))]
    chosen = exact or alike
    return chosen[0] if len(chosen) == 1 else {}


def _same(group: Mapping[int, Run], settings: Record, names: Iterable[str]) -> bool:
    other = next(iter(group.values())).experiment
    return all(other.get(name) == settings.get(name) for name in names)


def _training(settings: Record) -> list[str]:
    return [name for name in settings if name.startswith(TRAINING)]


def _end(run: Run) -> Record:
    return next(record for record in run.records if record.get("record") == "run")
