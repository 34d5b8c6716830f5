import networkx
import numpy as np
import pytest
import torch

from graphkd.ops.edges import simple
from graphkd.ops.random_walks import deepwalk, random_walks


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def test_walks_follow_edges_from_every_node():
    graph = networkx.karate_club_graph()
    edges = simple(torch.tensor(list(graph.edges)).T, 34)
    walks = random_walks(edges, 34, 3, 7, draw())
    assert walks.shape == (102, 7)
    assert walks[:, 0].bincount().tolist() == [3] * 34
    assert all(graph.has_edge(a, b) for walk in walks.tolist() for a, b in zip(walk, walk[1:]))  # noqa: B905


def test_steps_are_uniform_among_neighbours_and_lone_nodes_stay():
    star = simple(torch.tensor([[0, 0, 0], [1, 2, 3]]), 5)
    walks = random_walks(star, 5, 4000, 2, draw())
    share = walks[walks[:, 0] == 0, 1].bincount(minlength=5) / 4000
    assert share.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3, 0], abs=0.03)
    assert set(walks[walks[:, 0] == 4].flatten().tolist()) == {4}


def test_codes_are_the_factors_of_the_mutual_information_of_steps():
    """A triangle with window 1: every pair meets equally often, so log(9/6) off the diagonal."""
    triangle = simple(torch.tensor([[0, 1, 2], [1, 2, 0]]), 3)
    codes = deepwalk(triangle, 3, 3, draw(), count=2000, length=2, window=1).double().numpy()
    values = np.linalg.svd(codes, compute_uv=False) ** 2
    # The matrix c (J - I) has the singular values 2 c, c, c.
    c = np.log(1.5)
    assert values == pytest.approx([2 * c, c, c], rel=0.05)


def test_the_cliques_of_a_ring_are_told_apart_and_codes_repeat():
    graph = networkx.connected_caveman_graph(4, 6)
    edges = simple(torch.tensor(list(graph.edges)).T, 24)
    codes = deepwalk(edges, 24, 8, draw(), count=10)
    assert torch.equal(codes, deepwalk(edges, 24, 8, draw(), count=10))
    unit = codes / codes.norm(dim=1, keepdim=True)
    alike = unit @ unit.T
    same = torch.arange(24)[:, None] // 6 == torch.arange(24) // 6
    assert alike[same].mean() > alike[~same].mean() + 0.3


def test_a_graph_without_edges_has_codes_of_0_and_rank_is_padded():
    nothing = torch.zeros(2, 0, dtype=torch.long)
    assert not deepwalk(nothing, 4, 3, draw()).any()
    pair = simple(torch.tensor([[0], [1]]), 3)
    codes = deepwalk(pair, 3, 8, draw())
    assert codes.shape == (3, 8)
    assert not codes[2].any()
    assert codes[0].any()
