"""Edges split so that none is seen too early: sets of pairs, and runs that cannot tell the test."""

from dataclasses import replace

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.transforms import RandomLinkSplit

import graphkd
from graphkd import distill, methods
from graphkd.data import datasets, links, registry
from graphkd.ops.edges import keys, non_edges, simple

FAKE = datasets.fake(size=55)
N = FAKE.num_nodes
QUICK = {"epochs": 4, "hidden": 8, "teacher_epochs": 4, "teacher_hidden": 8, "anchors": 40}


def pairs(split, part, joined):
    graph = split.view("evaluate").graph
    ends = graph.pairs[:, split.parts[part]]
    return {
        tuple(sorted(pair)) for pair in ends[:, graph.y[split.parts[part]] == joined].T.tolist()
    }


def both_ways(edge_index):
    return {tuple(pair) for pair in edge_index.T.tolist()}


@pytest.mark.parametrize("seed", range(3))
def test_every_edge_is_in_one_part_and_what_is_none_is_joined_by_none(seed):
    split = links.split(FAKE, seed)
    everything = {tuple(sorted(pair)) for pair in FAKE.edge_index.T.tolist()}
    train, val, test = (pairs(split, part, 1) for part in ("train", "val", "ind"))
    assert train | val | test == everything
    assert len(train) + len(val) + len(test) == len(everything)
    apart = [pairs(split, part, 0) for part in ("train", "val", "ind")]
    assert [len(one) for one in apart] == [0, len(val), len(test)]
    assert not set.union(*apart) & everything
    assert not apart[1] & apart[2]
    assert all(a != b for a, b in set.union(*apart))


def test_messages_pass_along_the_edges_of_training_alone_in_every_phase():
    split = links.split(FAKE, 0)
    train = pairs(split, "train", 1)
    there_and_back = train | {(b, a) for a, b in train}
    for phase in ("train", "distill", "evaluate"):
        assert both_ways(split.view(phase).graph.edge_index) == there_and_back
        assert both_ways(split.view(phase).graph.union.edge_index) == there_and_back


def test_training_is_shown_no_pair_of_the_test():
    split = links.split(FAKE, 0)
    hidden = pairs(split, "ind", 1) | pairs(split, "ind", 0)
    for phase in ("train", "distill"):
        view = split.view(phase)
        assert not hidden & {tuple(sorted(pair)) for pair in view.graph.pairs.T.tolist()}
        with pytest.raises(graphkd.LeakError, match="'ind'"):
            view.part("ind")


@pytest.mark.parametrize("matching", ["rank", "both", "logits"])
def test_a_run_is_the_same_whatever_the_edges_of_the_test_are(matching):
    split = links.split(FAKE, 0)
    graph, test = split.view("evaluate").graph, split.parts["ind"]
    moved, y = graph.pairs.clone(), graph.y.clone()
    moved[:, test] = torch.randint(N, (2, len(test)), generator=torch.Generator().manual_seed(1))
    y[test] = 1 - y[test]
    other = replace(split, _graph=replace(graph, pairs=moved, y=y))
    method = methods.get("llp")(**QUICK, matching=matching)
    *one, honest = distill.distill(method, split, seed=0)
    *two, changed = distill.distill(method, other, seed=0)
    assert one == two
    for who, trained in honest.trained.items():
        state = changed.trained[who].network.state_dict()
        assert all(torch.equal(v, state[k]) for k, v in trained.network.state_dict().items())
    assert honest.metrics != changed.metrics


def test_validation_pairs_select_and_teach_nothing():
    split = links.split(FAKE, 0)
    graph, val = split.view("evaluate").graph, split.parts["val"]
    y = graph.y.clone()
    y[val] = 1 - y[val]
    other = replace(split, _graph=replace(graph, y=y))
    method = methods.get("llp")(**QUICK)
    teacher = [
        [epoch.loss for epoch in distill.distill(method, one, seed=0) if hasattr(epoch, "loss")][:4]
        for one in (split, other)
    ]
    assert teacher[0] == teacher[1]


def test_sizes_are_those_of_pygs_random_link_split():
    train, val, test = RandomLinkSplit(0.05, 0.1, is_undirected=True)(Data(FAKE.x, FAKE.edge_index))
    split = links.split(FAKE, 0)
    assert split.view("train").graph.edge_index.shape == train.edge_index.shape
    for part, theirs in (("val", val), ("ind", test)):
        assert len(split.parts[part]) == theirs.edge_label_index.shape[1]
        ours = split.view("evaluate").graph.y[split.parts[part]]
        assert int(ours.sum()) == int(theirs.edge_label.sum())


def test_labels_of_nodes_are_not_looked_at():
    one, *others = (
        links.split(replace(FAKE, y=y, classes=classes), 0)
        for y, classes in (
            (FAKE.y, 3),
            (torch.full((N,), 5), 6),
            (torch.full((N,), torch.nan), 1),
        )
    )
    assert all(
        torch.equal(one.view("train").graph.pairs, other.view("train").graph.pairs)
        for other in others
    )


def test_a_split_depends_on_its_seed_and_moves_to_a_device():
    one, same, other = (links.split(FAKE, seed).view("train").graph.pairs for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    moved = links.split(FAKE, 3).to("meta").view("evaluate").graph
    assert {moved.x.device.type, moved.pairs.device.type, moved.y.device.type} == {"meta"}


def test_what_cannot_be_split_is_refused_with_the_way_out():
    none = replace(FAKE, edge_index=FAKE.edge_index[:, :0])
    with pytest.raises(ValueError, match=r"fake has 0 edges, .* 400 edges in all: take a larger"):
        links.split(none, 0)
    with pytest.raises(ValueError, match="expected shares of the edges whose sum is below 1"):
        links.split(FAKE, 0, 0.5, 0.5)
    full = torch.ones(30, 30).triu(1).nonzero().T
    dense = graphkd.Graph(FAKE.x[:30], full, FAKE.y[:30], 3)
    with pytest.raises(ValueError, match="0 pairs of nodes without an edge, and 64 are needed"):
        links.split(dense, 0)
    x = FAKE.x.clone()
    x[7] = torch.inf
    with pytest.raises(ValueError, match="infinite at 1 nodes, first 7"):
        links.split(replace(FAKE, x=x), 0)
    with pytest.raises(ValueError, match="train, val, feature_noise and removed_edges are for"):
        registry.split(FAKE, "transductive", 0, train=5, task="links")
    with pytest.raises(ValueError, match="glnn classifies nodes, and the split is one of links"):
        list(graphkd.run("glnn", links.split(FAKE, 0)))


def test_non_edges_are_all_there_are_and_each_as_likely_as_another():
    edges = simple(torch.tensor([[0, 1, 2], [1, 2, 3]]), 5)
    known = keys(edges, 5).unique()
    draw = torch.Generator().manual_seed(0)
    free = {(0, 2), (0, 3), (0, 4), (1, 3), (1, 4), (2, 4), (3, 4)}
    found = non_edges(known, 5, 100, draw)
    assert {tuple(pair) for pair in found.T.tolist()} == free
    assert found.shape == (2, 7)
    counts = dict.fromkeys(free, 0)
    for _ in range(700):
        for pair in non_edges(known, 5, 2, draw).T.tolist():
            counts[tuple(pair)] += 1
    # A count is binomial (700, 2/7): mean 200, deviation 12; five deviations are 60.
    assert all(140 < count < 260 for count in counts.values())
