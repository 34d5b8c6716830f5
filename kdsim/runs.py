"""Runs that are there: as objects, as a frame with a row for each, as a table over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulations.results import run_folder
from simulations.results.run_folder import Run

if TYPE_CHECKING:
    import pandas as pd

ABOUT = ("method", "kind", "data", "protocol", "seed")  # the first columns of a frame


@dataclass(frozen=True)
class Runs:
    """The runs of an experiment, or of several.

    Attributes:
        runs: in the order of their folders, also those that have not run to their end.
        folder: what holds them all.
    """

    runs: tuple[Run, ...]
    folder: Path

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, index: int) -> Run:
        return self.runs[index]

    @property
    def complete(self) -> list[Run]:
        """Those that have run to their end."""
        return [run for run in self.runs if run.complete]

    @property
    def report(self) -> Path:
        """The path of the page about them, which is written if it is not there."""
        page = self.folder / run_folder.REPORT
        whole = len(self.runs) == len(list(self.folder.rglob(run_folder.HEAD)))
        if page.is_file() and whole:
            return page
        from simulations.reporting.report import write_report

        return write_report([run.path for run in self.complete], self.folder)

    def frame(self) -> pd.DataFrame:
        """A row for each run that is complete.

        Columns: method, kind, data, protocol and seed; the settings in which the runs differ; the
        metrics at the end, shares as shares; the run's folder.
        """
        import pandas as pd

        rows = [_row(run) for run in self.complete]
        differ = _differing([run.experiment for run in self.complete])
        for row, run in zip(rows, self.complete, strict=True):
            own = {key: _cell(run.experiment[key]) for key in differ if key in run.experiment}
            row["settings"] = {_free(key, row): value for key, value in own.items()}
        names = [f"{name}" for row in rows for name in row["settings"]]
        metrics = [name for row in rows for name in row["metrics"]]
        columns = list(dict.fromkeys([*ABOUT, *names, *metrics, "folder"]))
        flat = [row["about"] | row["settings"] | row["metrics"] for row in rows]
        return pd.DataFrame(flat, columns=columns)

    def table(self) -> pd.DataFrame:
        """A row for each setting: mean and sample standard deviation over seeds of each metric.

        The index is method, data, protocol and the settings that differ; the columns are pairs
        (metric, "mean"), (metric, "std") and, at first, ("seeds", "n").
        """
        import pandas as pd

        frame = self.frame()
        metrics = list(
            dict.fromkeys(name for run in self.complete for name in _end(run)["metrics"])
        )
        keys = [c for c in frame.columns if c not in {*metrics, "seed", "kind", "folder"}]
        groups = frame.groupby(keys, sort=False, dropna=False)
        seeds = groups["seed"].count().rename(("seeds", "n"))
        spread = groups[metrics].agg(["mean", "std"])
        return pd.concat([pd.DataFrame(seeds), spread], axis=1)

    def __repr__(self) -> str:
        done = len(self.complete)
        methods = ", ".join(dict.fromkeys(str(_end(run)["method"]) for run in self.complete))
        return f"<{len(self)} runs in {self.folder}, {done} complete: {methods}>"

    def _repr_html_(self) -> str:
        """The tables of the report, for notebooks."""
        import pandas as pd

        from simulations.results.tables import tables

        parts = []
        for one in tables(self.complete):
            found = pd.DataFrame(one.body, columns=one.header).to_html(index=False)
            parts.append(f"{pd.DataFrame([one.title]).to_html(index=False, header=False)}{found}")
        return "\n".join(parts)


def load(*folders: Path | str) -> Runs:
    """The runs in folders, or in folders below them.

    Raises:
        ValueError: a folder is missing or holds no run, or a file is damaged; it is named.
    """
    if not folders:
        raise ValueError("name at least one folder of runs, such as load('runs/mine')")
    return of([Path(folder) for folder in folders])


def of(folders: Iterable[Path]) -> Runs:
    """The runs in folders that are there."""
    import os

    paths = list(folders)
    found: dict[Path, Run] = {}
    for path in paths:
        there = run_folder.load(path) if path.is_dir() else []
        if not there:
            what = "holds no run" if path.is_dir() else "is no folder"
            raise ValueError(f"{path} {what}; name one that `kdsim run` or kdsim.run has written")
        found |= {run.path.resolve(): run for run in there}
    one = len(paths) == 1
    whole = paths[0] if one else Path(os.path.commonpath([path.resolve() for path in paths]))
    return Runs(tuple(found.values()), whole)


def _end(run: Run) -> dict[str, Any]:
    """The record of the whole run."""
    return next(record for record in run.records if record.get("record") == "run")


def _row(run: Run) -> dict[str, Any]:
    end = _end(run)
    return {
        "about": {name: end[name] for name in ABOUT} | {"folder": str(run.path)},
        "metrics": end["metrics"],
        "settings": {},
    }


def _free(key: str, row: dict[str, Any]) -> str:
    """The setting's name, if no metric has it."""
    return f"setting {key}" if key in row["metrics"] else key


def _differing(experiments: list[dict[str, Any]]) -> list[str]:
    """The settings that not all runs which have them have alike."""
    told = {*ABOUT, "algorithm", "recipe"}
    seen: dict[str, list[Any]] = {}
    for one in experiments:
        for key, value in one.items():
            seen.setdefault(key, []).append(value)
    return [k for k, found in seen.items() if k not in told and any(v != found[0] for v in found)]


def _cell(value: Any) -> Any:
    """A value that can be grouped by."""
    return ",".join(map(str, value)) if isinstance(value, list) else value
