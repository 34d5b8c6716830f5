"""What is kept for pictures equals what the networks say, counted by loops."""

import networkx
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.decomposition import PCA

import graphkd
from graphkd import methods
from graphkd.data import registry
from graphkd.evaluation import predictions
from graphkd.training.loop import predict
from kdcore import metrics
from tests.graphkd.examples import graphs

QUICK = {"epochs": 5, "teacher_epochs": 5, "hidden": 8, "teacher_hidden": 8}


def distilled(name, data, protocol, seed=0, **settings):
    split = registry.split(data, protocol, seed, **settings)
    *_, last = graphkd.distill.distill(methods.get(name)(**QUICK), split, seed=seed)
    return split, last


@pytest.fixture(scope="module")
def nodes():
    split, last = distilled("glnn", graphkd.datasets.fake(), "inductive", train=5, val=5)
    return split, last, predictions.predictions(split, last.trained, 0)


def test_answers_are_those_of_the_networks_on_the_test_nodes(nodes):
    split, last, kept = nodes
    graph, test = split.view("evaluate").graph, split.parts["ind"]
    assert torch.equal(kept["label"].long(), graph.y[test])
    for who, metric in (("student", "accuracy"), ("teacher", "accuracy_teacher")):
        logits = predict(last.trained[who].network, graph, test).logits
        assert torch.equal(kept[f"{who}.predicted"].long(), logits.argmax(1))
        torch.testing.assert_close(kept[f"{who}.confidence"], logits.softmax(1).amax(1))
        right = kept[f"{who}.predicted"] == kept["label"]
        assert float(right.double().mean()) == pytest.approx(last.metrics[metric])
    logits = predict(last.trained["student"].network, graph, test).logits
    error = metrics.calibration_error(logits, graph.y[test])
    assert error == last.metrics["calibration_error"]


def test_degrees_are_those_of_the_whole_graph(nodes):
    split, _, kept = nodes
    graph = split.view("evaluate").graph
    whole = networkx.Graph(graph.edge_index.T.tolist())
    assert kept["degree"].tolist() == [whole.degree(int(node)) for node in split.parts["ind"]]


def test_places_are_principal_components(nodes):
    split, last, kept = nodes
    placed = split.parts["ind"][kept["placed"].long()]
    network = last.trained["student"].network
    states = predict(network, split.view("evaluate").graph, placed).hidden[-1].double().numpy()
    pca = PCA(2).fit(states)
    place = kept["student.place"].numpy()
    np.testing.assert_allclose(kept["student.variance"], pca.explained_variance_ratio_, rtol=1e-4)
    np.testing.assert_allclose(np.abs(place), np.abs(pca.transform(states)), atol=1e-4)


def test_the_small_graph_is_what_is_around_a_test_node(nodes):
    split, last, kept = nodes
    graph = split.view("evaluate").graph
    small = networkx.Graph(kept["drawn.edges"].T.tolist())
    assert small.number_of_nodes() == predictions.DRAWN == len(kept["drawn.label"])
    assert networkx.is_connected(small)
    whole = networkx.Graph(graph.edge_index.T.tolist())
    known = set(torch.cat([split.parts["train"], split.parts["val"]]).tolist())
    for first in split.parts["ind"].tolist():  # one of them is in the middle
        near = networkx.single_source_shortest_path_length(whole, first)
        order = sorted(near, key=lambda node: (near[node], node))[: predictions.DRAWN]
        edges = networkx.Graph(whole.subgraph(order)).number_of_edges()
        labels = sorted(graph.y[order].tolist())
        if edges == small.number_of_edges() and labels == sorted(kept["drawn.label"].tolist()):
            assert int(kept["drawn.known"].sum()) == len(known & set(order))
            break
    else:
        raise AssertionError("no test node has this neighbourhood")


def test_whole_graphs_are_kept_with_their_sizes_and_some_of_them_to_draw():
    many = graphs()
    split, last = distilled("glnn", many, "folds")
    kept = predictions.predictions(split, last.trained, 0)
    test, size = split.parts["ind"].tolist(), torch.bincount(many.owner)
    assert kept["degree"].tolist() == [int(size[one]) for one in test]
    for owner in set(kept["drawn.owner"].tolist()):
        inside = (kept["drawn.owner"] == owner).nonzero()[:, 0]
        own = torch.isin(kept["drawn.edges"][0], inside)
        ring = int(many.y[test[owner]])
        assert len(inside) == size[test[owner]]
        assert int(own.sum()) == 2 * (len(inside) - 1 + ring)
    assert "student.drawn" not in kept


def test_what_is_kept_follows_the_seed_and_fits_a_file(nodes, tmp_path):
    split, last, kept = nodes
    save_file(kept, tmp_path / "kept")
    again = load_file(tmp_path / "kept")
    once_more = predictions.predictions(split, last.trained, 0)
    assert set(again) == set(once_more)
    for name, value in again.items():
        assert torch.equal(value, once_more[name]) or name.endswith("seconds"), name
    assert (tmp_path / "kept").stat().st_size < 100_000


def test_methods_without_a_teacher_and_real_targets():
    split, last = distilled("mlp", graphkd.datasets.fake(), "transductive", train=5, val=5)
    assert {name.split(".")[0] for name in predictions.predictions(split, last.trained, 0)} == {
        *("label", "degree", "placed", "drawn", "baseline")
    }
    split, last = distilled("logits", graphs(real=True), "folds")
    assert predictions.predictions(split, last.trained, 0) == {}


@pytest.mark.parametrize("name", ["cpf", "multiteacher", "mutual", "gnnsd"])
def test_every_kind_of_network_has_its_latency(name):
    split, last = distilled(name, graphkd.datasets.fake(), "transductive", train=5, val=5)
    kept = predictions.predictions(split, last.trained, 0)
    assert all((kept[f"{who}.seconds"] > 0).all() for who in last.trained)


def test_a_slow_network_is_asked_once(monkeypatch):
    monkeypatch.setattr(predictions, "SECONDS", 0.0)
    split, last = distilled("mlp", graphkd.datasets.fake(), "transductive", train=5, val=5)
    assert len(predictions.predictions(split, last.trained, 0)["baseline.seconds"]) == 1
