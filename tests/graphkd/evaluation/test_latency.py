from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from graphkd.data import datasets
from graphkd.data.neighbor_sampling import neighbourhood
from graphkd.evaluation import latency
from graphkd.evaluation.latency import Latency
from graphkd.methods.cpf import Propagation
from graphkd.models import networks, readout
from graphkd.models.teacher_ensemble import TeacherEnsemble
from graphkd.training.loop import predict, seeded
from tests.graphkd.examples import graphs

GRAPH = datasets.fake(size=20)


def build(name, layers=2):
    with seeded(0, torch.device("cpu"), "test"):
        return networks.build(name, GRAPH, 8, layers, 0.0)


def test_percentiles_are_those_of_the_calls():
    times = Latency("warm", 3, tuple(t / 1000 for t in range(101)))
    assert (times.p50, times.p95, times.p99) == pytest.approx((0.05, 0.095, 0.099))
    assert str(times) == "warm, 3 nodes: p50 50.000 ms, p95 95.000 ms, p99 99.000 ms (101 calls)"


@pytest.mark.parametrize("name", ["gat", "gatv2", "gin", "mlp", "sage"])
def test_the_neighbourhood_that_is_fetched_is_all_that_a_network_needs(name):
    network, nodes = build(name), torch.tensor([50, 2, 17])
    part, _ = neighbourhood(GRAPH, nodes, latency.hops(network))
    found = predict(network, part, torch.arange(3)).logits
    torch.testing.assert_close(found, predict(network, GRAPH, nodes).logits)


def test_students_and_teachers_around_other_networks_get_all_that_they_need():
    start = F.one_hot(GRAPH.y, 3).float() * (torch.arange(60) % 7 == 0)[:, None]
    graph = replace(GRAPH, x=torch.cat([GRAPH.x, start], dim=1))  # as `inputs.labelled` has it
    with seeded(0, torch.device("cpu"), "test"):
        inner = networks.build("mlp", graph, 8, 2, 0.0)
        spreading = Propagation(inner, GRAPH.x.shape[1], rounds=2)
        teachers = [networks.build(name, graph, 8, 2, 0.0) for name in ("sage", "gat")]
    ensemble, nodes = TeacherEnsemble(teachers, torch.tensor([0.3, 0.7])), torch.tensor([50, 2, 17])
    for network, depth in ((spreading, 2), (ensemble, 2)):
        assert latency.hops(network) == depth
        part, _ = neighbourhood(graph, nodes, depth)
        found = predict(network, part, torch.arange(3)).logits
        torch.testing.assert_close(found, predict(network, graph, nodes).logits)


@pytest.mark.parametrize("scenario", latency.SCENARIOS)
def test_whole_graphs_are_cut_out_and_asked_for(scenario, monkeypatch):
    many, seen = graphs(), []
    network = readout.build("gin", many, 8, 2, 0.0)
    forward = network.forward

    def watched(asked, examples=None):
        seen.append(len(asked.owner))
        return forward(asked, examples)

    monkeypatch.setattr(network, "forward", watched)
    (found,) = latency.measure({"it": network}, many, scenario, nodes=3, repeats=4).values()
    assert len(found.seconds) == 4
    sizes = torch.bincount(many.owner)
    expected = {len(many.owner)} if scenario == "whole" else range(int(3 * sizes.min()), 25)
    assert set(seen) <= set(expected)


def test_networks_look_as_far_as_they_are_deep():
    found = {name: latency.hops(build(name, 3)) for name in networks.names()}
    deep = {"gat", "gatv2", "gcn", "gin", "rgcn", "sage", "sgc"}
    assert found == dict.fromkeys(deep, 3) | {"mlp": 0, "appnp": 10, "han": 2, "hgt": 2}


def test_both_are_asked_for_the_same_nodes_which_change(monkeypatch):
    asked = []

    def seconds(call, device):
        return float(len(asked))

    def prepare(network, graph, scenario, nodes):
        asked.append(nodes.tolist())

    monkeypatch.setattr(latency, "_seconds", seconds)
    monkeypatch.setattr(latency, "_prepare", prepare)
    found = latency.compare(
        build("sage"), build("mlp"), GRAPH, "cold", nodes=4, repeats=3, warmup=2
    )
    assert asked[0::2] == asked[1::2]
    assert len({tuple(nodes) for nodes in asked}) == 5
    assert all(len(set(nodes)) == 4 for nodes in asked)
    assert found.teacher.seconds == (5, 7, 9)  # after two calls of each that do not count
    assert found.student.seconds == (6, 8, 10)
    assert found.speedup == 7 / 8


def test_cold_fetches_within_the_time_and_warm_before(monkeypatch):
    fetched, counted = [], []
    monkeypatch.setattr(
        latency, "neighbourhood", lambda *asked: fetched.append(1) or neighbourhood(*asked)
    )

    def seconds(call, device):
        before = len(fetched)
        call()
        counted.append(len(fetched) - before)
        return 1.0

    monkeypatch.setattr(latency, "_seconds", seconds)
    for scenario in latency.SCENARIOS:
        latency.measure({"it": build("gcn")}, GRAPH, scenario, repeats=1, warmup=0)
    assert counted == [1, 0, 0]


@pytest.mark.parametrize("scenario", latency.SCENARIOS)
def test_every_scenario_runs_and_is_named(scenario):
    found = latency.compare(build("gcn"), build("mlp"), GRAPH, scenario, nodes=2, repeats=3)
    assert found.student.scenario == scenario
    assert found.student.nodes == (60 if scenario == "whole" else 2)
    assert min(found.student.seconds) > 0
    assert len(found.teacher.seconds) == 3


def test_errors_say_the_way_out():
    with pytest.raises(ValueError, match="unknown scenario 'hot'; choose one of cold, warm, whole"):
        latency.compare(build("gcn"), build("mlp"), GRAPH, "hot")
    with pytest.raises(ValueError, match="61 nodes.*expected 1 to 60"):
        latency.compare(build("gcn"), build("mlp"), GRAPH, "cold", nodes=61)
