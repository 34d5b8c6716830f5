"""Algorithms at their defaults, but for what would take a test a minute."""

from dataclasses import replace

from fedkd import algorithms
from fedkd.algorithms.dense import DENSE
from fedkd.core import Algorithm

# Servers that make inputs do so in 50 turns of 30 steps, 64 at once, for each architecture in each
# round, and where everybody is a server each of them does.
FEW_TURNS = {"distill": {"epochs": 2}, "generator": {"epochs": 2, "batch_size": 8}}


def make(name: str, **settings) -> Algorithm:
    """An algorithm as it is by default, with few turns where its server makes inputs."""
    kind = algorithms.get(name)
    if issubclass(kind, DENSE):
        plain = kind()
        few = {key: replace(getattr(plain, key), **less) for key, less in FEW_TURNS.items()}
        settings = few | settings
    return kind(**settings)
