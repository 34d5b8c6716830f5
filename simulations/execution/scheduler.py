"""Many runs: in this process, or as Ray tasks with shares of the cores, on this machine.

Runs that are complete are not run again, so the same command goes on where it was stopped. On a
cluster it is `simulations.execution.streaming` that runs them.
"""

import importlib
import logging
import os
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import torch

from fedkd.rounds import checkpoint
from fedkd.storage import atomic_files, weights
from kdcore.references import Source
from simulations import machine, packages, process
from simulations.config import experiments as config
from simulations.config import identity, sources
from simulations.config.experiments import Experiment, FedExperiment
from simulations.config.resources import Resources
from simulations.results import metrics_table, run_folder, trackers
from simulations.runners.data_sketches import Sketch, sketches
from simulations.runners.objects import NONE, Objects

Record = dict[str, Any]
Begun = tuple[Record, Iterator[Record]]  # what `run.json` says, and the records
RETRIES = 2  # of a run whose worker process died
CHECKPOINT = "checkpoint"  # its folder, in that of a run
TEACHERS = "teachers"  # the folder of graph networks that several runs share, beside theirs
PATIENCE = 20.0  # seconds; starting Ray and its workers takes about ten


class ClusterLostError(RuntimeError):
    """The head of a cluster is gone, and with it all that ran there."""


class Job(NamedTuple):
    """A run and all it needs.

    Attributes:
        experiment: what to run.
        folder: the run folder.
        root: the folder of data sets.
        resources: the cores (as threads) and the share of a GPU that it takes.
        command: what the user typed, to be recorded.
        sources: of code of the user's, when the runs were started; None for as it is now.
        track: the trackers that are told of it (`simulations.results.trackers`).
        objects: data and models that were given as such.
    """

    experiment: Experiment
    folder: Path
    root: Path | None
    resources: Resources
    command: tuple[str, ...] = ()
    sources: Mapping[str, Source] | None = None
    track: tuple[str, ...] = ()
    objects: Objects = NONE


def check(
    experiments: Sequence[Experiment],
    root: Path | None,
    download: bool = False,
    resources: Resources = Resources(),  # noqa: B008  (frozen)
    objects: Objects = NONE,
    here: bool = True,
) -> None:
    """Prepare every experiment once, whatever its seed, so that mistakes show before any run.

    Where runs will not be `here`, nobody asks whether this machine has their device.

    Raises:
        ValueError: an experiment cannot run.
        FileNotFoundError: a data file is missing.
    """
    if (
        here
        and any(map(on_actors, experiments))
        and (said := packages.hidden_from_workers(Path.cwd()))
    ):
        raise ValueError(f"{said}, or choose another engine")
    seen = set()
    for experiment in experiments:
        settings = identity.settings(experiment) | {"seed": None}
        key = run_folder.line(settings)
        if key not in seen:
            seen.add(key)
            if here:
                module_of(experiment).device_for(experiment, resources)
            prepare(experiment, root, resources, objects, download)


def prepare(
    experiment: Experiment,
    root: Path | None,
    resources: Resources,
    objects: Objects,
    download: bool = False,
) -> Any:
    """All that a run starts from; raise as `check`."""
    more: dict[str, dict[str, Any]] = {
        "graph": {"download": download, "objects": objects},
        "fed": {"resources": resources, "objects": objects},
    }
    own = more.get(config.kind_of(experiment), {})
    return module_of(experiment).prepare(experiment, root, **own)


def sketches_of(
    experiment: Experiment, root: Path | None, resources: Resources, objects: Objects
) -> list[Sketch]:
    """Sketches of the data of a run; raise as `check`."""
    prepared = prepare(experiment, root, resources, objects)
    return sketches(module_of(experiment).tables(prepared))


def run(jobs: Sequence[Job], workers: int, patience: float = 0.0) -> Iterator[tuple[Job, Record]]:
    """The records of all jobs as they come; of a run that fails, a record "failed" at last.

    All settings have their first seed before any has its second.

    Args:
        jobs: what to run.
        workers: how many at once; 1 is in this process, one after another.
        patience: for so many seconds runs are started in this process anyway, since Ray takes a
            while to start. Runs that start Ray themselves always are, and all are where the
            working folder hides kdsim from Ray's workers.
    """
    start = time.monotonic()
    waiting = deque(sorted(jobs, key=lambda job: job.experiment.seed))
    if waiting and workers > 1 and (said := packages.hidden_from_workers(Path.cwd())):
        workers = 1
        yield waiting[0], {"record": "note", "notes": [f"{said}. Runs are done one by one"]}
    while waiting:
        nested = any(on_actors(job.experiment) for job in waiting)
        patient = time.monotonic() - start < patience
        if workers > 1 and len(waiting) > 1 and not patient and not nested:
            yield from _on_ray(waiting, workers)
        else:
            job = waiting.popleft()
            yield from ((job, record) for record in attempt(job))


