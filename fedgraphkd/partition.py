"""How the nodes of a graph are dealt out to clients.

Each function takes the graph, the number of clients and a generator, and returns one tensor of node
ids per client, in order; together they hold every node exactly once. Those of `fedkd.data` that go
by labels (`iid`, `dirichlet`, `pathological`, ...) deal out the nodes of a graph as well.
"""

from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heapreplace
from typing import Any

import networkx as nx
import torch
from torch import Tensor

from fedgraphkd.collection import GraphDomains
from fedkd.data import partition as by_label
from graphkd.data.graph_collection import Graphs
from graphkd.graph import Graph
from kdcore.registry import Registry, members, unknown

Partition = list[Tensor]
SLACK = 1.03  # by how much a greedy part may be larger than the mean
PASSES = 10
FEWEST = 4  # whole graphs of a client by dirichlet: some to train, to select and to be tested on


def louvain(graph: Graph, clients: int, generator: torch.Generator) -> Partition:
    """Communities, the largest first, each to the client that has the fewest nodes.

    Vincent Blondel, Jean-Loup Guillaume, Renaud Lambiotte, Etienne Lefebvre. "Fast unfolding of
    communities in large networks". Journal of Statistical Mechanics 2008.
    https://arxiv.org/abs/0803.0476, by networkx; dealt out as is usual for clients with subgraphs
    (Yinlin Zhu, Xunkai Li, Zhengyu Wu, Di Wu, Miao Hu, Rong-Hua Li. "FedTAD: Topology-aware
    Data-free Knowledge Distillation for Subgraph Federated Learning". IJCAI 2024.
    https://arxiv.org/abs/2404.14061). A community of more than N / K nodes is cut into pieces.

    Raises:
        ValueError: more clients than nodes.
    """
    _check(graph, clients)
    whole = nx.empty_graph(graph.num_nodes)
    whole.add_edges_from(graph.edge_index.T.tolist())
    found = nx.community.louvain_communities(whole, seed=_seed(generator))
    return _packed([torch.tensor(sorted(one)) for one in found], graph.num_nodes, clients)


def greedy(graph: Graph, clients: int, generator: torch.Generator) -> Partition:
    """Parts of equal size with few edges between them: linear deterministic greedy, restreamed.

    Isabelle Stanton, Gabriel Kliot. "Streaming Graph Partitioning for Large Distributed Graphs".
    KDD 2012, https://doi.org/10.1145/2339530.2339722; the stream passes ten times: Joel Nishimura,
    Johan Ugander. "Restreaming Graph Partitioning". KDD 2013,
    https://doi.org/10.1145/2487575.2487696. A node goes to the part with the largest

        (|N(v) in part| + 0.001) (1 - size / capacity)

    in breadth-first order at first, then in another order each time. Parts are larger or smaller
    than the mean by 3 percent at the most. It needs no library, and is quick on large graphs.

    Raises:
        ValueError: more clients than nodes.
    """
    _check(graph, clients)
    neighbours = _neighbours(graph)
    order = _breadth_first(neighbours, generator)
    part = [-1] * graph.num_nodes
    for _ in range(PASSES):
        part = _streamed(neighbours, order, part, clients)
        order = [order[i] for i in torch.randperm(len(order), generator=generator).tolist()]
    owner = torch.tensor(part)
    return [(owner == client).nonzero().flatten() for client in range(clients)]


def random(graph: Graph, clients: int, generator: torch.Generator) -> Partition:
    """Nodes at random, in parts of equal size: labels are alike, and nearly all edges are cut.

    Raises:
        ValueError: more clients than nodes.
    """
    _check(graph, clients)
    order = torch.randperm(graph.num_nodes, generator=generator)
    return [part.sort().values for part in order.tensor_split(clients)]


