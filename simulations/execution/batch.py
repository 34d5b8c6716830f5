"""One call of the command: check, run what is not there yet, show it, sum it up, report."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from fedkd.storage import atomic_files
from simulations import process
from simulations.config import experiments as config
from simulations.config import files, grid, identity
from simulations.config.resources import Resources, read_resources
from simulations.execution import scheduler
from simulations.execution.console import (
    ERRORS,
    Options,
    _line,
    _progress,
    _show,
    _status,
    _who,
    print_tables,
    print_verdicts,
)
from simulations.execution.scheduler import Job
from simulations.results import run_folder
from simulations.results.run_folder import Record
from simulations.results.summary import summaries

# A disk that is full or broken, and a pipe that nobody reads, are nobody's mistake.
NOT_THEIRS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE}


class UsageError(click.ClickException):
    """The user's input is wrong; its one line says what, and the way out."""

    exit_code = process.WRONG


class Stopped(click.ClickException):
    """The user stopped it, or the system."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.exit_code = process.stopped()  # type: ignore[misc]  # click reads the instance's


@contextmanager
def users_input() -> Iterator[None]:
    """What goes wrong in here is the user's input."""
    try:
        yield
    except RecursionError as error:
        raise UsageError("lists or tables in the input are nested too deep to be read") from error
    except (ValueError, OSError) as error:
        if getattr(error, "errno", None) in NOT_THEIRS:
            raise
        raise UsageError(" ".join(str(error).split())) from error


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
            resources = read_resources(document, source)
            _check_share(experiments, resources)
            scheduler.check(experiments, options.root, options.download, resources)
            out = options.out or Path("runs") / f"{name}-{identity.digest_all(experiments)[:8]}"
            run_folder.check(out, map(identity.digest, experiments))
            held.enter_context(run_folder.locked(out))
            atomic_files.sweep(out)
            jobs = [
                Job(
                    e,
                    out / identity.folder_name(e),
                    options.root,
                    resources,
                    tuple(run_folder.command()),
                )
                for e in experiments
            ]
            scheduler.check_kept(job for job in jobs if not _complete(job.folder))
            atomic_files.write(out / run_folder.EXPERIMENT, text or files.dump(document))
        failed = _run(jobs, options)
        _finish(out, [job.folder for job in jobs], options)
    return 1 if failed else 0


def _check_share(experiments: Sequence[config.Experiment], resources: Resources) -> None:
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
        for record in run_folder.load(job.folder)[0].records:
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


def _complete(folder: Path) -> bool:
    return (folder / "run.json").is_file() and run_folder.load(folder)[0].complete


def _finish(out: Path, folders: Sequence[Path], options: Options) -> None:
    """Summaries or tables, and the report."""
    complete = [folder for folder in folders if _complete(folder)]
    runs = [run for folder in complete for run in run_folder.load(folder)]
    if not runs:
        return
    if options.json:
        for summary in summaries(runs):
            if summary["method"] != options.hide:
                print(run_folder.line(summary), flush=True)
    else:
        print_tables(runs)
        print_verdicts(runs)
    from simulations.reporting.report import write_report

    ERRORS.print(f"report: {write_report(complete, out)}")
