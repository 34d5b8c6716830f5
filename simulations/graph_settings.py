"""What settings of a federated experiment mean, and are by default, where its data are a graph.

Or whole graphs, of which each client holds some.
"""

import importlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from fedgraphkd.shares import BY_EDGES, GraphShares, NodeShares
from kdcore.references import is_reference

DATA, GRAPHS = "fedkd.data.datasets", "graphkd.data.registry"  # where data are found by name
PARTITIONS = "fedgraphkd.partition"
MODELS, NETWORKS = "fedkd.models", "graphkd.models.networks"

OBJECT = "own:"  # how names begin of what was given as a Python object
GRAPH = f"{OBJECT}graph:"  # and of a graph that was, where clients may hold other data as well
MANY = f"{OBJECT}graphs:"  # and of whole graphs

# What trains on nodes: on all of a client's at once, since each step costs a pass over its graph.
TRAINED = ("local", "distill")
TRAINING = {
    "optimizer": "adam",
    "learning_rate": 0.01,
    "weight_decay": 5e-4,
    "epochs": 5,
    "batch_size": 0,
}
ON_GRAPHS = {"learning_rate": 0.005, "batch_size": 32}
DEFAULTS: Mapping[str, Any] = {
    "partition": "louvain",
    "models": ("gcn-64",),
    "meme": "gcn-64",
    "mentee": "gcn-64",
    **{f"{part}.{key}": value for part in TRAINED for key, value in TRAINING.items()},
}
# Settings of examples that nodes do not have, and what to say of nodes instead.
OF_EXAMPLES = {
    "private": "all nodes are private that are not public",
    "public": "nodes.public is the share of nodes that all may see",
    "validation": "nodes.validation is a share of a client's nodes",
    "test": "nodes that nothing else takes are tested on",
    "absent_classes": "pathological clients have nodes of few classes",
    "rotations": "nodes have no orientation",
    "label_noise": "labels of nodes are as they are",
    "precision": "products with a graph are computed in float32",
    "epsilon": "noise that hides an example does not hide a node, which its neighbours' gradients "
    "depend on, too; it is had for privacy_unit client or label, with edges cut",
}
# Units that are no node's: of these there is noise on what a client sends, however it has trained.
OF_CLIENTS = ("client", "label")


# Of whole graphs there may be many: steps are on mini-batches.
OF_MANY: Mapping[str, Any] = {
    "partition": "dirichlet",
    "models": ("gin-64",),
    "meme": "gin-64",
    "mentee": "gin-64",
    **{f"{part}.{key}": value for part in TRAINED for key, value in TRAINING.items()},
    **{f"{part}.{key}": value for part in TRAINED for key, value in ON_GRAPHS.items()},
}

Kind = Literal["", "nodes", "graphs"]


def kind_of(given: Mapping[str, Any]) -> Kind:
    """What an example is, as settings of a federation have it: a node, a graph, or neither, "".

    A graph of the user's own, `mine.py:club`, is known by what else is said: a partition by edges,
    networks on graphs, or shares of nodes.
    """
    data = str(given.get("data", ""))
    if data.startswith(OBJECT):
        return "nodes" if data.startswith(GRAPH) else "graphs" if data.startswith(MANY) else ""
    if is_reference(data):
        return _of_own(given)
    names = data.split("+")
    if not all(name.replace("-", "").isalnum() for name in names):
        return ""
    if any(name in importlib.import_module(DATA).REGISTRY for name in names):
        return ""  # and graphs, which take a while to load, are not
    registry = importlib.import_module(GRAPHS)
    if all(name in registry.of_graphs() for name in names):
        return "graphs"
    return "nodes" if data in registry.REGISTRY else ""


def _of_own(given: Mapping[str, Any]) -> Kind:
    """What the examples of a user's own loader are, as far as other settings tell."""
    models = given.get("models", ())
    models = models.split(",") if isinstance(models, str) else models
    shares = given.get("nodes", NodeShares()) != NodeShares()
    shares |= any(name.startswith("nodes.") for name in given)
    by_edges = given.get("partition") in {*BY_EDGES} - {"natural"}
    return "nodes" if by_edges or shares or any(map(_on_graphs, map(str, models))) else ""