def natural(graph: Graph, clients: int, generator: torch.Generator) -> Partition:
    """The pieces that a graph is made of, its connected components: no edge is cut.

    The largest first, each to the client that has the fewest nodes.

    Raises:
        ValueError: fewer pieces than clients.
    """
    _check(graph, clients)
    whole = nx.empty_graph(graph.num_nodes)
    whole.add_edges_from(graph.edge_index.T.tolist())
    pieces = [torch.tensor(sorted(one)) for one in nx.connected_components(whole)]
    if len(pieces) < clients:
        raise ValueError(
            f"partition natural: {graph.name} is of {len(pieces)} connected pieces, fewer than "
            f"{clients} clients; take louvain, which cuts a graph where it has few edges"
        )
    return _dealt(pieces, clients)


def size(graphs: Graphs, clients: int, generator: torch.Generator) -> Partition:
    """Whole graphs by how many nodes they have: client 0 has the smallest, in parts of equal size.

    Raises:
        ValueError: more clients than graphs.
    """
    _check(graphs, clients)
    return by_label.bands(
        torch.bincount(graphs.owner, minlength=graphs.num_nodes), clients, generator
    )


def domains(graphs: Graphs, clients: int, generator: torch.Generator) -> Partition:
    """Whole graphs by the data set that they are of (`by_label.natural`).

    Raises:
        ValueError: they are of one data set; or one has fewer graphs than clients that share it.
    """
    _check(graphs, clients)
    if not isinstance(graphs, GraphDomains):
        raise ValueError(
            f"partition natural: {graphs.name} is one data set; give several, such as "
            "mutag+proteins, or take dirichlet, random or size"
        )
    return by_label.natural(graphs.domains, clients, generator)


Partitioner = Callable[[Any, int, torch.Generator], Partition]
OWN: dict[str, Partitioner] = {
    "louvain": louvain,
    "greedy": greedy,
    "random": random,
    "natural": natural,
}
REGISTRY: Registry[Partitioner] = Registry(
    "partition of a graph",
    members(OWN),
    "kdsim.graph_partitions",
    expected="a function of (graph, clients, generator) that gives the nodes of each client",
)
"""Partitions of nodes by edges: of one's own a function of the graph, how many, and a generator."""

OF_WHOLE: dict[str, Partitioner] = {"natural": domains, "random": random, "size": size}
"""Partitions of many graphs, of which each goes to one client."""

BY_LABEL = ("iid", "dirichlet", "dirichlet-min", "dirichlet-balanced", "shards", "pathological")
"""Partitions of `fedkd.data.partition` that see the labels of nodes and none of the edges."""


def names() -> list[str]:
    """All partitions of a graph."""
    return [*REGISTRY.names(), *BY_LABEL]


def check(name: str, whole: bool = False) -> None:
    """Raise ValueError for the name of no partition of a graph, or of whole ones."""
    if name in BY_LABEL or ":" in name or name in (OF_WHOLE if whole else REGISTRY):
        return
    if not whole:
        raise unknown("partition of a graph", name, names())
    if name in REGISTRY.names():
        raise ValueError(
            f"partition {name} goes by edges between nodes, and whole graphs have none between "
            f"them; take one of {', '.join([*OF_WHOLE, *BY_LABEL])}"
        )
    raise unknown("partition of whole graphs", name, [*OF_WHOLE, *BY_LABEL])


