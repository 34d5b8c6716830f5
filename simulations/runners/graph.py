"""One graph distillation: an experiment in, a record per epoch and one of the whole run out."""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import graphkd
from fedkd.storage import atomic_files, weights
from graphkd.core import StudentSpec, TeacherSpec
from graphkd.data import datasets, registry
from graphkd.evaluation.predictions import predictions
from graphkd.method import Plan
from graphkd.models import networks
from graphkd.training.distillation import fit_one_teacher
from graphkd.training.given import Given
from graphkd.training.loop import build
from kdcore.devices import device_of
from kdcore.registry import is_reference
from simulations.config.experiments import GraphExperiment
from simulations.config.resources import Resources
from simulations.runners import teacher_cache
from simulations.runners.objects import NONE, Objects

Record = dict[str, Any]
NAMED = Given()  # nothing: the method's names

_load = lru_cache(4)(registry.load)  # a worker runs many experiments on few data sets


def prepare(
    experiment: GraphExperiment,
    root: Path | None = None,
    download: bool = False,
    objects: Objects = NONE,
    own: Given = NAMED,
) -> tuple[Plan, graphkd.Split]:
    """The plan of an experiment's method, checked, and its graph, cut by its protocol.

    Args:
        experiment: what to run.
        root: the folder of data sets, see `graphkd.data.datasets.load`.
        download: whether missing data may be fetched.
        objects: graphs that were given as such.
        own: a teacher and a student that are given as objects.

    Raises:
        ValueError: it cannot run; the message names the value, what was expected and the way out.
        FileNotFoundError: a data file is missing.
    """
    graph = objects.given(experiment.data)
    if graph is None:
        graph = _load(experiment.data, datasets.data_root(root), download)
    if not isinstance(graph, graphkd.Graph):
        raise ValueError(f"{experiment.name} learns from a Graph, got {type(graph).__name__}")
    plan = graphkd.distill.planned(experiment.method, graph, experiment.protocol, own)
    cut = (experiment.train, experiment.val, experiment.feature_noise, experiment.removed_edges)
    task = plan.method.task
    split = registry.split(graph, experiment.protocol, experiment.seed, *cut, task=task)
    graphkd.distill.check_links(plan.method, split, own)
    specs: list[TeacherSpec | StudentSpec] = [*plan.teachers, plan.student]
    ours = [one for one in specs if one.network in networks.NETWORKS]
    theirs = [one for one in plan.teachers if is_reference(one.network)]
    for one in ours + theirs:  # a width that no network can have, or what is no network
        build(one, split.view("train").graph, experiment.seed, "check")
    if len(ours) < len(specs):
        graphkd.distill.check_networks(plan, split, seed=experiment.seed, own=own)
    return plan, split


def tables(prepared: tuple[Plan, graphkd.Split]) -> Any:
    """The data of it."""
    graph = prepared[1].view("evaluate").graph
    return graph.x, graph.edge_index, graph.y


def teachers_of(
    experiment: GraphExperiment, root: Path | None = None, objects: Objects = NONE
) -> frozenset[str]:
    """What the teachers of a run are known by before it runs: those of two runs may be the same.

    Raises:
        ValueError, FileNotFoundError: as `prepare`.
    """
    given = objects.given(experiment.data)
    graph = _load(experiment.data, datasets.data_root(root), False) if given is None else given
    plan = graphkd.distill.planned(experiment.method, graph, experiment.protocol)
    if plan.method.scheme != "offline" or plan.method.taught_by:
        return frozenset()
    cut = (experiment.train, experiment.val, experiment.feature_noise, experiment.removed_edges)
    more = ("device",) * experiment.method.device_dropout + ("links",) * (
        plan.method.task == "links"
    )
    where = (experiment.data, experiment.protocol, experiment.seed, *cut, *more)
    return frozenset(repr((one, where)) for one in plan.teachers)


def device_for(experiment: GraphExperiment, resources: Resources) -> torch.device:
    """Where a run computes; ValueError if there is no such device, or not for this method."""
    device = device_of(resources.device, resources.gpus)
    graphkd.distill.check_device(experiment.method, device)
    return device


def run(
    experiment: GraphExperiment,
    root: Path | None = None,
    device: str = "cpu",
    shared: Path | None = None,
    kept: Path | None = None,
    ended: weights.Place | None = None,
    objects: Objects = NONE,
    own: Given = NAMED,
    fetch: Callable[[Path], None] | None = None,
) -> Iterator[Record]:
    """A record of each epoch of teacher, baseline and student, and one of the run.

    The first has notes of what the protocol left out of the graph, if it did. Only what is called
    "seconds" may differ between two runs of the same experiment. With a folder `shared`, a teacher
    that another run has left there, or `fetch` brings there, is not trained again. The file `kept`
    gets what pictures are drawn from (`graphkd.evaluation.predictions`), `ended` the student.
    `objects` has graphs that were given as such, `own` a teacher and a student.
    """
    start = time.perf_counter()
    plan, split = prepare(experiment, root, objects=objects, own=own)
    split, said = split.to(device), list(split.notes)
    drawn = experiment.method.device_dropout
    cached = shared and partial(teacher_cache.fit, shared, fetch=fetch, device_dropout=drawn)
    steps = graphkd.distill.carry_out(
        plan, split, seed=experiment.seed, train=cached or fit_one_teacher, own=own
    )
    for step in steps:
        if isinstance(step, graphkd.Epoch):
            record = _epoch(step)
        else:
            record = _run(experiment, step) | _own(own, step)
            if ended is not None:
                said += _keep(ended, step)
            if kept is not None and (found := predictions(split, step.trained, experiment.seed)):
                atomic_files.save(kept, {name: value.numpy() for name, value in found.items()})
        yield record | ({"notes": said} if said else {}) | {"seconds": time.perf_counter() - start}
        said = []


def student(
    experiment: GraphExperiment,
    learnt: Mapping[str, Tensor],
    root: Path | None = None,
    objects: Objects = NONE,
) -> nn.Module:
    """The student of a run with the weights that were kept of it, in evaluation mode.

    Raises:
        ValueError: they are not those of this student.
        FileNotFoundError: a data file is missing: the graph says how wide a student is.
    """
    plan, split = prepare(experiment, root, objects=objects)
    network = graphkd.distill.untrained(plan, split, seed=experiment.seed)
    try:
        network.load_state_dict(dict(learnt))
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())) from None
    return network.eval()


def _own(own: Given, result: graphkd.Result) -> Record:
    """What teacher and student are called, where they are not those that the method names."""
    named = {"teacher": result.teacher, "student": result.student}
    return {who: name for who, name in named.items() if getattr(own, who) is not None}


def _keep(ended: weights.Place, result: graphkd.Result) -> list[str]:
    """Write the final weights; a note where they are too many."""
    trained = result.trained.get("student", result.trained["baseline"])
    return weights.save(ended, {"student": trained.network.state_dict()}, {})


def _epoch(epoch: graphkd.Epoch) -> Record:
    return {
        "record": "epoch",
        "phase": epoch.phase,
        "epoch": epoch.index,
        "loss": epoch.loss,
        "accuracy_validation": epoch.accuracy,
        "best": epoch.best,
    }


def _run(experiment: GraphExperiment, result: graphkd.Result) -> Record:
    return {
        "record": "run",
        "kind": "graph",
        "method": experiment.name,
        "data": experiment.data,
        "protocol": experiment.protocol,
        "seed": experiment.seed,
        "metrics": dict(result.metrics),
        "epochs": dict(result.epochs),
    }
