"""Graph classification and regression: examples, readout, folds, and whole runs."""

import dataclasses

import pytest
import torch

import graphkd
from graphkd import methods
from graphkd.data import graph_collection, registry
from graphkd.data.files import tudataset
from graphkd.graph import HIDDEN
from graphkd.models import networks, readout
from graphkd.training import published
from graphkd.training.loop import build, hard, score
from tests.graphkd.examples import graphs

MANY = graphs()
QUICK = {"epochs": 4, "hidden": 8, "teacher_epochs": 4, "teacher_hidden": 8, "teacher": "gin"}


def test_some_of_the_graphs_are_these_graphs_in_this_order():
    chosen = MANY.take(torch.tensor([7, 2]))
    sizes = torch.bincount(MANY.owner)
    assert torch.bincount(chosen.owner).tolist() == [sizes[7], sizes[2]]
    assert torch.equal(chosen.x[: sizes[7]], MANY.x[MANY.owner == 7])
    assert chosen.y.tolist() == [MANY.y[7], MANY.y[2]]
    # 7 is a ring, 2 a path.
    assert chosen.edge_index.shape[1] == 2 * int(sizes[7]) + 2 * (int(sizes[2]) - 1)
    assert (chosen.owner[chosen.edge_index[0]] == chosen.owner[chosen.edge_index[1]]).all()


@pytest.mark.parametrize("name", networks.names())
def test_the_readout_of_a_graph_does_not_depend_on_the_others_nor_on_the_order_of_nodes(name):
    network = readout.build(name, MANY, 8, 3, 0.0).eval()
    every = network(MANY)
    assert every.logits.shape == (30, 2)
    assert every.hidden[-1].shape == (30, 8)
    some = torch.tensor([11, 3])
    torch.testing.assert_close(network(MANY, some).logits, every.logits[some])
    order = torch.randperm(len(MANY.owner), generator=torch.Generator().manual_seed(0))
    place = order.argsort()
    moved = dataclasses.replace(
        MANY, x=MANY.x[order], edge_index=place[MANY.edge_index], owner=MANY.owner[order]
    )
    torch.testing.assert_close(network(moved).logits, every.logits, rtol=1e-4, atol=1e-5)


def test_equal_nodes_asked_for_once_give_what_all_nodes_give(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(2, MANY.x.shape, generator=draw).float()
    many, same = (dataclasses.replace(MANY, x=x) for _ in range(2))
    nodes, counts = many.bags
    assert len(nodes.x) == 4
    sums = torch.stack([x[MANY.owner == graph].sum(0) for graph in range(30)])
    assert torch.equal(counts @ nodes.x, sums)
    monkeypatch.setattr(graph_collection, "KINDS", 3)
    assert same.bags is None
    network = readout.build("mlp", many, 8, 3, 0.0)
    for examples in (None, torch.tensor([5, 3, 5])):
        found, expected = network(many, examples), network(same, examples)
        torch.testing.assert_close(found.hidden[0], expected.hidden[0])
        torch.testing.assert_close(found.logits, expected.logits)


def test_a_sum_knows_how_large_a_graph_is():
    network = readout.build("mlp", MANY, 8, 2, 0.0).eval()
    size = torch.bincount(MANY.owner)[0]
    twice = dataclasses.replace(
        MANY.take(torch.tensor([0, 0])), owner=torch.zeros(2 * size, dtype=torch.long), y=MANY.y[:1]
    )
    torch.testing.assert_close(network(twice).hidden[0], 2 * network(MANY).hidden[0][:1])


def test_ten_folds_test_every_graph_once_and_spread_the_classes():
    tested = [graph_collection.folds(MANY, seed).parts["ind"] for seed in range(10)]
    assert torch.cat(tested).sort().values.tolist() == list(range(30))
    for seed in range(10):
        parts = graph_collection.folds(MANY, seed).parts
        assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(30))
        assert torch.equal(parts["val"], graph_collection.folds(MANY, (seed + 1) % 10).parts["ind"])
        assert abs(int(MANY.y[parts["train"]].sum()) - 12) <= 1
    assert not torch.equal(tested[0], graph_collection.folds(MANY, 10).parts["ind"])


