"""Many runs on a Ray cluster that is there already: its machines compute, this process writes.

A run is a task that streams its records here with the files that are new (`remote`): checkpoints,
teachers, final weights. Where a machine is lost, its runs go on elsewhere from the newest of their
checkpoints; Ray itself would start them over.
"""

import sys
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from fedkd.engines.ray import cluster as ours
from fedkd.engines.ray.cluster import ray
from fedkd.engines.ray.placement import check_room
from fedkd.rounds import checkpoint
from fedkd.storage import atomic_files
from simulations import process
from simulations.config import experiments as config
from simulations.execution import remote, scheduler
from simulations.execution.cluster import shares
from simulations.execution.scheduler import (
    CHECKPOINT,
    RETRIES,
    TEACHERS,
    Begun,
    ClusterLostError,
    Job,
    Record,
)
from simulations.results import run_folder
from simulations.runners.objects import NONE

ROOM = 60.0  # seconds in which lost machines may come back, where runs have no room without
ENDING = 3.0  # seconds in which runs end that were cancelled
AWAKE = 5.0  # seconds from one look at the machines to the next, while nothing is heard
PATIENCE = 20.0  # seconds without an answer after which the head is lost; at 60 Ray ends us
SUBMITTED = {"record": "submitted"}  # for the grid; nobody else hears of it


def run(jobs: Sequence[Job], most: int | None = None) -> Iterator[tuple[Job, Record]]:
    """As `scheduler.run`, on the cluster that this process is connected to.

    Args:
        jobs: what to run; all in one folder, with the same objects.
        most: how many at once; by default as many as there is room for.
    """
    ours.send_users_code()
    grid = _Grid(jobs, most)
    try:
        while grid.waiting or grid.running:
            grid.check()
            yield from grid.start()
            yield from grid.hear()
    finally:
        grid.end()


class _Failed(Exception):  # noqa: N818  (what has failed is elsewhere, and said in a record)
    """A run has ended with a record "failed"."""

    def __init__(self, record: Record) -> None:
        super().__init__(record["error"])
        self.record = record


class _Run:
    """A run on the cluster: its task there, and its folder here, in which this process writes.

    Attributes:
        job: the run.
        claims: the teachers that it trains, or looks for, and has not got yet.
        stream: of its messages, once it is submitted.
        begun: whether it has found room.
        stranded: since when the machines that are left have none.
        records: its own, and what is said of it; each waits for a message.
    """

    def __init__(self, job: Job, claims: frozenset[str], teachers: dict[str, Any], objects: Any):
        self.job, self.claims = job, claims
        self.stream: Any = None
        self.begun, self.stranded = False, 0.0
        self._group: Any = None
        self._teachers, self._objects = teachers, objects
        self.records: Generator[Record, None, None] = scheduler.recorded(job, self._begin)

    def close(self) -> None:
        """Let go of its folder, and of the room for its actors."""
        with suppress(ray.exceptions.RayError):
            self.records.close()
            if self._group is not None:
                ray.util.remove_placement_group(self._group)

    def _begin(self, kept: int) -> Generator[Record, None, Begun]:
        """Submit it, and hear of where it is; see `scheduler.recorded`."""
        head = scheduler.header(self.job, self.job.sources or {}, "", 0)
        self.stream = self._submitted(head["hash"], kept)
        yield SUBMITTED
        head |= next(self._messages())["head"]
        self.begun = True
        yield {"record": "placed", **head["placed"]}
        return head, self._messages()

    def _submitted(self, digest: str, kept: int) -> Any:
        wanted = shares(self.job.experiment, self.job.resources)
        options: dict[str, Any] = {"num_cpus": wanted[0].cpus, "num_gpus": wanted[0].gpus}
        if len(wanted) > 1:  # with room for all of its actors, or it waits
            self._group = ray.util.placement_group([ours.resources(one) for one in wanted])
            options["scheduling_strategy"] = ours.within_group(self._group)
        home, newest = self.job.folder.parent, checkpoint.of_round(_kept(self.job), kept)
        files = {
            path.relative_to(home).as_posix(): ray.put(path.read_bytes())
            for path in sorted(newest.glob("*"))
        }
        task = ray.remote(remote.work).options(
            num_returns="streaming", max_retries=0, name=self.job.folder.name, **options
        )
        bare = self.job._replace(sources=None, track=(), objects=NONE, command=())
        return task.remote(bare, self._objects, digest, files, dict(self._teachers))

    def _messages(self) -> Iterator[Record]:
        """Records as they come; the files that come with one are on disk before it."""
        for reference in self.stream:
            record, files = ray.get(reference)
            if files:
                run_folder.settle(self.job.folder)
                self._write(files)
            if record["record"] == "failed":
                log = self.job.folder / run_folder.ERROR
                raise _Failed(record | {"traceback": str(log) if log.is_file() else None})
            yield record

    def _write(self, files: remote.Files) -> None:
        home = self.job.folder.parent
        newest = {name: b for name, b in files.items() if Path(name).parts[1:2] == (CHECKPOINT,)}
        for name, content in files.items():
            if name not in newest:
                atomic_files.write(home / name, content)
            if name.startswith(f"{TEACHERS}/"):
                self._teachers[Path(name).name] = ray.put(content)
        for folder in sorted({Path(name).parent for name in newest}):  # as a whole or not at all
            with atomic_files.replacing(home / folder) as draft:
                draft.mkdir()
                for name, content in newest.items():
                    if Path(name).parent == folder:
                        (draft / Path(name).name).write_bytes(content)
        checkpoint.drop_old(_kept(self.job))


