"""How good a federated run is after a round: its clients' models, scored, and what went wrong."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fedkd.core import MEASURED, Algorithm, Client, Engine
from fedkd.data.federated_data import FederatedData
from fedkd.rounds.evaluation import (
    Scores,
    collapsed,
    consensus_accuracy,
    diverged,
    evaluate,
    first_metric,
)
from fedkd.rounds.round import Deployment, Round
from fedkd.targets import CLASSES
from simulations.config.experiments import FedExperiment
from simulations.config.search import ON_VALIDATION
from simulations.runners.federated_run import FederatedRun

Record = dict[str, Any]


def scored(
    way: FederatedRun,
    federation: FederatedData,
    current: Round,
    used: Deployment,
    engine: Engine,
) -> Record:
    """The scores of a round, of the clients with the models that they would use now."""
    clients, brought = used
    own = federation.kind_counts, engine, federation.kinds, federation.tests
    everybody = evaluate(federation.task, clients, federation.test, *own)
    honest = _honest(way.experiment)
    scores = Scores({name: values[honest] for name, values in everybody.items()})
    first = scores.first
    spread = scores[first]
    forgot = {}
    if _digests(way.algorithm) and federation.task.target.name == CLASSES.name:
        forgot = collapsed(federation.task, current.clients, clients, engine)
    chosen_on = _chosen_on(federation, clients, engine, honest)
    local = f"{first}_local"
    others = {n: _number(v.mean()) for n, v in scores.items() if n not in (first, local)}
    if central := way.algorithm.server_model(federation.task, current.server):
        at_server = first_metric(federation.task, *central, federation.test)
        others[f"{first}_server"] = _number(at_server)
    if (right := consensus_accuracy(federation.task, current.server)) is not None:
        others["accuracy_consensus"] = right
    for name, test in federation.elsewhere.items():
        found = evaluate(federation.task, clients, test, *own[:-1])
        others |= {f"{n}_{name}": _number(found[n].mean()) for n in (first, local)}
    return {
        first: _number(spread.mean()),
        f"{first}_median": _number(spread.quantile(0.5)),
        f"{first}_std": _number(spread.std()) if len(spread) > 1 else None,
        f"{first}_min": _number(spread.min()),
        f"{first}_max": _number(spread.max()),
        local: _number(scores[local].mean()),
        **others,
        "bytes_deployed": brought.bytes_down,
        **chosen_on,
        "clients": {
            first: _list(everybody[first], honest),
            local: _list(everybody[local], honest),
            "group": [client.group for client in clients],
        },
        **divergence(
            federation,
            current,
            everybody.get("calibration_error", everybody[first]),
            engine,
        ),
        **({"collapsed": {str(client): left for client, left in forgot.items()}} if forgot else {}),
    }


def of_run(federation: FederatedData, scores: Record) -> list[str]:
    """The scores of the last round that are metrics of the run; of clients, the worst one's."""
    first = next(iter(scores))
    best = "min" if first in federation.task.target.lower else "max"
    left_out = {f"{first}_{part}" for part in ("std", best)}
    kept = [k for k, v in scores.items() if k not in left_out and isinstance(v, float | None)]
    return sorted(kept, key=lambda name: name.endswith(ON_VALIDATION))  # which come last


def collapse(scores: Record) -> str:
    """Who collapsed in the last digest, and the way out, in a line."""
    who = ", ".join(
        f"client {client} ({100 * left:.0f} %)" for client, left in scores["collapsed"].items()
    )
    return (
        f"at chance on the own training data after the last digest: {who}; a smaller "
        "distill.learning_rate, or fewer distill.epochs, may keep what was learnt"
    )


def measured(current: Round) -> dict[str, float | None]:
    """What the server measured by itself in this round."""
    numbers = {k: v for k, v in current.server.items() if k.startswith(MEASURED)}
    return {name.removeprefix(MEASURED): _number(value) for name, value in numbers.items()}


def _chosen_on(
    federation: FederatedData, clients: Sequence[Client], engine: Engine, honest: Any
) -> Record:
    """What settings may be chosen on, test examples being spared."""
    examples, kinds = federation.validation, federation.validation_kinds
    if not len(examples):
        return {}
    counts = federation.label_counts if kinds is None else federation.kind_counts
    found = evaluate(federation.task, clients, examples, counts, engine, kinds)
    names = [found.first] if kinds is None else [found.first, f"{found.first}_local"]
    return {f"{name}{ON_VALIDATION}": _number(found[name][honest].mean()) for name in names}


def divergence(
    federation: FederatedData, current: Round, certainty: Tensor, engine: Engine
) -> dict[str, str]:
    """Which clients train, or are measured, on what is no number any more; nothing if none do.

    A certainty, or a score, is NaN where a prediction is: a model that has diverged may be one of
    averages, or have parameters that are finite and too large.
    """
    lost = {*diverged(federation.task, current.clients, engine)}
    lost |= set(certainty.isnan().nonzero().flatten().tolist())
    if not lost:
        return {}
    who = ", ".join(map(str, sorted(lost)[:5])) + (f" and {len(lost) - 5} more" * (len(lost) > 5))
    return {
        "diverged": f"parameters or predictions of {'clients' if lost - {min(lost)} else 'client'} "
        f"{who} are no finite numbers; lower the learning rate"
    }


def _digests(algorithm: Algorithm) -> bool:
    """Whether clients fit the models that they use to public examples."""
    averaged = algorithm.properties.architectures == "shared within a group"
    return algorithm.public_training is not None and not averaged


def _number(value: Tensor) -> float | None:
    """A number as JSON can hold it: NaN, of a model that has diverged, is null."""
    return float(value) if math.isfinite(value) else None


def _list(values: Tensor, honest: Sequence[int]) -> list[float | None]:
    """Of each client; of those who lie null."""
    return [_number(value) if k in honest else None for k, value in enumerate(values)]


def _honest(experiment: FedExperiment) -> list[int]:
    """Whose models are scored: of those who lie nobody wants to know."""
    false = () if experiment.lie is None else experiment.lie[0]
    return [client for client in range(experiment.clients) if client not in false]
