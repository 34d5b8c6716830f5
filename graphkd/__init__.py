"""Distilling graph neural networks: a graph network teaches an MLP or a thinner network.

    import graphkd

    for record in graphkd.run("glnn", "cora", "inductive", seed=0):
        print(record)                                # Epoch ... Epoch, and at last one Result

    glnn = graphkd.methods.get("glnn")               # a frozen dataclass: its fields are settings
    graphkd.run(glnn(teacher="gcn", temperature=2.0), "digits-knn")

With a graph, a teacher and a student of one's own:

    graph = graphkd.Graph.from_networkx(G, features="x", label="y")     # or PyG's Data as it is
    split = graphkd.splits.own(graph, train, val, test)                 # masks, ids or names
    *_, result = graphkd.run("glnn", split, teacher=my_trained_gnn, student=MyNet)
    graphkd.save(result, "student.safetensors")                         # or graphkd.plain(result)

`graphkd.run("llp", "cora")` predicts links; PyG's `HeteroData` is a graph with types.

`run(method, data, protocol, seed, root, download, device, teacher, student)` is all that an
experiment needs. The names: `methods.names()`, `datasets.names()`, `networks.names()`,
`losses.__all__`, `splits.PROTOCOLS`. Mistakes of the user raise ValueError or FileNotFoundError
with one line that says the way out.

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
from graphkd.models.plain import load, plain, save
from graphkd.training.given import TeacherLogits

__all__ = [
    "Epoch",
    "Graph",
    "LeakError",
    "DistillationContext",
    "Method",
    "Result",
    "Split",
    "TeacherLogits",
    "LossTerm",
    "View",
    "datasets",
    "distill",
    "load",
    "losses",
    "methods",
    "networks",
    "plain",
    "run",
    "save",
    "splits",
]
