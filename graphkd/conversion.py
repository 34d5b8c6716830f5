"""Graphs of PyTorch Geometric, networkx and scipy, read into what a `Graph` is made of.

Convention: the graph is taken as undirected and simple, as by all protocols of the literature that
are followed here; what was left out or added for that is said in the notes. Edge weights and edge
features are not used. A label that is missing, negative or NaN is hidden: the node stays in the
graph, and is in no part of a split. Labels with fractions are real targets, and so are all in
floating point if there is one class: then NaN alone is one that is missing.
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


class Labels(NamedTuple):
    """Labels (N,): int64 or `HIDDEN`, or real targets; how many classes; and both in words."""

    y: Tensor
    classes: int
    notes: list[str]

    @property
    def hidden(self) -> Tensor:
        """Which of them are missing, (N,)."""
        return hidden(self.y)


def hidden(y: Tensor) -> Tensor:
    """Which labels are missing, as booleans."""
    return y.isnan() if y.is_floating_point() else y == HIDDEN


def from_pyg(data: Any, name: str, classes: int | None) -> GraphParts:
    """See `graphkd.Graph.from_pyg`."""
    pairs = _complete(data, name, "labels y, -1 where there is none")
    masks = {part: data[f"{part}_mask"] for part in PARTS if _given(data, f"{part}_mask")}
    parts = masks if set(masks) == set(PARTS) else {}
    unused = _weights(data) + ([] if parts else [f"{part}_mask alone" for part in masks])
    return _graph(data.x, pairs, data.y, classes, name, unused=unused, parts=parts)


class EdgeTypes(NamedTuple):
    """What a `graphkd.graph.TypedGraph` has beside a `Graph`, by the names of its fields."""

    kinds: Tensor
    typed_edges: Tensor
    type_names: tuple[str, ...]
    relation_types: tuple[tuple[int, int], ...]
    target: int


def from_hetero(data: Any, name: str, classes: int | None) -> tuple[GraphParts, EdgeTypes]:
    """PyG's `HeteroData`, with labels of one type of nodes: see `graphkd.Graph.from_pyg`.

    Nodes are numbered type after type. Features that are of one width in all types are taken as of
    the same columns; others stand side by side, each type in columns of its own; a type without
    features has a column of ones. A relation without its opposite gets it, as a relation of its
    own, as by PyG's `ToUndirected`.
    """
    types = list(data.node_types)
    labelled = [kind for kind in types if _given(data[kind], "y")]
    if len(labelled) != 1 or not data.edge_types:
        raise ValueError(
            f"{name}: the HeteroData has {len(data.edge_types)} types of edges, and labels y of "
            f"{' and '.join(map(repr, labelled)) or 'none'} of its types of nodes; expected labels "
            f"of one, and edges: delete the others, as in del data[{(labelled or ['author'])[-1]!r}"
            "].y"
        )
    counts = [int(data[kind].num_nodes or 0) for kind in types]
    start = dict(zip(types, np.cumsum([0, *counts]).tolist(), strict=False))
    x, notes = _columns([data[kind] for kind in types], counts, types, name)
    target, own = types.index(labelled[0]), data[labelled[0]]
    place = slice(start[labelled[0]], start[labelled[0]] + counts[target])
    y, classes, said = _labels(own.y, name, classes)
    if len(y) != counts[target]:
        raise ValueError(f"{name} has {counts[target]} nodes {labelled[0]} and {len(y)} labels")
    y = y.to(x.dtype) if y.is_floating_point() else y
    whole = torch.full((len(x),), torch.nan if y.is_floating_point() else HIDDEN)
    whole = whole.to(y.dtype).index_copy(0, torch.arange(len(x))[place], y)
    parts = {
        part: _spread(own[f"{part}_mask"], len(x), place)
        for part in PARTS
        if _given(own, f"{part}_mask")
    }
    relations, pairs, more = _relations(data, types, start, name)
    typed = [torch.cat([p, p.new_full((1, p.shape[1]), r)]) for r, p in enumerate(pairs)]
    kinds = torch.arange(len(types)).repeat_interleave(torch.tensor(counts))
    edge_index = edges.simple(torch.cat(pairs, dim=1), len(x))
    given = parts if set(parts) == set(PARTS) else {}
    words = (*notes, *more, *said, f"labels are of the type {labelled[0]!r}, {len(y):,} nodes")
    return (
        GraphParts(x, edge_index, whole, classes, name, (), given, words),
        EdgeTypes(kinds, torch.cat(typed, dim=1), tuple(types), tuple(relations), target),
    )


def _columns(
    stores: Sequence[Any], counts: Sequence[int], types: Sequence[str], name: str
) -> tuple[Tensor, list[str]]:
    """The features of all types in one matrix (N, D), and what was done to them in words."""
    found, said = [], []
    for store, count, kind in zip(stores, counts, types, strict=True):
        x, notes = _features(store.x, f"{name}, {kind}") if _given(store, "x") else (None, [])
        said += notes
        if x is None:
            said.append(f"the type {kind!r} has no features: a column of ones")
        found.append(torch.ones(count, 1) if x is None else x)
    if len({one.shape[1] for one in found}) == 1:
        return torch.cat(found), said
    said.append("features of types have columns of their own, side by side")
    return torch.block_diag(*found), said


def _spread(mask: Tensor, nodes: int, place: slice) -> Tensor:
    whole = torch.zeros(nodes, *mask.shape[1:], dtype=torch.bool)
    whole[place] = mask.cpu()
    return whole


def _relations(
    data: Any, types: Sequence[str], start: Mapping[str, int], name: str
) -> tuple[list[tuple[int, int]], list[Tensor], list[str]]:
    """The types of the ends of each relation, its edges (2, E), and what was added in words."""
    ends, pairs, notes = [], [], []
    n = sum(int(data[kind].num_nodes or 0) for kind in types)
    for a, called, b in data.edge_types:
        own = integers(data[a, called, b].edge_index.cpu())
        for side, kind in enumerate((a, b)):
            last = int(data[kind].num_nodes or 0)
            if own.numel() and not 0 <= own[side].min() <= own[side].max() < last:
                raise ValueError(
                    f"{name}: edges {a} {called} {b} go to node {int(own[side].max())} of {last} "
                    f"nodes {kind}; expected ids from 0 to {last - 1}"
                )
        moved = own + torch.tensor([[start[a]], [start[b]]])
        keys = (moved[0] * n + moved[1]).unique()
        ends.append((types.index(a), types.index(b)))
        pairs.append(torch.stack([keys // n, keys % n]))
    known = [source * n + target for source, target in pairs]
    for i, (a, called, b) in enumerate(data.edge_types):
        back = (pairs[i][1] * n + pairs[i][0]).sort().values
        if not any(torch.equal(back, other) for other in known):
            notes.append(f"edges {a} {called} {b} had no opposite, and have one of their own now")
            ends.append(ends[i][::-1])
            pairs.append(pairs[i].flip(0))
    return ends, pairs, notes


def from_pyg_graphs(
    graphs: Sequence[Any], name: str, classes: int | None
) -> tuple[GraphParts, Tensor]:
    """All graphs in one, with a label for each of them; and the graph of each node, (N,).

    See `graphkd.data.graph_collection.Graphs.from_pyg`.
    """
    from torch_geometric.data import Batch, Data  # late: PyG takes longer to import than torch

    if not graphs:
        raise ValueError(f"{name}: the list is empty; expected graphs, each with one label")
    widths, rows, said = set(), [], set()
    for place, data in enumerate(graphs):
        called = f"graph {place} of {name}"
        pairs = _complete(data, called, "one label y")
        x, notes = _features(data.x, called)
        _check_pairs(pairs, len(x), called)
        said |= {*notes, *(f"{what} is not used" for what in _weights(data))}
        widths.add(x.shape[1])
        rows.append(Data(x=x, edge_index=integers(pairs.cpu()), y=_one(data.y, called)))
    if len(widths) > 1:
        raise ValueError(
            f"{name}: graphs have {min(widths)} to {max(widths)} features of a node; expected "
            "equally many in all of them"
        )
    joined = Batch.from_data_list(rows)
    edge_index = edges.simple(joined.edge_index, len(joined.x))
    notes = edges.said(joined.edge_index, edge_index, len(joined.x)) + sorted(said)
    y, classes, more = found = _labels(joined.y, name, classes)
    if len(bare := found.hidden.nonzero()[:, 0]):
        raise ValueError(
            f"{name}: {len(bare)} graphs have no label (-1 or NaN), first {int(bare[0])}; leave "
            "them out, or number the classes from 0 on"
        )
    y = y.to(joined.x.dtype) if y.is_floating_point() else y
    parts = GraphParts(joined.x, edge_index, y, classes, name, (), {}, (*notes, *more))
    return parts, joined.batch


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
    unused = ["weight"] if any("weight" in about for *_, about in graph.edges(data=True)) else []
    names = () if list(order) == list(range(len(order))) else tuple(order)
    return _graph(x, pairs.view(-1, 2).T, values, classes, name, unused=unused, names=names)


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
    unused = ["the weight of an edge"] if (matrix.data != 1).any() else []
    dense = x.toarray() if hasattr(x, "toarray") else x
    return _graph(dense, pairs, y, classes, name, unused=unused, nodes=matrix.shape[0])


def to_pyg(x: Tensor, edge_index: Tensor, y: Tensor, parts: Mapping[str, Tensor]) -> "Data":
    """See `graphkd.Graph.to_pyg`."""
    shown = y if y.is_floating_point() else torch.where(hidden(y), -1, y)
    masks = {f"{part}_mask": mask for part, mask in parts.items()}
    from torch_geometric.data import Data  # late, as above

    return Data(x=x, edge_index=edge_index, y=shown, **masks)


def integers(values: Tensor) -> Tensor:
    """The values as int64, if they are whole numbers; else as they are."""
    whole = not values.is_floating_point() or bool((values.frac() == 0).all())
    return values.long() if whole else values


def _given(data: Any, name: str) -> bool:
    return getattr(data, name, None) is not None


def _weights(data: Any) -> list[str]:
    return [what for what in ("edge_weight", "edge_attr") if _given(data, what)]


def _complete(data: Any, name: str, labels: str) -> Tensor:
    """The edges of PyG's data, (2, E), which has features and labels too."""
    missing = [what for what in ("x", "y") if not _given(data, what)]
    pairs = _pairs(data)
    if missing or pairs is None:
        missing += ["edge_index"] if pairs is None else []
        degrees = "; without features degrees will do, torch_geometric.transforms.OneHotDegree"
        raise ValueError(
            f"{name}: the {type(data).__name__} has no {' and no '.join(missing)}; expected one "
            f"graph with node features x, edges edge_index and {labels}"
            f"{degrees if missing == ['x'] else ''}"
        )
    return pairs


