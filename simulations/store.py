"""Run folders: what was run in `run.json`, what came out in `metrics.jsonl`, one record a line.

A run is complete when its record "run" is there; one that is not is started over. One of graph
distillation has kept a `portrait.safetensors` too: see `graphkd.portrait`.
"""

import json
import math
import platform
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from simulations.locks import held

Record = dict[str, Any]

PACKAGES = ("kdsim", "torch", "torch-geometric", "numpy", "scikit-learn", "ray", "flwr")
LOCK, EXPERIMENT, METRICS, REPORT = ".lock", "experiment.toml", "metrics.jsonl", "report.html"
PORTRAIT = "portrait.safetensors"  # what pictures of a graph run are drawn from


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        path: the folder.
        experiment: its settings, flat.
        hash: of the settings.
        records: those of its rounds or epochs, and at last one of the run.
    """

    path: Path
    experiment: Record
    hash: str
    records: list[Record]

    @property
    def complete(self) -> bool:
        """Whether it ran to its end."""
        return any(record.get("record") == "run" for record in self.records)


def load(path: Path) -> list[Run]:
    """The run in a folder, or those in the folders below it, in the order of their names."""
    return [_load(found.parent) for found in sorted(Path(path).rglob("run.json"))]


def write(
    folder: Path, header: Mapping[str, Any], records: Iterable[Record], kept: int = 0
) -> Iterator[Record]:
    """Pass records on, each of them written and flushed before; what the folder held is replaced.

    Args:
        folder: of the run; made where it is not there.
        header: what `run.json` says, see `header`.
        records: those of a run.
        kept: the records of so many rounds stay: the run goes on from there.

    Raises:
        ValueError: another process is writing there.
    """
    with locked(folder):
        stay = _of_rounds(folder, kept)
        _replace(folder / "run.json", json.dumps(finite(header), indent=1) + "\n")
        _replace(folder / METRICS, "".join(line(record) + "\n" for record in stay))
        yield from _appended(folder / METRICS, records)


def _appended(path: Path, records: Iterable[Record]) -> Iterator[Record]:
    with path.open("a", encoding="utf-8") as file:
        for record in records:
            file.write(line(record) + "\n")
            file.flush()
            yield record


def header(
    settings: Mapping[str, Any], digest: str, device: str, threads: int, command: Sequence[str]
) -> Record:
    """What `run.json` says: what was run, with what, where and how."""
    return {
        "experiment": dict(settings),
        "hash": digest,
        "seed": settings["seed"],
        "versions": versions(),
        "device": device,
        "threads": threads,
        "command": shlex.join(command),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result may depend on, as far as installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def line(record: Mapping[str, Any]) -> str:
    """A record as one line of JSON."""
    return json.dumps(finite(record), allow_nan=False)


def finite(value: Any) -> Any:
    """The value with None in place of numbers that JSON does not have (NaN, infinity)."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made where it is not there; the lock ends with the process.

    Raises:
        ValueError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / LOCK):
        yield


def check(folder: Path, digests: Iterable[str]) -> None:
    """Raise ValueError for a folder that may not be written to: it holds something else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir() or not (folder / EXPERIMENT).is_file():
        what = "holds no experiment" if folder.is_dir() else "is no folder"
        raise ValueError(f"{folder} is there and {what}; name a new folder with --out")
    wanted = set(digests)
    for run in load(folder):
        if run.hash not in wanted:
            raise ValueError(
                f"{folder} holds a different experiment (its run {run.path.name} is none of this "
                "one's); name another folder with --out"
            )


def unfinished(folder: Path) -> Path:
    """The folder of the experiment that a folder of runs, or of one run, belongs to.

    Raises:
        ValueError: it holds no experiment, or one that has run to its end.
    """
    found = next((p for p in (folder, folder.parent) if (p / EXPERIMENT).is_file()), None)
    if found is None:
        raise ValueError(
            f"{folder} holds no experiment to resume; name a folder that `kdsim run`, `fed` or "
            "`graph` has written, such as those in runs/"
        )
    runs = load(folder)
    if (found / REPORT).is_file() and runs and all(run.complete for run in runs):
        raise ValueError(f"{folder} is finished; see {found / REPORT}, or start another run")
    return found


def command() -> list[str]:
    """The command line of this process, to be run again."""
    return ["kdsim", *sys.argv[1:]]


def head(folder: Path) -> Record:
    """What `run.json` says, see `header`."""
    found: Record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return found


def portrait(folder: Path) -> dict[str, np.ndarray] | None:
    """What pictures of a run are drawn from, by name (`graphkd.portrait`), if it has kept that.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / PORTRAIT
    try:
        return load_file(path) if path.is_file() else None
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it to do without its pictures, or the folder of "
            "the run to run it again"
        ) from None


def _load(folder: Path) -> Run:
    said = head(folder)
    metrics = folder / "metrics.jsonl"
    lines = (
        metrics.read_text(encoding="utf-8").splitlines(keepends=True) if metrics.exists() else []
    )
    whole = [text for text in lines if text.endswith("\n")]  # the last may be cut off in a crash
    return Run(folder, said["experiment"], said["hash"], [json.loads(text) for text in whole])


def _of_rounds(folder: Path, kept: int) -> list[Record]:
    """The records of the first rounds that a folder holds."""
    if not kept or not (folder / "run.json").is_file():
        return []
    records = _load(folder).records
    return [r for r in records if r["record"] == "round" and r["round"] <= kept]


def _replace(path: Path, text: str) -> None:
    """Write a file so that it is there as a whole or not at all."""
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
