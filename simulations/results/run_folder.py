"""Run folders: what was run in `run.json`, what came out in `metrics.jsonl`, one record a line.

A run is complete when its record "run" is there; one that is not is started over, or goes on from
its newest checkpoint. One of graph distillation has kept a `portrait.safetensors` too: see
`graphkd.evaluation.predictions`. What it ended with is in `weights.safetensors`: see
`fedkd.storage.weights`. What is damaged is refused by name, and nothing is made of it.
"""

import itertools
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

from fedkd.storage import atomic_files
from kdcore.references import Source
from simulations.results.columns import PRIMARY
from simulations.results.locks import held

Record = dict[str, Any]

PACKAGES = ("kdsim", "torch", "torch-geometric", "numpy", "scikit-learn", "ray", "flwr")
HEAD, METRICS, ERROR = "run.json", "metrics.jsonl", "error.txt"  # in the folder of a run
LOCK, EXPERIMENT, REPORT = ".lock", "experiment.toml", "report.html"  # in that of all runs
PREDICTIONS = "portrait.safetensors"  # what pictures of a graph run are drawn from
WEIGHTS = "weights.safetensors"  # what it ended with (`fedkd.storage.weights`)
PATIENCE = 20.0  # seconds in which workers end whose driver was killed

# What records and the head of a run cannot do without, by the record's kind.
NEEDS: dict[str, dict[str, type]] = {
    "round": {"round": int},
    "epoch": {"epoch": int},
    "run": dict.fromkeys(("kind", "method", "data", "protocol"), str)
    | {"seed": int, "metrics": dict},
}


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
    """The run in a folder, or those in the folders below it, in the order of their names.

    Raises:
        ValueError: a file of theirs is damaged; the message names it.
    """
    return [_load(found.parent) for found in sorted(Path(path).rglob(HEAD))]


def write(
    folder: Path, header: Mapping[str, Any], records: Iterable[Record], kept: int = 0
) -> Iterator[Record]:
    """Pass records on, each of them written and flushed before; what the folder held is replaced.

    Args:
        folder: of the run, `locked`.
        header: what `run.json` says, see `header`.
        records: those of a run.
        kept: the records of so many rounds stay: the run goes on from there.

    Raises:
        OSError: a file cannot be written.
    """
    stay = rounds(folder, kept)
    write_head(folder, header)
    atomic_files.write(folder / METRICS, "".join(line(record) + "\n" for record in stay))
    yield from _appended(folder / METRICS, records)


def write_head(folder: Path, header: Mapping[str, Any]) -> None:
    """Write what `run.json` says, see `header`."""
    atomic_files.write(folder / HEAD, json.dumps(finite(header), indent=1) + "\n")


def rounds(folder: Path, last: int) -> list[Record]:
    """The records of the first rounds of a run, up to the last one that is asked for."""
    return [record for record in _rounds(folder) if record["round"] <= last] if last else []


def _appended(path: Path, records: Iterable[Record]) -> Iterator[Record]:
    for record in records:
        with atomic_files.naming(path), path.open("a", encoding="utf-8") as file:
            file.write(line(record) + "\n")
        yield record


def settle(folder: Path) -> None:
    """Force the records of a run to the disk: no checkpoint may outlive its rounds."""
    path = folder / METRICS
    if path.is_file():
        with atomic_files.naming(path):
            atomic_files.flush(path)


def written(folder: Path) -> int:
    """How many rounds a run has the records of, from the first on without a gap."""
    there = {record["round"] for record in _rounds(folder)}
    return next(count for count in itertools.count() if count + 1 not in there)


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
def locked(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold a folder, which is made where it is not there; the lock ends with the process.

    Args:
        folder: to be held.
        patience: seconds to wait for another process to let go.

    Raises:
        ValueError: another process holds it.
        OSError: it cannot be written to.
    """
    with atomic_files.naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with held(folder / LOCK, patience):
        yield


def check(folder: Path, digests: Iterable[str]) -> None:
    """Raise ValueError for a folder that may not be written to: it holds something else.

    What was stopped before it had written its experiment has left a lock, or a draft: no more than
    an empty folder.
    """
    if not folder.exists() or (folder.is_dir() and all(map(_is_trace, folder.iterdir()))):
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


def _is_trace(path: Path) -> bool:
    return path.name == LOCK or path.name.startswith(atomic_files.DRAFT)


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
    """What `run.json` says, see `header`.

    Raises:
        ValueError: it is damaged.
    """
    path = folder / HEAD
    found = _parsed(path, path.read_bytes())
    about = found.get("experiment")
    if not isinstance(about, dict) or not _has(about, {"kind": str, "seed": int}):
        raise _damaged(path, "it does not say which experiment this is")
    if not _has(found, {"hash": str}):
        raise _damaged(path, "it has no hash")
    return found


def sources(folder: Path) -> dict[Path, tuple[Path, dict[str, Source]]]:
    """Of runs with code of the user's: the folder they were started in, and each one's source.

    Raises:
        ValueError: a file is damaged.
    """
    found = {}
    for path in sorted(folder.rglob(HEAD)):
        said = head(path.parent)
        if "sources" not in said:
            continue
        try:
            own = {place: Source(**one) for place, one in said["sources"].items()}
            found[path.parent] = Path(said["working_folder"]), own
        except (AttributeError, KeyError, TypeError) as error:
            raise _damaged(path, f"its sources cannot be read: {error}") from None
    return found


def predictions(folder: Path) -> dict[str, np.ndarray] | None:
    """What pictures of a run are drawn from (`graphkd.evaluation.predictions`), if it was kept.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / PREDICTIONS
    try:
        return atomic_files.load(path)[0] if path.is_file() else None
    except ValueError as error:
        raise ValueError(
            f"{error}; delete it to do without its pictures, or the folder of the run to run it "
            "again"
        ) from None


def _load(folder: Path) -> Run:
    said = head(folder)
    return Run(folder, said["experiment"], said["hash"], _records(folder))


def _rounds(folder: Path) -> list[Record]:
    return [record for record in _records(folder) if record["record"] == "round"]


def _records(folder: Path) -> list[Record]:
    path = folder / METRICS
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    whole = [text for text in lines if text.endswith(b"\n")]  # the last may be cut off in a crash
    found = [_parsed(path, text, f"line {number}: ") for number, text in enumerate(whole, 1)]
    for number, record in enumerate(found, 1):
        what = record.get("record")
        if not isinstance(what, str) or not _has(record, NEEDS.get(what, {})):
            raise _damaged(path, f"line {number} is no record of a run")
        for key, value in _scores(record).items():
            if value is not None and not _has({key: value}, {key: (int, float)}):
                raise _damaged(path, f"line {number}: {key} is {value!r} and no number")
    return found


def _scores(record: Record) -> Record:
    """What was measured, and is reckoned with: all metrics of a run, of a round what it scores."""
    if record["record"] == "run":
        return dict(record["metrics"])
    return {key: value for key, value in record.items() if key.startswith(tuple(PRIMARY))}


def _parsed(path: Path, text: bytes, where: str = "") -> Record:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"{where}{error}") from None
    if not isinstance(found, dict):
        raise _damaged(path, f"{where}no object")
    return found


def _has(record: Record, needed: Mapping[str, type | tuple[type, ...]]) -> bool:
    """Whether it has all that is needed, of the right kind: True is no number here."""
    return all(
        isinstance(record.get(key), kind) and not isinstance(record.get(key), bool)
        for key, kind in needed.items()
    )


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(
        f"{path} is damaged ({why}); put back what was there, or delete {path.parent} to run it "
        "again"
    )
