"""Who hears whom where there is no server: undirected graphs of peers, and how fast they mix."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
import torch

ATTEMPTS = 100  # draws of a random topology until one is connected


class Topology(NamedTuple):
    """A connected graph of peers.

    Attributes:
        name: the topology's name.
        links: pairs of peers (i, j), i < j, each once.
        positions: peer -> where to draw it, in the unit square; a random geometric graph is drawn
            where its peers are, all others on a circle.
    """

    name: str
    links: tuple[tuple[int, int], ...]
    positions: dict[int, tuple[float, float]]

    @property
    def degree(self) -> dict[int, int]:
        """With how many others each peer exchanges messages."""
        return {peer: len(hears) - 1 for peer, hears in self.neighbourhoods.items()}

    @property
    def neighbourhoods(self) -> dict[int, frozenset[int]]:
        """Whom each peer hears: its neighbours, and itself."""
        found = {peer: {peer} for peer in self.positions}
        for one, other in self.links:
            found[one].add(other)
            found[other].add(one)
        return {peer: frozenset(hears) for peer, hears in found.items()}

    @property
    def diameter(self) -> int:
        """The links between the two peers that are furthest apart."""
        return int(nx.diameter(self._graph()))

    @property
    def spectral_gap(self) -> float:
        """1 - |lambda_2| of the matrix by which one round of plain averaging mixes, in [0, 1].

        Stephen Boyd, Arpita Ghosh, Balaji Prabhakar, Devavrat Shah. "Randomized Gossip
        Algorithms". IEEE Transactions on Information Theory 52(6), 2006.
        https://doi.org/10.1109/TIT.2006.874516

        W = (D + I)^-1 (A + I): each peer takes the plain mean of its neighbours' values and its
        own. Disagreement shrinks in the end by the factor |lambda_2|, the second largest absolute
        value of an eigenvalue, in each round; the gap is 1 where one round makes all agree. On a
        ring of n >= 4 it is 2 (1 - cos(2 pi / n)) / 3.
        """
        mixing = nx.to_numpy_array(self._graph()) + np.eye(len(self.positions))
        scale = mixing.sum(axis=1) ** -0.5  # symmetric, and similar to W: the same eigenvalues
        values = np.linalg.eigvalsh(scale[:, None] * mixing * scale)
        return float(1 - np.sort(np.abs(values))[-2]) if len(values) > 1 else 1.0

    def _graph(self) -> Any:
        graph = nx.Graph()
        graph.add_nodes_from(self.positions)
        graph.add_edges_from(self.links)
        return graph


def build(
    name: str,
    peers: Sequence[int],
    generator: torch.Generator,
    *,
    degree: int = 4,
    rewiring: float = 0.3,
    radius: float = 0.5,
) -> Topology:
    """A topology of a name.

    Small worlds are those of Duncan J. Watts, Steven H. Strogatz. "Collective dynamics of
    'small-world' networks". Nature 393, 1998. https://doi.org/10.1038/30918

    Args:
        name: one of `TOPOLOGIES`.
        peers: their numbers.
        generator: of the random ones, which are drawn until they are connected.
        degree: of a small world before rewiring: each peer is joined to so many nearest ones.
        rewiring: of a small world: the chance of each link to lead somewhere else.
        radius: of a random geometric graph: peers in the unit square that are nearer are joined.

    Raises:
        ValueError: no such name, fewer than two peers, a parameter out of range, or no connected
            graph in `ATTEMPTS` draws.
    """
    if name not in TOPOLOGIES:
        raise ValueError(f"unknown topology {name!r}; choose one of {', '.join(TOPOLOGIES)}")
    if len(peers) < 2:
        raise ValueError(f"a topology {name} needs at least 2 clients, got {len(peers)}")
    if degree < 2 or degree % 2 or not 0 <= rewiring <= 1 or not 0 < radius < float("inf"):
        raise ValueError(
            "degree must be even and >= 2, rewiring between 0 and 1 and radius > 0, got "
            f"{degree}, {rewiring:g} and {radius:g}"
        )
    for _ in range(ATTEMPTS):
        seed = int(torch.randint(2**31, (), generator=generator))
        graph = TOPOLOGIES[name](len(peers), seed, degree, rewiring, radius)
        if nx.is_connected(graph):
            return _named(name, graph, peers)
    raise ValueError(
        f"no connected {name} topology of {len(peers)} clients in {ATTEMPTS} draws; raise the "
        f"radius ({radius:g}) or the degree ({degree})"
    )


def _named(name: str, graph: Any, peers: Sequence[int]) -> Topology:
    """The graph over 0 .. K - 1 with the peers' own numbers."""
    placed = nx.get_node_attributes(graph, "pos") or {
        i: ((1 + np.sin(angle)) / 2, (1 + np.cos(angle)) / 2)
        for i, angle in enumerate(np.linspace(0, 2 * np.pi, len(peers), endpoint=False))
    }
    positions = {peers[i]: (float(x), float(y)) for i, (x, y) in sorted(placed.items())}
    links = sorted(
        (min(a, b), max(a, b)) for a, b in ((peers[i], peers[j]) for i, j in graph.edges)
    )
    return Topology(name, tuple(links), positions)


def _small_world(count: int, seed: int, degree: int, rewiring: float, radius: float) -> Any:
    if degree >= count:
        raise ValueError(
            f"a small world of {count} clients in which each is joined to {degree} is complete; "
            "take a smaller degree, more clients, or the topology complete"
        )
    return nx.watts_strogatz_graph(count, degree, rewiring, seed=seed)


TOPOLOGIES: dict[str, Callable[[int, int, int, float, float], Any]] = {
    "ring": lambda count, seed, degree, rewiring, radius: nx.cycle_graph(count),
    "small-world": _small_world,
    "random-geometric": lambda count, seed, degree, rewiring, radius: nx.random_geometric_graph(
        count, radius, seed=seed
    ),
    "complete": lambda count, seed, degree, rewiring, radius: nx.complete_graph(count),
}
