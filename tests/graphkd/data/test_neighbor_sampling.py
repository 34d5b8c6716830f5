import pytest
import torch
from scipy.stats import chisquare

from graphkd.data import datasets, neighbor_sampling
from graphkd.graph import Graph
from graphkd.models import networks
from graphkd.training.loop import predict, seeded
from kdcore.rng import generator

GRAPH = datasets.fake(size=40)
EDGES = set(map(tuple, GRAPH.edge_index.T.tolist()))


def star(leaves):
    """Node 0 hears of all the others; they hear of nobody."""
    others = torch.arange(1, leaves + 1)
    edges = torch.stack([others, torch.zeros_like(others)])
    return Graph(torch.zeros(leaves + 1, 1), edges, torch.zeros(leaves + 1).long(), 2)


def neighbours(node):
    return {i for i, j in EDGES if j == node}


@pytest.mark.parametrize("fanout", [1, 4, 100])
def test_without_replacement_neighbours_are_distinct_and_as_many_as_there_are(fanout):
    nodes = torch.tensor([5, 0, 99, 5])
    place, source = neighbor_sampling.neighbour_sample(GRAPH, nodes, fanout, generator(0, "test"))
    assert place.tolist() == sorted(place.tolist())
    for k, node in enumerate(nodes.tolist()):
        drawn = source[place == k].tolist()
        assert set(drawn) <= neighbours(node)
        assert len(set(drawn)) == len(drawn) == min(fanout, len(neighbours(node)))


def test_with_replacement_every_node_with_neighbours_gets_its_fill():
    place, source = neighbor_sampling.neighbour_sample(
        star(3), torch.tensor([1, 0]), 7, generator(0, "test"), replacement=True
    )
    assert place.tolist() == [1] * 7
    assert set(source.tolist()) <= {1, 2, 3}


@pytest.mark.parametrize("replacement", [False, True])
def test_every_neighbour_is_drawn_as_often(replacement):
    centre = torch.zeros(20_000, dtype=torch.long)
    place, source = neighbor_sampling.neighbour_sample(
        star(6), centre, 3, generator(0, "test"), replacement=replacement
    )
    assert chisquare(torch.bincount(source, minlength=7)[1:]).pvalue > 1e-3
    if not replacement:  # all 20 sets of 3 come as often
        sets = (2 ** source.view(-1, 3)).sum(1)
        counts = torch.bincount(sets)
        assert chisquare(counts[counts > 0]).pvalue > 1e-3
        assert (counts > 0).sum() == 20


@pytest.mark.parametrize("fanouts", [(3,), (4, 2), (2, 2, 2)])
def test_a_sampled_neighbourhood_is_part_of_the_graph(fanouts):
    seeds = torch.tensor([7, 50, 3])
    part, ids = neighbor_sampling.subgraph(GRAPH, seeds, fanouts, generator(1, "test"))
    assert ids[:3].tolist() == [7, 50, 3]
    assert len(set(ids.tolist())) == len(ids) == part.num_nodes
    found = list(map(tuple, ids[part.edge_index].T.tolist()))
    assert set(found) <= EDGES
    assert len(set(found)) == len(found)
    torch.testing.assert_close(part.x, GRAPH.x[ids])
    assert torch.equal(part.y, GRAPH.y[ids])
    for k, seed in enumerate(seeds.tolist()):
        heard = (part.edge_index[1] == k).sum().item()
        assert heard == min(fanouts[0], len(neighbours(seed)))


def test_all_neighbours_of_two_hops_are_enough_for_two_layers():
    # The mean over a node's own neighbours needs no degree of others: SAGE is exact.
    with seeded(0, torch.device("cpu"), "test"):
        network = networks.build("sage", GRAPH, 8, 2, 0.0)
    seeds = torch.tensor([7, 50, 3])
    part, _ = neighbor_sampling.subgraph(GRAPH, seeds, (1000, 1000), generator(1, "test"))
    found = predict(network, part, torch.arange(3)).logits
    torch.testing.assert_close(found, predict(network, GRAPH, seeds).logits)


@pytest.mark.parametrize(("hops", "reached"), [(0, 1), (1, 2), (2, 3), (9, 7)])
def test_a_neighbourhood_is_all_that_is_that_many_edges_away(hops, reached):
    i = torch.arange(9)  # node i hears of node i + 1
    path = Graph(torch.eye(10), torch.stack([i + 1, i]), torch.zeros(10).long(), 2)
    part, ids = neighbor_sampling.neighbourhood(path, torch.tensor([3]), hops)
    assert ids.tolist() == part.x.argmax(1).tolist() == list(range(3, 3 + reached))
    assert part.edge_index.T.tolist() == [[k + 1, k] for k in range(reached - 1)]


def test_a_neighbourhood_has_each_node_and_edge_once():
    part, ids = neighbor_sampling.neighbourhood(GRAPH, torch.tensor([50, 2, 17]), 2)
    assert ids[:3].tolist() == [50, 2, 17]
    assert len(set(ids.tolist())) == len(ids)
    assert len(part.edge_index.unique(dim=1).T) == part.edge_index.shape[1]


def test_batches_cover_all_nodes_once_and_follow_the_generator():
    nodes = torch.arange(0, 120, 2)

    def seeds():
        drawn = neighbor_sampling.batches(GRAPH, nodes, 25, (2, 2), generator(0, "test"))
        return [ids[: min(25, 60 - 25 * k)].tolist() for k, (_, ids) in enumerate(drawn)]

    assert [len(own) for own in seeds()] == [25, 25, 10]
    assert sorted(sum(seeds(), [])) == nodes.tolist()
    assert sum(seeds(), []) != nodes.tolist()  # a fresh order
    assert seeds() == seeds()


def test_nodes_without_neighbours_are_left_alone():
    part, ids = neighbor_sampling.subgraph(
        star(2), torch.tensor([1, 2]), (3, 3), generator(0, "test")
    )
    assert ids.tolist() == [1, 2]
    assert part.edge_index.shape == (2, 0)


def test_errors_say_the_way_out():
    with pytest.raises(ValueError, match="fanout is 0.*1 or more"):
        neighbor_sampling.neighbour_sample(GRAPH, torch.tensor([0]), 0, generator(0, "test"))
    with pytest.raises(ValueError, match="batch size is 0"):
        next(neighbor_sampling.batches(GRAPH, torch.arange(3), 0, (2,), generator(0, "test")))
