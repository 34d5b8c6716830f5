"""The settings that a run used: what stands in an experiment as null has a value here."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from fedkd.data.partition import AUTO, BY_ALPHA
from fedkd.rounds.clock import Clock
from simulations.config import experiments
from simulations.config.schema import values
from simulations.graph_settings import OF_EXAMPLES, kind_of
from simulations.results.run_results import Result

# Settings of a federation that say something only where another one has these values.
BELONGS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "alpha": ("partition", (*BY_ALPHA, AUTO)),
    "shards": ("partition", ("shards",)),
    "classes_per_client": ("partition", ("pathological",)),
    "degree": ("topology", ("small-world",)),
    "rewiring": ("topology", ("small-world",)),
    "radius": ("topology", ("random-geometric",)),
}
REST = "all that are left"
UNTIMED = {f"clock.{name}": value for name, value in values(Clock()).items()}
NAMES = ("kind", "algorithm", "method", "recipe", "data", "protocol")  # told elsewhere


class Setting(NamedTuple):
    """A setting of runs that are compared.

    Attributes:
        name, value: of the setting.
        labels: of the methods that used it; nobody's where all did.
        varied: whether there are others.
    """

    name: str
    value: str
    labels: tuple[str, ...]
    varied: bool


def compared(group: Sequence[Result]) -> list[Setting]:
    """The settings that runs used: a line for each value there is, those that differ first."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for settings, result in [(used(result), result) for result in group]:
        for name, value in settings.items():
            found.setdefault(name, {}).setdefault(value, {})[result.label] = None
    lines = [
        Setting(name, value, _shortest(labels, group), len(values) > 1)
        for name, values in sorted(found.items())
        for value, labels in values.items()
    ]
    return sorted(lines, key=lambda line: not line.varied)


def _shortest(labels: Collection[str], group: Sequence[Result]) -> tuple[str, ...]:
    """Whose a value is: a method, where it is that of all of its settings; none, where of all."""
    every: dict[str, set[str]] = {}
    for result in group:
        every.setdefault(result.method, set()).add(result.label)
    if len(labels) == sum(map(len, every.values())):
        return ()
    whole = {label: method for method, own in every.items() for label in own if own <= {*labels}}
    return tuple(dict.fromkeys(whole.get(label, label) for label in labels))


def used(result: Result) -> dict[str, str]:
    """The settings of a run, each with the value that it used; those without effect left out."""
    known = {"fed": _federated, "graph": _graph}.get(result.kind)
    found = known(result) if known else {}
    idle = {*NAMES, *_idle(result.settings), *(name for name, value in found.items() if not value)}
    texts = {
        name: found.get(name, value) if value in ("null", "0") else value
        for name, value in result.settings.items()
        if name not in idle
    }
    return {name: _words(value) for name, value in texts.items()}


def _idle(given: Mapping[str, str]) -> set[str]:
    """Settings of a federation that had nothing to say beside others."""
    found = {name for name, (other, on) in BELONGS.items() if given.get(other, on[0]) not in on}
    found |= {*OF_EXAMPLES} if _of_nodes(given) else set()
    clock = {name for name in given if name.startswith("clock.")}
    if all(_read(given)[name] == UNTIMED.get(name) for name in clock):
        found |= clock
    for name, value in given.items():
        if name.endswith(".steps"):
            found.add(name if value == "null" else f"{name.removesuffix('steps')}epochs")
    return found


def _of_nodes(given: Mapping[str, str]) -> bool:
    return "algorithm" in given and kind_of(given) != ""


def _federated(result: Result) -> dict[str, str]:
    public = "" if _of_nodes(result.settings) else result.settings.get("public", "")
    return {"corrupt": "none", "public_size": f"{public}, all of them".lstrip(", "), "test": REST}


def _graph(result: Result) -> dict[str, str]:
    """What the method's fields were on this data; nothing for those of a teacher where none is."""
    from graphkd.core import TeacherSpec
    from graphkd.data import splits
    from graphkd.training import published  # takes a while

    folds = result.protocol == "folds"
    found = {
        "train": REST if folds else f"{splits.TRAIN}",
        "val": "one fold" if folds else f"{splits.VAL}",
    }
    try:
        experiment = experiments.build("graph", result.settings["method"], _read(result.settings))
    except (KeyError, ValueError):  # of another version: what it used is not known
        return found
    method, _, teachers = published.resolve(experiment.method, result.data, result.protocol)
    found |= {field.name: _said(getattr(method, field.name)) for field in fields(method)}
    if not teachers:
        return found | {name: "" for name in found if name.startswith("teacher")}
    for name, several in zip(TeacherSpec._fields, zip(*teachers, strict=True), strict=True):
        found[f"teacher_{name}"] = " + ".join(dict.fromkeys(map(_said, several)))
    return found


def _read(texts: Mapping[str, str]) -> dict[str, Any]:
    """Settings as they were before they became text."""
    found = {}
    for name, value in texts.items():
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return {name: value for name, value in found.items() if name not in ("kind", "method")}


def _words(value: str) -> str:
    """A list without its brackets."""
    if not value.startswith("["):
        return value
    try:
        return ", ".join(map(str, json.loads(value)))
    except json.JSONDecodeError:
        return value


def _said(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
