"""The networks that runs have ended with, as torch modules."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fedkd.models import TRIED, build
from fedkd.storage import weights
from kdcore.rng import generator
from simulations.config import experiments, identity
from simulations.results import run_folder
from simulations.results.run_folder import Run
from simulations.runners.objects import Objects

LEARNERS = ("algorithm", "method", "recipe")  # what says in a run who has learnt


def method_of(run: Run) -> str:
    """Who has learnt in a run, by name."""
    return next(str(run.experiment[key]) for key in LEARNERS if key in run.experiment)


def settings_of(run: Run) -> dict[str, Any]:
    """What was run, with the defaults of settings that only runs have which differ from them."""
    kind = experiments.KINDS[run.experiment["kind"]].experiment
    added = {one.name: one.default for one in fields(kind) if one.metadata.get("added")}
    return added | run.experiment


def chosen(runs: Sequence[Run], method: str, seed: int, settings: Mapping[str, Any]) -> Run:
    """The one run of a method with a seed and settings.

    Raises:
        ValueError: there is none, or more than one; the message says what there is.
    """
    found = [run for run in runs if method_of(run) == method and run.experiment["seed"] == seed]
    if not found:
        there = sorted({f"{method_of(run)} with seed {run.experiment['seed']}" for run in runs})
        known = ", ".join(there) or "none"
        raise ValueError(f"no complete run of {method!r} with seed {seed}; there are {known}")
    whole = {run.path: settings_of(run) for run in found}
    fit = [run for run in found if all(whole[run.path].get(k) == v for k, v in settings.items())]
    if len(fit) == 1:
        return fit[0]
    keys = dict.fromkeys(key for one in whole.values() for key in one)
    differ = {k: [whole[run.path].get(k) for run in fit or found] for k in keys}
    said = [f"{k} {_several(v)}" for k, v in differ.items() if any(one != v[0] for one in v)]
    how = f"{len(fit)} runs" if fit else f"none of the {len(found)} runs"
    raise ValueError(
        f"{how} of {method} with seed {seed} {'fit' if fit else 'fits'}; they differ in "
        f"{' and '.join(said) or 'nothing'}: say which one by a setting, such as alpha=0.1"
    )


def network(run: Run, client: int | None, given: Objects, root: Path | None) -> nn.Module:
    """The network that a run has ended with, in evaluation mode.

    Args:
        run: complete.
        client: of a federated run, whose.
        given: data and models that were given as objects.
        root: the folder of data sets: a graph says how wide its student is.

    Raises:
        ValueError: there are no weights, or no such client; one line says why.
    """
    path = run.path / run_folder.WEIGHTS
    if not path.is_file():
        raise ValueError(
            f"{run.path} has no {path.name}: its final weights were more than resources.weights "
            "allows, or it was run by a version that kept none, or it is of a recipe; to have them "
            "delete this folder and run it again"
        )
    found, about = weights.load(path)
    if "groups" not in about:
        return _student(run, client, found["student"], given, root)
    if client is None or str(client) not in found:
        raise ValueError(
            f"{run.path.name} has {len(found)} clients; say whose model, client=0 to "
            f"client={len(found) - 1}, got client={client}"
        )
    group = about["groups"][str(client)]
    if (experiment := experiment_of(run)).graph:
        from simulations.runners import federated

        federation = federated.prepare(experiment, root, objects=given)
        return federation.task.models[group].module(found[str(client)])
    kind = about["shape"], about["num_classes"], _rows(run, about, given)
    model = given.built([group], *kind).get(group) or build(group, *kind)
    return model.module(found[str(client)])


def experiment_of(run: Run) -> Any:
    """The experiment of a run, as it was.

    Raises:
        ValueError: it is of another version, and has other settings now.
    """
    kind = run.experiment["kind"]
    key = experiments.KINDS[kind].key
    given = {k: v for k, v in run.experiment.items() if k not in ("kind", key)}
    experiment = experiments.build(kind, run.experiment[key], given)
    if identity.digest(experiment) != run.hash:
        raise ValueError(
            f"{run.path} was written by another version of kdsim, with other settings; load it "
            "with that version, or run the experiment again"
        )
    return experiment


def _student(
    run: Run, client: int | None, learnt: Mapping[str, Tensor], given: Objects, root: Path | None
) -> nn.Module:
    if client is not None:
        raise ValueError(f"{run.path.name} has one student and no clients; leave client out")
    from simulations.runners import graph

    return graph.student(experiment_of(run), learnt, root, given)


def _rows(run: Run, about: Mapping[str, Any], given: Objects) -> Any:
    """Some examples of the kind that the clients had: a module may have to see some to be made."""
    data = given.data.get(run.experiment["data"])
    if data is not None:
        return tree_map(lambda one: one[:TRIED], data.x)
    stream = generator(0, "examples")
    made = tuple(
        torch.rand(TRIED, *shape, generator=stream).to(getattr(torch, dtype))  # ids: of kind 0
        for shape, dtype in about["inputs"]
    )
    return made if about["several"] else made[0]


def _several(found: Sequence[Any]) -> str:
    return "(" + ", ".join(dict.fromkeys(map(repr, found))) + ")"
