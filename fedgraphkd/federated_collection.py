"""From many graphs to a federation whose clients hold some of them: an example is a whole graph.

Graphs do not know one another, so each client divides its own into those to train on, to select on
and to be tested on, as is usual; of nodes that would leak (`federated_graph`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fedgraphkd.collection import Collection, GraphDomains
from fedgraphkd.federated_graph import dealt, measured
from fedgraphkd.partition import Partition
from fedgraphkd.shares import GraphShares
from fedkd.data.federated_data import FederatedData
from graphkd.data.graph_collection import Graphs
from graphkd.graph import HIDDEN, check_labels
from kdcore.rng import generator
from kdcore.training.batches import Examples


def federate_graphs(
    graphs: Graphs,
    clients: int,
    models: Sequence[Any],
    seed: int,
    deal: Callable[[Graphs, int, torch.Generator], Partition],
    shares: GraphShares = GraphShares(),  # noqa: B008  (frozen)
    same_start: bool = False,
    modules: Mapping[str, Any] = MappingProxyType({}),
    held: Iterable[int] | None = None,
) -> FederatedData:
    """Deal whole graphs out to clients.

    `accuracy_local` of a client is on its own test graphs, `accuracy` on everybody's.

    Args:
        graphs: with labels, of which some may be hidden.
        clients: how many.
        models: networks by name, modules, or their classes (`fedgraphkd.models.build`), in turn.
        seed: of all that is drawn.
        deal: who gets which graph, such as `fedgraphkd.partition.size`.
        shares: what becomes of the graphs.
        same_start: whether clients of one architecture begin with the same weights.
        modules: what names among the models stand for, where they are none of a network.
        held: the clients that are played here, all by default; see `federated_graph.federate`.

    Raises:
        ValueError: more clients than graphs, a client without a graph to train or to be tested on,
            labels that are no classes; or a model that is none.
    """
    _check(graphs, clients, models)
    order = torch.randperm(graphs.num_nodes, generator=generator(seed, "public graphs"))
    public, private = order.tensor_split([round(shares.public * graphs.num_nodes)])
    private = private[graphs.y[private] != HIDDEN].sort().values
    parts = deal(graphs.cut(private), clients, generator(seed, "partition"))
    roles = [_divided(private[part], client, shares, seed) for client, part in enumerate(parts)]
    mine = range(clients) if held is None else sorted(held)
    trained, chosen, tested = ({k: 1 + roles[k][purpose] for k in mine} for purpose in range(3))
    shown = 1 + public.sort().values
    union = Collection(graphs)
    if held is not None:
        own = (*trained.values(), *chosen.values(), *tested.values())
        union = union.only(torch.cat([shown, *own]))
    private_of = {k: Examples(union.table, union.y, rows) for k, rows in trained.items()}
    task, members = dealt(union, private_of, shown, models, seed, same_start, modules)
    task = replace(task, private=sum(len(role[0]) for role in roles))
    found = measured(task, members, [*tested.values()], [*chosen.values()], union, clients)
    drawn = {"dealt": {"labels": found.label_counts.tolist(), "examples": "graphs"}}
    return found._replace(notes=(*graphs.notes, *_domains(graphs)), drawn=drawn)


def _domains(graphs: Graphs) -> tuple[str, ...]:
    """What is to be said where graphs are of several data sets."""
    if not isinstance(graphs, GraphDomains):
        return ()
    return (
        f"{graphs.name}: data sets have neither features nor classes in common; what a client "
        "predicts about another's graphs is about classes that these cannot have",
    )


def _divided(held: Tensor, client: int, shares: GraphShares, seed: int) -> tuple[Tensor, ...]:
    """Of a client's graphs those to train on, one at least, to select on, and to be tested on."""
    if len(held) < 2:
        raise ValueError(
            f"client {client} has {len(held)} graphs with a label, and needs two, to train and to "
            "be tested on; take fewer clients, another partition, or a smaller share graphs.public"
        )
    order = held[torch.randperm(len(held), generator=generator(seed, "graphs", client))]
    first = min(max(1, round(shares.train * len(held))), len(held) - 1)
    last = min(max(first, round((shares.train + shares.validation) * len(held))), len(held) - 1)
    return tuple(part.sort().values for part in order.tensor_split([first, last]))


def _check(graphs: Graphs, clients: int, models: Sequence[Any]) -> None:
    if not models:
        raise ValueError("models: name at least one network on graphs, such as gin-64")
    if "classes" in graphs.lacks:
        raise ValueError(f"{graphs.name} has real targets; clients with graphs learn classes")
    check_labels(graphs, "graph")
    if not 1 <= clients <= graphs.num_nodes:
        raise ValueError(
            f"{clients} clients for the {graphs.num_nodes} graphs of {graphs.name}; each needs "
            "some, to train and to be tested on: take fewer clients"
        )
