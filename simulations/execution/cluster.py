"""A Ray cluster that is there already: joined, and looked at before any run starts on it.

What runs on it is in `streaming`.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from fedkd.engines.ray import cluster as ours
from fedkd.engines.ray.cluster import ray
from fedkd.engines.ray.placement import Share, check_room
from kdcore import references
from simulations import packages, process
from simulations.config import sources
from simulations.config.experiments import Experiment
from simulations.config.resources import Resources
from simulations.execution import remote, scheduler
from simulations.results import run_folder
from simulations.runners import federated
from simulations.runners.data_sketches import Sketch, same
from simulations.runners.objects import Objects

LOCAL = "local"  # in the place of an address: this machine after all
LOOKING = 600.0  # seconds for a machine to answer, on however busy a one


def address(asked: str) -> str:
    """The address of a cluster; "" for this machine.

    Raises:
        ValueError: it names no particular cluster.
    """
    if asked == LOCAL:
        return ""
    if asked == "auto" or "://" in asked:
        raise ValueError(
            f"the address of a Ray cluster is {asked!r}; expected HOST:PORT of one that `ray start "
            f"--head` has started (see `ray status`), or {LOCAL!r} for this machine alone"
        )
    return asked


@contextmanager
def joined(where: str) -> Iterator[None]:
    """In here this process is connected to a cluster, whose machines get our code and the user's.

    Of the user's it is what experiments have led to so far, in the working folder or below it.

    Raises:
        ValueError: nobody answers there.
    """
    with tempfile.TemporaryDirectory(prefix="kdsim-code-") as code:
        _stage(Path(code))
        own = [str(packages.HOME / name) for name in packages.OURS]
        there = {"py_modules": own, "working_dir": code, "excludes": ["__pycache__"]}
        with process.own_signals(), redirect_stdout(sys.stderr):
            ours.join(where, runtime_env=there)
        try:
            yield
        finally:
            ray.shutdown()


def check(experiments: Sequence[Experiment], resources: Resources) -> None:
    """Raise ValueError for a run for which the machines have no room, were they all free."""
    if resources.device not in ("auto", "cpu") and not resources.gpus:
        raise ValueError(
            f"device {resources.device} on a cluster: say which share of a GPU a run takes, gpus, "
            "such as 0.5, and leave out the device"
        )
    there, seen = ours.nodes(), set()
    for experiment in experiments:
        wanted = tuple(shares(experiment, resources))
        if wanted not in seen:
            seen.add(wanted)
            check_room(wanted, there)


def look(
    experiments: Sequence[Experiment], root: Path | None, resources: Resources, objects: Objects
) -> list[str]:
    """What is worth a note of the machines, all of which are asked whether runs could run there.

    Raises:
        ValueError: on one of them they could not.
    """
    kinds = {(type(e), getattr(e, "data", "")): e for e in reversed(experiments)}
    found = {place: s for e in experiments for place, s in sources.sources(e).items()}
    hashes = {place: one.sha256 for place, one in found.items() if one.file}
    given, calls = ray.put(objects), {}
    for node in ray.nodes():
        has = node["Resources"]
        if node["Alive"] and has.get("CPU"):
            gpus = has.get("GPU", 0.0) if resources.gpus else 0.0
            asked = remote.Asked(tuple(kinds.values()), root, resources, gpus, hashes)
            at = ours.on_node(node["NodeID"])
            options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": at}
            call = ray.remote(remote.look).options(**options).remote(asked, given)
            calls[call] = f"{ours.node_name(node['NodeID'])} ({node['NodeManagerHostname']})"
    replies = [(name, _answer(call, name)) for call, name in calls.items()]
    here = [scheduler.sketches_of(one, root, resources, objects) for one in kinds.values()]
    for name, answer in replies:
        _check_data(name, list(kinds.values()), here, answer.data)
    return [f"{name}: {answer.note}" for name, answer in replies if answer.note]


def _answer(call: Any, name: str) -> remote.Answer:
    try:
        answer: remote.Answer = ray.get(call, timeout=LOOKING)
    except ray.exceptions.GetTimeoutError:
        raise ValueError(f"{name} has not answered within {LOOKING:g} s") from None
    except ray.exceptions.RayError as error:
        said = " ".join(str(error).split())[-300:]
        raise ValueError(f"{name} cannot load kdsim: {said}") from None
    own = run_folder.versions()
    other = [
        f"{package} {answer.versions.get(package, 'not installed')} (here {version})"
        for package, version in own.items()
        if not _same(answer.versions.get(package), version)
    ]
    if other:
        raise ValueError(f"{name} has {', '.join(other)}; install the same versions there")
    if answer.mistake:
        raise ValueError(f"{name}: {answer.mistake}")
    return answer


def _check_data(
    name: str,
    experiments: Sequence[Experiment],
    here: Sequence[Sequence[Sketch]],
    there: Sequence[Sequence[Sketch]],
) -> None:
    for experiment, own, theirs in zip(experiments, here, there, strict=True):
        if not same(own, theirs):
            raise ValueError(
                f"{name} has other data under the name {getattr(experiment, 'data', '')!r} than "
                "this machine; copy the data root of the one that is right"
            )


def _same(theirs: str | None, own: str) -> bool:
    """Whether two versions are the same but for the build: for which GPU it is."""
    return theirs is not None and theirs.partition("+")[0] == own.partition("+")[0]


def shares(experiment: Experiment, resources: Resources) -> list[Share]:
    """What a run takes of the machines, each share on one of them: itself, and its actors."""
    if scheduler.on_actors(experiment):
        return [Share(1.0), *federated.workers_of(experiment, resources)]
    return [Share(resources.cpus, resources.gpus)]


def _stage(folder: Path) -> None:
    """Copy what experiments have led to of the user's code, each file to where it is from here."""
    (folder / "kdsim.txt").write_text("code that kdsim sends to the machines of a cluster\n")
    here = Path.cwd()
    for module in references.users_modules():
        path = Path(module.__file__ or "").absolute()
        if path.is_relative_to(here):
            copy = folder / path.relative_to(here)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
