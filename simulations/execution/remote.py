"""What runs on the machines of a cluster: one run, in a folder that goes when it ends; and a look.

A run is a stream of messages, each a record and the files that are new with it. Nothing is written
where somebody else would look for it: that is for the process that started the run.
"""

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from fedkd.engines.ray.cluster import node_name, ray
from fedkd.storage import atomic_files
from kdcore.references import source
from simulations.config.experiments import Experiment
from simulations.config.resources import Resources
from simulations.execution import scheduler
from simulations.execution.scheduler import Job, Record
from simulations.results import run_folder
from simulations.runners.data_sketches import Sketch
from simulations.runners.objects import Objects

PREFIX = "kdsim-run-"  # of the folders of runs; then the machine and the process that has it
Files = dict[str, bytes]  # by their paths from the folder of all runs


class Asked(NamedTuple):
    """What a machine is asked before any run.

    Attributes:
        experiments: one for each kind of data.
        root: the folder of data sets.
        resources: what a run takes.
        gpus: how many Ray has there for runs, 0 where they take none.
        sources: of code of the user's, by where it is: its hash.
    """

    experiments: tuple[Experiment, ...]
    root: Path | None
    resources: Resources
    gpus: float
    sources: Mapping[str, str]


class Answer(NamedTuple):
    """What it answers: versions there, what is wrong, and what is worth a note; "" for nothing.

    `data` are sketches of the data of each experiment, in their order.
    """

    versions: Mapping[str, str]
    mistake: str = ""
    note: str = ""
    data: tuple[list[Sketch], ...] = ()


def look(asked: Asked, objects: Objects) -> Answer:
    """Whether runs could run here; folders of runs whose processes are gone are removed."""
    sweep(Path(tempfile.gettempdir()))
    versions, note, data = run_folder.versions(), "", []
    try:
        _check_sources(asked.sources)
        if asked.gpus:
            note = _check_gpus(asked)
        for experiment in asked.experiments:
            own = _own(experiment, asked.resources)
            if asked.gpus or not own.gpus:
                scheduler.module_of(experiment).device_for(experiment, own)
            data.append(scheduler.sketches_of(experiment, asked.root, asked.resources, objects))
    except (ValueError, OSError) as error:
        return Answer(versions, " ".join(str(error).split()))
    return Answer(versions, note=note, data=tuple(data))


def work(
    job: Job, objects: Objects, digest: str, files: Mapping[str, Any], teachers: Mapping[str, Any]
) -> Iterator[tuple[Record, Files]]:
    """A run: first what `run.json` says of this machine, then its records with their files.

    Args:
        job: the run; its folder is another one here.
        objects: data and models that were given as such.
        digest: of the experiment.
        files: the checkpoint that it goes on from.
        teachers: of all that have been trained, by name; they are fetched when they are needed.
    """
    torch.set_num_threads(job.resources.cpus)
    sweep(Path(tempfile.gettempdir()))
    with _folder() as here:
        for name, content in files.items():
            atomic_files.write(here / name, ray.get(content))
        known = dict(_there(here))
        resources = _own(job.experiment, job.resources).beside_others()
        away = job._replace(folder=here / job.folder.name, resources=resources, objects=objects)
        away.folder.mkdir(exist_ok=True)
        try:
            device = str(scheduler.module_of(job.experiment).device_for(job.experiment, resources))
            yield {"record": "begun", "head": _about(job, device)}, {}
            fetch = partial(_fetch, teachers)
            for record in scheduler.computed(away, device, digest, fetch):
                yield record, _new(here, known)
        except Exception as error:
            log = scheduler.logged(away.folder / run_folder.ERROR)
            yield scheduler.failed(error, log), _new(here, known)


def sweep(folder: Path) -> None:
    """Remove what runs have left here whose processes were killed."""
    for left in folder.glob(f"{_prefix()}*"):
        owner = left.name.removeprefix(_prefix()).partition("-")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)


def _prefix() -> str:
    return f"{PREFIX}{platform.node()}-"


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=f"{_prefix()}{os.getpid()}-") as here:
        yield Path(here)


def _about(job: Job, device: str) -> Record:
    context = ray.get_runtime_context()
    share = {"cpus": job.resources.cpus, "gpus": scheduler.gpus_of(job)}
    where = {"node": node_name(context.get_node_id()), "host": platform.node()}
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "versions": run_folder.versions(),
        "placed": where | {"share": share, "gpus": ray.get_gpu_ids()},
    }


def _there(here: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """All files that are whole, and by what it is seen that one has changed."""
    for path in sorted(here.rglob("*")):
        name = path.relative_to(here)
        hidden = any(part.startswith(".") for part in name.parts)  # drafts and locks
        if path.is_file() and not hidden:
            stat = path.stat()
            yield name.as_posix(), (stat.st_mtime_ns, stat.st_size)


def _new(here: Path, known: dict[str, tuple[int, int]]) -> Files:
    """The files that are not known yet, which are from now on."""
    found = {name: seen for name, seen in _there(here) if known.get(name) != seen}
    known |= found
    return {name: (here / name).read_bytes() for name in found}


def _fetch(teachers: Mapping[str, Any], path: Path) -> None:
    """Bring a teacher here that another run has trained."""
    if path.name in teachers and not path.is_file():
        with suppress(ray.exceptions.ObjectLostError):  # then it is trained again
            atomic_files.write(path, ray.get(teachers[path.name]))


def _own(experiment: Experiment, resources: Resources) -> Resources:
    """What a run takes here: where Ray has GPUs and PyTorch finds none, "auto" is the CPU."""
    missing = resources.device == "auto" and not torch.cuda.is_available()
    if scheduler.on_actors(experiment) or not missing:
        return resources
    return replace(resources, gpus=0.0)


def _check_sources(expected: Mapping[str, str]) -> None:
    for place, sha in expected.items():
        if source(place).sha256 != sha:
            raise ValueError(f"{place} is other code here; what is beside it has to be the same")


def _check_gpus(asked: Asked) -> str:
    """A note where runs will compute on the CPU.

    Raises:
        ValueError: the GPUs that Ray has here are none for PyTorch.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":  # Ray hides them from a task without a share
        del os.environ["CUDA_VISIBLE_DEVICES"]
    count = torch.cuda.device_count()
    if count >= asked.gpus:
        return ""
    said = (
        f"Ray has {asked.gpus:g} GPUs here, of which PyTorch {torch.__version__} can use "
        f"{count or 'none'}"
    )
    if asked.resources.device == "auto" and not count:
        return f"{said}: runs compute on the CPU"
    raise ValueError(f"{said}; install a build for them, or start Ray with --num-gpus={count}")
