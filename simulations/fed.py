"""One federated run: an experiment in, a record per round and one of the whole run out."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from fedkd.channel import Channel, Ledger
from fedkd.compression import float16
from fedkd.data import datasets
from fedkd.data.federate import Federation, federate, pools
from fedkd.data.partition import partition
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.evaluation import evaluate
from fedkd.faults import corrupt
from fedkd.federation import Engine, Round, check_federation, deployed, simulate
from fedkd.sampling import everyone, uniform
from knowledge.randomness import generator
from simulations.config import FedExperiment, tampering

Record = dict[str, Any]
METRICS = ("accuracy", "accuracy_local", "agreement", "calibration_error")

ENGINES: dict[str, Callable[[int], Engine]] = {
    "sequential": lambda chunk: sequential,
    "batched": batched,
}
CHANNELS: dict[str, Callable[[], Channel]] = {
    "none": Channel,
    "float16": lambda: Channel(uplink=(float16(),), downlink=(float16(),)),
}


def prepare(experiment: FedExperiment, root: Path | None = None) -> Federation:
    """The parties of an experiment, checked.

    Args:
        experiment: what to run.
        root: the folder of data sets, see `fedkd.data.datasets.load`.

    Raises:
        ValueError: it cannot run; the message names the value, what was expected and the way out.
        FileNotFoundError: a data file is missing.
    """
    e = experiment
    data = datasets.load(e.data, root)
    chosen = pools(data, e.private, e.public, e.validation, e.test, e.seed)
    stream = generator(e.seed, "partition")
    labels = data.y[chosen.private]
    parts = partition(e.partition, labels, e.clients, stream, e.alpha, e.shards)
    federation = federate(data, chosen, parts, e.models, e.seed)
    check_federation(e.algorithm, federation.task, federation.clients)
    _check_fault(e, federation)
    return federation


def run(experiment: FedExperiment, root: Path | None = None) -> Iterator[Record]:
    """A record of each round, and one of the run, whose metrics are those of the last round.

    Only what is called "seconds" may differ between two runs of the same experiment.
    """
    start = time.perf_counter()
    federation = prepare(experiment, root)
    engine, channel = _engine(experiment), CHANNELS[experiment.compression]()
    sample = everyone if experiment.fraction == 1 else uniform(experiment.fraction)
    total, scores = Ledger(), {}
    for current in simulate(
        experiment.algorithm,
        federation.task,
        federation.clients,
        rounds=experiment.rounds,
        engine=engine,
        channel=channel,
        sample=sample,
        seed=experiment.seed,
    ):
        total += current.ledger
        due = current.index % experiment.eval_every == 0 or current.index == experiment.rounds
        scores = _scores(experiment, federation, current, engine, channel) if due else {}
        yield _round(current, total, scores) | {"seconds": time.perf_counter() - start}
    metrics = {name: scores[name] for name in METRICS}
    metrics |= {"bytes_up": total.bytes_up, "bytes_down": total.bytes_down}
    yield {
        "record": "run",
        "kind": "fed",
        "method": experiment.name,
        "data": experiment.data,
        "protocol": experiment.protocol,
        "seed": experiment.seed,
        "metrics": metrics,
        "seconds": time.perf_counter() - start,
    }


def _engine(experiment: FedExperiment) -> Engine:
    engine = ENGINES[experiment.engine](experiment.chunk)
    if experiment.corrupt is None:
        return engine
    return corrupt(engine, *tampering(experiment.corrupt, experiment.clients))


def _check_fault(experiment: FedExperiment, federation: Federation) -> None:
    """Raise ValueError for a fault that nobody could see."""
    if experiment.corrupt is None or not experiment.corrupt.endswith(":simplex"):
        return
    task = federation.task
    claims = [c for g in task.models for c in experiment.algorithm.claims(task, g).values()]
    if claims and not any(claim.simplex for claim in claims):
        raise ValueError(
            f"corrupt {experiment.corrupt}: the uploads of {experiment.name} are no distributions; "
            "take another fault, such as nan, or an algorithm that exchanges predictions"
        )


def _scores(
    experiment: FedExperiment,
    federation: Federation,
    current: Round,
    engine: Engine,
    channel: Channel,
) -> Record:
    clients = deployed(
        experiment.algorithm,
        federation.task,
        current,
        engine=engine,
        channel=channel,
        seed=experiment.seed,
    )
    scores = evaluate(federation.task, clients, federation.test, federation.label_counts, engine)
    spread = scores.accuracy
    return {
        "accuracy": _number(spread.mean()),
        "accuracy_std": _number(spread.std()) if len(spread) > 1 else None,
        "accuracy_min": _number(spread.min()),
        "accuracy_max": _number(spread.max()),
        "accuracy_local": _number(scores.accuracy_local.mean()),
        "agreement": _number(scores.agreement.mean()),
        "calibration_error": _number(scores.calibration_error.mean()),
        "clients": {
            "accuracy": _list(scores.accuracy),
            "accuracy_local": _list(scores.accuracy_local),
            "group": [client.group for client in clients],
        },
    }


def _round(current: Round, total: Ledger, scores: Record) -> Record:
    return {
        "record": "round",
        "round": current.index,
        **scores,
        "bytes_up": total.bytes_up,
        "bytes_down": total.bytes_down,
        "traffic": {"up": dict(current.ledger.up), "down": dict(current.ledger.down)},
        "cohort": list(current.cohort),
        "rejected": {str(client): reason for client, reason in current.rejected.items()},
        "failed": {str(client): reason for client, reason in current.failed.items()},
    }


def _number(value: Tensor) -> float | None:
    """A number as JSON can hold it: NaN, of a model that has diverged, is null."""
    return float(value) if math.isfinite(value) else None


def _list(values: Tensor) -> list[float | None]:
    return [_number(value) for value in values]