def on_actors(experiment: Experiment) -> TypeGuard[FedExperiment]:
    """Whether its clients are in Ray actors."""
    return getattr(experiment, "engine", "") == "ray"


def attempt(job: Job) -> Iterator[Record]:
    """The records of one run in this process; an error ends it with a record "failed"."""
    try:
        yield from _execute(job)
    except (Exception, SystemExit) as error:  # the latter of the user's code
        if process.to_end():
            raise KeyboardInterrupt from error
        yield failed(error, logged(job.folder / run_folder.ERROR))


def logged(path: Path) -> Path | None:
    """Where the traceback of an error is; None where the disk is what failed."""
    try:
        atomic_files.write(path, traceback.format_exc().encode(errors="backslashreplace"))
    except OSError:
        return None
    return path


def workers_for(resources: Resources, asked: int | None) -> int:
    """How many runs at once: as asked, or as many as the cores hold."""
    return asked or max(1, machine.cores() // resources.cpus)


def _execute(job: Job) -> Iterator[Record]:
    torch.set_num_threads(job.resources.cpus)
    found = _sources(job)
    device = str(module_of(job.experiment).device_for(job.experiment, job.resources))
    head = header(job, found, device, torch.get_num_threads())

    def begin(kept: int) -> Generator[Record, None, Begun]:
        yield from ()
        return head, computed(job, device, head["hash"])

    yield from recorded(job, begin)


def header(job: Job, found: Mapping[str, Source], device: str, threads: int) -> Record:
    """What `run.json` says of a run, with the user's code that it imports."""
    settings = identity.settings(job.experiment, found)
    digest = identity.digest(job.experiment, found)
    head = run_folder.header(settings, digest, device, threads, job.command)
    parts = "partition", "loss", "distillation_loss"
    given = job.experiment.data, *(getattr(job.experiment, part, "") for part in parts)
    own = job.objects.said([*given, *getattr(job.experiment, "models", ())])
    return head | sources.recorded(found) | ({"objects": own} if own else {})


def recorded(
    job: Job, begin: Callable[[int], Generator[Record, None, Begun]]
) -> Generator[Record, None, None]:
    """The records of a run, each in its folder, which this process holds.

    Args:
        job: the run.
        begin: starts it after so many rounds: it yields what is to be said of that, and returns
            what `run.json` says and the records.
    """
    with run_folder.locked(job.folder, run_folder.PATIENCE):
        kept = resumable(job)
        if lost := checkpoint.reached(job.folder / CHECKPOINT) - kept:
            checkpoint.drop_after(job.folder / CHECKPOINT, kept)
            yield {"record": "note", "notes": [_goes_back(job.folder, kept, lost)]}
        head, records = yield from begin(kept)
        before = run_folder.rounds(job.folder, kept) if job.track else []
        head = head | _noted(run_folder.rounds(job.folder, kept))
        written = run_folder.write(job.folder, head, _in_head(job.folder, head, records), kept)
        yield from trackers.track(job.track, job.folder, head, before, written)
        metrics_table.write(job.folder)


def _in_head(folder: Path, head: Record, records: Iterator[Record]) -> Iterator[Record]:
    """The records; what they note goes to `run.json` too, and where and how clients run only there.

    What is noted there already is not said again: a run that goes on has the records of one that
    was never stopped.
    """
    for record in records:
        before = dict(head)
        if actors := record.pop("actors", None):
            placed = head.get("placed", {})
            head["placed"] = placed | {"actors": [*placed.get("actors", ()), *actors]}
        if engine := record.pop("engine", None):
            head["engine"] = engine
        if fresh := [note for note in record.pop("notes", ()) if note not in head.get("notes", ())]:
            record["notes"] = fresh
        head |= _noted([head, record])
        if head != before:
            run_folder.write_head(folder, head)
        yield record


def _noted(records: Iterable[Record]) -> Record:
    """The notes in records, each once."""
    found = dict.fromkeys(note for record in records for note in record.get("notes", ()))
    return {"notes": list(found)} if found else {}


def _sources(job: Job) -> Mapping[str, Source]:
    """The code of the user's that a run imports.

    Raises:
        ValueError: it is not what it was when the runs were started.
    """
    now = sources.sources(job.experiment)
    if job.sources is None:
        return now
    sources.check(now, job.sources, job.folder)
    return job.sources


def resumable(job: Job) -> int:
    """The round that a run goes on from: of a checkpoint, and all records up to it are there."""
    if not checkpoint.reached(job.folder / CHECKPOINT):
        return 0
    there = run_folder.written(job.folder)
    return max((n for n in checkpoint.rounds(job.folder / CHECKPOINT) if n <= there), default=0)


def check_kept(jobs: Iterable[Job]) -> None:
    """Look at what runs go on from, before any of them does.

    Raises:
        ValueError: a checkpoint is damaged, or one of another experiment.
    """
    for job in jobs:
        checkpoint.verified(job.folder / CHECKPOINT, identity.digest(job.experiment, job.sources))


def _goes_back(folder: Path, kept: int, lost: int) -> str:
    start = f"goes on from the checkpoint of round {kept}" if kept else "starts over"
    return (
        f"{folder / run_folder.METRICS} does not have all rounds up to the newest checkpoint, that "
        f"of round {kept + lost}; the run {start}"
    )


def computed(
    job: Job, device: str, digest: str, fetch: Callable[[Path], None] | None = None
) -> Iterator[Record]:
    """The records of a run as they are made; `fetch` brings the files of shared teachers."""
    ended = weights.Place(job.folder / run_folder.WEIGHTS, job.resources.weights)
    both = {"ended": ended, "objects": job.objects}
    fed = {"resources": job.resources, "kept": job.folder / CHECKPOINT, "identity": digest}
    graph = {"device": device, "shared": job.folder.parent / TEACHERS, "fetch": fetch}
    graph["kept"] = job.folder / run_folder.PREDICTIONS
    kinds: dict[str, dict[str, Any]] = {"graph": graph | both, "fed": fed | both}
    kinds["survey"] = {"device": device}
    more = kinds.get(config.kind_of(job.experiment), {})
    records: Iterator[Record] = module_of(job.experiment).run(job.experiment, job.root, **more)
    return records


def gpus_of(job: Job) -> float:
    """The share of a GPU of a run's own process; the engine `ray` has one for each actor."""
    return 0.0 if on_actors(job.experiment) else job.resources.gpus


def module_of(experiment: Experiment) -> Any:
    """What runs such experiments, loaded when first needed: graphs take long to import."""
    return importlib.import_module(config.KINDS[config.kind_of(experiment)].runner)


def failed(error: BaseException, log: Path | None) -> Record:
    """The record of a run that an error has ended."""
    said = " ".join(str(error).split())[:300]
    where = None if log is None else str(log)
    return {"record": "failed", "error": f"{type(error).__name__}: {said}", "traceback": where}


def _on_ray(waiting: deque[Job], workers: int) -> Iterator[tuple[Job, Record]]:
    """Take jobs from those that wait, until there are none."""
    from fedkd.engines.ray.cluster import ray, send_users_code

    send_users_code()
    _start(min(workers, len(waiting)) * waiting[0].resources.cpus)
    try:
        running: dict[Any, Job] = {}
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.popleft()
                running[_submit(job)] = job
            with redirect_stdout(sys.stderr):  # Ray prints there when a worker dies
                (done,), _ = ray.wait(list(running))
            job = running.pop(done)
            yield from ((job, record) for record in _collect(done))
    finally:
        ray.shutdown()


def _start(cores: int) -> None:
    """A Ray of our own, on loopback only, that says nothing and reports to nobody."""
    home = str(Path(__file__).resolve().parents[2])  # workers find this package where we did
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    from fedkd.engines.ray.cluster import ray

    with process.own_signals():
        ray.init(
            address="local",
            num_cpus=cores,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=256 * 2**20,
        )


def _submit(job: Job) -> Any:
    from fedkd.engines.ray.cluster import ray

    share = {"num_cpus": job.resources.cpus, "num_gpus": gpus_of(job)}
    beside = job._replace(resources=job.resources.beside_others())
    return ray.remote(_task).options(**share, max_retries=RETRIES).remote(beside)


def _task(job: Job) -> list[Record]:
    return list(attempt(job))


def _collect(reference: Any) -> list[Record]:
    """A finished task's records; a worker that kept dying is a failed run."""
    from fedkd.engines.ray.cluster import ray

    try:
        return list(ray.get(reference))
    except ray.exceptions.RayError as error:
        return [failed(error, None)]
