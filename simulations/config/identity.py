"""What makes two experiments the same run: settings, digest, the name of the folder."""

import hashlib
import json
from typing import Any

from simulations.config.experiments import KINDS, Experiment, kind_of
from simulations.config.schema import unsaid, values


def settings(experiment: Experiment) -> dict[str, Any]:
    """All that determines the numbers of a run, as JSON holds it.

    A setting that was added later (`simulations.config.schema.ADDED`) is there where it differs
    from its default, so that runs from before are the same runs.
    """
    kind = kind_of(experiment)
    key = KINDS[kind].key
    left_out = unsaid(experiment)
    said = {k: v for k, v in values(experiment).items() if k not in left_out}
    flat = {name.removeprefix(f"{key}."): value for name, value in said.items()}
    return {"kind": kind, key: experiment.name} | flat


def digest(experiment: Experiment) -> str:
    """A hash of all that determines the numbers of a run."""
    return _hash(json.dumps(settings(experiment), sort_keys=True))


def digest_all(experiments: list[Experiment]) -> str:
    """A hash of a set of experiments, in any order."""
    return _hash("".join(sorted(map(digest, experiments))))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def folder_name(experiment: Experiment) -> str:
    """Where an experiment's run is kept: `fedmd-digits-s0-1a2b3c4d`."""
    name = experiment.name.replace(":", ".")  # of a user's own, `module:Class`
    return f"{name}-{experiment.data}-s{experiment.seed}-{digest(experiment)[:8]}"
