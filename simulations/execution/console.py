"""What a run says on the terminal: progress, records, tables, verdicts."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from simulations.execution.scheduler import Job
from simulations.results import run_folder
from simulations.results.run_folder import Record

PLAIN: dict[str, Any] = {"highlight": False, "markup": False}  # brackets are the user's


ERRORS = Console(stderr=True, soft_wrap=True, **PLAIN)


@dataclass(frozen=True)
class Options:
    """How to run, where to, and what to print; nothing here changes a number.

    Attributes:
        out: the folder; by default one in `runs`, named after the experiments.
        root: the folder of data sets.
        workers: how many runs at once.
        json: print records, not tables.
        hide: of this algorithm nothing is printed, as it only is another one's baseline.
        download: whether missing graph data may be fetched.
    """

    out: Path | None = None
    root: Path | None = None
    workers: int | None = None
    json: bool = False
    hide: str | None = None
    download: bool = False


def _progress() -> Progress:
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    return Progress(*columns, console=ERRORS, transient=True, disable=not ERRORS.is_terminal)


def _show(job: Job, record: Record, options: Options) -> None:
    """Print a record as a line of JSON, with the run that it belongs to."""
    if options.json and job.experiment.name != options.hide:
        who = {"method": job.experiment.name, "seed": job.experiment.seed}
        print(run_folder.line({"record": record["record"], **who, **record}), flush=True)


def _status(job: Job, record: Record) -> str:
    place = record.get("round", record.get("epoch", ""))
    return f"{job.experiment.name} seed {job.experiment.seed} {record['record']} {place}"


def _who(job: Job) -> str:
    return f"{job.experiment.name} on {job.experiment.data}, seed {job.experiment.seed}"


def _line(job: Job, record: Record) -> str:
    """What is said of a finished run."""
    who = _who(job)
    if record["record"] == "failed":
        said = f"{who}: FAILED, {record['error']}"
        return said + (f" (see {record['traceback']})" if record["traceback"] else "")
    name, value = "accuracy", record["metrics"].get("accuracy")
    if "accuracy" not in record["metrics"] and record["metrics"]:  # a recipe measures its own
        name, value = next(iter(record["metrics"].items()))
    shown = "undefined" if value is None else f"{value:.3g}"
    if name.startswith("accuracy") and value is not None:
        shown = f"{100 * value:.1f} %"
    lost = f"; DIVERGED: {record['diverged']}" if "diverged" in record else ""
    return f"{who}: {name} {shown}, {record['seconds']:.1f} s{lost}"


def print_tables(runs: Sequence[run_folder.Run]) -> None:
    """The tables of the report, as far as a terminal has room."""
    from simulations.results.tables import tables

    console = Console(file=sys.stdout, **PLAIN)
    for one in tables(runs):
        kept = {0: "method", 1: "seeds"}
        kept |= {i: COLUMNS[c.metric] for i, c in enumerate(one.columns, 2) if _fits(c)}
        table = Table(title=one.title, title_justify="left", box=SIMPLE_HEAD)
        for place, title in kept.items():
            table.add_column(title, justify="left" if place == 0 else "right")
        for row in one.body:
            table.add_row(*(row[place] for place in kept))
        console.print(table)
    for run in runs:
        if why := next((r["diverged"] for r in run.records if "diverged" in r), None):
            console.print(f"DIVERGED: {run.path.name}: {why}", soft_wrap=True)
    console.print("Mean ± sample standard deviation over seeds, at the end of each run.")


def print_verdicts(runs: Sequence[run_folder.Run]) -> None:
    """What the runs of recipes say of what their files claim."""
    from simulations.survey import experiments as survey_experiments
    from simulations.survey import page

    names = {run.experiment.get("recipe") for run in runs}
    for name in (name for name in survey_experiments.names() if name in names):
        found = page.measured(survey_experiments.document(name), runs)
        for line in page.findings_of(name, found) if found else []:
            print(line)


def _fits(column: Any) -> bool:
    return column.metric in COLUMNS and not column.minus


COLUMNS = {
    "accuracy": "test accuracy (%)",
    "accuracy_local": "on own data (%)",
    "accuracy_baseline": "without teacher (%)",
    "accuracy_teacher": "teacher (%)",
    "bytes_up": "sent up",
    "bytes_down": "down",
}
