"""One seed of a recipe: an experiment in, a record of its numbers out."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from simulations.config.experiments import SurveyExperiment
from simulations.survey import datasets

Record = dict[str, Any]


def prepare(experiment: SurveyExperiment, root: Path | None = None) -> Any:
    """The data of a recipe.

    Raises:
        FileNotFoundError: a file of it is missing.
    """
    return datasets.load(experiment.data, root)


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
