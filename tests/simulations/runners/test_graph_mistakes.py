"""Input of `kdsim graph` that cannot run: exit status 2 and one line that says the way out."""

import json
import re
import sys

import pytest

import kdsim as kdsim_package
from graphkd.data import datasets, links
from kdcore import metrics
from simulations.results.run_folder import load
from simulations.results.tables import tables

MINE = """
import torch
from torch_geometric.data import Data, HeteroData


def ring(nodes=60, **more):
    n = torch.arange(nodes)
    x = torch.randn(nodes, 4, generator=torch.Generator().manual_seed(0))
    return Data(**{"x": x, "edge_index": torch.stack([n, (n + 1) % nodes]), "y": n % 2} | more)


def cut():
    data = ring()
    data.edge_index = data.edge_index[:, :40]
    data.y[50:] = -1
    return data


def many():
    return [ring(3 + i % 3, y=i % 3) for i in range(30)]


def nothing():
    return {}["a"]


def two(root, more):
    return ring()


def sums():
    data = ring()
    return data.update({"y": data.x.sum(1)})


def bare():
    data = ring()
    data.edge_index = data.edge_index[:, :0]
    return data


def films():
    data = HeteroData()
    data["film"].x, data["film"].y = torch.ones(60, 4), torch.arange(60) % 2
    data["person"].x = torch.ones(9, 4)
    data["film", "with", "person"].edge_index = torch.arange(9).repeat(2, 1)
    return data


there = ring()
types = HeteroData()
"""
OWN = {
    "a part is too small": ("there", "class 0 of graph has 30 nodes .*ask for fewer"),
    "many graphs": (
        "many",
        "graphs is many graphs, and the protocol 'transductive' .*choose folds",
    ),
    "several types": ("types", "data set 'mine.py:types': graph: the HeteroData has 0"),
    "a loader that fails": ("nothing", "data set 'mine.py:nothing': KeyError: 'a'"),
    "a loader that asks for more": (
        "two",
        "data set 'mine.py:two': TypeError: two\\(\\) missing 1",
    ),
    "no such name": ("sum", "unknown name 'sum'; did you mean 'sums'"),
    "real targets": ("sums", "glnn needs: its targets are real; choose one of gcrd"),
}

