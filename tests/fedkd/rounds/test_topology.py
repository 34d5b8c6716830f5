"""Topologies: who hears whom, and how fast they mix, by closed forms."""

import math

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkd.rounds.topology import TOPOLOGIES, build


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("count", [4, 5, 8, 13, 30])
def test_the_spectral_gap_of_a_ring_has_a_closed_form(count):
    # The eigenvalues of the circulant matrix with three entries 1/3 are (1 + 2 cos(2 pi k/n))/3.
    ring = build("ring", range(count), stream())
    gap = 2 * (1 - math.cos(2 * math.pi / count)) / 3
    assert ring.spectral_gap == pytest.approx(gap, abs=1e-12)
    assert ring.diameter == count // 2
    assert set(ring.degree.values()) == {2}


def test_a_complete_topology_agrees_in_one_round():
    for count in (2, 3, 9):
        complete = build("complete", range(count), stream())
        assert complete.spectral_gap == pytest.approx(1.0, abs=1e-12)
        assert complete.diameter == 1
        assert len(complete.links) == count * (count - 1) // 2


def test_a_path_of_three_by_hand():
    # Peer 1 hears all three, 0 and 2 hear two each: W has the eigenvalues 1, 1/2 and -1/6.
    topology = build("ring", range(4), stream())._replace(
        links=((0, 1), (1, 2)), positions=dict.fromkeys(range(3), (0.0, 0.0))
    )
    assert topology.neighbourhoods == {0: {0, 1}, 1: {0, 1, 2}, 2: {1, 2}}
    assert topology.degree == {0: 1, 1: 2, 2: 1}
    assert topology.diameter == 2
    assert topology.spectral_gap == pytest.approx(0.5, abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(TOPOLOGIES)), st.integers(6, 25), st.integers(0, 99))
def test_every_topology_is_connected_symmetric_and_drawn_by_the_generator(name, count, seed):
    peers = [10 * i + 3 for i in range(count)]
    topology = build(name, peers, stream(seed), radius=0.6)
    assert list(topology.positions) == peers
    assert all(one < other for one, other in topology.links)
    assert len(set(topology.links)) == len(topology.links)
    graph = nx.Graph(topology.links)
    assert set(graph) == set(peers)
    assert nx.is_connected(graph)
    assert topology == build(name, peers, stream(seed), radius=0.6)
    for peer, hears in topology.neighbourhoods.items():
        assert hears == {peer, *graph[peer]}
    # by numpy's general eigenvalues of the matrix itself
    hearing = np.array([[j in topology.neighbourhoods[i] for j in peers] for i in peers], float)
    values = np.linalg.eigvals(hearing / hearing.sum(axis=1, keepdims=True))
    second = np.sort(np.abs(values))[-2]
    assert topology.spectral_gap == pytest.approx(1 - second, abs=1e-9)
    assert topology.diameter == nx.diameter(graph)


def test_a_random_geometric_topology_joins_who_is_near():
    topology = build("random-geometric", range(20), stream(3), radius=0.4)
    for one in range(20):
        for other in range(one + 1, 20):
            gap = math.dist(topology.positions[one], topology.positions[other])
            assert ((one, other) in topology.links) == (gap <= 0.4)


def test_a_small_world_has_the_links_of_its_lattice_and_shorter_ways():
    lattice = build("small-world", range(40), stream(), degree=4, rewiring=0.0)
    world = build("small-world", range(40), stream(), degree=4, rewiring=0.3)
    assert len(lattice.links) == len(world.links) == 80
    assert set(lattice.degree.values()) == {4}
    assert world.diameter < lattice.diameter == 10
    assert world.spectral_gap > lattice.spectral_gap


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("star", 5, "unknown topology 'star'; choose one of ring, small-world"),
        ("ring", 1, "needs at least 2 clients, got 1"),
        ("small-world", 4, "each is joined to 4 is complete; take a smaller degree"),
    ],
)
def test_topologies_that_cannot_be_are_errors(name, count, message):
    with pytest.raises(ValueError, match=message):
        build(name, range(count), stream())


def test_parameters_that_cannot_be_are_errors():
    for more in ({"degree": 3}, {"degree": 0}, {"rewiring": 1.5}, {"radius": 0.0}):
        with pytest.raises(ValueError, match="degree must be even and >= 2, rewiring between"):
            build("small-world", range(9), stream(), **more)
    with pytest.raises(ValueError, match="no connected random-geometric topology of 30 clients"):
        build("random-geometric", range(30), stream(), radius=0.02)