def _pairs(data: Any) -> Tensor | None:
    """The edges of PyG's data, (2, E), from its list or from its transposed adjacency."""
    if _given(data, "edge_index"):
        found: Tensor = torch.as_tensor(data.edge_index)
        return found
    transposed = getattr(data, "adj_t", None)
    if isinstance(transposed, Tensor):  # `ToSparseTensor` without torch_sparse
        indices: Tensor = transposed.to_sparse_coo().coalesce().indices()
        return indices.flip(0)
    if transposed is not None:
        raise ValueError(
            f"the edges are a {type(transposed).__name__} of torch_sparse, adj_t; give the list of "
            "them: data.edge_index = torch.stack(data.adj_t.t().coo()[:2])"
        )
    return None


def _graph(
    x: Any,
    pairs: Tensor,
    y: Any,
    classes: int | None,
    name: str,
    *,
    unused: Sequence[str] = (),
    parts: Mapping[str, Tensor] | None = None,
    names: tuple[Hashable, ...] = (),
    nodes: int | None = None,
) -> GraphParts:
    x, notes = _features(x, name)
    nodes = len(x) if nodes is None else nodes
    y, classes, said = found = _labels(y, name, classes)
    if not len(x) == len(y) == nodes:
        raise ValueError(
            f"{name} has {nodes:,} nodes, features of {len(x):,} and labels of {len(y):,}; "
            "expected a row of features and a label for each node, -1 where there is none"
        )
    _check_pairs(pairs, nodes, name)
    pairs = integers(pairs.cpu())
    edge_index = edges.simple(pairs, nodes)
    notes += edges.said(pairs, edge_index, nodes)
    notes += [f"{what} is not used" for what in unused]
    bare = int(found.hidden.sum())
    notes += [f"{bare:,} of {nodes:,} nodes have no label"] if bare else []
    y = y.to(x.dtype) if y.is_floating_point() else y
    return GraphParts(x, edge_index, y, classes, name, names, parts or {}, (*notes, *said))


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