def test_training_sees_neither_the_test_fold_nor_labels_that_are_not_its_own():
    split = graph_collection.folds(MANY, 3, train=2)
    view = split.view("distill")
    assert not set(split.parts["ind"].tolist()) & set(view.ids.tolist())
    assert len(view.part("train")) == 4
    known = torch.cat([view.part("train"), view.part("val")])
    hidden = torch.ones(view.graph.num_nodes, dtype=torch.bool)
    hidden[known] = False
    assert (view.graph.y[hidden] == HIDDEN).all()
    assert len(split.parts["tran"]) == int(hidden.sum())
    real = graph_collection.folds(graphs(real=True), 3, train=2).view("distill")
    assert real.graph.y.isnan().sum() == real.graph.num_nodes - len(real.part("val")) - 2


def test_garbage_in_the_test_fold_changes_nothing_in_training():
    split = graph_collection.folds(MANY, 0, train=5)
    many, test = split.view("evaluate").graph, split.parts["ind"]
    x, y = many.x.clone(), many.y.clone()
    x[torch.isin(many.owner, test)] = 1e3
    y[test] = 1 - y[test]
    spoilt = dataclasses.replace(split, _graph=dataclasses.replace(many, x=x, y=y))
    method = methods.get("glnn")(hard_weight=0.5, **QUICK)
    *first, _ = graphkd.distill.distill(method, split, seed=0)
    *second, _ = graphkd.distill.distill(method, spoilt, seed=0)
    assert first == second


@pytest.mark.parametrize("batch", [0, 8])
def test_a_graph_network_tells_rings_from_paths_and_its_student_follows(batch):
    sizes = {"hidden": 16, "teacher_hidden": 16, "batch": batch, "teacher_batch": batch}
    method = methods.get("glnn")(teacher="gin", student="gin", dropout=0.0, epochs=60, **sizes)
    *_, last = graphkd.run(method, graphs(60), "folds", seed=1)
    assert min(last.metrics[name] for name in ("accuracy_teacher", "accuracy", "agreement")) > 0.8
    assert "accuracy_tran" not in last.metrics


def test_a_graph_network_learns_a_real_target():
    method = methods.get("logits")(teacher="gin", hidden=16, teacher_hidden=16)
    *_, last = graphkd.run(method, graphs(60, real=True), "folds", seed=0)
    assert last.metrics["r2_teacher"] > 0.8
    assert last.metrics["r2"] > 0.8
    assert last.metrics["rmse"] < 1


def test_the_same_seed_gives_the_same_run():
    method = methods.get("rkd")(**QUICK)
    first = list(graphkd.run(method, MANY, "folds", seed=2))
    assert first == list(graphkd.run(method, MANY, "folds", seed=2))
    assert first != list(graphkd.run(method, MANY, "folds", seed=3))


def test_scores_and_losses_of_real_targets():
    y, f = torch.tensor([0.0, 2.0]), torch.tensor([[0.0], [1.0]])
    assert float(hard(f, y)) == 0.5
    assert score(f, y) == 0.5  # 1 - 1 / 2
    assert score(torch.ones(2, 1), y) == 0.0
    assert score(f, torch.ones(2)) == 0.0
    assert score(torch.eye(2), torch.tensor([0, 0])) == 0.5


def test_what_does_not_fit_together_is_said():
    fake = graphkd.datasets.fake()
    with pytest.raises(ValueError, match="rings is many graphs, .*choose folds"):
        registry.split(MANY, "inductive", 0)
    with pytest.raises(ValueError, match="fake is one graph, .*choose transductive"):
        registry.split(fake, "folds", 0)
    with pytest.raises(ValueError, match="unknown protocol 'fold'; did you mean .folds"):
        registry.split(MANY, "fold", 0)
    with pytest.raises(ValueError, match="feature_noise and removed_edges are for the nodes"):
        registry.split(MANY, "folds", 0, feature_noise=0.1)
    with pytest.raises(ValueError, match="train is 0 labelled graphs"):
        registry.split(MANY, "folds", 0, train=0)
    with pytest.raises(ValueError, match="rings has no inputs"):
        list(graphkd.run(methods.get("glnn")(inputs="propagated"), MANY, "folds"))
    with pytest.raises(ValueError, match="has no classes and no edges of the kind that lsp needs"):
        list(graphkd.run("lsp", graphs(real=True), "folds"))


