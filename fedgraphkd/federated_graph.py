"""From a graph to a federation: one split of its nodes, and blocks that inherit it.

Who trains on a node, selects on it or is tested on it is drawn once, on the whole graph, before it
is dealt out: the same for any partition, and for the graph with its edges given back. (Splits that
are drawn anew in each subgraph leak: a test node of one is a training node of the other.)
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedgraphkd.collection import Collection as GraphCollection
from fedgraphkd.models import build
from fedgraphkd.node_split import NodeSplit, split_of
from fedgraphkd.partition import Partition, share_cut
from fedgraphkd.shares import NodeShares
from fedgraphkd.union import Union
from fedkd.core import Client, Task
from fedkd.data.federated_data import FederatedData, initial
from fedkd.models import TRIED, group_names
from graphkd.data.graph_collection import Graphs
from graphkd.data.splits import largest_component
from graphkd.graph import HIDDEN, Graph, TypedGraph, check_labels
from kdcore.rng import generator
from kdcore.training.batches import Examples


class GraphFederation(NamedTuple):
    """A federation whose clients hold graphs.

    Attributes:
        federated: for `simulate`, and what to measure it with.
        union: the graphs: block k is client k's, then come the public nodes and all private ones.
            With edges kept, block 0 is all private nodes, and block 1 the public ones.
        private: the graph of all private nodes.
        parts: of each client, its nodes there.
        cut: the share of the edges between private nodes that lead from one client to another.
    """

    federated: FederatedData
    union: Union
    private: Graph
    parts: Partition
    cut: float


def federate(
    graph: Graph,
    clients: int,
    models: Sequence[Any],
    seed: int,
    deal: Callable[[Graph, int, torch.Generator], Partition],
    shares: NodeShares = NodeShares(),  # noqa: B008  (frozen)
    same_start: bool = False,
    whole: bool = False,
    modules: Mapping[str, Any] = MappingProxyType({}),
    held: Collection[int] | None = None,
) -> GraphFederation:
    """Deal the nodes of a graph out to clients.

    `accuracy_local` of a client is on its own test nodes, `accuracy` on everybody's, each in the
    block that it lies in, and `accuracy_whole` on the same nodes among all private ones, with the
    edges between clients given back.

    Args:
        graph: with labels, of which some may be hidden.
        clients: how many.
        models: networks by name, modules, or their classes (`fedgraphkd.models.build`), in turn.
        seed: of all that is drawn.
        deal: who gets which node, such as `fedgraphkd.partition.louvain`.
        shares: what becomes of the nodes.
        same_start: whether clients of one architecture begin with the same weights.
        whole: whether all of the graph takes part, or its largest component alone.
        modules: what names among the models stand for, where they are none of a network.
        held: the clients that are played here, for a process that plays a few of many, or the
            server: no other's block is built, and there are no others in the federation. All by
            default. Where edges are kept, blocks are not apart.

    Raises:
        ValueError: a graph without edges, more clients than nodes, a client without a node to train
            or to be tested on, labels that are no classes; or a model that is none.
    """
    _check(graph, clients, models)
    component, taken = _taking_part(graph, whole)
    split, said = split_of(graph, component, taken, shares, seed)
    private = component.subgraph(split.private)
    parts = deal(private, clients, generator(seed, "partition"))
    roles = _roles(split, parts)
    mine = range(clients) if held is None else sorted(held)
    blocks = _blocks(component, private, parts, split.public, shares, mine)
    trained = {k: blocks.examples(blocks.of(k, roles[k].train)) for k in mine}
    shown = blocks.union.numbers(blocks.public)
    task, members = dealt(blocks.union, trained, shown, models, seed, same_start, modules)
    task = replace(task, private=sum(len(role.train) for role in roles))
    tested = [blocks.of(k, roles[k].test) for k in mine]
    chosen = [blocks.of(k, roles[k].validation) for k in mine]
    cut = share_cut(private, parts)
    left = graph.num_nodes - component.num_nodes
    notes = (f"{graph.name}: {left} nodes are outside of its largest component, and left out",)
    whole_graph = {} if held is not None else {"whole": blocks.examples(blocks.everywhere(roles))}
    federated = measured(task, members, tested, chosen, blocks.union, clients)._replace(
        notes=(*graph.notes, *(notes if left else ()), *said, *_untyped(graph)),
        elsewhere=whole_graph,
        measures={"cut": cut},
        blocks=None if blocks.kept else blocks.union,
    )
    return GraphFederation(federated, blocks.union, private, parts, cut)


class _Roles(NamedTuple):
    """Of a client, ids in the graph of private nodes; `nodes` are all that it holds."""

    nodes: Tensor
    train: Tensor
    validation: Tensor
    test: Tensor


class _Blocks(NamedTuple):
    """The union, and which block is whose."""

    union: Union
    parts: Partition
    kept: bool  # one block for all clients
    public: int
    private: int

    def of(self, client: int, nodes: Tensor) -> Tensor:
        """The numbers of a client's private nodes, in the block that it trains on."""
        if self.kept:
            return self.union.starts[self.private] + nodes
        return self.union.starts[client] + torch.searchsorted(self.parts[client], nodes)

    def everywhere(self, roles: Sequence[_Roles]) -> Tensor:
        """The numbers of all test nodes, client by client, in the block of all private nodes."""
        return self.union.starts[self.private] + torch.cat([role.test for role in roles])

    def examples(self, numbers: Tensor) -> Examples:
        """Labelled nodes."""
        return Examples(self.union.table, self.union.y, numbers)


