"""Recipes: a term of the surveys, made to work on data, in one file each.

A recipe is a frozen dataclass whose fields are its settings. It names the data it needs and
measures one seed: what its students reach, and each of its controls, as flat numbers. A number is
called by what it is and by whose it is: `accuracy` of the taught student, `accuracy_baseline` of
the same student without a teacher, `accuracy_teacher`, and so on; accuracies are shares.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from simulations.settings import nearest

Metrics = Mapping[str, float]


class Recipe(Protocol):
    """What a recipe is."""

    data: ClassVar[str]

    def measure(self, data: Any, seed: int) -> Metrics:
        """The numbers of one seed, which governs split, initial weights, batches and noise."""


def names() -> list[str]:
    """The names of all recipes."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> type[Recipe]:
    """The recipe of a name, a frozen dataclass to be called with its settings.

    Raises:
        ValueError: there is none; the message lists those there are and the nearest.
    """
    if name not in names():
        raise ValueError(
            f"unknown recipe {name!r}{nearest(name, names())}; there are {', '.join(names())}"
        )
    module = importlib.import_module(f"{__name__}.{name}")
    (found,) = (
        value
        for value in vars(module).values()
        if inspect.isclass(value) and value.__module__ == module.__name__ and "data" in vars(value)
    )
    return found
