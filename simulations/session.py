"""One call of the command: check, run what is not there yet, show it, sum it up, report."""

import errno
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fedkd import files
from simulations import config, grid, process, scheduler, store
from simulations.scheduler import Job
from simulations.store import Record
from simulations.summary import summaries

# A disk that is full or broken, and a pipe that nobody reads, are nobody's mistake.
NOT_THEIRS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE}
PLAIN = {"highlight": False, "markup": False}  # brackets are the user's
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


class Mistake(click.ClickException):
    """The user's input is wrong; its one line says what, and the way out."""

    exit_code = process.WRONG


class Stopped(click.ClickException):
    """The user stopped it, or the system."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.exit_code = process.stopped()


@contextmanager
def users_input() -> Iterator[None]:
    """What goes wrong in here is the user's input."""
    try:
        yield
    except RecursionError as error:
        raise Mistake("lists or tables in the input are nested too deep to be read") from error
    except (ValueError, OSError) as error:
        if getattr(error, "errno", None) in NOT_THEIRS:
            raise
        raise Mistake(" ".join(str(error).split())) from error


def execute(
    document: grid.Document, source: str, name: str, options: Options, text: str = ""
) -> int:
    """Run the experiments of a document and print what came out.

    Args:
        document: of an experiment file, or the like.
        source: what to call it in messages.
        name: of the folder, if none is given.
        options: see there.
        text: of the file, comments and all, which is kept; by default the document as TOML.

    Returns:
        The exit status: 0, or 1 if a run failed.
    """
    with ExitStack() as held:
        with users_input():
            experiments = grid.expand(document, source)
            resources = grid.resources(document, source)
            _check_share(experiments, resources)
            scheduler.check(experiments, options.root, options.download, resources)
            out = options.out or Path("runs") / f"{name}-{config.digest_all(experiments)[:8]}"
            store.check(out, map(config.digest, experiments))
            held.enter_context(store.locked(out))
            files.sweep(out)
            jobs = [
                Job(e, out / config.folder_name(e), options.root, resources, tuple(store.command()))
                for e in experiments
            ]
            scheduler.check_kept(job for job in jobs if not _complete(job.folder))
            files.write(out / store.EXPERIMENT, text or grid.dump(document))
        failed = _run(jobs, options)
        _finish(out, [job.folder for job in jobs], options)
    return 1 if failed else 0


def _check_share(experiments: Sequence[config.Experiment], resources: grid.Resources) -> None:
    """Raise ValueError for a share of a GPU that this machine lacks; a cluster looks for itself."""
    here = [
        e for e in experiments if getattr(e, "engine", "") != "ray" or not resources.ray_address
    ]
    if resources.gpus and here:
        import torch

        if resources.gpus > torch.cuda.device_count():
            raise ValueError(
                f"gpus is {resources.gpus:g}, and this machine has {torch.cuda.device_count()} "
                "that PyTorch can use; ask for fewer, or see `kdsim doctor`"
            )


def _run(jobs: Sequence[Job], options: Options) -> int:
    """Run what is not complete, with a progress bar; the number of runs that failed."""
    out = jobs[0].folder.parent
    done = [job for job in jobs if _complete(job.folder)]
    for job in done:
        for record in store.load(job.folder)[0].records:
            _show(job, record, options)
    if done:
        ERRORS.print(f"{len(done)} of {len(jobs)} runs are done already, in {out}")
    left = [job for job in jobs if job not in done]
    failed = 0
    try:
        for record in _with_progress(left, options, len(done)):
            failed += record["record"] == "failed"
    except KeyboardInterrupt:
        kept = sum(_complete(job.folder) for job in jobs)
        raise Stopped(
            f"stopped; {kept} of {len(jobs)} runs are done and kept in {out}; the same command "
            "goes on from there"
        ) from None
    return failed


def _with_progress(jobs: Sequence[Job], options: Options, done: int) -> Iterator[Record]:
    """The records of the jobs, shown as they come, with a line for each finished run."""
    if not jobs:
        return
    workers = scheduler.workers_for(jobs[0].resources, options.workers)
    patience = 0.0 if options.workers else scheduler.PATIENCE
    with _progress() as progress:
        bar = progress.add_task("", total=done + len(jobs), completed=done)
        for job, record in scheduler.run(jobs, workers, patience):
            _show(job, record, options)
            progress.update(bar, description=_status(job, record))
            for note in record.get("notes", ()):
                progress.console.print(f"{_who(job)}: {note}")
            if record["record"] in ("run", "failed"):
                progress.console.print(_line(job, record))
                progress.advance(bar)
            yield record


def _progress() -> Progress:
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    return Progress(*columns, console=ERRORS, transient=True, disable=not ERRORS.is_terminal)


def _complete(folder: Path) -> bool:
    return (folder / "run.json").is_file() and store.load(folder)[0].complete


def _show(job: Job, record: Record, options: Options) -> None:
    """Print a record as a line of JSON, with the run that it belongs to."""
    if options.json and job.experiment.name != options.hide:
        who = {"method": job.experiment.name, "seed": job.experiment.seed}
        print(store.line({"record": record["record"], **who, **record}), flush=True)


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


def _finish(out: Path, folders: Sequence[Path], options: Options) -> None:
    """Summaries or tables, and the report."""
    complete = [folder for folder in folders if _complete(folder)]
    runs = [run for folder in complete for run in store.load(folder)]
    if not runs:
        return
    if options.json:
        for summary in summaries(runs):
            if summary["method"] != options.hide:
                print(store.line(summary), flush=True)
    else:
        print_tables(runs)
        print_verdicts(runs)
    from simulations.report import write_report

    ERRORS.print(f"report: {write_report(complete, out)}")


def print_tables(runs: Sequence[store.Run]) -> None:
    """The tables of the report, as far as a terminal has room."""
    from simulations.tables import tables

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


def print_verdicts(runs: Sequence[store.Run]) -> None:
    """What the runs of recipes say of what their files claim."""
    from simulations import cookbook, survey_page

    names = {run.experiment.get("recipe") for run in runs}
    for name in (name for name in cookbook.names() if name in names):
        found = survey_page.measured(cookbook.document(name), runs)
        for line in survey_page.findings_of(name, found) if found else []:
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