LAST = len(MANY.owner) - 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": MANY.x[:, :0]}, "nodes with 0 features"),
        ({"x": MANY.x.long()}, "features of torch.int64; expected one or more of float32"),
        ({"x": MANY.x * torch.nan}, "NaN or infinite"),
        ({"y": MANY.y * 0, "classes": 1}, "has one class"),
        ({"y": MANY.y * 0}, "no graph of class 1, of 2 classes.*classes=1"),
        ({"y": (torch.arange(30) == 4).long()}, "1 of its rarest class; 10 folds take 10 or more"),
        ({"y": MANY.y + 0.5}, r"the label 0\.5 at graph 0; expected whole numbers from 0 to 1"),
        ({"y": MANY.y - 1}, "labels from -1 to 0; expected 0 to 1"),
        ({"y": MANY.y[:-1]}, "29 targets and nodes of graph 29"),
        ({"owner": MANY.owner.flip(0)}, "sort nodes by graph"),
        ({"owner": MANY.owner[1:]}, "197 nodes and an owner"),
        ({"edge_index": MANY.edge_index + 1}, "edges to node 197"),
        ({"edge_index": torch.tensor([[0, LAST], [LAST, 0]])}, "from one graph to another"),
    ],
)
def test_graphs_that_cannot_be_folded_say_why(changes, message):
    with pytest.raises(ValueError, match=message):
        registry.split(dataclasses.replace(MANY, **changes), "folds", 0)
    with pytest.raises(ValueError, match="12 graphs, 6 of its rarest class"):
        registry.split(graphs(12), "folds", 0)


def test_numbers_of_any_type_are_the_same_graphs():
    given = dataclasses.replace(
        MANY,
        edge_index=MANY.edge_index.int(),
        owner=MANY.owner.int(),
        y=MANY.y.float().unsqueeze(1),
    )
    for name in ("edge_index", "owner", "y"):
        assert torch.equal(getattr(given, name), getattr(MANY, name))
    real = graphs(real=True)
    assert real.y.is_floating_point()
    column = dataclasses.replace(real, y=real.y.unsqueeze(1))
    assert torch.equal(column.y, real.y)


def test_graphs_without_edges_or_nodes_are_examples_as_any_other():
    lone = dataclasses.replace(MANY, edge_index=MANY.edge_index[:, :0])
    kept = MANY.owner != 3
    edges = MANY.edge_index[:, kept[MANY.edge_index].all(0)]
    edges = (kept.cumsum(0) - 1)[edges]
    empty = dataclasses.replace(MANY, x=MANY.x[kept], owner=MANY.owner[kept], edge_index=edges)
    network = readout.build("gin", empty, 8, 2, 0.0)
    assert network(empty).hidden[0][3].tolist() == [0.0] * 8
    assert network(empty, torch.tensor([3])).hidden[0].tolist() == [[0.0] * 8]
    for many in (lone, empty):
        *_, last = graphkd.run(methods.get("glnn")(**QUICK), many, "folds")
        assert 0 <= last.metrics["accuracy"] <= 1


def test_names_and_missing_files(tmp_path):
    assert {"mutag", "cora", "nci1-cycles"} <= set(registry.names())
    with pytest.raises(ValueError, match="unknown data set 'mutagg'; did you mean 'mutag'"):
        registry.load("mutagg")
    with pytest.raises(FileNotFoundError, match=r"MUTAG_A\.txt; unpack"):
        registry.load("mutag", tmp_path)


def test_cycles_are_edges_less_nodes_plus_components():
    assert tudataset.cycles(MANY).tolist() == [float(i % 2) for i in range(30)]
    lone = dataclasses.replace(MANY, edge_index=MANY.edge_index[:, :0])
    assert tudataset.cycles(lone).tolist() == [0.0] * 30


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "count", "nodes", "edges", "features"),
    [("mutag", 188, 3371, 7442, 7), ("proteins", 1113, 43471, 162088, 3)],
)
def test_the_collections_have_their_published_counts(name, count, nodes, edges, features):
    many = registry.load(name)
    assert (many.num_nodes, len(many.x)) == (count, nodes)
    assert (many.edge_index.shape[1], many.x.shape[1]) == (edges, features)
    assert (many.owner.diff() >= 0).all()


@pytest.mark.data
def test_mutag_end_to_end():
    method = methods.get("glnn")(hard_weight=0.5, teacher="gin", epochs=40, teacher_epochs=40)
    *_, last = graphkd.run(method, "mutag", "folds")
    assert last.metrics["accuracy_teacher"] > 0.6


def test_a_network_for_graphs_is_built_from_its_seed():
    plan = published.resolve(methods.get("glnn")(**QUICK), "rings", "folds")
    one, two = (build(plan.teachers[0], MANY, 1, "teacher") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