def _on_graphs(name: str) -> bool:
    """Whether a model's name is of a network on graphs alone."""
    word = re.split("[-@]", name)[0]
    if not word.isalnum() or word in importlib.import_module(MODELS).names():
        return False
    return word in importlib.import_module(NETWORKS).names()


def defaults(kind: Kind, data: str) -> Mapping[str, Any]:
    """Settings that have other defaults where examples are nodes, or graphs."""
    if kind == "graphs":
        return {**OF_MANY, "partition": "natural"} if "+" in data else OF_MANY
    return DEFAULTS if kind else {}


def plain(data: str) -> str:
    """The name by which a graph that was given as an object is kept."""
    return data.replace(GRAPH, OBJECT, 1).replace(MANY, OBJECT, 1)


def check_partition(name: str, kind: Kind) -> None:
    """Raise ValueError for a partition that is none of a graph's nodes, or of whole graphs."""
    if not name.startswith(OBJECT):
        importlib.import_module(PARTITIONS).check(name, kind == "graphs")


def check_models(data: str, names: Iterable[str]) -> None:
    """Raise ValueError for networks on graphs, of data that are none."""
    for name in names:
        if _on_graphs(name):
            raise ValueError(
                f"model {name} is a network on graphs, and {data} is no graph by name; take one of "
                "`kdsim list models`, or a graph such as digits-knn; one of yours goes to kdsim.run"
            )


def check_settings(
    data: str, kind: Kind, given: Mapping[str, Any], default: Mapping[str, Any]
) -> None:
    """Raise ValueError for settings of examples; those that are not given have their defaults."""
    domains = data.split("+")
    if twice := next((name for name in domains if domains.count(name) > 1), None):
        raise ValueError(
            f"data {data}: {twice} comes twice, and its labels would be others each time; name "
            "each domain once"
        )
    for name, instead in OF_EXAMPLES.items():
        if given[name] != default[name] and not (name == "epsilon" and _hides(kind, given)):
            raise ValueError(
                f"{name} {given[name]}: {_about(data, kind, instead)}; leave {name} out"
            )
    other = "graphs" if kind == "nodes" else "nodes"
    if given[other] != default[other]:
        raise ValueError(f"{other}: clients of {data} hold {kind}; give {kind} in place of {other}")


def _hides(kind: Kind, given: Mapping[str, Any]) -> bool:
    """Whether noise hides what epsilon is of: a whole graph, which is an example like any other.

    Or a client, or a label that it sends, unless it trains on the edges of others.
    """
    if kind == "graphs":
        return True
    return given["privacy_unit"] in OF_CLIENTS and given["nodes"].edges == "cut"


def check_training(data: str, kind: Kind, settings: Mapping[str, Any]) -> None:
    """Raise ValueError for a training with differential privacy of each node."""
    for name, one in settings.items():
        if kind == "nodes" and getattr(one, "privacy", None) is not None:
            raise ValueError(
                f"{name}.privacy: {_about(data, kind, OF_EXAMPLES['epsilon'])}; leave it out"
            )


def _about(data: str, kind: Kind, instead: str) -> str:
    """Why a setting of examples does not fit."""
    if kind == "nodes":
        return f"{data} is a graph, and {instead}"
    return f"{data} is of whole graphs, and {instead.replace('node', 'graph')}"


def words(kind: Kind, nodes: NodeShares, graphs: GraphShares) -> Iterable[str]:
    """What has to be equal of the examples' roles for two algorithms to be compared."""
    shares = graphs if kind == "graphs" else nodes
    yield f"{shares.train:.0%} of {kind} to train on, {shares.validation:.0%} to select on"
    if shares.public:
        without = kind == "nodes" and not nodes.public_edges
        yield f"{shares.public:.0%} public" + (" without edges" if without else "")
    if kind == "nodes" and nodes.edges == "kept":
        yield "edges between clients kept"
