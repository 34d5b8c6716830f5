"""The protocols: which nodes train, select and test, and which graph each phase may see.

| protocol | test nodes in the graph of training | soft labels of them | accuracy is that of |
|---|---|---|---|
| transductive | all | all | all test nodes |
| withheld | all | not of the part "ind" | "ind" |
| inductive | not those of "ind" | not of "ind" | "ind" |

The first and the last are those of CPF and GLNN: Yang, Liu and Shi, "Extract the Knowledge of
Graph Neural Networks and Go Beyond it", WWW 2021, https://arxiv.org/abs/2103.02885; Zhang, Liu,
Sun and Shah, "Graph-less Neural Networks: Teaching Old MLPs New Tricks via Distillation", ICLR
2022, https://arxiv.org/abs/2110.08727.

The graph is made undirected and simple, cut down to its largest connected component, and then 20
nodes of each class train, 30 select, and the rest test; of real targets 20 and 30 in all. With a
split of its own (`own`, or
`Graph.parts`) a graph goes through the same three protocols with all of its nodes. Nodes without a
label are in the graph, and in no part.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from graphkd.core import Split
from graphkd.data import node_sets
from graphkd.graph import Graph, check_labels
from graphkd.ops.edges import said, simple
from kdcore.registry import unknown
from kdcore.rng import generator

TRAIN, VAL = 20, 30  # nodes per class
HELD_OUT = 0.2  # share of the test nodes that the inductive protocol keeps out of the graph


def transductive(graph: Graph, seed: int, train: int = TRAIN, val: int = VAL) -> Split:
    """All nodes are in the graph from the start, the test nodes without their labels.

    The teacher gives soft labels for every node, those of the test included: that is the protocol
    of the published numbers, and it uses no label of theirs. Parts: train, val, tran.

    Args:
        graph: any graph; isolated nodes and small components are left out.
        seed: of the draw.
        train: training nodes per class.
        val: validation nodes per class.

    Raises:
        ValueError: the graph has no edges, fewer than two classes, features that are not finite,
            labels that are not 0..C-1, or its component too few nodes of a class.
    """
    component, origin = largest_component(graph)
    parts = _draw(component, seed, train, val)
    return _cut(component, "transductive", seed, parts, origin, _left_out(graph, component))


def withheld(
    graph: Graph, seed: int, train: int = TRAIN, val: int = VAL, held_out: float = HELD_OUT
) -> Split:
    """All nodes are in the graph, but of a share of the test nodes the teacher says nothing.

    The same parts as the inductive protocol, and the graph of the transductive one: what is
    between the two is what soft labels of the test nodes themselves are worth to a student.

    Args and raises: as for `inductive`.
    """
    return replace(inductive(graph, seed, train, val, held_out), protocol="withheld", observed=True)


def inductive(
    graph: Graph, seed: int, train: int = TRAIN, val: int = VAL, held_out: float = HELD_OUT
) -> Split:
    """A share of the test nodes is held out of the graph, of training and of distillation.

    Everything but the evaluation sees the graph induced by the other nodes. The evaluation sees
    the whole graph: a network that uses edges meets the held-out nodes with theirs. Parts: train,
    val, tran (observed test nodes), ind (held out). In the observed graph a node may have lost
    all its neighbours; networks then see it alone.

    Args:
        graph: as for `transductive`.
        seed: of the draw.
        train: training nodes per class.
        val: validation nodes per class.
        held_out: the share of the test nodes in "ind".

    Raises:
        ValueError: as for `transductive`, or one of tran and ind would be empty.
    """
    component, origin = largest_component(graph)
    parts = _hold_out(_draw(component, seed, train, val), seed, held_out)
    return _cut(component, "inductive", seed, parts, origin, _left_out(graph, component))


def own(
    graph: Graph,
    train: Any,
    val: Any,
    test: Any,
    held_out: Any = None,
    protocol: str | None = None,
    seed: int = 0,
) -> Split:
    """A split of the user's: these nodes train, select and test; all others stay, unlabelled.

    No node is left out, whatever component it is in. The three protocols differ as for splits that
    are drawn; the part "ind" is `held_out`, or else a share of the test nodes (`HELD_OUT`).

    Args:
        graph: any graph, with labels where a part has nodes.
        train: the nodes of this part, in any form of `graphkd.data.node_sets`.
        val: likewise; they select.
        test: likewise.
        held_out: likewise, and not among the test nodes: no phase of training sees them.
        protocol: one of `PROTOCOLS`; by default "transductive", or "inductive" with nodes that are
            held out.
        seed: of what is drawn, and of which of several masks is taken.

    Raises:
        ValueError: a part is empty or has nodes that are not there, that have no label or are in
            another part; or the graph cannot be used, see `transductive`.
    """
    if protocol is None:
        protocol = "transductive" if held_out is None else "inductive"
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    if held_out is not None and protocol == "transductive":
        raise ValueError(
            "nodes are held out, and the protocol 'transductive' holds none out: choose inductive "
            "or withheld, or make them test nodes"
        )
    check(graph)
    given = {"train": train, "val": val, "tran": test, "ind": held_out}
    parts = {
        n: node_sets.ids(graph, n, nodes, seed) for n, nodes in given.items() if nodes is not None
    }
    if "ind" in parts and not len(parts["tran"]):
        parts.pop("tran")
    node_sets.check_parts(graph, parts)
    if protocol != "transductive" and "ind" not in parts:
        parts = _hold_out(parts, seed, HELD_OUT)
    edge_index = simple(graph.edge_index, graph.num_nodes)
    notes = said(graph.edge_index, edge_index, graph.num_nodes)
    notes += node_sets.chosen(given, seed)
    whole = replace(graph, edge_index=edge_index, parts={})
    return _cut(whole, protocol, seed, parts, torch.arange(graph.num_nodes), notes)


PROTOCOLS = {"transductive": transductive, "withheld": withheld, "inductive": inductive}


def split(
    graph: Graph,
    protocol: str,
    seed: int,
    train: int | None = None,
    val: int | None = None,
    feature_noise: float = 0.0,
    removed_edges: float = 0.0,
) -> Split:
    """The split of a graph by the protocol of this name, disturbed if asked for.

    Args:
        graph: any graph; if it has parts of its own (`Graph.parts`), these, unless numbers say how
            many to draw.
        protocol: one of `PROTOCOLS`.
        seed: of the draw.
        train: training nodes per class, by default `TRAIN`.
        val: validation nodes per class, by default `VAL`.
        feature_noise: see `disturbed`.
        removed_edges: see `disturbed`.

    Raises:
        ValueError: there is no such protocol, or as the protocol does.
    """
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    if graph.parts and train is None and val is None:
        whole = own(graph, **graph.parts, protocol=protocol, seed=seed)
    else:
        sizes = TRAIN if train is None else train, VAL if val is None else val
        whole = PROTOCOLS[protocol](graph, seed, *sizes)
    return disturbed(whole, feature_noise, removed_edges)


def disturbed(split: Split, feature_noise: float, removed_edges: float) -> Split:
    r"""The same split of a graph with noisy features and fewer edges; its parts are the same.

    Zhang, Liu, Sun and Shah, "Graph-less Neural Networks", ICLR 2022,
    https://arxiv.org/abs/2110.08727, section 5.5: X' = (1 - a) X + a n with n standard normal.
    Edges are drawn from those of the largest connected component, so nodes may be left alone.

    Args:
        split: of an undirected graph.
        feature_noise: a, from 0 to 1.
        removed_edges: the share of the undirected edges to take away, from 0 to 1.

    Raises:
        ValueError: a share is not from 0 to 1.
    """
    for name, share in (("feature_noise", feature_noise), ("removed_edges", removed_edges)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}; expected a share from 0 to 1, such as 0.2")
    graph = split.view("evaluate").graph
    if feature_noise:
        noise = torch.randn(graph.x.shape, generator=generator(split.seed, "feature noise"))
        mixed = (1 - feature_noise) * graph.x + feature_noise * noise.to(graph.x)
        graph = replace(graph, x=mixed)
    if removed_edges:
        once = graph.edge_index[:, graph.edge_index[0] < graph.edge_index[1]]
        count = once.shape[1]
        order = torch.randperm(count, generator=generator(split.seed, "removed edges"))
        kept = once[:, order[round(removed_edges * count) :].sort().values]
        graph = replace(graph, edge_index=simple(kept, graph.num_nodes))
    return replace(split, _graph=graph)


def largest_component(graph: Graph) -> tuple[Graph, Tensor]:
    """The simple, undirected largest connected component, and the id that each node had.

    Of components of one size the one with the smallest id is taken. Nodes keep their order.

    Raises:
        ValueError: see `transductive`.
    """
    check(graph)
    n = graph.num_nodes
    edge_index = simple(graph.edge_index, n)
    if not edge_index.shape[1]:
        raise ValueError(
            f"{graph.name} has {n} nodes and no edges between them; a graph protocol needs some: "
            "build them, for example from nearest neighbours"
        )
    source, target = edge_index.cpu().numpy()
    adjacency = coo_matrix((np.ones(len(source)), (source, target)), shape=(n, n))
    _, found = connected_components(adjacency, directed=False)
    label = torch.from_numpy(found).long().to(edge_index.device)
    origin = (label == torch.bincount(label).argmax()).nonzero()[:, 0]
    return replace(graph, edge_index=edge_index).subgraph(origin), origin


def _cut(
    graph: Graph,
    protocol: str,
    seed: int,
    parts: Mapping[str, Tensor],
    origin: Tensor,
    notes: list[str],
) -> Split:
    observed = protocol == "withheld"
    return Split(protocol, seed, parts, origin, graph, observed, (*graph.notes, *notes))


def _left_out(graph: Graph, component: Graph) -> list[str]:
    """What became of a graph that was cut down to its largest component, in words."""
    notes = said(graph.edge_index, simple(graph.edge_index, graph.num_nodes), graph.num_nodes)
    if rest := graph.num_nodes - component.num_nodes:
        notes.append(
            f"the protocol takes the largest connected component, {component.num_nodes:,} of "
            f"{graph.num_nodes:,} nodes, and leaves out {rest:,}"
        )
    return notes


def _hold_out(parts: Mapping[str, Tensor], seed: int, held_out: float) -> dict[str, Tensor]:
    """The same parts with a share of the test nodes as "ind"."""
    test = parts["tran"]
    count = int(len(test) * held_out)
    if not 0 < count < len(test):
        raise ValueError(
            f"held_out is {held_out} of {len(test)} test nodes, which leaves the part "
            f"{'ind' if count <= 0 else 'tran'} empty; choose a share between 0 and 1, such as 0.2"
        )
    order = torch.randperm(len(test), generator=generator(seed, "split", "ind"))
    tran, ind = test[order[count:]].sort().values, test[order[:count]].sort().values
    return {**parts, "tran": tran, "ind": ind}


def _draw(graph: Graph, seed: int, train: int, val: int) -> dict[str, Tensor]:
    if min(train, val) < 1:
        raise ValueError(
            f"train is {train} and val {val} nodes per class; both have to be 1 or more"
        )
    parts: dict[str, list[Tensor]] = {"train": [], "val": [], "tran": []}
    real = "classes" in graph.lacks
    for label in range(graph.classes):
        nodes = (graph.labelled if real else graph.y == label).nonzero()[:, 0]
        if len(nodes) < train + val:
            raise ValueError(
                f"{graph.name if real else f'class {label} of {graph.name}'} has {len(nodes)} "
                f"{'labelled ' if real else ''}nodes in the largest connected component; the "
                f"protocol takes {train} to train and {val} to select: ask for fewer"
                f"{'' if real else ' per class, or leave the class out'}"
            )
        order = torch.randperm(len(nodes), generator=generator(seed, "split", label))
        sizes = [train, val, len(nodes) - train - val]
        for name, chosen in zip(parts, order.split(sizes), strict=True):
            parts[name].append(nodes[chosen])
    drawn = {name: torch.cat(nodes).sort().values for name, nodes in parts.items()}
    if not len(drawn["tran"]):
        raise ValueError(
            f"{graph.name} has no node left to test: its component has {graph.num_nodes} nodes and "
            f"{graph.classes} classes, and each class takes {train} to train and {val} to select"
        )
    return drawn


def check(graph: Graph) -> None:
    """Raise ValueError unless the parts of a graph fit together and can be learnt from."""
    n, x, y = graph.num_nodes, graph.x, graph.y
    if x.ndim != 2 or y.shape != (n,) or graph.edge_index.shape[:1] != (2,):
        raise ValueError(
            f"{graph.name} has x {tuple(x.shape)}, y {tuple(y.shape)} and edge_index "
            f"{tuple(graph.edge_index.shape)}; expected (N, D), (N,) and (2, E): take the argmax "
            "of one-hot labels, transpose a list of pairs"
        )
    _check_nodes(graph)
    if "classes" in graph.lacks:
        _check_real(graph)
    else:
        check_labels(graph, "node")
    if graph.edge_index.is_floating_point():
        raise ValueError(
            f"{graph.name} has edges that are no whole numbers, of {graph.edge_index.dtype}; "
            f"expected ids from 0 to {n - 1}: take their weights out"
        )
    if graph.edge_index.numel() and not 0 <= graph.edge_index.min() <= graph.edge_index.max() < n:
        raise ValueError(
            f"{graph.name} has edges to node {int(graph.edge_index.max())} (least "
            f"{int(graph.edge_index.min())}); expected ids from 0 to {n - 1}: renumber the nodes"
        )


def _check_nodes(graph: Graph) -> None:
    if not graph.x.shape[1]:
        raise ValueError(
            f"{graph.name} has nodes without features (0 columns); give each some, such as its "
            "degree or codes of random walks (graphkd.ops.random_walks.deepwalk)"
        )
    if not graph.x.is_floating_point():
        raise ValueError(
            f"{graph.name} has features of {graph.x.dtype}; expected floating point: convert them, "
            "such as x.float()"
        )
    bad = (~graph.x.isfinite()).any(1).nonzero()[:, 0]
    if len(bad):
        raise ValueError(
            f"{graph.name} has features that are NaN or infinite at {len(bad)} nodes, first "
            f"{int(bad[0])}; expected finite numbers: drop or fill them first"
        )
    if not graph.num_nodes:
        raise ValueError(f"{graph.name} has no nodes; expected at least one")
    if graph.classes < 2 and not graph.lacks:
        raise ValueError(
            f"{graph.name} has {graph.classes} class; distillation needs two or more to tell "
            "apart, or real targets in floating point"
        )


def _check_real(graph: Graph) -> None:
    if not graph.labelled.any():
        raise ValueError(f"{graph.name} has no node with a target; expected some numbers")
    if len(wrong := graph.y.isinf().nonzero()[:, 0]):
        raise ValueError(
            f"{graph.name} has the target {float(graph.y[wrong[0]])} at node {int(wrong[0])}; "
            "expected finite numbers, or NaN where there is none"
        )
