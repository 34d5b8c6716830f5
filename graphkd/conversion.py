"""Graphs of PyTorch Geometric, networkx and scipy, read into what a `Graph` is made of.

Convention: the graph is taken as undirected and simple, as by all protocols of the literature that
are followed here; what was left out or added for that is said in the notes. Edge weights and edge
features are not used. A label that is missing, negative or NaN is hidden: the node stays in the
graph, and is in no part of a split.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_array
from torch import Tensor

from graphkd.ops import edges

if TYPE_CHECKING:
    from torch_geometric.data import Data

HIDDEN = -100  # the label of a node whose label may not be seen
PARTS = ("train", "val", "test")  # PyG's masks, without "_mask"


class GraphParts(NamedTuple):
    """What a `graphkd.Graph` is made of, in the order of its fields."""

    x: Tensor
    edge_index: Tensor
    y: Tensor
    classes: int
    name: str
    node_names: tuple[Hashable, ...]
    parts: Mapping[str, Tensor]
    notes: tuple[str, ...]


def from_pyg(data: Any, name: str, classes: int | None) -> GraphParts:
    """See `graphkd.Graph.from_pyg`."""
    missing = [what for what in ("x", "y") if getattr(data, what, None) is None]
    pairs = _pairs(data)
    if missing or pairs is None:
        missing += ["edge_index"] if pairs is None else []
        raise ValueError(
            f"{name}: the {type(data).__name__} has no {' and no '.join(missing)}; expected one "
            "graph with node features x, edges edge_index and labels y, -1 where there is none"
        )
    weighed = [what for what in ("edge_weight", "edge_attr") if _given(data, what)]
    masks = {part: data[f"{part}_mask"] for part in PARTS if _given(data, f"{part}_mask")}
    parts = masks if set(masks) == set(PARTS) else {}
    return _graph(data.x, pairs, data.y, classes, name, weighed=weighed, parts=parts)


def from_networkx(
    graph: Any, features: str | Sequence[str], label: str, name: str, classes: int | None
) -> GraphParts:
    """See `graphkd.Graph.from_networkx`."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    ends = [(order[a], order[b]) for a, b in graph.edges()]
    ends += [] if graph.is_directed() else [(b, a) for a, b in ends if a != b]
    pairs = torch.tensor(ends, dtype=torch.long)
    columns = [features] if isinstance(features, str) else list(features)
    rows = [_row(node, about, columns, name) for node, about in graph.nodes(data=True)]
    if len(odd := {len(row) for row in rows}) > 1:
        raise ValueError(
            f"{name}: nodes have {min(odd)} to {max(odd)} features {' and '.join(columns)}; "
            "expected equally many of each node"
        )
    x = torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, 0)
    values = [about.get(label) for _, about in graph.nodes(data=True)]
    if all(value is None for value in values):
        raise ValueError(
            f"{name}: no node has the attribute {label!r}; name the one that holds the labels, "
            "such as from_networkx(G, label='club')"
        )
    y, said = _numbered(values)
    weighed = ["weight"] if any("weight" in about for *_, about in graph.edges(data=True)) else []
    names = () if list(order) == list(range(len(order))) else tuple(order)
    made = _graph(x, pairs.view(-1, 2).T, y, classes, name, weighed=weighed, names=names)
    return made._replace(notes=(*made.notes, *said))


def from_scipy(adjacency: Any, x: Any, y: Any, name: str, classes: int | None) -> GraphParts:
    """See `graphkd.Graph.from_scipy`."""
    matrix = coo_array(adjacency)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            f"{name}: the adjacency is {' x '.join(map(str, matrix.shape))}; expected a square "
            "matrix, N x N"
        )
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    pairs = torch.from_numpy(np.stack([matrix.row, matrix.col]).astype(np.int64))
    weighed = ["adjacency"] if (matrix.data != 1).any() else []
    y, said = _numbered(np.asarray(y).tolist()) if _text(y) else (y, [])
    dense = x.toarray() if hasattr(x, "toarray") else x
    made = _graph(dense, pairs, y, classes, name, weighed=weighed, nodes=matrix.shape[0])
    return made._replace(notes=(*made.notes, *said))


def to_pyg(x: Tensor, edge_index: Tensor, y: Tensor, parts: Mapping[str, Tensor]) -> "Data":
    """See `graphkd.Graph.to_pyg`."""
    shown = y if y.is_floating_point() else torch.where(y == HIDDEN, -1, y)
    masks = {f"{part}_mask": mask for part, mask in parts.items()}
    from torch_geometric.data import Data  # late: it takes longer to import than torch

    return Data(x=x, edge_index=edge_index, y=shown, **masks)


def integers(values: Tensor) -> Tensor:
    """The values as int64, if they are whole numbers; else as they are."""
    whole = not values.is_floating_point() or bool((values.frac() == 0).all())
    return values.long() if whole else values


def _given(data: Any, name: str) -> bool:
    return getattr(data, name, None) is not None


def _pairs(data: Any) -> Tensor | None:
    """The edges of PyG's data, (2, E), from its list or from its transposed adjacency."""
    if _given(data, "edge_index"):
        found: Tensor = torch.as_tensor(data.edge_index)
        return found
    transposed = getattr(data, "adj_t", None)
    if isinstance(transposed, Tensor):  # `ToSparseTensor` without torch_sparse
        indices: Tensor = transposed.to_sparse_coo().coalesce().indices()
        return indices.flip(0)
    return None


