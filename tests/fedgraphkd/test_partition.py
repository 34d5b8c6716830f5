import pytest
import torch

from fedgraphkd import partition
from graphkd.graph import Graph
from kdcore.rng import generator
from tests.fedgraphkd.graphs import fake, rings


def cliques(count=4, size=6):
    """Cliques in a row, each joined to the next by one edge."""
    pairs = []
    for one in range(count):
        nodes = range(one * size, (one + 1) * size)
        pairs += [(i, j) for i in nodes for j in nodes if i < j]
        pairs += [(nodes[-1], nodes[-1] + 1)] if one < count - 1 else []
    edges = torch.tensor(pairs).T
    y = torch.arange(count).repeat_interleave(size)
    return Graph(torch.eye(count * size), torch.cat([edges, edges.flip(0)], dim=1), y, count)


def dealt(name, graph, clients, seed=0, **how):
    return partition.partition(name, graph, clients, generator(seed, "test"), **how)


@pytest.mark.parametrize("name", [*partition.names()])
def test_every_node_is_dealt_out_once_and_by_the_seed(name):
    graph = rings(6, 6) if name == "natural" else fake()
    parts = dealt(name, graph, 3)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(graph.num_nodes))
    assert all(torch.equal(part, part.sort().values) for part in parts)
    again = dealt(name, graph, 3)
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))


@pytest.mark.parametrize("name", ["louvain", "greedy"])
def test_cliques_are_kept_together(name):
    graph = cliques()
    parts = dealt(name, graph, 4)
    assert sorted(part.tolist() for part in parts) == [
        list(range(s, s + 6)) for s in (0, 6, 12, 18)
    ]
    # Three edges lead from a clique to the next, of 4 x 15 + 3.
    assert partition.share_cut(graph, parts) == pytest.approx(3 / 63)


def test_the_share_that_is_cut_is_counted_by_hand():
    graph = rings(1, 4)  # 0 - 1 - 2 - 3 - 0
    assert partition.share_cut(graph, [torch.tensor([0, 1]), torch.tensor([2, 3])]) == 0.5
    assert partition.share_cut(graph, [torch.tensor([0, 2]), torch.tensor([1, 3])]) == 1
    assert partition.share_cut(graph, [torch.arange(4)]) == 0


@pytest.mark.parametrize("clients", [1, 3, 7, 50])
def test_greedy_parts_are_nearly_equal(clients):
    graph = fake(4, 80)
    sizes = [len(part) for part in dealt("greedy", graph, clients)]
    assert max(sizes) <= max(1.03 * 320 / clients, -(-320 // clients))
    assert min(sizes) >= min(320 / clients / 1.03, 320 // clients) - 1


def test_greedy_cuts_far_less_than_chance():
    graph = fake(4, 80)
    cut = {n: partition.share_cut(graph, dealt(n, graph, 4)) for n in ("greedy", "random")}
    assert cut["random"] == pytest.approx(0.75, abs=0.05)  # 1 - 1 / K
    assert cut["greedy"] < 0.4


def test_a_large_community_is_cut_and_small_ones_share_a_client():
    # One clique of 12 and two of 3 for two clients, who can have 9 each: 9 + (3 + 3 + 3).
    pairs = [(i, j) for i in range(12) for j in range(i)]
    pairs += [(i, j) for s in (12, 15) for i in range(s, s + 3) for j in range(s, i)]
    edges = torch.tensor(pairs).T
    graph = Graph(torch.eye(18), torch.cat([edges, edges.flip(0)], dim=1), torch.arange(18) % 2, 2)
    assert [len(part) for part in dealt("louvain", graph, 2)] == [9, 9]
    assert len(dealt("louvain", graph, 6)) == 6


def test_natural_parts_are_connected_pieces():
    graph = rings(5, 4)
    parts = dealt("natural", graph, 2)
    assert partition.share_cut(graph, parts) == 0
    assert sorted(map(len, parts)) == [8, 12]
    with pytest.raises(ValueError, match="of 5 connected pieces, fewer than 6 clients"):
        dealt("natural", graph, 6)


def test_pathological_clients_have_few_labels():
    graph = fake(4, 60)
    for part in dealt("pathological", graph, 4, classes=1):
        assert len(graph.y[part].unique()) == 1


@pytest.mark.parametrize("name", ["louvain", "greedy", "random", "natural", "dirichlet"])
def test_more_clients_than_nodes_are_refused(name):
    with pytest.raises(ValueError, match="rings has 12 nodes to deal out to 13 clients; take 1 to"):
        dealt(name, rings(2, 6), 13)


def test_unknown_partitions_are_refused_and_the_nearest_is_named():
    with pytest.raises(
        ValueError, match="unknown partition of a graph 'luvain'; did you mean 'lou"
    ):
        partition.check("luvain")
    partition.check("iid")
    partition.check("mine.py:halves")