MISTAKES = {
    "unknown data": (["--data", "digit-knn"], "unknown data set .*did you mean 'digits-knn'"),
    "no such file": (["--data", "cora"], "no file .*KDSIM_DATA"),
    "an empty part": (["--train", "500"], "the protocol takes 500 to train.*ask for fewer"),
    "nothing selects": (["--val", "0"], "val must be >= 1, or None, got 0"),
    "no test nodes": (["--train", "100", "--val", "100"], "class . of digits-knn has"),
    "one graph in folds": (["--protocol", "folds"], "is one graph.*choose transductive"),
    "unknown protocol": (["--protocol", "inductiv"], "is not one of 'transductive'"),
    "too many edges removed": (
        ["--removed-edges", "1.5"],
        "removed_edges must be from 0 to 1, got 1.5",
    ),
    "noise is no number": (
        ["--feature-noise", "nan"],
        "feature_noise is nan: input should be a finite number",
    ),
    "bfloat16": (["--precision", "bfloat16"], "No such option '--precision'"),
    "unknown network": (["--teacher", "sagen"], "unknown network 'sagen'; did you mean 'sage'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_with_the_way_out(kdsim, name, tmp_path):
    flags, message = MISTAKES[name]
    status, out, said = kdsim("graph", "glnn", *flags, "--out", tmp_path / "out")
    assert status == 2
    assert out == ""
    assert len(said.strip().splitlines()) == 1
    assert re.search(message, said), said
    assert not (tmp_path / "out").exists()


LINKS = {
    "unknown matching": (["--matching", "rnak"], "'rnak' is not one of 'rank', 'distribution'"),
    "nodes are held out": (["--protocol", "inductive"], "'inductive' holds nodes out: leave it"),
    "labels are counted": (["--train", "5"], "5% of the edges select and 10% test: leave"),
    "few edges": (
        ["--data", "mine.py:there"],
        "graph has 60 edges, .*links need 20 of each.*larger",
    ),
    "no edges": (["--data", "mine.py:bare"], "graph has 0 edges, .*take a larger graph"),
    "many graphs": (["--data", "mine.py:many", "--protocol", "folds"], "whole graphs; choose one"),
    "several types": (["--data", "mine.py:films"], "needs: its edges are of several types; choose"),
}


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize("name", LINKS)
def test_mistakes_about_links_are_one_line_with_the_way_out(kdsim, name):
    flags, message = LINKS[name]
    status, out, said = kdsim("graph", "llp", *flags, "--out", "out")
    assert (status, out, len(said.strip().splitlines())) == (2, "", 1), said
    assert re.search(message, said), said


def test_methods_of_nodes_have_no_matching(kdsim):
    status, _, said = kdsim("graph", "glnn", "--matching", "rank")
    assert (status, len(said.strip().splitlines())) == (2, 1)
    assert "No such option '--matching'" in said


@pytest.mark.usefixtures("no_report")
def test_links_run_resume_and_are_loaded_by_name(kdsim, tmp_path):
    quick = ["--epochs", "3", "--teacher-epochs", "3", "--workers", "1", "--out", tmp_path / "o"]
    status, out, said = kdsim("graph", "llp", *quick)
    assert status == 0, said
    assert "test AUC (%)" in out
    assert "Hits@20" in out
    (folder,) = (tmp_path / "o").glob("llp-*")
    before = (folder / "metrics.jsonl").read_text()
    assert kdsim("resume", tmp_path / "o")[0] == 0
    assert (folder / "metrics.jsonl").read_text() == before
    (table,) = tables(load(tmp_path / "o"))
    titles = {column.title for column in table.columns}
    assert {"Student, AUC (%)", "Gain, AUC (points)", "Teacher, Hits@20 (%)"} <= titles
    network = kdsim_package.load(folder).model("llp", seed=0)
    last = json.loads(before.splitlines()[-1])["metrics"]
    split = links.split(datasets.load("digits-knn"), 0).view("evaluate")
    test = split.part("ind")
    logits = network(split.graph.x, split.graph.pairs[:, test])[:, 0]
    assert metrics.auc(logits, split.graph.y[test]) == pytest.approx(last["auc"])


@pytest.mark.usefixtures("no_report")
def test_a_graph_without_any_edge_left_runs(kdsim):
    flags = ["--removed-edges", "1", "--epochs", "2", "--teacher-epochs", "2", "--workers", "1"]
    status, out, _ = kdsim("graph", "glnn", *flags)
    assert status == 0
    assert "glnn" in out


def test_a_network_of_the_users_that_shows_too_little_is_refused_before_the_run(kdsim, tmp_path):
    for side in ("teacher", "student"):
        flags = [f"--{side}", "torch_geometric.nn:GCN", "--out", tmp_path / "out"]
        status, _, said = kdsim("graph", "lsp", *flags)
        assert status == 2
        assert f"the {side} shows no hidden state, and lsp needs 1: take a network" in said
        assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_report")
def test_networks_of_pyg_run_by_name(kdsim):
    names = ["--teacher", "torch_geometric.nn:GCN", "--student", "torch_geometric.nn:MLP"]
    flags = ["--epochs", "2", "--teacher-epochs", "2", "--workers", "1", "--out", "out"]
    status, out, said = kdsim("graph", "glnn", *names, *flags)
    assert status == 0, said
    assert "glnn" in out


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A file of the user's, in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    yield "mine.py"
    sys.modules.pop("mine", None)


@pytest.mark.usefixtures("mine")
def test_a_file_of_ones_own_that_cannot_be_used_is_one_line(kdsim):
    for what, (name, message) in OWN.items():
        status, out, said = kdsim("graph", "glnn", "--data", f"mine.py:{name}", "--out", "out")
        assert (status, out, len(said.strip().splitlines())) == (2, "", 1), what
        assert re.search(message, said), said
    status, _, said = kdsim("graph", "glnn", "--teacher", "mine.py:ring", "--out", "out")
    assert status == 2
    assert "network ring gives Data" in said


@pytest.mark.usefixtures("mine", "no_report")
def test_graphs_in_a_file_of_ones_own_run_and_say_what_was_done(kdsim, tmp_path):
    quick = ["--epochs", "2", "--teacher-epochs", "2", "--workers", "1"]
    drawn = ["--train", "5", "--val", "5"]
    runs = {
        "glnn cut": [*drawn, "--train", "3", "--val", "3"],
        "glnn many": ["--protocol", "folds"],
        "logits sums": drawn,
    }
    heard = {}
    for run, flags in runs.items():
        method, name = run.split()
        given = ["--data", f"mine.py:{name}", *flags, *quick, "--out", name]
        status, out, said = kdsim("graph", method, *given)
        assert status == 0, said
        heard[name] = out + said
    assert "40 edges had no opposite and now go both ways" in heard["cut"]
    assert "10 of 60 nodes have no label" in heard["cut"]
    left_out = "takes the largest connected component, 41 of 60 nodes, and leaves out 19"
    assert left_out in heard["cut"]
    assert "test R² (%)" in heard["sums"]
    (metrics,) = (tmp_path / "cut").glob("*/metrics.jsonl")
    first = json.loads(metrics.read_text().splitlines()[0])
    assert first["notes"][-1].endswith("and leaves out 19")
    (table,) = tables(load(tmp_path / "cut"))
    assert any(left_out in note for note in table.notes)
