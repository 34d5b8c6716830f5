"""All runs of one experiment: checked, run where they are not there yet, reported. Says nothing.

Who wants to hear of it goes through what `run` yields: `console` prints it, a notebook may listen.
"""

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
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


class Connection:
    """To a Ray cluster, for one batch or for several of the same code, joined with the first.

    What has been started on its machines (workers, with all that they have imported) ends with it.
    """

    def __init__(self) -> None:
        self._held: ExitStack | None = None

    def join(self, address: str) -> None:
        """Connect to the cluster; ValueError where nobody answers."""
        from simulations.execution import cluster

        if self._held is None:
            with ExitStack() as held:
                held.enter_context(cluster.joined(address))
                self._held = held.pop_all()

    def close(self) -> None:
        """Leave the cluster."""
        if self._held is not None:
            self._held.close()


@dataclass(frozen=True)
class Options:
    """How to run and where to; nothing here changes a number.

    Attributes:
        out: the folder; by default one in `runs`, named after the experiments.
        root: the folder of data sets.
        workers: how many runs at once; by default as many as the cores hold.
        download: whether missing graph data may be fetched.
        command: what the user typed, to be recorded.
        track: trackers that are told of each run (`simulations.results.trackers`), beside those of
            the document.
        objects: data and models that were given as such.
        ray_address: of the Ray cluster to run on; by default as the document or $RAY_ADDRESS has
            it, and else this machine, which "local" says outright.
        connection: to it, which stays when the batch is done; by default one for this batch.
    """

    out: Path | None = None
    root: Path | None = None
    workers: int | None = None
    download: bool = False
    command: tuple[str, ...] = ()
    track: tuple[str, ...] = ()
    objects: Objects = NONE
    ray_address: str = ""
    connection: Connection | None = None


@dataclass(frozen=True)
class Batch:
    """The runs of an experiment.

    Attributes:
        jobs: all of them.
        done: those that were complete when it was opened.
        left: those that were not, and are to run.
        out: their folder.
        workers: how many at once, as asked.
        remote: whether they run on a cluster, which this process is connected to.
        notes: what is worth one of its machines.
    """

    jobs: tuple[Job, ...]
    done: tuple[Job, ...]
    left: tuple[Job, ...]
    out: Path
    workers: int | None
    remote: bool = False
    notes: tuple[str, ...] = ()

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
    experiments, resources = grid.expand(document, source)
    track = tuple(dict.fromkeys((*options.track, *resources.track)))
    trackers.check(track)
    out = options.out or Path("runs") / f"{name}-{identity.digest_all(experiments)[:8]}"
    address = _address(options, resources, out, experiments)
    root = options.root.absolute() if options.root and address else options.root
    with _connected(address, experiments, resources, options.connection):
        resources = replace(resources, ray_address="")
        asked = root, options.download, resources, options.objects, not address
        scheduler.check(experiments, *asked)
        notes = _looked(address, experiments, root, resources, options.objects)
        found = [sources.sources(experiment) for experiment in experiments]
        _check_sources(out, found)
        run_folder.check(out, map(identity.digest, experiments, found))
        with run_folder.locked(out):
            atomic_files.sweep(out)
            more = root, resources, options.command
            jobs = tuple(
                Job(e, out / identity.folder_name(e), *more, own, track, options.objects)
                for e, own in zip(experiments, found, strict=True)
            )
            complete = [_complete(job.folder) for job in jobs]
            done, left = tuple(compress(jobs, complete)), tuple(compress(jobs, map(not_, complete)))
            scheduler.check_kept(left)
            atomic_files.write(out / run_folder.EXPERIMENT, text or files.dump(document))
            yield Batch(jobs, done, left, out, options.workers, bool(address), notes)


def run(batch: Batch) -> Generator[tuple[Job, Record], None, None]:
    """The records of what is not complete, as they come; see `scheduler.run`.

    Trackers are told of what is complete too.
    """
    for job in (job for job in batch.done if job.track):
        (done,) = run_folder.load(job.folder)
        records = trackers.track(
            job.track, job.folder, run_folder.head(job.folder), [], iter(done.records)
        )
        yield from ((job, record) for record in records if record["record"] == "note")
    if batch.notes:
        yield batch.left[0], {"record": "note", "notes": batch.notes}
    if batch.remote and batch.left:
        from simulations.execution import streaming

        yield from streaming.run(batch.left, batch.workers)
    elif jobs := batch.left:
        workers = scheduler.workers_for(jobs[0].resources, batch.workers)
        yield from scheduler.run(jobs, workers, 0.0 if batch.workers else scheduler.PATIENCE)


def as_begun(document: files.Document, folder: Path) -> files.Document:
    """The document of a folder as its runs were begun, perhaps when another engine was the default.

    It was `sequential`; where the document names none and all runs had that, they go on with it.
    """
    if "engine" in document.get("fed", {}):
        return document
    engines = {run.experiment.get("engine") for run in run_folder.load(folder)} - {None}
    if engines != {"sequential"}:
        return document
    return files.put(document, ["fed", "engine"], "sequential", "engine")


def _address(
    options: Options, resources: Resources, out: Path, experiments: Sequence[config.Experiment]
) -> str:
    """Of the cluster that is asked for, "" for none; where all runs are done, nobody needs it."""
    asked = options.ray_address or resources.ray_address or os.environ.get("RAY_ADDRESS", "")
    if not asked or all(_complete(out / identity.folder_name(e)) for e in experiments):
        return ""
    from simulations.execution import cluster

    return cluster.address(asked)


@contextmanager
def _connected(
    address: str,
    experiments: Sequence[config.Experiment],
    resources: Resources,
    lasting: Connection | None,
) -> Iterator[None]:
    """Connected to a cluster that has room for the runs, if there is one."""
    if not address:
        yield
        return
    from simulations.execution import cluster

    for experiment in experiments:
        sources.sources(experiment)  # that is the user's code, which goes there
    connection = lasting or Connection()
    try:
        connection.join(address)
        cluster.check(experiments, resources)
        yield
    finally:
        if connection is not lasting:
            connection.close()


def _looked(
    address: str,
    experiments: Sequence[config.Experiment],
    root: Path | None,
    resources: Resources,
    objects: Objects,
) -> tuple[str, ...]:
    """What is worth a note of the machines of a cluster; ValueError if one cannot run these."""
    if not address:
        return ()
    from simulations.execution import cluster

    return tuple(cluster.look(experiments, root, resources, objects))


def _check_sources(out: Path, found: Sequence[Mapping[str, Source]]) -> None:
    """Raise ValueError for code of the user's that has changed since the runs in a folder began."""
    now = {place: source for one in found for place, source in one.items()}
    for path, (_, before) in run_folder.sources(out).items() if now else ():
        sources.check(now, before, path)


def _complete(folder: Path) -> bool:
    return (folder / run_folder.HEAD).is_file() and run_folder.load(folder)[0].complete
