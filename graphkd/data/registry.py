"""Data sets by name, of nodes or of whole graphs, cut by a protocol: what a run starts from."""

from pathlib import Path

from graphkd.core import Split
from graphkd.data import datasets, graph_collection, splits, tudataset
from graphkd.graph import Graph
from kdcore.registry import unknown

FOLDS = "folds"
PROTOCOLS = (*splits.PROTOCOLS, FOLDS)


def names() -> list[str]:
    """The names of all data sets."""
    return sorted([*datasets.names(), *tudataset.names()])


def load(name: str, root: str | Path | None = None, download: bool = False) -> Graph:
    """The graph of this name, or the collection of graphs; see `graphkd.data.datasets.load`.

    Raises:
        ValueError: the name is unknown.
        FileNotFoundError: a raw file is missing, or could not be downloaded.
    """
    if name in tudataset.names():
        return tudataset.load(name, datasets.data_root(root))
    if name not in names():
        raise unknown("data set", name, names())
    return datasets.load(name, root, download)


def split(
    graph: Graph,
    protocol: str,
    seed: int,
    train: int | None = None,
    val: int | None = None,
    feature_noise: float = 0.0,
    removed_edges: float = 0.0,
) -> Split:
    """The split by the protocol of this name: `splits.split`, or `graph_collection.folds`.

    Raises:
        ValueError: there is no such protocol, it is not one for this kind of data, or as the
            protocol itself does.
    """
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    many = isinstance(graph, graph_collection.Graphs)
    if many != (protocol == FOLDS):
        kind, fit = ("many graphs", FOLDS) if many else ("one graph", ", ".join(splits.PROTOCOLS))
        raise ValueError(
            f"{graph.name} is {kind}, and the protocol {protocol!r} is not for that; choose {fit}"
        )
    if isinstance(graph, graph_collection.Graphs):
        if val is not None or feature_noise or removed_edges:
            raise ValueError(
                "val, feature_noise and removed_edges are for the nodes of one graph; of many "
                "graphs a whole fold selects: leave them out"
            )
        return graph_collection.folds(graph, seed, train)
    train = splits.TRAIN if train is None else train
    val = splits.VAL if val is None else val
    return splits.split(graph, protocol, seed, train, val, feature_noise, removed_edges)
