"""Attacks, a paper in each file. `REGISTRY.get(name)` is one, a `kdattacks.core.Attack`."""

from typing import Any

from kdattacks.core import Attack
from kdcore.registry import Registry, places

__all__ = ["PLACES", "REGISTRY", "get", "names"]

PLACES = {
    "yeom": "kdattacks.attacks.yeom:threshold",
    "lira": "kdattacks.attacks.lira:online",
    "lira-offline": "kdattacks.attacks.lira:offline",
    "rmia": "kdattacks.attacks.rmia:relative",
    "public": "kdattacks.attacks.public:proxies",
    "public-nearest": "kdattacks.attacks.public:nearest",
    "labels": "kdattacks.attacks.labels:shares",
    "counts": "kdattacks.attacks.counts:records",
    "invert": "kdattacks.attacks.invert:images",
    "links": "kdattacks.attacks.links:correlation",
    "links-sent": "kdattacks.attacks.links:sent",
    "links-influence": "kdattacks.attacks.influence:reach",
    "nodes": "kdattacks.attacks.nodes:confidence",
    "property": "kdattacks.attacks.property:majority",
}

REGISTRY: Registry[Attack] = Registry(
    "attack",
    places(PLACES),
    "kdsim.attacks",
    expected="a function (recorded, knowledge, generator) that gives kdattacks.Scores",
)
"""Functions (Recorded, Knowledge, torch.Generator) -> Scores, of `kdattacks.core`."""


def names() -> list[str]:
    """The names of all attacks."""
    return REGISTRY.names()


def get(name: str) -> Any:
    """The attack of this name, or at `path/file.py:function`; ValueError if there is none."""
    return REGISTRY.get(name)
