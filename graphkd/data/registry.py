"""Data sets by name, of nodes or of whole graphs, cut by a protocol: what a run starts from."""

import inspect
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from graphkd.core import Split
from graphkd.data import datasets, graph_collection, links, sources, splits, synthetic
from graphkd.data.files import tudataset
from graphkd.graph import Graph, TypedGraph
from kdcore.registry import Loader, Registry, unknown

FOLDS = "folds"
PROTOCOLS = (*splits.PROTOCOLS, FOLDS)
TREES = "coloured-trees"


def _shipped() -> dict[str, Loader]:
    """Name -> what gives its loader."""
    nodes = {name: partial(_loader, datasets.load, name) for name in datasets.names()}
    return {**nodes, **{name: partial(_loader, _many, name) for name in of_graphs()}}


def _many(name: str, root: Path) -> graph_collection.Graphs:
    return synthetic.coloured_trees() if name == TREES else tudataset.load(name, root)


def _loader(load: Callable[..., Graph], name: str) -> Callable[..., Graph]:
    return partial(load, name)


def _is_source(found: Any) -> bool:
    return callable(found) or sources.accepts(found)


REGISTRY: Registry[Any] = Registry(
    "data set",
    _shipped,
    "kdsim.graphs",
    _is_source,
    "a graph, or a function of the data root, a Path, or of nothing, that gives one: a Graph of "
    "graphkd, Data of PyTorch Geometric or a list of them, or a graph of networkx",
)
"""Loaders: functions of the data root, a `Path`, or of nothing, that give a graph in any form of
`graphkd.data.sources`; or the graph itself.

A loader gives the same each time; it is asked once in a process.
"""


def names() -> list[str]:
    """The names of all data sets."""
    return REGISTRY.names()


def of_graphs() -> list[str]:
    """The names of those of many graphs, each an example, that come with this package."""
    return sorted([TREES, *tudataset.names()])


def load(name: str, root: str | Path | None = None, download: bool = False) -> Graph:
    """The graph of this name, or the collection of graphs; see `graphkd.data.datasets.load`.

    The name may be a reference to a loader of one's own, `mine.py:load` (`REGISTRY`).

    Raises:
        ValueError: the name is unknown.
        FileNotFoundError: a raw file is missing, or could not be downloaded.
    """
    REGISTRY.check(name)
    if name in of_graphs():
        return _many(name, datasets.data_root(root))
    if name in datasets.names():
        return datasets.load(name, root, download)
    return _own(name, datasets.data_root(root))


@lru_cache(maxsize=2)
def _own(name: str, root: Path) -> Graph:
    """The user's graph, or what a loader of the user's gives; it is asked once."""
    found = REGISTRY.get(name)
    try:
        if not sources.accepts(found):  # PyG's `Data` can be called
            found = found(root) if inspect.signature(found).parameters else found()
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"data set {name!r}: {type(error).__name__}: {error}") from error
    try:
        return sources.graph_of(found)
    except ValueError as error:
        raise ValueError(f"data set {name!r}: {error}") from None


def split(
    graph: Graph,
    protocol: str,
    seed: int,
    train: int | None = None,
    val: int | None = None,
    feature_noise: float = 0.0,
    removed_edges: float = 0.0,
    task: str = "nodes",
) -> Split:
    """The split by the protocol of this name: `splits.split`, or `graph_collection.folds`.

    Of the task "links" the edges are split: `links.split`.

    Raises:
        ValueError: there is no such protocol, it is not one for this kind of data, or as the
            protocol itself does.
    """
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    if task == "links":
        return _links(graph, protocol, seed, (train, val, feature_noise, removed_edges))
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
    if isinstance(graph, TypedGraph) and removed_edges:
        raise ValueError(
            f"{graph.name} has edges of several types, and removed_edges is for one: leave it out"
        )
    return splits.split(graph, protocol, seed, train, val, feature_noise, removed_edges)


def _links(
    graph: Graph, protocol: str, seed: int, others: tuple[int | None, int | None, float, float]
) -> Split:
    if isinstance(graph, graph_collection.Graphs):
        raise ValueError(
            f"{graph.name} is many graphs, and links are predicted in one: take a graph of nodes, "
            "such as cora"
        )
    if protocol != links.PROTOCOL:
        raise ValueError(
            f"links are split by the protocol {links.PROTOCOL!r}, all nodes being there, and "
            f"{protocol!r} holds nodes out: leave it out"
        )
    if any(others):
        raise ValueError(
            "train, val, feature_noise and removed_edges are for the nodes of a graph; of links "
            f"{links.VAL:.0%} of the edges select and {links.TEST:.0%} test: leave them out"
        )
    return links.split(graph, seed)