class _Grid:
    """The runs of an experiment on a cluster.

    Attributes:
        waiting: those that are not submitted, all settings' first seeds before any second.
        running: those that are.
        lost: whether the head of the cluster is.
    """

    def __init__(self, jobs: Sequence[Job], most: int | None) -> None:
        self.waiting = deque(sorted(jobs, key=lambda job: job.experiment.seed))
        self.running: list[_Run] = []
        self.lost = False
        self._head, self._seen = ours.head(), time.monotonic()
        self._most = most or 1 + 2 * int(sum(node.cpus for node in ours.nodes()))
        self._lost = Counter[tuple[Path, int]]()  # how often, of a run and the round it had reached
        self._claims: dict[Path, frozenset[str]] = {}
        self._taught: set[str] = set()  # teachers that are on disk
        self._objects = ray.put(jobs[0].objects)
        found = sorted((jobs[0].folder.parent / TEACHERS).glob("*.safetensors"))
        self._teachers = {path.name: ray.put(path.read_bytes()) for path in found}

    def check(self) -> None:
        """Raise ClusterLostError where the head of the cluster has not answered for a while."""
        if time.monotonic() - self._seen < AWAKE:
            return
        if ours.is_reachable(self._head):
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > PATIENCE:
            self._give_in()

    def start(self) -> Iterator[tuple[Job, Record]]:
        """Submit what the cluster may have to choose from; a teacher is trained by one run."""
        while self.waiting and len(self.running) < self._most:
            busy = {claim for run in self.running for claim in run.claims}
            job = next((job for job in self.waiting if not self._claimed(job) & busy), None)
            if job is None:
                return
            self.waiting.remove(job)
            run = _Run(job, self._claimed(job), self._teachers, self._objects)
            self.running.append(run)
            while run in self.running and run.stream is None:
                yield from self._advance(run)

    def hear(self) -> Iterator[tuple[Job, Record]]:
        """A record of each run that has one, and what is to be said of those that have ended."""
        streams = {run.stream: run for run in self.running}
        if not streams:
            return
        with redirect_stdout(sys.stderr):  # Ray prints there when a machine is lost
            ray.wait(list(streams), timeout=AWAKE, fetch_local=False)
            ready, _ = ray.wait(
                list(streams), num_returns=len(streams), timeout=0, fetch_local=False
            )
        for stream in ready:
            yield from self._advance(streams[stream])
        if not ready:
            yield from self._give_up()

    def end(self) -> None:
        """Cancel what is running, and wait a little for it to clear up, if anybody is there."""
        if self.lost:
            for run in self.running:
                run.records.close()
            return
        with suppress(ray.exceptions.RayError):
            ended = [run.stream.completed() for run in self.running if run.stream is not None]
            for run in self.running:
                if run.stream is not None:
                    ray.cancel(run.stream)
            if ended:
                ray.wait(ended, num_returns=len(ended), timeout=ENDING, fetch_local=False)
        for run in self.running:
            run.close()

    def _give_in(self) -> None:
        self.lost = True
        raise ClusterLostError(
            f"the head of the Ray cluster at {self._head} was lost, and with it all that ran there"
        )

    def _claimed(self, job: Job) -> frozenset[str]:
        """The teachers of a run that are not there yet."""
        if config.kind_of(job.experiment) != "graph":
            return frozenset()
        if job.folder not in self._claims:
            about = job.experiment, job.root, job.objects
            self._claims[job.folder] = scheduler.module_of(job.experiment).teachers_of(*about)
        return self._claims[job.folder] - self._taught

    def _advance(self, run: _Run) -> Iterator[tuple[Job, Record]]:
        """The next record of a run, or what is to be said of its end."""
        try:
            record = next(run.records)
        except Exception as end:
            if process.to_end():
                raise KeyboardInterrupt from end
            if not isinstance(end, StopIteration | _Failed) and not ours.is_reachable(self._head):
                self._give_in()
            self._close(run)
            if (said := self._said(run.job, end)) is not None:
                yield run.job, said
            return
        if not str(record.get("phase", "teacher")).startswith("teacher"):
            self._taught |= run.claims
            run.claims = frozenset()
        if record is not SUBMITTED:
            yield run.job, record

    def _said(self, job: Job, end: Exception) -> Record | None:
        """What is said of a run that has ended; one whose machine was lost waits for another."""
        if isinstance(end, StopIteration):
            return None
        if isinstance(end, _Failed):
            return end.record
        lost = isinstance(end, ray.exceptions.RayError)
        if not lost or isinstance(end, ray.exceptions.RayTaskError):
            return scheduler.failed(end, scheduler.logged(job.folder / run_folder.ERROR))
        return self._again(job, end)

    def _close(self, run: _Run) -> None:
        run.close()
        self.running.remove(run)

    def _again(self, job: Job, error: Exception) -> Record:
        kept = scheduler.resumable(job)
        self._lost[job.folder, kept] += 1
        if self._lost[job.folder, kept] > RETRIES:
            return scheduler.failed(error, None)
        self.waiting.appendleft(job)
        place = f"the checkpoint of round {kept}" if kept else "the start"
        said = f"its worker was lost ({type(error).__name__}); it goes on elsewhere from {place}"
        return {"record": "note", "notes": [said]}

    def _give_up(self) -> Iterator[tuple[Job, Record]]:
        """End those that wait for machines which have not come back."""
        there = ours.nodes()
        for run in [run for run in self.running if not run.begun]:
            try:
                check_room(shares(run.job.experiment, run.job.resources), there)
                run.stranded = 0.0
            except ValueError as error:
                run.stranded = run.stranded or time.monotonic()
                if time.monotonic() - run.stranded > ROOM:
                    ray.cancel(run.stream)
                    self._close(run)
                    yield run.job, scheduler.failed(error, None)


def _kept(job: Job) -> Path:
    return job.folder / CHECKPOINT
