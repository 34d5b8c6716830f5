"""The command's ears and mouth: it runs experiments, and prints what comes of them.

Progress and a line for each run go to standard error; records, tables and verdicts to standard
output.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from simulations import process
from simulations.config import files
from simulations.errors import Stopped, users_input
from simulations.execution import batch as batches
from simulations.execution import tuning
from simulations.execution.batch import Batch, Options
from simulations.execution.scheduler import ClusterLostError, Job
from simulations.execution.tuning import Trial, Tuning
from simulations.results import run_folder
from simulations.results.run_folder import Record
from simulations.results.summary import summaries

PLAIN: dict[str, Any] = {"highlight": False, "markup": False}  # brackets are the user's


ERRORS = Console(stderr=True, soft_wrap=True, **PLAIN)


@dataclass(frozen=True)
class Display:
    """What is printed on standard output.

    Attributes:
        json: records, not tables.
        hide: of this algorithm nothing, as it only is another one's baseline.
    """

    json: bool = False
    hide: str | None = None


def execute(
    document: files.Document,
    source: str,
    name: str,
    options: Options,
    display: Display,
    text: str = "",
) -> int:
    """Run the experiments of a document and print what comes of them; see `batch.opened`.

    Returns:
        The exit status: 0, or 1 if a run failed.
    """
    with ExitStack() as held:
        with users_input():
            opened = batches.opened(document, source, name, options, text)
            batch = held.enter_context(opened)
        failed = _run(batch, display)
        _finish(batch, display)
    return process.FAILED if failed else 0


def _run(batch: Batch, display: Display) -> int:
    """Run what is not complete, with a progress bar; the number of runs that failed."""
    for job in batch.done:
        for record in run_folder.load(job.folder)[0].records:
            _show(job, record, display)
    total = len(batch.jobs)
    if batch.done:
        ERRORS.print(f"{len(batch.done)} of {total} runs are done already, in {batch.out}")
    try:
        return _listen(batch, display)
    except KeyboardInterrupt:
        raise Stopped(
            f"stopped; {len(batch.complete)} of {total} runs are done and kept in {batch.out}; "
            "the same command goes on from there"
        ) from None
    except ClusterLostError as error:
        raise click.ClickException(
            f"{error}; {len(batch.complete)} of {total} runs are done and kept in {batch.out}; "
            "start the cluster, and the same command goes on from the newest checkpoints"
        ) from None


def _listen(batch: Batch, display: Display) -> int:
    """Show records as they come, and a line for each finished run; how many runs failed."""
    failed, printed = 0, set[str]()
    with closing(batches.run(batch)) as records, progress_bar(not ERRORS.is_terminal) as progress:
        bar = progress.add_task("", total=len(batch.jobs), completed=len(batch.done))
        for job, record in records:
            _show(job, record, display)
            progress.update(bar, description=status(job, record))
            for note in record.get("notes", ()):
                if note not in printed:  # the same is true of other seeds and methods
                    progress.console.print(f"{_who(job)}: {note}")
                printed.add(note)
            if record["record"] == "placed":
                progress.console.print(f"{_who(job)}: on {_place(record)}")
            if record["record"] in ("run", "failed"):
                progress.console.print(_line(job, record))
                progress.advance(bar)
            failed += record["record"] == "failed"
    return failed


def tune(document: files.Document, source: str, name: str, options: Options, json: bool) -> int:
    """Search settings of the algorithms of a document, and print what is best.

    Returns:
        The exit status: 0, or 1 if a run failed.
    """
    with ExitStack() as held:
        with users_input():
            search = held.enter_context(tuning.opened(document, source, name, options))
        trials: list[Trial] = []
        try:
            with users_input():
                failed = _search(search, trials, json)
        except KeyboardInterrupt:
            raise Stopped(
                f"stopped; {len(trials)} trials are done and kept in {search.out}; the same "
                "command goes on from there"
            ) from None
        except ClusterLostError as error:
            raise click.ClickException(
                f"{error}; {len(trials)} trials are done and kept in {search.out}; start the "
                "cluster, and the same command goes on from there"
            ) from None
        with users_input():
            best = search.keep(trials)
        if not json:
            _print_best(search, trials, best)
        ERRORS.print(f"all trials: {search.out / tuning.TABLE}")
        ERRORS.print(f"the best: kdsim run {search.out / tuning.BEST}")
    return process.FAILED if failed else 0


def _search(search: Tuning, trials: list[Trial], json: bool) -> int:
    """The trials, with a progress bar and a line for each; how many runs failed."""
    failed = 0
    with progress_bar(disable=not ERRORS.is_terminal) as progress:
        bar = progress.add_task("", total=search.search.how.trials * len(search.studies))

        def listen(batch: Batch) -> None:
            nonlocal failed
            for job, record in batches.run(batch):
                progress.update(bar, description=status(job, record))
                if record["record"] == "failed":
                    progress.console.print(_line(job, record))
                    failed += 1

        for one in search.run(listen):
            trials.append(one)
            progress.advance(bar)
            if json:
                print(run_folder.line(one.record), flush=True)
            else:
                progress.console.print(f"{one.method}, trial {one.number}: {one.shown}, {one.said}")
    return failed


def _print_best(search: Tuning, trials: Sequence[Trial], best: Mapping[str, Trial]) -> None:
    """A row for each method: the best of its trials, and the one that has the file's settings."""
    table = Table(box=SIMPLE_HEAD)
    metric = next(iter(best.values())).metric
    for title in ("method", "trials", metric, "trial 0", "settings"):
        table.add_column(title, justify="left" if title in ("method", "settings") else "right")
    for name, one in best.items():
        own = [trial for trial in trials if trial.method == name]
        table.add_row(name, str(len(own)), one.shown, own[0].shown, one.said)
    Console(file=sys.stdout, **PLAIN).print(table)
    for study in search.studies:
        shares = [f"{key} {100 * share:.0f} %" for key, share in study.importance().items()]
        if shares:
            print(f"{study.learner.name}: importance (fANOVA) {', '.join(shares)}")


