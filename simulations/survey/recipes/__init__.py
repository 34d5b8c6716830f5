"""Recipes: a term of the surveys, made to work on data, in one file each.

A recipe is a frozen dataclass whose fields are its settings. It names the data it needs and
measures one seed: what its students reach, and each of its controls, as flat numbers. A number is
called by what it is and by whose it is: `accuracy` of the taught student, `accuracy_baseline` of
the same student without a teacher, `accuracy_teacher`, and so on; accuracies are shares.
"""

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Protocol

from kdcore.registry import Registry, files_of
from kdcore.settings import Setting
from kdcore.training.optimizers import TrainingConfig

__all__ = [
    "Metrics",
    "Network",
    "REGISTRY",
    "Recipe",
    "StudentTraining",
    "TeacherTraining",
    "get",
    "names",
]

Metrics = Mapping[str, float]

# Settings that many recipes have: a network for one learner, and how learners are trained.
Network = Annotated[
    str, Setting("its network, such as mlp-64; `kdsim list models`", names="fedkd.models")
]
TeacherTraining = Annotated[TrainingConfig, Setting("of the teacher", was="teaching")]
StudentTraining = Annotated[TrainingConfig, Setting("of the student", was="learning")]


class Recipe(Protocol):
    """What a recipe is."""

    data: ClassVar[str]

    def measure(self, data: Any, seed: int) -> Metrics:
        """The numbers of one seed, which governs split, initial weights, batches and noise."""


def _measures(found: Any) -> bool:
    return inspect.isclass(found) and "data" in vars(found) and hasattr(found, "measure")


REGISTRY: Registry[type[Recipe]] = Registry(
    "recipe", files_of(__name__, _measures), "kdsim.recipes", _measures
)


def names() -> list[str]:
    """The recipes there are."""
    return REGISTRY.names()


def get(name: str) -> type[Recipe]:
    """The recipe of a name, or at `module:Class`: a dataclass to be called with its settings.

    Raises:
        ValueError: there is none; the message names the nearest and lists all.
    """
    return REGISTRY.get(name)
