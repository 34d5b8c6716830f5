"""One seed of a recipe: an experiment in, a record of its numbers out."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from fedkd import models
from kdcore.devices import Made, device_of
from kdcore.settings import said_of
from simulations.config.experiments import SurveyExperiment
from simulations.config.resources import Resources
from simulations.config.schema import leaves
from simulations.survey import datasets, students
from simulations.survey.recipes import Metrics

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


def tables(prepared: Any) -> Any:
    """The data of it."""
    return prepared


def device_for(experiment: SurveyExperiment, resources: Resources) -> torch.device:
    """Where a recipe computes.

    Raises:
        ValueError: there is no such device, or it knows no float64, in which recipes are scored.
    """
    if resources.device.partition(":")[0] == "mps":
        raise ValueError(
            "device mps: it knows no float64, in which recipes are scored; take cpu or cuda"
        )
    return device_of(resources.device, resources.gpus)


def run(
    experiment: SurveyExperiment, root: Path | None = None, device: torch.device | str = "cpu"
) -> Iterator[Record]:
    """One record "run"; only what is called "seconds" may differ between two runs."""
    start = time.perf_counter()
    metrics = measured(experiment, prepare(experiment, root), torch.device(device))
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


def measured(experiment: SurveyExperiment, data: Any, device: torch.device) -> Metrics:
    """What the recipe measures, with its data and all that it makes on the device."""
    recipe, seed = experiment.recipe, experiment.seed
    if device.type == "cpu":
        return dict(recipe.measure(data, seed))
    there = tree_map_only(Tensor, lambda value: value.to(device), data)
    with Made(device):
        return dict(recipe.measure(there, seed))
