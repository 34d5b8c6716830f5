"""One seed of a recipe: an experiment in, a record of its numbers out."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedkd import models
from kdcore.settings import said_of
from simulations.config.experiments import SurveyExperiment
from simulations.config.resources import Resources
from simulations.config.schema import leaves
from simulations.survey import datasets, students

Record = dict[str, Any]


def prepare(experiment: SurveyExperiment, root: Path | None = None) -> Any:
    """The data of a recipe, whose networks are looked at too.

    Raises:
        FileNotFoundError: a file of it is missing.
        ValueError: there is no network of a name.
    """
    for leaf in leaves(experiment.recipe).values():
        if said_of(leaf.hint).names == models.__name__:
            students.check(*(leaf.default if leaf.many else [leaf.default]))
    return datasets.load(experiment.data, root)


def device_for(experiment: SurveyExperiment, resources: Resources) -> str:
    """The CPU, on which recipes compute; ValueError for another device."""
    if resources.device not in ("auto", "cpu") or resources.gpus:
        raise ValueError(
            f"device {resources.device}, gpus {resources.gpus:g}: recipes compute on the CPU; "
            "leave out both"
        )
    return "cpu"


def run(experiment: SurveyExperiment, root: Path | None = None) -> Iterator[Record]:
    """One record "run"; only what is called "seconds" may differ between two runs."""
    start = time.perf_counter()
    metrics = experiment.recipe.measure(prepare(experiment, root), experiment.seed)
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        raise ArithmeticError(f"{bad[0]} is {metrics[bad[0]]}; it has to be finite")
    yield {
        "record": "run",
        "kind": "survey",
        "method": experiment.name,
        "data": experiment.data,
        "protocol": experiment.name,
        "seed": experiment.seed,
        "metrics": {name: float(value) for name, value in metrics.items()},
        "seconds": time.perf_counter() - start,
    }
