"""Splits that a user brings: checked, with the views of the drawn ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import graphkd
from graphkd.core import LeakError
from graphkd.data import datasets, registry, splits
from graphkd.graph import HIDDEN
from graphkd.methods.glnn import GLNN

GRAPH = datasets.fake()  # 180 nodes, 60 of each class in turn
TRAIN, VAL, TEST = range(0, 180, 6), range(1, 180, 6), range(2, 180, 6)


def masked(nodes):
    mask = torch.zeros(180, dtype=torch.bool)
    mask[list(nodes)] = True
    return mask


def bare(*nodes):
    """The graph without the labels of some nodes."""
    y = GRAPH.y.clone()
    y[list(nodes)] = HIDDEN
    return replace(GRAPH, y=y)


@pytest.mark.parametrize(
    "form",
    [
        masked,
        list,
        lambda nodes: list(nodes)[::-1],
        lambda nodes: torch.tensor(nodes, dtype=torch.int32),
        lambda nodes: np.array(nodes),
        lambda nodes: masked(nodes).numpy(),
        lambda nodes: masked(nodes).tolist(),
        lambda nodes: torch.stack([masked([5]), masked(nodes)], 1),  # of two, seed 3 takes that
        lambda nodes: {*nodes},
    ],
)
def test_parts_in_any_form_are_the_same_sorted_ids(form):
    split = splits.own(GRAPH, form(TRAIN), form(VAL), form(TEST), seed=3)
    assert {name: ids.tolist() for name, ids in split.parts.items()} == {
        "train": list(TRAIN),
        "val": list(VAL),
        "tran": list(TEST),
    }
    assert split.protocol == "transductive"


def test_nodes_by_name():
    names = tuple(f"n{i}" for i in range(180))
    graph = replace(GRAPH, node_names=names)
    split = splits.own(graph, ["n6", "n0", "n150"], np.array(["n1"]), masked(TEST))
    assert split.parts["train"].tolist() == [0, 6, 150]
    assert split.parts["val"].tolist() == [1]
    assert split.node_names == names
    with pytest.raises(ValueError, match="train has the node 'x'; fake has nodes such as 'n0', "):
        splits.own(graph, ["n0", "x"], ["n1"], ["n2"])


def test_every_node_stays_and_none_moves():
    alone = replace(GRAPH, edge_index=GRAPH.edge_index[:, (GRAPH.edge_index > 9).all(0)])
    split = splits.own(alone, TRAIN, VAL, TEST)
    whole = split.view("evaluate")
    assert split.node_names == tuple(range(180))
    assert torch.equal(whole.graph.x, GRAPH.x)
    assert torch.equal(whole.graph.edge_index, alone.edge_index)


@pytest.mark.parametrize("phase", ["train", "distill"])
@pytest.mark.parametrize("protocol", splits.PROTOCOLS)
def test_no_phase_sees_a_label_or_a_node_that_it_may_not(phase, protocol):
    held_out = None if protocol == "transductive" else range(3, 180, 6)
    split = splits.own(GRAPH, TRAIN, VAL, TEST, held_out, protocol)
    view = split.view(phase)
    known = view.ids[view.graph.y != HIDDEN].tolist()
    assert known == sorted([*TRAIN, *VAL])
    unseen = set(range(180)) - set(view.ids.tolist())
    assert unseen == (set(range(3, 180, 6)) if protocol == "inductive" else set())
    ends = set(view.ids[view.graph.edge_index].flatten().tolist())
    assert not ends & unseen
    for name in ("tran", "ind", "test"):
        with pytest.raises(LeakError, match="may not see the part"):
            view.part(name)
    if phase == "distill":
        soft = set(view.ids[view.part("soft")].tolist())
        assert soft == set(range(180)) - set(held_out or ())


def test_the_teacher_has_not_seen_the_labels_of_nodes_in_no_part():
    """Another label there changes no record but the metrics that nobody measures there."""
    other = splits.own(bare(4, 5, 10), TRAIN, VAL, TEST)
    method = GLNN(epochs=3, teacher_epochs=3)
    one, two = (
        list(graphkd.distill.distill(method, split, seed=1))
        for split in (splits.own(GRAPH, TRAIN, VAL, TEST), other)
    )
    assert one == two


def test_by_default_nodes_that_are_held_out_are_not_in_the_graph():
    split = splits.own(GRAPH, TRAIN, VAL, TEST, held_out=[3, 9])
    assert split.protocol == "inductive"
    assert not split.observed
    assert splits.own(GRAPH, TRAIN, VAL, [], held_out=[3, 9]).parts.keys() == {
        "train",
        "val",
        "ind",
    }


@pytest.mark.parametrize("protocol", ["withheld", "inductive"])
def test_a_share_of_the_test_nodes_is_held_out_where_none_are(protocol):
    split = splits.own(GRAPH, TRAIN, VAL, TEST, protocol=protocol, seed=4)
    assert len(split.parts["ind"]) == int(0.2 * len(TEST))
    together = torch.cat([split.parts["tran"], split.parts["ind"]]).sort().values
    assert together.tolist() == list(TEST)
    assert split.observed == (protocol == "withheld")


def test_a_graph_that_comes_with_parts_is_split_by_them_unless_numbers_are_asked_for():
    graph = replace(GRAPH, parts={"train": masked(TRAIN), "val": VAL, "test": TEST})
    for protocol in splits.PROTOCOLS:
        split = registry.split(graph, protocol, 0)
        assert split.parts["train"].tolist() == list(TRAIN)
        assert split.protocol == protocol
    drawn = registry.split(graph, "transductive", 0, train=5)
    assert len(drawn.parts["train"]) == 15
    assert drawn.parts["train"].tolist() == splits.transductive(GRAPH, 0, 5).parts["train"].tolist()
    *_, result = graphkd.run(GLNN(epochs=2, teacher_epochs=2), graph, "inductive")
    assert result.protocol == "inductive"


@pytest.mark.parametrize(
    ("graph", "given", "message"),
    [
        (GRAPH, (TRAIN, VAL, [1, 2, 6]), "2 nodes are in two parts.*first 1 in val and test"),
        (GRAPH, ([0, 0], VAL, TEST), "1 nodes are .*twice in one, first 0 in train and train"),
        (bare(0, 6), (TRAIN, VAL, TEST), "2 nodes of the part train have no label, first 0; take"),
        (GRAPH, ([], VAL, TEST), "the part train is empty"),
        (GRAPH, (TRAIN, masked([]), TEST), "the part val is empty"),
        (GRAPH, (TRAIN, VAL, masked([])), "the part test is empty"),
        (GRAPH, (TRAIN, VAL, [180]), "test has the node 180; fake has nodes 0 to 179"),
        (GRAPH, (TRAIN, VAL, [-1]), "test has the node -1"),
        (GRAPH, ([0.5], VAL, TEST), "ids that are no whole numbers"),
        (GRAPH, (masked(TRAIN)[:90], VAL, TEST), r"mask train is \(90,\); .*180 nodes of fake"),
        (GRAPH, (TRAIN, VAL, TEST, [3], "transductive"), "holds none out: choose inductive"),
        (GRAPH, (TRAIN, VAL, TEST, None, "inducive"), "did you mean 'inductive'"),
        (GRAPH, (TRAIN, VAL, [2, 8], None, "withheld"), "leaves the part ind empty"),
        (replace(GRAPH, x=GRAPH.x / 0), (TRAIN, VAL, TEST), "NaN or infinite"),
        (replace(GRAPH, y=GRAPH.y * 0 + HIDDEN), (TRAIN, VAL, TEST), "no node with a label"),
    ],
)
def test_splits_that_cannot_be_say_why(graph, given, message):
    with pytest.raises(ValueError, match=message):
        splits.own(graph, *given)


def test_a_drawn_split_takes_no_node_without_a_label_and_says_what_it_leaves_out():
    y = torch.cat([GRAPH.y, torch.full((2,), HIDDEN)])
    x = torch.cat([GRAPH.x, GRAPH.x[:2]])
    edges = torch.cat([GRAPH.edge_index, torch.tensor([[0], [180]])], 1)
    split = splits.transductive(replace(GRAPH, x=x, y=y, edge_index=edges), 0)
    assert split.node_names == tuple(range(181))
    drawn = torch.cat(list(split.parts.values())).sort().values
    assert drawn.tolist() == list(range(180))
    assert split.notes == (
        "1 edges had no opposite and now go both ways",
        "the protocol takes the largest connected component, 181 of 182 nodes, and leaves out 1",
    )
    assert splits.transductive(GRAPH, 0).notes == ()


@pytest.mark.parametrize("protocol", splits.PROTOCOLS)
def test_the_graph_of_a_split_comes_with_its_parts(protocol):
    names = tuple(f"n{i}" for i in range(180))
    drawn = splits.split(replace(GRAPH, node_names=names), protocol, 2)
    again = splits.split(graphkd.distill.graph_of(drawn), protocol, 2)
    assert again.protocol == drawn.protocol
    assert again.observed == drawn.observed
    assert again.node_names == drawn.node_names == names
    assert again.parts.keys() == drawn.parts.keys()
    assert all(torch.equal(again.parts[name], drawn.parts[name]) for name in drawn.parts)
