"""What makes two experiments the same run: settings, digest, the name of the folder."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from kdcore.references import SUFFIX, Source
from simulations.config.experiments import KINDS, Experiment, kind_of
from simulations.config.schema import leaves, unsaid, values
from simulations.config.sources import hashes
from simulations.config.sources import sources as sources_of
from simulations.graph_settings import OBJECT

FOLDERS = re.compile(r"[^+]*/")  # of each name in `a+b`


def settings(experiment: Experiment, sources: Mapping[str, Source] | None = None) -> dict[str, Any]:
    """All that determines the numbers of a run, as JSON holds it.

    A setting that was added later (`simulations.config.schema.ADDED`) is there where it differs
    from its default, so that runs from before are the same runs. Code of the user's is there with
    its source: by default as it is now.
    """
    kind = kind_of(experiment)
    key = KINDS[kind].key
    left_out = unsaid(experiment)
    said = {k: v for k, v in values(experiment).items() if k not in left_out}
    flat = {name.removeprefix(f"{key}."): value for name, value in said.items()}
    found = sources_of(experiment) if sources is None else sources
    return {"kind": kind, key: experiment.name} | flat | hashes(found)


def digest(experiment: Experiment, sources: Mapping[str, Source] | None = None) -> str:
    """A hash of all that determines the numbers of a run, each setting by its first name."""
    said = as_first_named(settings(experiment, sources), experiment)
    return _hash(json.dumps(said, sort_keys=True))


def as_first_named(said: Mapping[str, Any], experiment: Experiment) -> dict[str, Any]:
    """Settings of such an experiment by the names that they had when there first were runs."""
    start = f"{KINDS[kind_of(experiment)].key}."
    was = {
        name.removeprefix(start): leaf.was.removeprefix(start)
        for name, leaf in leaves(experiment).items()
        if leaf.was
    }
    return {was.get(name, name): value for name, value in said.items()}


def digest_all(experiments: list[Experiment]) -> str:
    """A hash of a set of experiments, in any order."""
    return _hash("".join(sorted(map(digest, experiments))))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def folder_name(experiment: Experiment) -> str:
    """Where an experiment's run is kept: `fedmd-digits-s0-1a2b3c4d`."""
    name = _in_folder(experiment.name).replace(":", ".")
    return f"{name}-{_in_folder(experiment.data)}-s{experiment.seed}-{digest(experiment)[:8]}"


def _in_folder(name: str) -> str:
    """A name as part of a folder's: of a user's own, `path/file.py:Name`, without the path."""
    return FOLDERS.sub("", name).replace(f"{SUFFIX}:", f"{SUFFIX}.").replace(OBJECT, "own-")
