"""Federated distillation between clients that hold graphs.

    from functools import partial
    from fedgraphkd import NodeShares, federate, partition

    deal = partial(partition.partition, "louvain")           # or partition.greedy, or yours
    found = federate(graph, 10, ["gcn-64", "sage-64"], 0, deal, NodeShares(public=0.1))
    for round in simulate(FedMD(), found.federated.task, found.federated.clients, rounds=10):
        print(round.index, round.ledger.bytes_up)

A client holds a *block* of a graph, and an example is the number of a node. Networks close over the
*union* of all blocks, in which there is no edge between two of them, so every algorithm of `fedkd`
runs on graph clients as it is, in every engine. Read `union` first, then `federated_graph`.

Or a client holds whole graphs, and an example is the number of a graph in the *collection* of all
(`federate_graphs`).
"""

import importlib
from typing import Any

PLACES = {
    "Collection": "collection",
    "GraphFederation": "federated_graph",
    "GraphShares": "shares",
    "NodeShares": "shares",
    "NodeSplit": "federated_graph",
    "Union": "union",
    "build": "models",
    "federate": "federated_graph",
    "federate_graphs": "federated_collection",
}
__all__ = ["Collection", "GraphFederation", "GraphShares", "NodeShares", "NodeSplit", "Union"]
__all__ += ["build", "federate", "federate_graphs"]


def __getattr__(name: str) -> Any:
    """A name of the package; settings of an experiment are read without the networks."""
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{PLACES[name]}"), name)
