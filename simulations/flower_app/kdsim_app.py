"""The demo federation as a Flower app: from Flower's run_config to what `fedkd.flower` needs."""

import functools
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context, UserConfigValue

from fedkd import algorithms
from fedkd.communication import compression
from fedkd.communication.channel import Channel
from fedkd.core import Algorithm, Client
from fedkd.data import datasets
from fedkd.data.federated_data import FederatedData, federate, pools
from fedkd.data.partition import partition
from fedkd.flower import ClientRuntime, DistillationStrategy, Plan, client_app, server_app
from fedkd.rounds.client_sampling import uniform
from fedkd.rounds.evaluation import evaluate
from kdcore.rng import generator
from kdcore.training.loop import TrainingConfig

Config = dict[str, UserConfigValue]


def runtime(context: Context) -> ClientRuntime:
    """What one node plays: the client whose number is the node's partition."""
    config = context.run_config
    federation = _federation(tuple(sorted(config.items())))
    number = int(context.node_config["partition-id"])
    if number >= len(federation.clients):
        raise ValueError(f"node {number} has no client; this run has {len(federation.clients)}")
    counts = federation.label_counts[number : number + 1]

    def score(client: Client) -> dict[str, float]:
        scores = evaluate(federation.task, [client], federation.test, counts)
        return {name: float(value) for name, value in scores.items() if name != "agreement"}

    client = federation.clients[number]
    return ClientRuntime(algorithm(config), federation.task, client, channel(config), score)


def plan(context: Context) -> Plan:
    """What the server runs."""
    config = context.run_config
    rounds, every = int(config["rounds"]), int(config["eval-every"])
    strategy = DistillationStrategy(
        algorithm(config),
        _federation(tuple(sorted(config.items()))).task,
        int(config["clients"]),
        channel=channel(config),
        sample=uniform(float(config["fraction"])),
        seed=int(config["seed"]),
        score=range(every, rounds + 1, every) if every else (),
        patience=float(config["patience"]),
    )
    default = datasets.data_root() / "flower" / f"run-{context.run_id}"
    results = Path(str(config["results"])).expanduser() if config["results"] else default
    return Plan(strategy, rounds, results, float(config["timeout"]))


def algorithm(config: Config) -> Algorithm:
    """The algorithm of the run; all its training follows the same settings."""
    kind = algorithms.get(str(config["algorithm"]))
    optimizer: Any = config["optimizer"]  # any word; `TrainingConfig` refuses what it has not
    training = TrainingConfig(
        optimizer,
        float(config["learning-rate"]),
        epochs=int(config["epochs"]),
        batch_size=int(config["batch-size"]),
    )
    return kind(**{f.name: training for f in fields(kind) if isinstance(f.default, TrainingConfig)})


def channel(config: Config) -> Channel:
    """What happens to messages on the way, both ways."""
    return compression.channel(str(config["compression"]))


def federation(config: Config) -> FederatedData:
    """The data, the models and the clients of the run, the same on every node.

    A deployment in which each node has data of its own gives here, in the place of the clients'
    private parts, what lies on the node.
    """
    kinds = {"float32": torch.float32, "float64": torch.float64}
    torch.set_default_dtype(_one_of(kinds, config, "dtype"))
    data = datasets.load(str(config["data"]))
    data = data._replace(x=data.x.to(torch.get_default_dtype()))
    seed = int(config["seed"])
    chosen = pools(data, int(config["private"]), int(config["public"]), 0, 0, seed)
    labels, stream = data.y[chosen.private], generator(seed, "partition")
    count, alpha, shards = int(config["clients"]), float(config["alpha"]), int(config["shards"])
    parts = partition(str(config["partition"]), labels, count, stream, alpha, shards)
    return federate(data, chosen, parts, str(config["models"]).split(), seed)


def _one_of(options: dict[str, Any], config: Config, key: str) -> Any:
    if config[key] not in options:
        raise ValueError(f"{key} must be one of {', '.join(options)}, got {config[key]!r}")
    return options[str(config[key])]


@functools.lru_cache(maxsize=1)
def _federation(items: tuple[tuple[str, UserConfigValue], ...]) -> FederatedData:
    return federation(dict(items))


client = client_app(runtime)
server = server_app(plan)