def _finish(batch: Batch, display: Display) -> None:
    """Summaries or tables, and the report."""
    complete = batch.complete
    heads = [run_folder.head(folder) for folder in complete]
    if batch.remote:
        ERRORS.print(table_of_places(heads))
    for line in choices(heads):
        ERRORS.print(line)
    runs = [run for folder in complete for run in run_folder.load(folder)]
    if not runs:
        return
    if display.json:
        for summary in summaries(runs):
            if summary["method"] != display.hide:
                print(run_folder.line(summary), flush=True)
    else:
        print_tables(runs)
        print_verdicts(runs)
    from simulations.reporting.report import write_report
    from simulations.results.tables import in_bytes

    if size := sum(file.stat().st_size for file in _weights(complete)):
        said = f"final weights: {in_bytes(size)} in {batch.out}"
        ERRORS.print(f"{said}; --set resources.weights=0 keeps none")
    ERRORS.print(f"report: {write_report(complete, batch.out)}")


def choices(heads: Sequence[Record]) -> list[str]:
    """What the engine auto has chosen for runs: a line for each way, with all that ran so."""
    found: dict[str, list[str]] = {}
    for head in heads:
        for group, way in head.get("engine", {}).items():
            found.setdefault(way, []).append(group)
    return [f"engine auto: {', '.join(dict.fromkeys(who))}: {way}" for way, who in found.items()]


def _weights(complete: Sequence[Path]) -> list[Path]:
    found = [folder / run_folder.WEIGHTS for folder in complete]
    return [path for path in found if path.is_file()]


