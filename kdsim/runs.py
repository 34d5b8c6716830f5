"""Runs that are there: as objects, as a frame with a row for each, as a table over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from kdsim import settings, trained
from kdsim.display import Tables, curves
from kdsim.record import Record
from simulations.config.schema import counted
from simulations.execution.console import verdicts
from simulations.results import run_folder
from simulations.results.columns import PRIMARY
from simulations.results.run_folder import Run
from simulations.runners.objects import NONE, Objects

if TYPE_CHECKING:
    import pandas as pd

ABOUT = ("method", "kind", "data", "protocol", "seed")  # the first columns of a frame


@dataclass(frozen=True)
class Runs:
    """The runs of an experiment, or of several.

    Attributes:
        runs: in the order of their folders, also those that have not run to their end.
        folder: what holds them all.
        given: data and models that were given as objects.
        data_root: the folder of data sets.
    """

    runs: tuple[Run, ...]
    folder: Path
    given: Objects = field(default=NONE, repr=False, compare=False)
    data_root: Path | None = None

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

    def model(
        self, method: str, *, seed: int = 0, client: int | None = None, **differs: Any
    ) -> nn.Module:
        """A trained network: that of a client, or of graph distillation the student.

        It is what the client would use after the last round (of FedAvg the average, of DS-FL the
        student that has digested the newest consensus), and what was scored then.

        Args:
            method: the algorithm's or method's name.
            seed: of the run.
            client: whose, in a federated run.
            differs: where runs of the method differ in settings, such as `alpha=0.1`.

        Raises:
            ValueError: no such run or client, several of them, or no weights were kept.
            FileNotFoundError: the graph that a student is for is not there.
        """
        asked = {key.replace("__", "."): value for key, value in differs.items()}
        run = trained.chosen(self.complete, method, seed, asked)
        return trained.network(run, client, self.given, self.data_root)

    def frame(self) -> pd.DataFrame:
        """A row for each round of each run, also of those that are not complete.

        Columns: method, kind, data and seed; the settings in which the runs differ; round, or of
        graphs phase and epoch, of recipes neither; accuracy, accuracy_local (of other targets rmse,
        f1_macro or perplexity) and all other numbers of the round; the run's folder. Rounds that
        were not evaluated have no accuracy.
        """
        import pandas as pd

        differ = _differing(self.runs)
        rows = [_about(run, differ) | row for run in self.runs for row in _steps(run)]
        names = _names(rows)
        compared = [name for metric in PRIMARY for name in (metric, f"{metric}_local")]
        first = [*ABOUT, *differ, "phase", "epoch", "round", *compared]
        last = [name for name in names if name not in (*first, "folder")]
        columns = [name for name in (*first, *last, "folder") if name in names]
        return pd.DataFrame(rows, columns=columns)

    def clients(self) -> pd.DataFrame:
        """A row for each client in each evaluated round of the federated runs.

        Columns: as `frame` has them up to round; client, group (its architecture), accuracy and
        accuracy_local (of other targets rmse, f1_macro or perplexity).
        """
        import pandas as pd

        differ = _differing(self.runs)
        rows = []
        for run in self.runs:
            for record in run.records:
                about = _about(run, differ) | {"round": record.get("round")}
                columns = record.get("clients", {})
                for client, values in enumerate(zip(*columns.values(), strict=True)):
                    rows.append(
                        about | {"client": client} | dict(zip(columns, values, strict=True))
                    )
        names = [name for name in _names(rows) if name != "folder"]
        first = [name for name in (*ABOUT, *differ, "round", "client") if name in names]
        return pd.DataFrame(rows, columns=list(dict.fromkeys([*first, *names])))

    def final(self) -> pd.DataFrame:
        """A row for each run that is complete.

        Columns: method, kind, data, protocol and seed; the settings in which the runs differ; the
        metrics at the end, shares as shares; the run's folder.
        """
        import pandas as pd

        rows = [_row(run) for run in self.complete]
        differ = _differing(self.complete)
        for row, run in zip(rows, self.complete, strict=True):
            known = trained.settings_of(run)
            own = {key: _cell(known[key]) for key in differ if key in known}
            row["settings"] = {_free(key, row): value for key, value in own.items()}
        by_folder = sorted(rows, key=lambda row: row["about"]["folder"])
        names = [f"{name}" for row in by_folder for name in row["settings"]]
        metrics = [name for row in by_folder for name in row["metrics"]]
        columns = list(dict.fromkeys([*ABOUT, *names, *metrics, "folder"]))
        flat = [row["about"] | row["settings"] | row["metrics"] for row in rows]
        return pd.DataFrame(flat, columns=columns)

    def table(self) -> Tables:
        """The tables of the report, to be printed or shown: mean ± standard deviation."""
        return Tables(self.complete)

    def verdicts(self) -> list[str]:
        """What runs of recipes (`kdsim list recipes`) say of what each claims, in lines."""
        return verdicts(self.complete)

    def summary(self) -> pd.DataFrame:
        """A row for each setting: mean and sample standard deviation over seeds of each metric.

        The index is method, data, protocol and the settings that differ; the columns are pairs
        (metric, "mean"), (metric, "std") and, at first, ("seeds", "n").
        """
        import pandas as pd

        frame = self.final()
        measured = {name for run in self.complete for name in _end(run)["metrics"]}
        metrics = [name for name in frame.columns if name in measured]
        keys = [c for c in frame.columns if c not in {*metrics, "seed", "kind", "folder"}]
        groups = frame.groupby(keys, sort=False, dropna=False)
        seeds = groups["seed"].count().rename(("seeds", "n"))
        spread = groups[metrics].agg(["mean", "std"])
        return pd.concat([pd.DataFrame(seeds), spread], axis=1)

    def __repr__(self) -> str:
        done = len(self.complete)
        methods = ", ".join(dict.fromkeys(str(_end(run)["method"]) for run in self.complete))
        return f"<{counted(len(self), 'run')} in {self.folder}, {done} complete: {methods}>"

    def _repr_html_(self) -> str:
        """Tables and curves of the report, for notebooks."""
        return Tables(self.complete)._repr_html_() + curves(self.complete)


def load(
    *folders: Path | str,
    data: Any = (),
    models: Any = (),
    data_root: Path | str | None = None,
) -> Runs:
    """The runs in folders, or in folders below them.

    Args:
        folders: that `kdsim run` or `kdsim.run` has written.
        data: what was given to `kdsim.run` as an object, to have `Runs.model` of such runs.
        models: likewise.
        data_root: the folder of data sets, by default $KDSIM_DATA or ~/.cache/kdsim.

    Raises:
        ValueError: a folder is missing or holds no run, or a file is damaged; it is named.
    """
    if not folders:
        raise ValueError("name at least one folder of runs, such as load('runs/mine')")
    found = of([Path(folder) for folder in folders])
    root = None if data_root is None else Path(data_root).expanduser()
    return replace(found, given=settings.named({"data": data, "models": models})[1], data_root=root)


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
        found |= {run.path.resolve(): _with_attributes(run) for run in there}
    one = len(paths) == 1
    whole = paths[0] if one else Path(os.path.commonpath([path.resolve() for path in paths]))
    return Runs(tuple(found.values()), whole)


def _with_attributes(run: Run) -> Run:
    return replace(run, records=[Record(record) for record in run.records])


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


def _about(run: Run, differ: Iterable[str]) -> dict[str, Any]:
    """The columns that are the same in all rows of a run."""
    known = trained.settings_of(run)
    data = known.get("data") or next((r["data"] for r in run.records if "data" in r), None)
    about = {"method": trained.method_of(run), "kind": known["kind"], "data": data}
    about |= {"seed": known["seed"], "folder": str(run.path)}
    return about | {key: _cell(known[key]) for key in differ if key in known}


def _steps(run: Run) -> list[dict[str, Any]]:
    """The numbers of each round or epoch; of a recipe, which has none, those of the run."""
    found = [record for record in run.records if record.get("record") in ("round", "epoch")]
    if not found and run.complete:
        return [dict(_end(run)["metrics"])]
    kinds = (int, float, str, type(None))
    return [
        {key: value for key, value in one.items() if isinstance(value, kinds) and key != "record"}
        for one in found
    ]


def _names(rows: Iterable[dict[str, Any]]) -> list[str]:
    """The columns of a table, as they come by folder: whatever the order of the runs."""
    by_folder = sorted(rows, key=lambda row: row["folder"])
    return list(dict.fromkeys(name for row in by_folder for name in row))


def _free(key: str, row: dict[str, Any]) -> str:
    """The setting's name, if no metric has it."""
    return f"setting {key}" if key in row["metrics"] else key


def _differing(runs: Iterable[Run]) -> list[str]:
    """The settings that not all runs which have them have alike, whatever the order of the runs."""
    elsewhere = {*ABOUT, "algorithm", "recipe"}
    seen: dict[str, list[Any]] = {}
    for run in sorted(runs, key=lambda run: run.path):
        for key, value in trained.settings_of(run).items():
            seen.setdefault(key, []).append(value)
    return [
        k for k, found in seen.items() if k not in elsewhere and any(v != found[0] for v in found)
    ]


def _cell(value: Any) -> Any:
    """A value that can be grouped by."""
    return ",".join(map(str, value)) if isinstance(value, list) else value
