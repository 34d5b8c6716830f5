"""All runs of one experiment: checked, run where they are not there yet, reported. Says nothing.

Who wants to hear of it goes through what `run` yields: `console` prints it, a notebook may listen.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress
from operator import not_
from pathlib import Path

from fedkd.storage import atomic_files
from kdcore.references import Source
from simulations.config import experiments as config
from simulations.config import files, grid, identity, sources
from simulations.config.resources import Resources
from simulations.execution import scheduler
from simulations.execution.scheduler import Job
from simulations.results import run_folder, trackers
from simulations.results.run_folder import Record
from simulations.runners.objects import NONE, Objects


@dataclass(frozen=True)
class Options:
    """How to run and where to; nothing here changes a number.

    Attributes:
        out: the folder; by default one in `runs`, named after the experiments.
        root: the folder of data sets.
        workers: how many runs at once; by default as many as the cores hold.
        download: whether missing graph data may be fetched.
        command: what the user typed, to be recorded.
        track: the trackers that are told of each run (`simulations.results.trackers`).
        objects: data and models that were given as such.
    """

    out: Path | None = None
    root: Path | None = None
    workers: int | None = None
    download: bool = False
    command: tuple[str, ...] = ()
    track: tuple[str, ...] = ()
    objects: Objects = NONE


@dataclass(frozen=True)
class Batch:
    """The runs of an experiment.

    Attributes:
        jobs: all of them.
        done: those that were complete when it was opened.
        left: those that were not, and are to run.
        out: their folder.
        workers: how many at once, as asked.
    """

    jobs: tuple[Job, ...]
    done: tuple[Job, ...]
    left: tuple[Job, ...]
    out: Path
    workers: int | None

    @property
    def complete(self) -> list[Path]:
        """The folders of the runs that are complete by now."""
        return [job.folder for job in self.jobs if _complete(job.folder)]


@contextmanager
def opened(
    document: files.Document, source: str, name: str, options: Options, text: str = ""
) -> Iterator[Batch]:
    """The runs of a document, checked; their folder is held, and says what they are.

    Args:
        document: of an experiment file, or the like.
        source: what to call it in messages.
        name: of the folder, if none is given.
        options: see there.
        text: of the file, comments and all, which is kept; by default the document as TOML.

    Raises:
        ValueError, OSError: the input is wrong, and nothing was written; one line says why.
    """
    trackers.check(options.track)
    experiments, resources = grid.expand(document, source)
    _check_share(experiments, resources)
    scheduler.check(experiments, options.root, options.download, resources, options.objects)
    out = options.out or Path("runs") / f"{name}-{identity.digest_all(experiments)[:8]}"
    found = [sources.sources(experiment) for experiment in experiments]
    _check_sources(out, found)
    run_folder.check(out, map(identity.digest, experiments, found))
    with run_folder.locked(out):
        atomic_files.sweep(out)
        more = options.root, resources, options.command
        jobs = tuple(
            Job(e, out / identity.folder_name(e), *more, own, options.track, options.objects)
            for e, own in zip(experiments, found, strict=True)
        )
        whole = [_complete(job.folder) for job in jobs]
        done, left = tuple(compress(jobs, whole)), tuple(compress(jobs, map(not_, whole)))
        scheduler.check_kept(left)
        atomic_files.write(out / run_folder.EXPERIMENT, text or files.dump(document))
        yield Batch(jobs, done, left, out, options.workers)


def run(batch: Batch) -> Iterator[tuple[Job, Record]]:
    """The records of what is not complete, as they come; see `scheduler.run`.

    Trackers are told of what is complete too.
    """
    for job in (job for job in batch.done if job.track):
        (done,) = run_folder.load(job.folder)
        records = trackers.track(
            job.track, job.folder, run_folder.head(job.folder), [], iter(done.records)
        )
        yield from ((job, record) for record in records if record["record"] == "note")
    if jobs := batch.left:
        workers = scheduler.workers_for(jobs[0].resources, batch.workers)
        yield from scheduler.run(jobs, workers, 0.0 if batch.workers else scheduler.PATIENCE)


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


def _check_sources(out: Path, found: Sequence[Mapping[str, Source]]) -> None:
    """Raise ValueError for code of the user's that has changed since the runs in a folder began."""
    now = {place: source for one in found for place, source in one.items()}
    for path, (_, before) in run_folder.sources(out).items() if now else ():
        sources.check(now, before, path)


def _complete(folder: Path) -> bool:
    return (folder / run_folder.HEAD).is_file() and run_folder.load(folder)[0].complete
