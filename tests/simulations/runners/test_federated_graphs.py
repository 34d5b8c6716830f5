"""Federated runs whose clients hold a graph: by the command's settings, in files and in Python."""

import subprocess
import sys
import tomllib

import dp_accounting
import pytest
import torch
from dp_accounting.pld import PLDAccountant
from torch import nn

import kdsim
from fedgraphkd.shares import GraphShares, NodeShares
from fedkd.algorithms.fml import FML
from graphkd.data import registry
from graphkd.graph import Graph
from simulations.config.experiments import FedExperiment, build
from simulations.config.grid import expand
from simulations.runners import federated
from tests.fedgraphkd.graphs import fake, trees

QUICK = {"rounds": 2, "models": ["gcn-8", "sage-8"], "clients": 3}


def made(algorithm="fedmd", **given):
    return build("fed", algorithm, {"data": "digits-knn", **QUICK, **given})


def test_a_graph_has_defaults_of_its_own():
    one = build("fed", "fedmd", {"data": "cora"})
    assert (one.partition, one.models, one.nodes) == ("louvain", ("gcn-64",), NodeShares())
    for training in (one.algorithm.local, one.algorithm.distill):
        assert (training.optimizer, training.batch_size, training.epochs) == ("adam", 0, 5)
    given = build("fed", "fedmd", {"data": "cora", "local.learning_rate": 0.5, "partition": "iid"})
    assert (given.algorithm.local.learning_rate, given.partition) == (0.5, "iid")
    assert build("fed", "fml", {"data": "cora"}).algorithm.meme == "gcn-64"
    assert build("fed", "fml", {}).algorithm == FML()


def test_whole_graphs_have_defaults_of_their_own():
    one = build("fed", "fedmd", {"data": "mutag"})
    assert (one.partition, one.models, one.graphs) == ("dirichlet", ("gin-64",), GraphShares())
    for training in (one.algorithm.local, one.algorithm.distill):
        assert (training.optimizer, training.batch_size, training.epochs) == ("adam", 32, 5)
    assert build("fed", "fedkd", {"data": "mutag"}).algorithm.mentee == "gin-64"
    several = build("fed", "fedmd", {"data": "mutag+nci1", "graphs.public": 0.1})
    assert (several.graph, several.partition, several.graphs.public) == ("graphs", "natural", 0.1)
    assert one.protocol.startswith(
        "5 clients, dirichlet 0.3, 50% of graphs to train on, 20% to select on, 20% public"
    )


def test_a_run_on_whole_graphs_has_no_measure_of_edges_between_clients():
    given = {"models": ["gin-8", "gcn-8"], "clients": 3, "rounds": 1, "partition": "size"}
    *_, end = federated.run(build("fed", "fedmd", {"data": "coloured-trees", **given}))
    metrics = end["metrics"]
    assert 0 <= metrics["accuracy"] <= 1
    assert 0 <= metrics["accuracy_local"] <= 1
    assert not {"accuracy_whole", "cut"} & {*metrics}
    assert torch.tensor(end["dealt"]["labels"]).shape == (3, 2)


