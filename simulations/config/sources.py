"""Code of the user's that experiments name: where it is, and by which source it is known.

An experiment may name algorithms, models, data, and so on, that are not the project's. Two versions
of such code are two runs, so its source is a part of what a run is known by.
"""

import hashlib
import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedkd.data.own.containers import is_file
from kdcore.references import Source, is_reference, names_in, source, source_of
from kdcore.registry import Registry
from kdcore.settings import said_of
from simulations.config.experiments import KINDS, Experiment, FedExperiment, kind_of
from simulations.config.schema import leaves


def sources(experiment: Experiment) -> dict[str, Source]:
    """The code of the user's that an experiment names: of each `module:Name` its source.

    Raises:
        ValueError: it cannot be imported, or has changed since it was.
    """
    kind = kind_of(experiment)
    cls = type(getattr(experiment, KINDS[kind].key))
    found = {}
    if KINDS[kind].registry.foreign(cls):
        there = cls.__module__ in sys.modules  # not so in a worker that was sent the class
        place = f"{cls.__module__}:{cls.__qualname__}"
        found[experiment.name] = source_of(cls) if there else source(place)
    if isinstance(experiment, FedExperiment) and is_file(experiment.data):
        found[experiment.data] = _of_data(Path(experiment.data).expanduser())
    return found | {place: source(place) for place in dict.fromkeys(_named(experiment))}


def _of_data(path: Path) -> Source:
    """A file of examples, by its bytes; ValueError where it is not there."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    with path.open("rb") as file:
        known = hashlib.file_digest(file, "sha256").hexdigest()
    return Source(str(path.resolve()), known, {path.name: known})


def hashes(found: Mapping[str, Source]) -> dict[str, str]:
    """What sources add to the settings of a run."""
    return {f"source {place}": one.sha256 for place, one in sorted(found.items())}


def recorded(found: Mapping[str, Source]) -> dict[str, Any]:
    """What `run.json` says of them; nothing where there are none."""
    if not found:
        return {}
    return {
        "working_folder": str(Path.cwd()),
        "sources": {place: one._asdict() for place, one in sorted(found.items())},
    }


def check(now: Mapping[str, Source], before: Mapping[str, Source], where: Any) -> None:
    """Raise ValueError for code in files that is not what it was, and say which file it is."""
    for place, was in before.items():
        one = now.get(place)
        if one is None or not (one.file and was.file) or one.sha256 == was.sha256:
            continue
        names = sorted({*one.parts} | {*was.parts})
        changed = [name for name in names if one.parts.get(name) != was.parts.get(name)]
        raise ValueError(
            f"{where}: the source of {place} has changed since it began ({_said(changed)}); put it "
            "back to go on, or name another folder with --out to start anew"
        )


def _named(experiment: Experiment) -> Iterator[str]:
    """Where all is that settings name and that is not the project's."""
    for leaf in leaves(experiment).values():
        where = said_of(leaf.hint).names
        for text in leaf.default if leaf.many else [leaf.default]:
            for name in names_in(text) if isinstance(text, str) else ():
                if is_reference(name):
                    yield name
                elif where and (place := _added(where, name)):
                    yield place


def _added(module: str, name: str) -> str | None:
    """Where a thing is that an installed package adds under a name."""
    registry: Registry[Any] = importlib.import_module(module).REGISTRY
    if name in registry.own() or name not in registry:
        return None
    return registry.reference(name)


def _said(changed: list[str], most: int = 3) -> str:
    more = f" and {len(changed) - most} more" if len(changed) > most else ""
    return ", ".join(changed[:most]) + more