def _labels(y: Any, name: str, classes: int | None) -> Labels:
    """The labels of all nodes, or of all graphs."""
    y, said = _numbered(y)
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1:
        raise ValueError(
            f"{name} has labels {tuple(y.shape)}; expected one for each node, (N,) or (N, 1): of "
            "one-hot labels take the argmax, of several targets one; several labels at once cannot "
            "be distilled here"
        )
    if y.is_floating_point():
        if classes in (None, 1) and (classes == 1 or y[y.isfinite()].frac().any()):
            return Labels(y, 1, ["targets are real numbers: R^2 and RMSE in place of accuracy"])
        y = torch.where(y.isnan(), HIDDEN, y)
        _check_whole(y, name, classes)
    y = y.long()
    y = torch.where(y < 0, HIDDEN, y)
    classes = (max(int(y.max()) + 1, 0) if len(y) else 0) if classes is None else classes
    return Labels(y, classes, said)


def _check_whole(y: Tensor, name: str, classes: int | None) -> None:
    wrong = (~(y.frac() == 0)).nonzero()[:, 0]  # infinite ones too
    if len(wrong):
        first = int(wrong[0])
        raise ValueError(
            f"{name} has the label {float(y[first]):g} at node {first}; expected whole numbers "
            "from 0 on, -1 or NaN where there is none; or real targets, which are one class "
            f"(classes=1, not {classes})"
        )