def progress_bar(disable: bool) -> Progress:
    """A bar of runs on standard error."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    return Progress(*columns, console=ERRORS, transient=True, disable=disable)


def _show(job: Job, record: Record, display: Display) -> None:
    """Print a record as a line of JSON, with the run that it belongs to."""
    if display.json and job.experiment.name != display.hide:
        who = {"method": job.experiment.name, "seed": job.experiment.seed}
        print(run_folder.line({"record": record["record"], **who, **record}), flush=True)


def status(job: Job, record: Record) -> str:
    """What a run is at."""
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
    if "accuracy" not in record["metrics"] and record["metrics"]:  # of other targets, and recipes
        name, value = next(iter(record["metrics"].items()))
    text = "undefined" if value is None else f"{value:.3g}"
    if name.startswith(("accuracy", "f1_macro", "auc")) and value is not None:
        text = f"{100 * value:.1f} %"
    if "diverged" in record:
        text = "–"  # what it has come to is no accuracy
    lost = f"; DIVERGED: {record['diverged']}" if "diverged" in record else ""
    return f"{who}: {name} {text}, {record['seconds']:.1f} s{lost}"


def print_tables(runs: Sequence[run_folder.Run]) -> None:
    """The tables of the report, as far as a terminal has room."""
    from simulations.results.tables import tables

    console = Console(file=sys.stdout, **PLAIN)
    for one in tables(runs):
        console.print(terminal_table(one), crop=False)  # rather a long line than one column less
    for run in runs:
        if why := next((r["diverged"] for r in run.records if "diverged" in r), None):
            console.print(f"DIVERGED: {run.path.name}: {why}", soft_wrap=True)
    console.print("Mean ± sample standard deviation over seeds, at the end of each run.")


def terminal_table(one: Any) -> Table:
    """A table (`simulations.results.tables.Table`), as far as a terminal has room."""
    kept = {0: "method", 1: "seeds"}
    kept |= {i: COLUMNS[c.metric] for i, c in enumerate(one.columns, 2) if _fits(c)}
    table = Table(title=one.title, title_justify="left", box=SIMPLE_HEAD)
    for place, title in kept.items():
        cells = [row[place] for row in one.body] if place else []  # labels may be long, and wrap
        word = max(len(word) for text in (title, *cells) for word in text.split())  # is never cut
        side: Literal["left", "right"] = "right" if place else "left"
        # By the end of a setting rows are told apart, so a long one goes on in the next line.
        table.add_column(title, justify=side, min_width=word, overflow="fold")
    for row in one.body:
        table.add_row(*(row[place] for place in kept))
    return table


def print_verdicts(runs: Sequence[run_folder.Run]) -> None:
    """What the runs of recipes say of what their files claim."""
    for line in verdicts(runs):
        print(line)


def verdicts(runs: Sequence[run_folder.Run]) -> list[str]:
    """What the runs of recipes say of what their files claim, in lines."""
    from simulations.survey import experiments as survey_experiments
    from simulations.survey import page

    names = {run.experiment.get("recipe") for run in runs}
    said: list[str] = []
    for name in (name for name in survey_experiments.names() if name in names):
        found = page.measured(survey_experiments.document(name), runs)
        said += page.findings_of(name, found) if found else []
    return said


def table_of_places(heads: Sequence[Record], most: int = 40) -> Table:
    """What ran where on a cluster: each run, and each of its actors."""
    table = Table("run", "node", "cores", "GPUs", "on GPU", title="Where it ran", box=SIMPLE_HEAD)
    rows = [row for head in heads if "placed" in head for row in _rows(head)]
    for row in rows[:most]:
        table.add_row(*row)
    if len(rows) > most:
        table.add_row(f"and {len(rows) - most} more: see run.json", "", "", "", "")
    return table


def _rows(head: Record) -> list[list[str]]:
    about, where = head["experiment"], head["placed"]
    named = about.get("algorithm") or about.get("method") or about.get("recipe")
    run = f"{named} seed {about['seed']}"
    rows = [[run, f"{where['node']} ({where['host']})", *_amounts(where)]]
    actors = [[f"{run}: an actor", one["node"], *_amounts(one)] for one in where.get("actors", ())]
    return rows + actors


def _place(where: Record) -> str:
    cpus, gpus, which = _amounts(where)
    on = f" (GPU {which})" if which else ""
    return f"{where['node']} ({where['host']}) with {cpus} CPU cores and {gpus} GPUs{on}"


def _amounts(where: Record) -> list[str]:
    which = ", ".join(map(str, where["gpus"]))
    return [f"{where['share']['cpus']:g}", f"{where['share']['gpus']:g}", which]


def _fits(column: Any) -> bool:
    return column.metric in COLUMNS and not column.minus


COLUMNS = {
    "accuracy": "test accuracy (%)",
    "accuracy_local": "on own data (%)",
    "rmse": "test RMSE",
    "rmse_local": "on own data",
    "f1_macro": "test macro-F1 (%)",
    "f1_macro_local": "on own data (%)",
    "perplexity": "test perplexity",
    "perplexity_local": "on own data",
    "accuracy_baseline": "without teacher (%)",
    "accuracy_teacher": "teacher (%)",
    "r2": "test R² (%)",
    "r2_baseline": "without teacher (%)",
    "r2_teacher": "teacher (%)",
    "auc": "test AUC (%)",
    "auc_baseline": "without teacher (%)",
    "auc_teacher": "teacher (%)",
    "hits20": "test Hits@20 (%)",
    "epsilon_record_add": "epsilon, record",
    "epsilon_client_add": "epsilon, client",
    "epsilon_client_replace": "epsilon, client",
    "epsilon_label_replace": "epsilon, label",
    "delta": "at delta",
    "bytes_up": "sent up",
    "bytes_down": "down",
}
