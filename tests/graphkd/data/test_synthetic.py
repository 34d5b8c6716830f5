import pytest
import torch

from graphkd.data import datasets, splits, synthetic

SMALL = synthetic.blocks(500, 2_000, 16, 5, signal=1.0)


def within(graph):
    source, target = graph.edge_index
    return (graph.y[source] == graph.y[target]).float().mean().item()


def test_blocks_has_the_sizes_asked_for_and_is_simple():
    assert SMALL.x.shape == (500, 16)
    assert SMALL.edge_index.shape == (2, 4_000)
    assert torch.equal(SMALL.edge_index, splits.simple(SMALL.edge_index, 500))
    assert set(SMALL.y.tolist()) == set(range(5))


def test_blocks_follows_its_seed_alone():
    again, other = (synthetic.blocks(500, 2_000, 16, 5, signal=1.0, seed=s) for s in (0, 1))
    for name in ("x", "y", "edge_index"):
        assert torch.equal(getattr(SMALL, name), getattr(again, name))
        assert not torch.equal(getattr(SMALL, name), getattr(other, name))


@pytest.mark.parametrize("homophily", [0.0, 0.5, 1.0])
def test_edges_within_a_class_are_as_many_as_asked_for(homophily):
    graph = synthetic.blocks(2_000, 8_000, 4, 4, homophily=homophily)
    chance = homophily + (1 - homophily) / 4  # any two nodes are of one class in 1 of 4 cases
    assert within(graph) == pytest.approx(chance, abs=0.03)


def test_features_tell_of_the_class_as_strongly_as_asked_for():
    for signal in (0.0, 1.0):
        graph = synthetic.blocks(20_000, 10, 50, 2, signal=signal)
        a, b = (graph.x[graph.y == label] for label in (0, 1))
        gap = (a.mean(0) - b.mean(0)).square().mean().item()
        assert gap == pytest.approx(2 * signal, abs=0.8 if signal else 0.001)
        assert a.var(0).mean().item() == pytest.approx(1, abs=0.02)


def test_the_large_one_has_the_size_of_ogbn_arxiv():
    graph = datasets.load("sbm-170k")
    assert (graph.num_nodes, graph.x.shape[1], graph.classes) == (170_000, 128, 40)
    assert graph.edge_index.shape == (2, 2_400_000)
    assert within(graph) == pytest.approx(0.65 + 0.35 / 40, abs=0.005)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nodes": 0}, "0 nodes.*1 or more"),
        ({"homophily": 1.5}, "homophily is 1.5.*0 to 1"),
        ({"signal": -1.0}, "signal -1.0"),
        ({"edges": 10**9}, "1000000000 edges.*fewer edges"),
    ],
)
def test_errors_say_the_way_out(changes, words):
    sizes = {"nodes": 100, "edges": 100, "features": 2, "classes": 2}
    with pytest.raises(ValueError, match=words):
        synthetic.blocks(**(sizes | changes))


def test_a_tree_is_of_the_class_that_most_of_its_edges_say():
    found = synthetic.coloured_trees(50)
    colour = found.x.argmax(dim=1)
    for place in range(50):
        tree = (found.owner == place).nonzero().flatten().tolist()
        pairs = [(a, b) for a, b in found.edge_index.T.tolist() if a in tree and a < b]
        assert 8 <= len(tree) <= 24
        assert len(pairs) == len(tree) - 1
        reached = {tree[0]}
        for _ in tree:
            reached |= {n for pair in pairs if reached & {*pair} for n in pair}
        assert reached == {*tree}
        alike = sum(int(colour[a] == colour[b]) for a, b in pairs)
        assert int(found.y[place]) == (2 * alike > len(pairs))
    assert 15 < int(found.y.sum()) < 35
    assert found.x.sum(dim=1).eq(1).all()
