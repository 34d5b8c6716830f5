"""Federated runs whose clients hold parts of a graph."""

from functools import partial
from pathlib import Path
from typing import Any

from fedgraphkd import partition
from fedgraphkd.federated_graph import GraphFederation, federate
from fedkd.data.federated_data import FederatedData
from graphkd.data import registry, sources
from graphkd.graph import Graph
from simulations.config.experiments import FedExperiment
from simulations.runners.objects import Objects

DRAWN = 3000  # nodes: of more, a picture shows nothing, and the record would be large


def read(e: FedExperiment, root: Path | None) -> Graph:
    """The graph of a name.

    Raises:
        FileNotFoundError: a raw file is missing.
    """
    return registry.load(e.data, root)


def dealt(e: FedExperiment, data: Any, objects: Objects) -> FederatedData:
    """The clients of an experiment on a graph.

    Raises:
        ValueError: a graph or models from which no such federation can be made.
    """
    graph = sources.graph_of(data)
    modules = {name: what for name in e.models if (what := objects.models.get(name)) is not None}
    deal = partial(
        partition.partition,
        e.partition,
        alpha=e.alpha,
        shards=e.shards,
        classes=e.classes_per_client,
    )
    found = federate(
        graph,
        e.clients,
        e.models,
        e.seed,
        deal,
        e.nodes,
        e.same_start,
        whole=e.partition == "natural",
        modules=modules,
    )
    return found.federated._replace(drawn=_drawn(found))


def _drawn(found: GraphFederation) -> dict[str, Any]:
    """Who holds which node and how many of each class, as a figure needs it."""
    graph = found.private
    said: dict[str, Any] = {"labels": found.federated.label_counts.tolist()}
    if graph.num_nodes <= DRAWN:
        owner = graph.y.new_zeros(graph.num_nodes)
        for client, part in enumerate(found.parts):
            owner[part] = client
        once = graph.edge_index[:, graph.edge_index[0] < graph.edge_index[1]]
        said |= {"owner": owner.tolist(), "edges": once.T.tolist()}
    return {"dealt": said}