def partition(
    name: str,
    graph: Graph,
    clients: int,
    generator: torch.Generator,
    alpha: float = 0.3,
    shards: int = 2,
    classes: int = 2,
) -> Partition:
    """The partition of a name.

    Args:
        name: of `REGISTRY`, or of `BY_LABEL`; of many graphs of `OF_WHOLE`.
        graph: whose nodes are dealt out; or many, which are.
        clients: how many.
        generator: of what is drawn.
        alpha: for dirichlet and its like.
        shards: for shards.
        classes: for pathological.

    Raises:
        ValueError: no such partition, one that cannot be, or one of the user's that loses nodes.
    """
    whole = isinstance(graph, Graphs)
    check(name, whole)
    if whole and name == "dirichlet":
        _check(graph, clients)
        found = by_label.dirichlet(
            graph.y, clients, generator, alpha, min(FEWEST, graph.num_nodes // clients)
        )
    elif name in BY_LABEL:
        _check(graph, clients)
        how = alpha, shards, classes
        found = by_label.partition(name, graph.y, clients, generator, *how)
    else:
        own = OF_WHOLE[name] if whole and name in OF_WHOLE else REGISTRY.get(name)
        found = [torch.as_tensor(p) for p in own(graph, clients, generator)]
    by_label.check_dealt(found, graph.num_nodes, clients)
    return [part.sort().values for part in found]


def share_cut(graph: Graph, parts: Sequence[Tensor]) -> float:
    """The share of a graph's edges that lead from one part into another, 0 to 1."""
    owner = torch.empty(graph.num_nodes, dtype=torch.long)
    for client, part in enumerate(parts):
        owner[part] = client
    source, target = owner[graph.edge_index]
    return float((source != target).double().mean()) if len(source) else 0.0


def _check(graph: Graph, clients: int) -> None:
    if not 1 <= clients <= graph.num_nodes:
        what = "graphs" if isinstance(graph, Graphs) else "nodes"
        raise ValueError(
            f"{graph.name} has {graph.num_nodes} {what} to deal out to {clients} clients; take 1 "
            f"to {graph.num_nodes} clients"
        )


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (1,), generator=generator))


def _packed(communities: Iterable[Tensor], nodes: int, clients: int) -> Partition:
    """Communities dealt out; larger ones than a client's share are cut."""
    share = -(-nodes // clients)
    pieces = [piece for one in communities for piece in one.split(share)]
    while len(pieces) < clients:  # few and large
        largest = max(range(len(pieces)), key=lambda i: len(pieces[i]))
        pieces += pieces.pop(largest).tensor_split(2)
    return _dealt(pieces, clients)


def _dealt(pieces: Sequence[Tensor], clients: int) -> Partition:
    """The largest piece first, each to the client that has the fewest nodes, the first of those."""
    held = [(0, client) for client in range(clients)]
    heapify(held)
    parts: list[list[Tensor]] = [[] for _ in range(clients)]
    for piece in sorted(pieces, key=len, reverse=True):
        size, client = held[0]
        parts[client].append(piece)
        heapreplace(held, (size + len(piece), client))
    return [torch.cat(part).sort().values for part in parts]


def _neighbours(graph: Graph) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(graph.num_nodes)]
    for source, target in graph.edge_index.T.tolist():
        found[source].append(target)
    return found


def _breadth_first(neighbours: list[list[int]], generator: torch.Generator) -> list[int]:
    """All nodes, those of a component around a node that is drawn, the nearest first."""
    seen = [False] * len(neighbours)
    order: list[int] = []
    for start in torch.randperm(len(neighbours), generator=generator).tolist():
        if seen[start]:
            continue
        seen[start] = True
        queue = [start]
        for node in queue:
            for other in neighbours[node]:
                if not seen[other]:
                    seen[other] = True
                    queue.append(other)
        order += queue
    return order


def _streamed(
    neighbours: list[list[int]], order: Sequence[int], before: Sequence[int], clients: int
) -> list[int]:
    """The parts after one pass; neighbours that have not come yet are where they were before."""
    mean = len(order) / clients
    least, capacity = int(mean / SLACK), max(int(SLACK * mean), -(-len(order) // clients))
    sizes, part = [0] * clients, list(before)
    everybody: Sequence[int] = range(clients)
    owed = least * clients  # nodes that are kept for parts that are still too small
    for place, node in enumerate(order):
        if len(order) - place <= owed:
            everybody = [k for k in range(clients) if sizes[k] < least]
        near = [1e-3] * clients
        for other in neighbours[node]:
            if part[other] >= 0:
                near[part[other]] += 1
        best = max(everybody, key=lambda k: (near[k] * (1 - sizes[k] / capacity), -sizes[k]))
        part[node] = best
        owed -= sizes[best] < least
        sizes[best] += 1
    return part
