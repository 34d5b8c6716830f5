"""Terms of the surveys with settings that were searched, as many for each arm.

    python -m benchmarks.survey_settings mutual quantised --out runs/searched

docs/survey.md has one setting of each recipe, which all its arms share. Here some settings are
drawn at random from the ranges below, the first being that of the page; each arm keeps the one that
is best for it on seeds from 100 on, and is compared with the others on seeds of the page, paired by
seed. What is measured is appended to OUT/NAME.jsonl at once, and is not measured again.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from kdcore.rng import generator
from simulations.config.schema import updated
from simulations.results.tables import summary
from simulations.survey import datasets, experiments, recipes
from simulations.survey.claims import Claim, read

SCORES = ("accuracy", "recall")  # what an arm may be chosen by; a gap to a teacher is none
SEARCHED, REPORTED = (100, 101, 102), (0, 1, 2, 3, 4)

Settings = Mapping[str, Any]
RANGES: dict[str, dict[str, tuple[Any, ...]]] = {
    "quantised": {
        "student_training.learning_rate": (0.0005, 0.001, 0.002, 0.005, 0.01),
        "student_training.epochs": (30, 60, 120),
        "student_training.weight_decay": (0.0, 0.0001, 0.001),
        "temperature": (1.0, 2.0, 4.0),
        "hard": (0.0, 0.3, 0.6),
    },
    "multi_exit": {
        "training.learning_rate": (0.001, 0.002, 0.003, 0.005, 0.01),
        "training.epochs": (30, 60, 90),
        "training.weight_decay": (0.0, 0.0001, 0.001),
        "weight": (0.05, 0.1, 0.3, 0.5),
        "temperature": (1.0, 3.0, 6.0),
    },
    "mutual": {
        "training.learning_rate": (0.0005, 0.001, 0.002, 0.005, 0.01),
        "training.epochs": (30, 60, 90),
        "training.weight_decay": (0.0, 0.0001, 0.001, 0.01),
    },
    "born_again": {
        "training.learning_rate": (0.0005, 0.001, 0.002, 0.005, 0.01),
        "training.epochs": (30, 60, 90),
        "training.weight_decay": (0.0, 0.0001, 0.001, 0.01),
        "hard": (0.0, 0.1, 0.3, 0.5, 0.7),  # the paper's own students have no labels
    },
    "attention": {
        "student_training.learning_rate": (0.002, 0.005, 0.01, 0.02),
        "student_training.epochs": (50, 100),
        "student_training.weight_decay": (0.0, 0.0001, 0.001),
        "weight": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    },
    "label_noise": {
        "teacher_training.epochs": (25, 50, 100),
        "student_training.learning_rate": (0.0005, 0.001, 0.002, 0.005),
        "student_training.epochs": (10, 20, 40),
        "student_training.weight_decay": (0.0, 0.001, 0.01),
        "hard": (0.1, 0.3, 0.5, 0.7, 0.9),
    },
    "graph_data_free": {
        "inverting.learning_rate": (0.01, 0.05, 0.2),
        "sparse": (0.0, 0.001, 0.01, 0.1),
        "student_training.learning_rate": (0.003, 0.01, 0.03),
        "student_training.epochs": (100, 200),
        "student_training.weight_decay": (0.0, 0.0005),
    },
    "adversarial": {
        "student_training.learning_rate": (0.002, 0.005, 0.01),
        "student_training.epochs": (30, 60),
        "student_training.weight_decay": (0.0, 0.0001, 0.001),
        "strength": (0.005, 0.02, 0.1, 0.5),
    },
    "multi_step": {
        "training.learning_rate": (0.001, 0.002, 0.005),
        "training.epochs": (10, 20),
        "training.weight_decay": (0.0, 0.0001),
        "temperature": (1.0, 2.0, 4.0, 8.0),
        "hard": (0.1, 0.3, 0.5, 0.7),
    },
    "recognition": {
        "student_training.learning_rate": (0.001, 0.002, 0.005),
        "student_training.epochs": (4, 8),
        "margin": (0.1, 0.2, 0.5),
        "distance": (0.0, 0.3, 1.0),
        "angle": (1.0, 2.0, 4.0),
    },
}


class Measured(NamedTuple):
    """What a recipe measured with some settings, of the seeds that were asked for."""

    settings: Settings
    metrics: Mapping[int, Mapping[str, float]]

    def mean(self, metric: str, seeds: Iterable[int]) -> float:
        """Of one number, over seeds."""
        return fmean(self.metrics[seed][metric] for seed in seeds)


def drawn(name: str, count: int) -> list[Settings]:
    """So many settings: that of the page, and others, each value as likely as any of its range."""
    found: list[Settings] = [{}]
    for trial in range(1, count):
        source = generator(SEARCHED[0], "search", name, trial)
        found.append({key: _one_of(values, source) for key, values in RANGES[name].items()})
    return found


def comparisons(name: str) -> list[Claim]:
    """The claims and controls of a recipe that compare the scores of two arms."""
    said = experiments.described(name)
    every = map(read, (*said.claims, *said.controls))
    return [one for one in every if one.sign == "-" and one.metric.startswith(SCORES)]


def best(tried: Sequence[Measured], metric: str) -> Measured:
    """The settings that are best for one arm on the seeds of the search; of equals the first."""
    return max(tried, key=lambda one: one.mean(metric, SEARCHED))


class Log:
    """What was measured of one recipe, each run kept as soon as it is there."""

    def __init__(self, name: str, path: Path) -> None:
        self.recipe = recipes.get(name)()
        self.data = datasets.load(self.recipe.data)
        self.path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        found = map(json.loads, lines)
        self.known = {_key(one["settings"], one["seed"]): one["metrics"] for one in found}

    def measured(self, settings: Settings, seeds: Iterable[int]) -> Measured:
        """The numbers of some seeds, measured where they are not known."""
        return Measured(settings, {seed: self._one(settings, seed) for seed in seeds})

    def _one(self, settings: Settings, seed: int) -> Mapping[str, float]:
        key = _key(settings, seed)
        if key not in self.known:
            recipe = updated(self.recipe, settings)
            self.known[key] = {k: float(v) for k, v in recipe.measure(self.data, seed).items()}
            line = {"settings": settings, "seed": seed, "metrics": self.known[key]}
            with self.path.open("a") as file:
                print(json.dumps(line), file=file)
        return self.known[key]


def report(name: str, log: Log, trials: int) -> Iterable[str]:
    """A line for each comparison, as a recipe's file has it under `searched`."""
    tried = [log.measured(settings, SEARCHED) for settings in drawn(name, trials)]
    for claim in comparisons(name):
        arms = (claim.metric, claim.other)
        chosen = [log.measured(best(tried, arm).settings, REPORTED) for arm in arms]
        pairs = {
            seed: {arm: one.metrics[seed][arm] for arm, one in zip(arms, chosen, strict=True)}
            for seed in REPORTED
        }
        gaps = claim.values(pairs)
        found = summary(gaps)
        assert found is not None
        each = [
            f"{one.mean(arm, REPORTED):.4f} with {_said(one.settings)}"
            for arm, one in zip(arms, chosen, strict=True)
        ]
        yield (
            f"`{claim.metric} - {claim.other}`, each with the best of {trials} settings: "
            f"{found.mean:+.3g} ({found.low:+.3g} to {found.high:+.3g}), wins "
            f"{claim.wins(gaps)}/{found.n}; {each[0]}, {each[1]}."
        )


def _said(settings: Settings) -> str:
    values = ", ".join(f"{key}={value:g}" for key, value in settings.items())
    return f"`{values}`" if values else "the setting of the page"


def _key(settings: Settings, seed: int) -> str:
    return json.dumps([settings, seed], sort_keys=True)


def _one_of(values: Sequence[Any], source: torch.Generator) -> Any:
    return values[int(torch.randint(len(values), (), generator=source))]


def main() -> None:
    """The comparisons of some recipes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=RANGES)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.names:
        log = Log(name, given.out / f"{name}.jsonl")
        for line in report(name, log, given.trials):
            print(f"{name}: {line}", flush=True)


if __name__ == "__main__":
    main()
