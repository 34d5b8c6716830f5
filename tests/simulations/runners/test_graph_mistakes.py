"""Input of `kdsim graph` that cannot run: exit status 2 and one line that says the way out."""

import re

import pytest

MISTAKES = {
    "unknown data": (["--data", "digit-knn"], "unknown data set .*did you mean 'digits-knn'"),
    "no such file": (["--data", "cora"], "no file .*KDSIM_DATA"),
    "an empty part": (["--train", "500"], "the protocol takes 500 to train.*ask for fewer"),
    "nothing selects": (["--val", "0"], "val 0 nodes per class; both have to be 1 or more"),
    "no test nodes": (["--train", "100", "--val", "100"], "class . of digits-knn has"),
    "one graph in folds": (["--protocol", "folds"], "is one graph.*choose transductive"),
    "unknown protocol": (["--protocol", "inductiv"], "is not one of 'transductive'"),
    "too many edges removed": (["--removed-edges", "1.5"], "expected a share from 0 to 1"),
    "noise is no number": (
        ["--feature-noise", "nan"],
        "feature_noise is nan: input should be a finite number",
    ),
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
