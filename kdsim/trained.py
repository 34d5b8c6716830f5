"""The networks that runs have ended with, as torch modules."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fedkd.core import Model
from fedkd.models import build
from simulations.config import experiments, identity
from simulations.results import run_folder, weights
from simulations.results.run_folder import Run

LEARNERS = ("algorithm", "method", "recipe")  # what says in a run who has learnt


def method_of(run: Run) -> str:
    """Who has learnt in a run, by name."""
    return next(str(run.experiment[key]) for key in LEARNERS if key in run.experiment)


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
    fit = [run for run in found if all(run.experiment.get(k) == v for k, v in settings.items())]
    if len(fit) == 1:
        return fit[0]
    keys = dict.fromkeys(key for run in found for key in run.experiment)
    differ = {k: [run.experiment.get(k) for run in fit or found] for k in keys}
    said = [f"{k} {_several(v)}" for k, v in differ.items() if any(one != v[0] for one in v)]
    how = f"{len(fit)} runs" if fit else f"none of the {len(found)} runs"
    raise ValueError(
        f"{how} of {method} with seed {seed} {'fit' if fit else 'fits'}; they differ in "
        f"{' and '.join(said) or 'nothing'}: say which one by a setting, such as alpha=0.1"
    )


def network(
    run: Run, client: int | None, models: Mapping[str, Model], root: Path | None
) -> nn.Module:
    """The network that a run has ended with, in evaluation mode.

    Args:
        run: complete.
        client: of a federated run, whose.
        models: those that were given as objects, by the names that the run has for them.
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
        return _student(run, client, found["student"], root)
    if client is None or str(client) not in found:
        raise ValueError(
            f"{run.path.name} has {len(found)} clients; say whose model, client=0 to "
            f"client={len(found) - 1}, got client={client}"
        )
    group = about["groups"][str(client)]
    if group in models:
        model = models[group]
    elif "#" in group:
        raise ValueError(
            f"the model {group} was given as an object and is not known here; give it again, as "
            "load(..., models=[...])"
        )
    else:
        model = build(group, about["shape"], about["num_classes"])
    return module_of(model, found[str(client)])


def module_of(model: Model, params: Mapping[str, Tensor]) -> nn.Module:
    """A model and parameters as a torch module, in evaluation mode; its forward gives logits."""
    return Network(model, params).eval()


class Network(nn.Module):
    """A model with parameters: `forward` gives logits, `outputs` what is hidden beside.

    Its parameters have the names that they have in the model: `layer0.weight`.
    """

    def __init__(self, model: Model, params: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._predict, self._names = model.predict, list(params)
        for name, value in params.items():
            *path, last = name.split(".")
            place: nn.Module = self
            for part in path:
                if part not in dict(place.named_children()):
                    place.add_module(part, nn.Module())
                place = place.get_submodule(part)
            place.register_parameter(last, nn.Parameter(value.clone(), value.is_floating_point()))

    def outputs(self, x: Tensor) -> Any:
        """Logits and hidden features (`kdsim.Outputs`)."""
        return self._predict({name: self.get_parameter(name) for name in self._names}, x)

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, C) logits."""
        logits: Tensor = self.outputs(x).logits
        return logits


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
    run: Run, client: int | None, learnt: Mapping[str, Tensor], root: Path | None
) -> nn.Module:
    if client is not None:
        raise ValueError(f"{run.path.name} has one student and no clients; leave client out")
    from simulations.runners import graph

    return graph.student(experiment_of(run), learnt, root)


def _several(found: Sequence[Any]) -> str:
    return "(" + ", ".join(dict.fromkeys(map(repr, found))) + ")"
