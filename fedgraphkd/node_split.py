"""Who trains on a node, selects on it or is tested on it: drawn, or the graph's own split."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedgraphkd.shares import NodeShares
from graphkd.data import node_sets
from graphkd.graph import Graph
from kdcore.rng import generator

NAMES = {"train": "train", "val": "val", "test": "tran"}  # as `graphkd.data.node_sets` calls them


class NodeSplit(NamedTuple):
    """Ids of nodes of a graph: who is private, and of these what each is for; or public."""

    private: Tensor
    public: Tensor
    train: Tensor
    validation: Tensor
    test: Tensor


def split_of(
    graph: Graph, component: Graph, taken: Tensor, shares: NodeShares, seed: int
) -> tuple[NodeSplit, tuple[str, ...]]:
    """The split of the nodes that take part, and what is to be said of it.

    Args:
        graph: as it came; if it has parts of its own (`Graph.parts`), these are the split.
        component: what of it takes part.
        taken: the id in the graph that each node of it had.
        shares: what becomes of nodes; with parts of its own, how many are public.
        seed: of the draw, and of which of several masks is taken.

    Raises:
        ValueError: no node is left to test on; or parts that cannot be, or are of no use here.
    """
    if not graph.parts:
        return drawn(component, shares, seed), ()
    if graph.parts.get("held_out") is not None:
        raise ValueError(
            f"{graph.name} has nodes that are held out, and a client sees all that it holds; make "
            "them test nodes, or leave them out of the graph"
        )
    given = {NAMES[part]: nodes for part, nodes in graph.parts.items() if nodes is not None}
    sets = {name: node_sets.ids(graph, name, nodes, seed) for name, nodes in given.items()}
    node_sets.check_parts(graph, sets)
    here = [torch.isin(taken, sets[name]).nonzero()[:, 0] for name in NAMES.values()]
    note = f"{graph.name} comes with a split of its own, and no other is drawn"
    return own(component, here, shares, seed), (note, *node_sets.chosen(given, seed))


def drawn(graph: Graph, shares: NodeShares, seed: int) -> NodeSplit:
    """One split of all nodes: public ones at random, of the others a share of each class.

    Of a class with private nodes one is trained on at least. Nodes without a label have no role.

    Raises:
        ValueError: no node is left to test on.
    """
    public, private = _public(graph, shares, seed)
    roles: list[list[Tensor]] = [[], [], []]
    for label in range(graph.classes):
        mine = private[graph.y[private] == label].sort().values
        mine = mine[torch.randperm(len(mine), generator=generator(seed, "nodes", label))]
        first = max(1, round(shares.train * len(mine)))
        last = max(first, round((shares.train + shares.validation) * len(mine)))
        for role, part in zip(roles, mine.tensor_split([first, last]), strict=True):
            role.append(part)
    return _sorted(graph, NodeSplit(private, public, *(torch.cat(role) for role in roles)))


def own(graph: Graph, parts: Sequence[Tensor], shares: NodeShares, seed: int) -> NodeSplit:
    """The split of a graph whose nodes are known to train, to select and to test on.

    Public nodes are drawn of those that are in no part, and where these are too few, of test,
    validation and training nodes, in this order; they are in no part then.

    Raises:
        ValueError: no node is left to test on.
    """
    dear = torch.zeros(graph.num_nodes, dtype=torch.long)
    for cost, nodes in enumerate(reversed(parts), 1):
        dear[nodes] = cost
    public, private = _public(graph, shares, seed, dear)
    left = (nodes[torch.isin(nodes, private)] for nodes in parts)
    return _sorted(graph, NodeSplit(private, public, *left))


def _public(
    graph: Graph, shares: NodeShares, seed: int, dear: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Public nodes at random, and all others; the cheaper ones first."""
    order = torch.randperm(graph.num_nodes, generator=generator(seed, "public nodes"))
    if dear is not None:
        order = order[dear[order].argsort(stable=True)]
    public, private = order.tensor_split([round(shares.public * graph.num_nodes)])
    return public, private


def _sorted(graph: Graph, found: NodeSplit) -> NodeSplit:
    if not len(found.test):
        raise ValueError(
            f"{graph.name} has {graph.num_nodes} nodes, and none is left to test on; take smaller "
            "shares of nodes"
        )
    return NodeSplit(*(nodes.sort().values for nodes in found))