def test_an_experiment_on_images_loads_nothing_of_graphs():
    code = (
        "import sys; from simulations.config.experiments import build; build('fed', 'fedmd', {})\n"
        "import simulations.runners.federated; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"networkx", "torch_geometric", "graphkd"}


def test_files_give_shares_of_nodes():
    text = (
        "[fed]\nalgorithm = ['local', 'fedmd']\ndata = 'cora'\nseeds = 2\n"
        "nodes = { public = 0.2, public_edges = false }"
    )
    found = expand(tomllib.loads(text), "experiment.toml").experiments
    assert len(found) == 4
    assert all(one.nodes == NodeShares(public=0.2, public_edges=False) for one in found)
    assert found[0].protocol == (
        "5 clients, louvain, 20% of nodes to train on, 40% to select on, 20% public without edges, "
        "10 rounds"
    )


@pytest.fixture(scope="module")
def records():
    return list(federated.run(made(partition="greedy", **{"nodes.validation": 0.2})))


def test_a_run_has_all_measures_side_by_side(records):
    *_, end = records
    metrics = end["metrics"]
    for name in ("accuracy", "accuracy_local", "accuracy_whole", "accuracy_local_whole"):
        assert 0 <= metrics[name] <= 1
    assert 0 < metrics["cut"] < 0.3
    for name in ("accuracy", "accuracy_local"):  # and what settings may be chosen by
        assert metrics[f"{name}_validation"] == pytest.approx(metrics[name], abs=0.1)
        assert metrics[f"{name}_validation"] != metrics[name]


def test_a_run_says_who_holds_what(records):
    dealt = records[-1]["dealt"]
    prepared = federated.prepare(made(partition="greedy", **{"nodes.validation": 0.2}))
    assert dealt["labels"] == prepared.label_counts.tolist()
    owner = torch.tensor(dealt["owner"])
    edges = torch.tensor(dealt["edges"])
    assert len(owner) == 1593  # of 1,770 in the largest component a tenth is public
    lost = (owner[edges[:, 0]] != owner[edges[:, 1]]).double().mean()
    assert records[-1]["metrics"]["cut"] == pytest.approx(float(lost))


class Mine(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.lin = nn.Linear(in_channels, out_channels)

    def forward(self, x, edge_index):
        h = self.lin(x)
        return h.index_add(0, edge_index[1], h[edge_index[0]])


def test_graphs_and_networks_may_be_objects():
    how = {"rounds": 1, "clients": 3, "partition": "greedy", "models": [Mine, "gcn-8"]}
    *_, end = kdsim.simulate("fedmd", data=fake(), **how)
    assert end["data"].startswith("own:graph:fake-")
    assert end["metrics"]["accuracy_local"] > 0.5


def test_whole_graphs_may_be_objects():
    how = {"rounds": 1, "clients": 3, "models": ["gin-4"], "graphs": {"public": 0.3}}
    *_, end = kdsim.simulate("fedmd", data=[one.to_pyg() for one in _apart(trees(30))], **how)
    assert end["data"].startswith("own:graphs:")
    assert "30% public" in end["protocol"]


def _apart(many):
    """Whole graphs as as many graphs, with a label each."""
    for place in range(many.num_nodes):
        one = many.cut(torch.tensor([place]))
        yield Graph(one.x, one.edge_index, one.y, many.classes)


OWN = """
import networkx
from graphkd.data import datasets, synthetic

karate = networkx.karate_club_graph()
names = sorted({club for _, club in karate.nodes(data="club")})
for node, about in karate.nodes(data=True):
    about["x"] = [1.0, float(karate.degree[node])]
    about["y"] = about["club"]

def club():
    return karate

def trees():
    return synthetic.coloured_trees(30)
"""


def test_a_graph_of_ones_own_is_named_as_for_graph_distillation(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    given = {"data": "mine.py:club", "partition": "greedy", "clients": 2, "rounds": 1}
    one = build("fed", "local", given)
    assert (one.graph, one.models, one.algorithm.local.batch_size) == ("nodes", ("gcn-64",), 0)
    *_, end = federated.run(one)
    assert end["data"] == "mine.py:club"
    assert sum(map(sum, end["dealt"]["labels"])) > 2
    again = build("fed", "local", {"data": "mine.py:club", "models": ["gcn-4"]})
    assert (again.graph, again.partition) == ("nodes", "louvain")
    again = build("fed", "local", {"data": "mine.py:club", "nodes.train": 0.3})
    assert (again.graph, again.models) == ("nodes", ("gcn-64",))
    assert build("fed", "local", {"data": "mine.py:club"}).graph == ""
    with pytest.raises(ValueError, match="30 whole graphs, and the command line deals out nodes"):
        federated.prepare(build("fed", "local", given | {"data": "mine.py:trees"}))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"data": "digits", "partition": "louvain", "models": ["mlp"]},
            "louvain goes by the edges",
        ),
        ({"data": "digits", "partition": "size", "models": ["mlp"]}, "size goes by the edges"),
        ({"data": "digits", "models": ["mlp"], "graphs.train": 0.3}, "graphs: .* digits is no"),
        ({"data": "mutag", "graphs.train": 0.9}, "leave no graphs to test on"),
        ({"data": "mutag", "nodes.train": 0.3}, "mutag hold graphs; give graphs in place of"),
        ({"graphs.train": 0.3}, "digits-knn hold nodes; give nodes in place of graphs"),
        ({"data": "mutag", "partition": "louvain"}, "whole graphs have none between them"),
        ({"data": "mutag", "partition": "quantity"}, "unknown partition of whole graphs"),
        ({"data": "mutag", "public": 9}, "mutag is of whole graphs, and graphs.public is the"),
        ({"partition": "quantity"}, "unknown partition of a graph 'quantity'; choose one of"),
        ({"public": 100}, "public 100: digits-knn is a graph, and nodes.public is the share of"),
        ({"epsilon": 1.0}, "epsilon 1.0: digits-knn is a graph, and noise that hides an example"),
        (
            {"epsilon": 1.0, "privacy_unit": "client", "nodes.edges": "kept"},
            "had for privacy_unit client or label, with edges cut; leave epsilon out",
        ),
        (
            {"local.privacy.norm": 1.0, "local.privacy.noise": 1.0, "local.batch_size": 4},
            r"local\.privacy: digits-knn is a",
        ),
        ({"data": "digits", "models": ["mlp"], "nodes.train": 0.3}, "digits is no graph"),
    ],
    ids=[
        *("louvain", "size", "no-graphs", "none-left", "not-nodes", "not-graphs", "of-edges"),
        *("of-graphs", "public-graphs"),
        *("quantity", "public", "epsilon", "epsilon-kept", "dp-sgd", "nodes"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_a_line(given, said):
    with pytest.raises(ValueError, match=said) as refusal:
        made(**given)
    assert "\n" not in str(refusal.value)


def test_epsilon_of_whole_graphs_is_that_of_the_library_for_the_steps_that_were_taken():
    noise = {"local.privacy.norm": 1.0, "local.privacy.noise": 3.0, "local.epochs": 1}
    given = {"models": ["gin-4"], "clients": 3, "rounds": 2, "graphs.train": 0.2, "delta": 1e-3}
    e = build("fed", "local", {"data": "coloured-trees", "engine": "batched", **given, **noise})
    *_, end = federated.run(e)
    for client in federated.prepare(e).clients:
        n = len(client.private)
        gaussian = dp_accounting.GaussianDpEvent(3.0)
        sampled = dp_accounting.PoissonSampledDpEvent(min(1, 32 / n), gaussian)
        epsilon = PLDAccountant().compose(sampled, 2 * -(-n // 32)).get_epsilon(1e-3)
        assert end["privacy"]["clients"][str(client.id)] == pytest.approx(epsilon, rel=0.01)
    asked = build("fed", "fedmd", {"data": "mutag", "epsilon": 4.0})
    assert (asked.epsilon, asked.privacy_unit) == (4.0, "record")


@pytest.mark.parametrize(("unit", "name"), [("client", "dsfl"), ("label", "fedmd")])
def test_of_clients_of_a_graph_there_is_epsilon_for_what_they_send(unit, name):
    e = made(name, epsilon=4.0, privacy_unit=unit, delta=0.1, rounds=1)
    *_, end = federated.run(e)
    assert end["privacy"]["unit"] == unit
    assert end["metrics"][f"epsilon_{unit}_replace"] <= 4.0 * 1.01


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"models": ["cnn"]}, "unknown model 'cnn' on a graph; did you mean 'gcn'"),
        (
            {"clients": 1797, "partition": "random"},
            "1593 nodes to deal out to 1797 clients; take 1",
        ),
        ({"clients": 1500, "partition": "random"}, "client 0 has 2 nodes and none with a label to"),
        (
            {"data": "digits", "models": ["gcn-8"], "partition": "iid"},
            "gcn-8 is a network on graphs",
        ),
        ({"data": "coloured-trees", "models": ["cnn"]}, "unknown model 'cnn' on a graph"),
        ({"data": "coloured-trees", "clients": 601}, "601 clients for the 600 graphs"),
        ({"data": "coloured-trees", "partition": "natural"}, "is one data set; give several"),
    ],
    ids=["cnn", "clients", "labels", "gcn", "cnn-graphs", "clients-graphs", "domains"],
)
def test_federations_that_cannot_be_are_refused_in_a_line(given, said):
    with pytest.raises(ValueError, match=said) as refusal:
        federated.prepare(made(**given))
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_a_kept_network_answers_about_features_and_edges(tmp_path):
    how = {"rounds": 1, "clients": 3, "partition": "greedy", "models": ["gcn-8"], "workers": 1}
    runs = kdsim.run("local", data="digits-knn", out=tmp_path / "runs", progress=False, **how)
    graph = registry.load("digits-knn")
    network = runs.model("local", seed=0, client=1)
    assert network(graph.x, graph.edge_index).shape == (1797, 10)


def test_a_shared_network_reads_graphs_and_not_numbers_of_nodes():
    federation = federated.prepare(made("fml", partition="greedy"))
    meme = made("fml").algorithm.init(federation.task, torch.Generator())
    assert meme["meme/layer0.weight"].shape == (64, 64)  # of 64 pixels


def test_a_domain_that_comes_twice_is_refused():
    with pytest.raises(ValueError, match="mutag comes twice, .* name each domain once$"):
        build("fed", "fedmd", {"data": "mutag+nci1+mutag"})


def test_an_experiment_made_in_python_is_checked_as_well():
    with pytest.raises(ValueError, match="unknown partition of a graph 'auto'"):
        FedExperiment(FML(), data="cora", partition="auto")
