"""Federated runs whose clients hold parts of a graph, or whole graphs."""

from functools import partial
from pathlib import Path
from typing import Any

from fedgraphkd import partition
from fedgraphkd.collection import side_by_side
from fedgraphkd.federated_collection import federate_graphs
from fedgraphkd.federated_graph import GraphFederation, federate
from fedkd.data.federated_data import FederatedData
from graphkd.data import registry, sources
from graphkd.data.graph_collection import Graphs
from graphkd.graph import Graph
from simulations.config.experiments import FedExperiment
from simulations.runners.objects import Objects

DRAWN = 3000  # nodes: of more, a picture shows nothing, and the record would be large


def read(e: FedExperiment, root: Path | None) -> Graph:
    """The graph of a name; of several names joined by "+" graphs of several domains.

    Raises:
        FileNotFoundError: a raw file is missing.
    """
    if "+" not in e.data:
        return registry.load(e.data, root)
    sets = [registry.load(name, root) for name in e.data.split("+")]
    return side_by_side([one for one in sets if isinstance(one, Graphs)])


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
    about = e.clients, e.models, e.seed, deal
    if not isinstance(graph, Graphs):
        whole = e.partition == "natural"
        found = federate(graph, *about, e.nodes, e.same_start, whole=whole, modules=modules)
        return found.federated._replace(drawn=_drawn(found))
    if e.graph != "graphs":
        raise ValueError(
            f"{e.data} is of {graph.num_nodes} whole graphs, and the command line deals out nodes "
            "of a graph of yours; give these to kdsim.run as data, a list of PyG's Data"
        )
    return federate_graphs(graph, *about, e.graphs, e.same_start, modules=modules)


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