def _one(y: Any, name: str) -> Tensor:
    """The only label of a graph, (1,)."""
    found = torch.as_tensor(y).detach().cpu()
    if found.numel() != 1:
        raise ValueError(
            f"{name} has labels {tuple(found.shape)}; expected one: of one-hot labels take the "
            "argmax, of several targets one; graphs whose nodes have labels are a data set each"
        )
    return found.reshape(1)


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
        known = f", only {', '.join(about)}" if about else ""
        raise ValueError(
            f"{name}: node {node!r} has no attribute {missing[0]!r}{known}; name what holds the "
            "features, such as from_networkx(G, features=['age', 'income'])"
        )
    try:
        parts = [np.asarray(about[column], dtype=np.float32).reshape(-1) for column in columns]
    except (TypeError, ValueError):
        raise ValueError(
            f"{name}: the features {' and '.join(columns)} of node {node!r} are no numbers; turn "
            "text into numbers first"
        ) from None
    return np.concatenate(parts)


def _numbered(values: Any) -> tuple[Tensor, list[str]]:
    """Labels as numbers: text in the order of the alphabet, None is NaN; and that in words."""
    if isinstance(values, Tensor):
        return values.detach().cpu(), []
    values = values.tolist() if hasattr(values, "tolist") else list(values)
    if not any(isinstance(value, str) for value in values):
        found = np.asarray([np.nan if value is None else value for value in values])
        if found.dtype.kind not in "biuf":
            raise ValueError(f"labels such as {values[0]!r} are neither numbers nor text")
        return torch.from_numpy(found), []
    known = sorted({str(value) for value in values if value is not None})
    place = {label: i for i, label in enumerate(known)}
    said = ", ".join(f"{label} is {i}" for label, i in place.items())
    numbers = [-1 if value is None else place[str(value)] for value in values]
    return torch.tensor(numbers), [f"labels numbered: {said}"]
