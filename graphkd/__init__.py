"""Distilling graph neural networks: a graph network teaches an MLP or a thinner network.

    import graphkd

    for record in graphkd.run("glnn", "cora", "inductive", seed=0):
        print(record)                                # Epoch ... Epoch, and at last one Result

    glnn = graphkd.methods.get("glnn")               # a frozen dataclass: its fields are settings
    graphkd.run(glnn(teacher="gcn", temperature=2.0), "digits-knn")

`run(method, data, protocol, seed, root, download, device)` is all that an experiment needs. The
names: `methods.names()`, `datasets.names()`, `networks.names()`, `losses.__all__`,
`splits.PROTOCOLS`. Mistakes of the user raise ValueError or FileNotFoundError with one line that
says the way out.

Read `core` first (Split, View, Epoch, Result), then `method` (Method, DistillationContext,
LossTerm, Plan).
"""

from graphkd import distill, losses, methods
from graphkd.core import Epoch, LeakError, Result, Split, View
from graphkd.data import datasets, splits
from graphkd.distill import run
from graphkd.graph import Graph
from graphkd.method import DistillationContext, LossTerm, Method
from graphkd.models import networks

__all__ = [
    "Epoch",
    "Graph",
    "LeakError",
    "DistillationContext",
    "Method",
    "Result",
    "Split",
    "LossTerm",
    "View",
    "datasets",
    "distill",
    "losses",
    "methods",
    "networks",
    "run",
    "splits",
]
