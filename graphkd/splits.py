"""The protocols: which nodes train, select and test, and which graph each phase may see.

Both are those of CPF and GLNN: Yang, Liu and Shi, "Extract the Knowledge of Graph Neural Networks
and Go Beyond it", WWW 2021, https://arxiv.org/abs/2103.02885; Zhang, Liu, Sun and Shah,
"Graph-less Neural Networks: Teaching Old MLPs New Tricks via Distillation", ICLR 2022,
https://arxiv.org/abs/2110.08727.

The graph is made undirected and simple, cut down to its largest connected component, and then 20
nodes of each class train, 30 select, and the rest test.
"""

from dataclasses import replace

import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from graphkd.core import Split
from graphkd.graph import Graph
from graphkd.names import unknown
from knowledge.randomness import generator

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
    return Split("transductive", seed, parts, origin, component)


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
    parts = _draw(component, seed, train, val)
    test = parts.pop("tran")
    count = int(len(test) * held_out)
    if not 0 < count < len(test):
        raise ValueError(
            f"held_out is {held_out} of {len(test)} test nodes, which leaves the part "
            f"{'ind' if count <= 0 else 'tran'} empty; choose a share between 0 and 1, such as 0.2"
        )
    order = torch.randperm(len(test), generator=generator(seed, "split", "ind"))
    parts["tran"] = test[order[count:]].sort().values
    parts["ind"] = test[order[:count]].sort().values
    return Split("inductive", seed, parts, origin, component)


PROTOCOLS = {"transductive": transductive, "inductive": inductive}


def split(graph: Graph, protocol: str, seed: int) -> Split:
    """The split of a graph by the protocol of this name; ValueError if there is none."""
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    return PROTOCOLS[protocol](graph, seed)


def simple(edge_index: Tensor, nodes: int) -> Tensor:
    """The edges (2, E) of the simple undirected graph: both ways, once, no loops, in order."""
    source, target = torch.cat([edge_index, edge_index.flip(0)], dim=1)
    keys = (source * nodes + target)[source != target].unique()
    return torch.stack([keys // nodes, keys % nodes])


def largest_component(graph: Graph) -> tuple[Graph, Tensor]:
    """The simple, undirected largest connected component, and the id that each node had.

    Of components of one size the one with the smallest id is taken. Nodes keep their order.

    Raises:
        ValueError: see `transductive`.
    """
    _check(graph)
    n = graph.num_nodes
    edge_index = simple(graph.edge_index, n)
    if not edge_index.shape[1]:
        raise ValueError(
            f"{graph.name} has {n} nodes and no edges between them; a graph protocol needs some: "
            "build them, for example from nearest neighbours"
        )
    source, target = edge_index.cpu().numpy()
    adjacency = coo_matrix((torch.ones(len(source)).numpy(), (source, target)), shape=(n, n))
    _, label = connected_components(adjacency, directed=False)
    label = torch.from_numpy(label).long()
    origin = (label == torch.bincount(label).argmax()).nonzero()[:, 0]
    return replace(graph, edge_index=edge_index).subgraph(origin), origin


def _draw(graph: Graph, seed: int, train: int, val: int) -> dict[str, Tensor]:
    if min(train, val) < 1:
        raise ValueError(
            f"train is {train} and val {val} nodes per class; both have to be 1 or more"
        )
    parts: dict[str, list[Tensor]] = {"train": [], "val": [], "tran": []}
    for label in range(graph.classes):
        nodes = (graph.y == label).nonzero()[:, 0]
        if len(nodes) < train + val:
            raise ValueError(
                f"class {label} of {graph.name} has {len(nodes)} nodes in the largest connected "
                f"component; the protocol takes {train} to train and {val} to select: ask for "
                "fewer per class, or leave the class out"
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


def _check(graph: Graph) -> None:
    n, x, y = graph.num_nodes, graph.x, graph.y
    if x.ndim != 2 or y.shape != (n,) or graph.edge_index.shape[:1] != (2,):
        raise ValueError(
            f"{graph.name} has x {tuple(x.shape)}, y {tuple(y.shape)} and edge_index "
            f"{tuple(graph.edge_index.shape)}; expected (N, D), (N,) and (2, E)"
        )
    _check_nodes(graph)
    if graph.edge_index.numel() and not 0 <= graph.edge_index.min() <= graph.edge_index.max() < n:
        raise ValueError(
            f"{graph.name} has edges to node {int(graph.edge_index.max())} (least "
            f"{int(graph.edge_index.min())}); expected ids from 0 to {n - 1}: renumber the nodes"
        )


def _check_nodes(graph: Graph) -> None:
    bad = (~graph.x.isfinite()).any(1).nonzero()[:, 0]
    if len(bad):
        raise ValueError(
            f"{graph.name} has features that are NaN or infinite at {len(bad)} nodes, first "
            f"{int(bad[0])}; expected finite numbers: drop or fill them first"
        )
    if graph.classes < 2:
        raise ValueError(
            f"{graph.name} has {graph.classes} class; distillation needs two or more to tell apart"
        )
    if not graph.num_nodes or not 0 <= graph.y.min() <= graph.y.max() < graph.classes:
        raise ValueError(
            f"{graph.name} has {graph.num_nodes} nodes and labels outside 0..{graph.classes - 1}; "
            "expected at least one node and classes counted from 0: renumber the labels"
        )
