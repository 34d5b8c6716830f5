"""What can be done with one call: simulate, distill, run an experiment, tune, load and report."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch

from kdsim import progress as bars
from kdsim import runs as kept
from kdsim import settings as given
from kdsim.record import Record
from kdsim.runs import Runs, load
from kdsim.tuned import Tuned
from simulations.config import files
from simulations.config.resources import Resources
from simulations.execution import batch as batches
from simulations.execution import tuning
from simulations.execution.batch import Options
from simulations.execution.scheduler import Job
from simulations.execution.tuning import Trial

__all__ = ["distill", "load", "report", "run", "simulate", "tune"]

Folder = Path | str


def simulate(
    algorithm: Any,
    *,
    data: Any = "digits",
    data_root: Folder | None = None,
    resources: Mapping[str, Any] | None = None,
    device: str = "auto",
    **settings: Any,
) -> Iterator[Record]:
    """One federated run, nothing of it kept: a record of each round, and at last one of the run.

    Args:
        algorithm: a name (`kdsim list algorithms`), `module:Class`, a class derived from
            `kdsim.Algorithm`, or an instance.
        data: the data set (`kdsim list datasets`), or what `kdsim.data` gives.
        data_root: the folder of data sets, by default $KDSIM_DATA or ~/.cache/kdsim.
        resources: what it may take, as [resources] of an experiment file: actors, memory, ...
        device: where it computes: auto, cpu, cuda, cuda:N or mps (`kdcore.devices.device_of`).
        settings: of the experiment (`clients=10`, `alpha=0.1`, `rounds=5`) and of the algorithm;
            nested ones as `local={"epochs": 5}` or `local__epochs=5`. Models may be classes or
            functions that make a torch module, or modules.

    Raises:
        ValueError: an unknown setting, the nearest is named, or a value that cannot be.
        FileNotFoundError: a data file is missing.
    """
    named, objects = given.named({"data": data, **settings})
    experiment: Any = given.experiment("fed", algorithm, named)
    from simulations.runners import federated

    asked = _resources({"device": device, **(resources or {})})
    return map(Record, federated.run(experiment, _path(data_root), asked, objects=objects))


def distill(
    method: Any,
    *,
    data: Any = "digits-knn",
    data_root: Folder | None = None,
    download: bool = False,
    device: str = "auto",
    teacher: Any = None,
    student: Any = None,
    **settings: Any,
) -> Iterator[Record]:
    """One graph distillation, nothing kept: a record of each epoch, and at last one of the run.

    Args:
        method: a name (`kdsim list methods`), `module:Class`, a class derived from
            `kdsim.Method`, or an instance.
        data: the graph, by name or as a `kdsim.Graph`, PyTorch Geometric's `Data` (a list of
            them, each with one label, is a data set of whole graphs, for `protocol="folds"`), or a
            graph of networkx; or a `kdsim.Split`.
        data_root: the folder of data sets, by default $KDSIM_DATA or ~/.cache/kdsim.
        download: whether missing data may be fetched.
        device: where it computes: auto, cpu, cuda, cuda:N or mps (`kdcore.devices.device_of`).
        teacher: in place of the method's: a name, a module that is trained, a class or function
            that makes one to be trained, or `kdsim.TeacherLogits` (`graphkd.training.given.Given`).
        student: likewise; a module is trained from the weights that it has.
        settings: of the experiment (`protocol="inductive"`, `seed=1`) and of the method.

    Raises:
        ValueError: an unknown setting, the nearest is named, or a value that cannot be.
        FileNotFoundError: a data file is missing.
    """
    sides = {"teacher": teacher, "student": student}
    names = {side: name for side, name in sides.items() if isinstance(name, str)}
    named, objects = given.named({"data": data, **settings, **names})
    experiment: Any = given.experiment("graph", method, named)
    from graphkd.training import given as networks
    from simulations.runners import graph

    root, own = _path(data_root), networks.named(experiment.method, **sides)[1]
    if download:
        graph.prepare(experiment, root, download, objects, own)
    where = str(graph.device_for(experiment, _resources({"device": device})))
    return map(Record, graph.run(experiment, root, where, objects=objects, own=own))


def run(
    what: Any,
    data: Any = None,
    *,
    set: Mapping[str, Any] | None = None,
    out: Folder | None = None,
    data_root: Folder | None = None,
    workers: int | None = None,
    seeds: int | list[int] | None = None,
    resources: Mapping[str, Any] | None = None,
    download: bool = False,
    track: str | Sequence[str] = (),
    ray_address: str = "",
    listener: Callable[[Job, Record], None] | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> Runs:
    """All runs of an experiment, kept in a folder and reported; what is done is not done again.

    As the command does it: the same folders, numbers and resuming. Nothing is printed but a bar.

    Data and models that are objects are known by a hash, in the folders and in the experiment file
    there, which cannot name them: to go on with what was stopped, call this again with the same.

    Args:
        what: the path of a TOML file; the name of an experiment that comes with kdsim (`kdsim list
            experiments`), or of a recipe (`kdsim list recipes`; `survey/mutual` where a method has
            its name); or an algorithm or a method, or a list of them, each as `simulate` and
            `distill` take it.
        data: the data set, or several, each as `simulate` and `distill` take it.
        set: settings of the file by their full names, `{"fed.rounds": 5}`, as after `--set`.
        out: the folder; by default one in `runs`, named after the experiments.
        data_root: the folder of data sets, by default $KDSIM_DATA or ~/.cache/kdsim.
        workers: how many runs at once; by default as many as the cores hold.
        seeds: seeds 0 to N-1, or a list.
        resources: of each run, as [resources] of a file: cpus, gpus, actors, ...
        download: whether missing graph data may be fetched.
        track: what is told of each run: "tensorboard", "wandb", "mlflow", or one's own.
        ray_address: HOST:PORT of a Ray cluster to run on; by default as the file or $RAY_ADDRESS
            has it, and else this machine, which "local" says outright. See docs/cluster.md.
        listener: is called with the job and each record as it comes.
        progress: whether it shows how far it is; by default on a terminal and in a notebook.
        settings: for all that have them; a list where one value is due is an axis of the grid.
            `parts` says by hand what each client holds: row numbers, `[[0, 1], [2, 3]]`, by name of
            a client and with test rows, `{"north": ([0, 1], [4])}`, or, without `data`, examples
            (`fedkd.data.own.partition.of_examples`).

    Raises:
        ValueError, OSError: the input is wrong, and nothing was run; one line says why.
        RuntimeError: a run failed. The others are done, and can be loaded.
    """
    asked = {"data": data, "seeds": seeds}
    named = {key: value for key, value in asked.items() if value is not None} | settings
    shared, objects = given.named(named)
    wanted = {**(set or {})} | {f"resources.{k}": v for k, v in (resources or {}).items()}
    source = given.source(what, shared, wanted)
    said = [f"{key}={value!r}" for key, value in {**shared, **wanted}.items()]
    call = f"kdsim.run({', '.join([repr(what), *said])})".replace("'", '"')
    trackers = (track,) if isinstance(track, str) else tuple(track)
    how = _path(out), _path(data_root), workers, download, (call,), trackers
    options = Options(*how, objects=objects, ray_address=ray_address)
    failed = []
    document, name, text = source.document, source.name, source.text
    with _threads(), batches.opened(document, source.said, name, options, text) as batch:
        with bars.following(batch, progress) as advance, closing(batches.run(batch)) as records:
            for job, record in records:
                advance(job, record)
                if listener is not None:
                    listener(job, Record(record))
                if record["record"] == "failed":
                    failed.append(f"{job.folder.name}: {record['error']}")
        complete = batch.complete
        if complete:
            report(*complete, out=batch.out)
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(batch.jobs)} runs failed, the first {failed[0]}; "
            f"what is done is in {batch.out}"
        )
    found = tuple(one for path in complete for one in kept.of([path]))
    return Runs(found, batch.out, objects, options.root)


def tune(
    what: Any,
    data: Any = None,
    *,
    search: Mapping[str, Any] | None = None,
    trials: int | None = None,
    seeds: Sequence[int] | None = None,
    metric: str | None = None,
    set: Mapping[str, Any] | None = None,
    out: Folder | None = None,
    data_root: Folder | None = None,
    workers: int | None = None,
    download: bool = False,
    listener: Callable[[Trial], None] | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> Tuned:
    """Search settings by validation data, as widely for each algorithm; what came of it.

    The test set is not looked at. What is done is not done again, and more trials go on from there.

    Args:
        what: what to tune, as `run` takes it; a file may say in [tune] what is searched.
        data: the data set, as `run` takes it.
        search: what each setting may be: `{"local.learning_rate": "log(0.001, 0.1)"}` for all that
            have it, `{"fedmd.local.epochs": [1, 2, 5]}` for one; `simulations.config.search`.
        trials: how many settings are tried of each algorithm, by default 20.
        seeds: of each trial, by default 100 and 101: none that results are of.
        metric: what is sought, by default the metric on validation examples.
        set: settings of the file by their full names, `{"fed.validation": 200}`.
        out: the folder; by default one in `runs`.
        data_root: the folder of data sets.
        workers: how many runs at once.
        download: whether missing graph data may be fetched.
        listener: is called with each trial when it is done.
        progress: whether it shows how far each trial is.
        settings: for all that have them.

    Raises:
        ValueError, OSError: the input is wrong, or no trial has come to a number.
    """
    named = {key: value for key, value in {"data": data}.items() if value is not None} | settings
    shared, objects = given.named(named)
    how = {"trials": trials, "seeds": seeds and list(seeds), "metric": metric}
    asked = {f"tune.{key}": value for key, value in how.items() if value is not None}
    asked |= {f"tune.search.{key}": value for key, value in (search or {}).items()}
    source = given.source(what, shared, {**(set or {}), **asked})
    options = Options(_path(out), _path(data_root), workers, download, objects=objects)
    found: list[Trial] = []

    def listen(batch: batches.Batch) -> None:
        with bars.following(batch, progress) as advance:
            for job, record in batches.run(batch):
                advance(job, record)

    with _threads(), tuning.opened(source.document, source.said, source.name, options) as search_:
        for trial in search_.run(listen):
            found.append(trial)
            if listener is not None:
                listener(trial)
        best = search_.keep(found)
        shares = {study.learner.name: study.importance() for study in search_.studies}
    return Tuned(tuple(found), best, search_.out / tuning.BEST, shares)


def report(*runs: Runs | Folder, out: Folder | None = None, select: str | None = None) -> Path:
    """One self-contained page about runs, with tables and figures beside it; its path.

    Args:
        runs: folders of runs, or what `run` and `load` give.
        out: the page, or the folder for it; by default what holds all the runs.
        select: a metric, such as "accuracy_validation": of each method only the setting that is
            best by it.

    Raises:
        ValueError: a folder is missing, or holds no finished run; nothing to select by.
    """
    from simulations.reporting.report import write_report

    if not runs:
        raise ValueError("name at least one folder of runs, such as report('runs/mine')")
    folders: list[Path] = []
    for one in runs:
        folders += [r.path for r in one.complete] if isinstance(one, Runs) else [Path(one)]
    alone = runs[0].folder if len(runs) == 1 and isinstance(runs[0], Runs) else None
    return write_report(folders, _path(out) or alone, select)


def _path(folder: Folder | None) -> Path | None:
    return None if folder is None else Path(folder).expanduser()


def _resources(asked: Mapping[str, Any] | None) -> Resources:
    with files.naming("resources"):
        return Resources.of(asked or {})


@contextmanager
def _threads() -> Iterator[None]:
    """A run sets how many threads PyTorch has; afterwards the caller has as many as before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
