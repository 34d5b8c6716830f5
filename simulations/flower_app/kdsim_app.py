"""The demo federation as a Flower app: from Flower's run_config to what `fedkd.flower` needs."""

import functools
from collections.abc import Sequence
from dataclasses import fields, replace
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
from simulations.graph_settings import kind_of

Config = dict[str, UserConfigValue]


def runtime(context: Context) -> ClientRuntime:
    """What one node plays: the client whose number is the node's partition."""
    config = context.run_config
    number, count = int(context.node_config["partition-id"]), int(config["clients"])
    if number >= count:
        raise ValueError(f"node {number} has no client; this run has {count}")
    federation = _of(config, [number])
    place = next(i for i, one in enumerate(federation.clients) if one.id == number)
    graph = bool(_kind(config))
    kinds = federation.kinds if graph else None
    counts = (federation.kind_counts if graph else federation.label_counts)[place : place + 1]

    def score(client: Client) -> dict[str, float]:
        scores = evaluate(federation.task, [client], federation.test, counts, kinds=kinds)
        return {name: float(value) for name, value in scores.items() if name != "agreement"}

    client = federation.clients[place]
    return ClientRuntime(algorithm(config), federation.task, client, channel(config), score)


def plan(context: Context) -> Plan:
    """What the server runs."""
    config = context.run_config
    rounds, every = int(config["rounds"]), int(config["eval-every"])
    strategy = DistillationStrategy(
        algorithm(config),
        _of(config, []).task,
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
    _set_dtype(config)
    data = datasets.load(str(config["data"]))
    data = data._replace(x=data.x.to(torch.get_default_dtype()))
    seed = int(config["seed"])
    chosen = pools(data, int(config["private"]), int(config["public"]), 0, 0, seed)
    labels, stream = data.y[chosen.private], generator(seed, "partition")
    count, alpha, shards = int(config["clients"]), float(config["alpha"]), int(config["shards"])
    parts = partition(str(config["partition"]), labels, count, stream, alpha, shards)
    return federate(data, chosen, parts, str(config["models"]).split(), seed)


def graph_federation(config: Config, held: Sequence[int]) -> FederatedData:
    """The same of clients that hold parts of a graph, or whole graphs; `held` alone are built.

    How many nodes or graphs are public, trained on and tested on are the usual shares.
    """
    from fedgraphkd import partition  # networkx takes a while to import
    from fedgraphkd.federated_collection import federate_graphs
    from fedgraphkd.federated_graph import federate as federate_nodes
    from graphkd.data import registry
    from graphkd.data.graph_collection import Graphs

    _set_dtype(config)
    graph = registry.load(str(config["data"]))
    graph = replace(graph, x=graph.x.to(torch.get_default_dtype()))
    deal = functools.partial(
        partition.partition,
        str(config["partition"]),
        alpha=float(config["alpha"]),
        shards=int(config["shards"]),
    )
    about = int(config["clients"]), str(config["models"]).split(), int(config["seed"]), deal
    if isinstance(graph, Graphs):
        return federate_graphs(graph, *about, held=held)
    whole = config["partition"] == "natural"
    return federate_nodes(graph, *about, whole=whole, held=held).federated


def _set_dtype(config: Config) -> None:
    kinds = {"float32": torch.float32, "float64": torch.float64}
    torch.set_default_dtype(_one_of(kinds, config, "dtype"))


def _kind(config: Config) -> str:
    return kind_of({"data": config["data"]})


def _of(config: Config, held: Sequence[int]) -> FederatedData:
    """The federation of a run: of graph clients no more than those that are played here."""
    items = tuple(sorted(config.items()))
    return _on_graph(items, tuple(held)) if _kind(config) else _federation(items)


def _one_of(options: dict[str, Any], config: Config, key: str) -> Any:
    if config[key] not in options:
        raise ValueError(f"{key} must be one of {', '.join(options)}, got {config[key]!r}")
    return options[str(config[key])]


@functools.lru_cache(maxsize=64)
def _on_graph(
    items: tuple[tuple[str, UserConfigValue], ...], held: tuple[int, ...]
) -> FederatedData:
    return graph_federation(dict(items), held)


@functools.lru_cache(maxsize=1)
def _federation(items: tuple[tuple[str, UserConfigValue], ...]) -> FederatedData:
    return federation(dict(items))


client = client_app(runtime)
server = server_app(plan)