def _graph(
    x: Any,
    pairs: Tensor,
    y: Any,
    classes: int | None,
    name: str,
    *,
    weighed: Sequence[str] = (),
    parts: Mapping[str, Tensor] | None = None,
    names: tuple[Hashable, ...] = (),
    nodes: int | None = None,
) -> GraphParts:
    x, notes = _features(x, name)
    nodes = len(x) if nodes is None else nodes
    y, bare = _labels(y, name)
    if not len(x) == len(y) == nodes:
        raise ValueError(
            f"{name} has {nodes:,} nodes, features of {len(x):,} and labels of {len(y):,}; "
            "expected a row of features and a label for each node, -1 where there is none"
        )
    _check_pairs(pairs, nodes, name)
    pairs = integers(pairs.cpu())
    edge_index = edges.simple(pairs, nodes)
    notes += edges.said(pairs, edge_index, nodes)
    notes += [f"{what} is not used" for what in weighed]
    notes += [f"{bare:,} of {nodes:,} nodes have no label"] if bare else []
    if classes is None:
        classes = max(int(y.max()) + 1, 0) if len(y) else 0
    return GraphParts(x, edge_index, y, classes, name, names, parts or {}, tuple(notes))


def _features(x: Any, name: str) -> tuple[Tensor, list[str]]:
    """The features (N, D) in floating point, and what was done to them in words."""
    x = x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x))
    x = x.detach().cpu()
    x = x.to_dense() if x.layout != torch.strided else x
    if x.ndim == 1:
        x = x[:, None]
    if x.ndim != 2:
        raise ValueError(f"{name} has features {tuple(x.shape)}; expected (N, D), a row per node")
    if x.dtype in (torch.float32, torch.float64):
        return x, []
    return x.float(), [f"features of {x.dtype} taken as {torch.float32}"]


def _labels(y: Any, name: str) -> tuple[Tensor, int]:
    """The labels (N,) as whole numbers or `HIDDEN`, and how many of the latter."""
    y = (y if isinstance(y, Tensor) else torch.as_tensor(np.asarray(y))).detach().cpu()
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1:
        raise ValueError(
            f"{name} has labels {tuple(y.shape)}; expected one for each node, (N,) or (N, 1): of "
            "one-hot labels take the argmax; several labels at once cannot be distilled here"
        )
    if y.is_floating_point():
        y = torch.where(y.isnan(), HIDDEN, y)
    wrong = (y.frac() != 0).nonzero()[:, 0] if y.is_floating_point() else y[:0]
    if len(wrong):
        first = int(wrong[0])
        raise ValueError(
            f"{name} has the label {float(y[first]):g} at node {first}; expected whole numbers "
            "from 0 on, -1 or NaN where there is none: real targets of nodes cannot be distilled"
        )
    y = y.long()
    return torch.where(y < 0, HIDDEN, y), int((y < 0).sum())


def _check_pairs(pairs: Tensor, nodes: int, name: str) -> None:
    if pairs.ndim != 2 or pairs.shape[0] != 2:
        raise ValueError(
            f"{name} has edges {tuple(pairs.shape)}; expected (2, E): transpose a list of pairs"
        )
    if integers(pairs).is_floating_point():
        raise ValueError(f"{name} has edges that are no whole numbers; take their weights out")
    if pairs.numel() and not 0 <= pairs.min() <= pairs.max() < nodes:
        raise ValueError(
            f"{name} has edges to node {int(pairs.max())} (least {int(pairs.min())}); expected ids "
            f"from 0 to {nodes - 1}: renumber the nodes"
        )


def _row(node: Hashable, about: Mapping[str, Any], columns: Sequence[str], name: str) -> np.ndarray:
    """The features of one node, (D,)."""
    if missing := [column for column in columns if column not in about]:
        raise ValueError(
            f"{name}: node {node!r} has no attribute {missing[0]!r}, only {', '.join(about)}; name "
            "what holds the features, such as from_networkx(G, features=['age', 'income'])"
        )
    try:
        parts = [np.asarray(about[column], dtype=np.float32).reshape(-1) for column in columns]
    except (TypeError, ValueError):
        raise ValueError(
            f"{name}: the features {' and '.join(columns)} of node {node!r} are no numbers; turn "
            "text into numbers first"
        ) from None
    return np.concatenate(parts)


def _text(values: Any) -> bool:
    return not isinstance(values, Tensor) and np.asarray(values).dtype.kind in "OUS"


def _numbered(values: Sequence[Any]) -> tuple[Tensor, list[str]]:
    """Labels as numbers: text in the order of the alphabet, None hidden; and that in words."""
    if not any(isinstance(value, str) for value in values):
        return torch.tensor([-1.0 if value is None else float(value) for value in values]), []
    known = sorted({str(value) for value in values if value is not None})
    place = {label: i for i, label in enumerate(known)}
    said = ", ".join(f"{label} is {i}" for label, i in place.items())
    numbers = [-1 if value is None else place[str(value)] for value in values]
    return torch.tensor(numbers), [f"labels numbered: {said}"]