def _blocks(
    graph: Graph,
    private: Graph,
    parts: Partition,
    public: Tensor,
    shares: NodeShares,
    mine: Collection[int],
) -> _Blocks:
    shown = graph.subgraph(public)
    if not shares.public_edges:
        shown = replace(shown, edge_index=shown.edge_index[:, :0])
    if shares.edges == "kept":
        return _Blocks(Union([private, shown]), parts, True, 1, 0)
    count = len(parts)
    own = [private.subgraph(p) if k in mine else len(p) for k, p in enumerate(parts)]
    union = Union([*own, shown, private if len(mine) == count else private.num_nodes])
    return _Blocks(union, parts, False, count, count + 1)


def _roles(split: NodeSplit, parts: Partition) -> list[_Roles]:
    """What each client's nodes are for, checked."""
    named = [torch.searchsorted(split.private, nodes) for nodes in split[2:]]
    found = []
    for client, part in enumerate(parts):
        role = _Roles(part, *(nodes[torch.isin(nodes, part)] for nodes in named))
        for purpose, nodes in (("trained", role.train), ("tested", role.test)):
            if not len(nodes):
                raise ValueError(
                    f"client {client} has {len(part)} nodes and none with a label to be {purpose} "
                    "on; take fewer clients, another partition, or larger shares of nodes"
                )
        found.append(role)
    return found


def dealt(
    union: Union | GraphCollection,
    private: Mapping[int, Examples],
    shown: Tensor,
    models: Sequence[Any],
    seed: int,
    same_start: bool,
    modules: Mapping[str, Any],
) -> tuple[Task, list[Client]]:
    """The task and the clients of private examples each, and of the numbers that all are shown."""
    few = union.table[next((one.rows for one in private.values()), shown)[:TRIED]]
    names = group_names(models)
    named = dict(zip(names, models, strict=True))
    made = {name: build(modules.get(name, what), union, few) for name, what in named.items()}
    members = []
    for client, examples in private.items():
        name = names[client % len(names)]
        start = initial(made[name], name, client, seed, same_start)
        members.append(Client(client, name, start, examples))
    labels = union.y[shown]
    known = bool(len(shown)) and bool((labels != HIDDEN).all())
    task = Task(
        made,
        union.classes,
        union.table[shown] if len(shown) else None,
        tuple(union.table.shape[1:]),
        labels if known else None,
        private=sum(map(len, private.values())),
        few=few,
        build=partial(build, union=union, examples=few),
        contents=union.contents,
    )
    return task, members


def _taking_part(graph: Graph, whole: bool) -> tuple[Graph, Tensor]:
    """What is dealt out, and the id that each of its nodes has in the graph."""
    return (graph, torch.arange(graph.num_nodes)) if whole else largest_component(graph)


def _untyped(graph: Graph) -> tuple[str, ...]:
    """A note, where there is more to nodes and edges than clients look at."""
    if not isinstance(graph, TypedGraph):
        return ()
    return (f"{graph.name}: clients do not look at the types of nodes and edges; all are alike",)


def measured(
    task: Task,
    members: list[Client],
    tested: Sequence[Tensor],
    chosen: Sequence[Tensor],
    union: Union | GraphCollection,
    clients: int,
) -> FederatedData:
    """A federation with the numbers of each client's examples to be tested and to select on.

    A client's own data are told by whose they are: `kinds` are clients.
    """
    owner = torch.tensor([member.id for member in members], dtype=torch.long)
    sizes = torch.tensor([len(member.private) for member in members], dtype=torch.long)
    none = torch.empty(0, dtype=torch.long)

    def whose(examples: Sequence[Tensor]) -> Tensor:
        return owner.repeat_interleave(torch.tensor([len(own) for own in examples]).long())

    labels = [union.y[one.private.rows].bincount(minlength=union.classes) for one in members]
    return FederatedData(
        task=task,
        clients=members,
        test=Examples(union.table, union.y, torch.cat([none, *tested])),
        validation=Examples(union.table, union.y, torch.cat([none, *chosen])),
        label_counts=torch.stack([none.new_zeros(union.classes), *labels])[1:],
        kinds=whose(tested),
        kind_counts=sizes.unsqueeze(1) * (owner.unsqueeze(1) == torch.arange(clients)),
        validation_kinds=whose(chosen),
    )


def _check(graph: Graph, clients: int, models: Sequence[Any]) -> None:
    if not models:
        raise ValueError("models: name at least one network on graphs, such as gcn-64")
    if isinstance(graph, Graphs):
        raise ValueError(f"{graph.name} is of many graphs; expected one whose nodes are dealt out")
    if "classes" in graph.lacks:
        raise ValueError(f"{graph.name} has real targets; clients of a graph learn classes")
    check_labels(graph, "node")
    if not graph.edge_index.shape[1]:
        raise ValueError(
            f"{graph.name} has {graph.num_nodes} nodes and no edges between them; clients of a "
            "graph need some: build them, for example from nearest neighbours"
        )
    if not 1 <= clients <= graph.num_nodes:
        raise ValueError(
            f"{clients} clients for the {graph.num_nodes} nodes of {graph.name}; each needs some, "
            "to train and to be tested on: take fewer clients"
        )
