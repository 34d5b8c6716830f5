"""What settings of a federated experiment mean, and are by default, where its data are a graph."""

import importlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

DATA, GRAPHS = "fedkd.data.datasets", "graphkd.data.registry"  # where data are found by name
PARTITIONS = "fedgraphkd.partition"
MODELS, NETWORKS = "fedkd.models", "graphkd.models.networks"

OBJECT = "own:"  # how names begin of what was given as a Python object
GRAPH = f"{OBJECT}graph:"  # and of a graph that was, where clients may hold other data as well

# What trains on nodes: on all of a client's at once, since each step costs a pass over its graph.
TRAINED = ("local", "distill")
TRAINING = {
    "optimizer": "adam",
    "learning_rate": 0.01,
    "weight_decay": 5e-4,
    "epochs": 5,
    "batch_size": 0,
}
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
    "depend on, too",
}


def is_graph(data: str) -> bool:
    """Whether data of this name are a graph, whose nodes are dealt out to clients."""
    if data.startswith(OBJECT):
        return data.startswith(GRAPH)
    if not data.replace("-", "").isalnum():  # a file, a reference, or several data sets
        return False
    if data in importlib.import_module(DATA).REGISTRY:
        return False  # and graphs, which take a while to load, are not
    return data in importlib.import_module(GRAPHS).REGISTRY


def plain(data: str) -> str:
    """The name by which a graph that was given as an object is kept."""
    return data.replace(GRAPH, OBJECT, 1)


def check_partition(name: str) -> None:
    """Raise ValueError for a partition that is none of a graph's nodes."""
    if not name.startswith(OBJECT):
        importlib.import_module(PARTITIONS).check(name)


def check_models(data: str, names: Iterable[str]) -> None:
    """Raise ValueError for networks on graphs, of data that are none."""
    known = importlib.import_module(MODELS).names()
    for name in names:
        word = re.split("[-@]", name)[0]
        if (
            word.isalnum()
            and word not in known
            and word in importlib.import_module(NETWORKS).names()
        ):
            raise ValueError(
                f"model {name} is a network on graphs, and {data} is no graph by name; take one of "
                "`kdsim list models`, or a graph such as digits-knn; one of yours goes to kdsim.run"
            )


def check_settings(data: str, given: Mapping[str, Any], default: Mapping[str, Any]) -> None:
    """Raise ValueError for settings of examples; those that are not given have their defaults."""
    for name, instead in OF_EXAMPLES.items():
        if given[name] != default[name]:
            raise ValueError(
                f"{name} {given[name]}: {data} is a graph, and {instead}; leave {name} out"
            )


def check_training(data: str, settings: Mapping[str, Any]) -> None:
    """Raise ValueError for a training with differential privacy of each example."""
    for name, one in settings.items():
        if getattr(one, "privacy", None) is not None:
            raise ValueError(
                f"{name}.privacy: {data} is a graph, and {OF_EXAMPLES['epsilon']}; leave it out"
            )


def words(nodes: Any) -> Iterable[str]:
    """What has to be equal of the nodes' roles for two algorithms to be compared."""
    yield f"{nodes.train:.0%} of nodes to train on, {nodes.validation:.0%} to select on"
    if nodes.public:
        yield f"{nodes.public:.0%} public" + ("" if nodes.public_edges else " without edges")
    if nodes.edges == "kept":
        yield "edges between clients kept"
