"""A user's own graph in any form in which people have one, read as a `Graph` or as `Graphs`.

| given | read as |
|---|---|
| `Graph`, `Graphs` | itself |
| `Split` | its graph, with its parts |
| PyTorch Geometric's `Data` | one graph, its nodes the examples: `Graph.from_pyg` |
| `HeteroData` of PyG | one graph, its nodes of the type with labels the examples |
| a list of `Data`, a `Batch` or a data set of PyG, of more than one graph | many graphs, each an
  example: `Graphs.from_pyg` |
| a graph of networkx | `Graph.from_networkx` |
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import networkx
import torch

from graphkd.core import Split
from graphkd.data import node_sets
from graphkd.data.graph_collection import Graphs
from graphkd.graph import Graph

KINDS = (Graph, Split, networkx.Graph, list, tuple)
EXPECTED = (
    "the name of a data set, a Graph or a Split of graphkd, Data of PyTorch Geometric or a list of "
    "them, or a graph of networkx; of scipy: Graph.from_scipy"
)


def accepts(data: Any) -> bool:
    """Whether this is one of the forms above, or a class of PyG's that is refused by its name."""
    return isinstance(data, KINDS) or any(_pyg(data, kind) for kind in ("BaseData", "Dataset"))


def graph_of(data: Any) -> Graph:
    """The graph that is given in one of the forms above.

    Raises:
        ValueError: it is none of these, or cannot be read.
    """
    if isinstance(data, Graph):
        return data
    if isinstance(data, Split):
        return _of_split(data)
    if isinstance(data, networkx.Graph):
        return Graph.from_networkx(data)
    if _pyg(data, "Batch"):
        return Graphs.from_pyg(data.to_data_list())
    if isinstance(data, list | tuple) or _pyg(data, "Dataset"):
        return graph_of(data[0]) if len(data) == 1 else Graphs.from_pyg([*data])
    if _pyg(data, "Data") or _pyg(data, "HeteroData"):
        return Graph.from_pyg(data)
    raise ValueError(f"data is {type(data).__name__}; expected {EXPECTED}")


def are_examples(data: Sequence[Any]) -> bool:
    """Whether a sequence is one data set of whole graphs: PyG's `Data`, each with one label."""
    given = [one for one in data if _pyg(one, "Data")]
    return 0 < len(given) == len(data) and all(_labels(one) == 1 for one in given)


def _pyg(data: Any, kind: str) -> bool:
    """Whether this is of a class of PyG's, by its name: PyG need not be loaded for that."""
    known = ((cls.__module__.split(".")[0], cls.__name__) for cls in type(data).__mro__)
    return ("torch_geometric", kind) in known


def _labels(data: Any) -> int:
    return 0 if data.y is None else torch.as_tensor(data.y).numel()


def _of_split(split: Split) -> Graph:
    parts = {node_sets.SAYS[name]: ids for name, ids in split.parts.items()}
    graph = split.view("evaluate").graph
    return replace(graph, parts={"test": [], **parts}, node_names=split.node_names)
