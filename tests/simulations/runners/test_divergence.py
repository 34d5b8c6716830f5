"""A run whose training diverged says so: in its records, in the summary, and on the terminal."""

import pytest
import torch

from fedkd.engines.sequential import sequential
from simulations.results import run_folder
from simulations.runners import federated
from simulations.survey import datasets
from simulations.survey.recipes.objectives import compression
from tests.simulations.conftest import SMALL, read

WHO = "parameters or predictions of clients 0, 1, 2 are no finite numbers; lower the learning rate"


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("name", ["local", "fedavg", "dsfl"])
def test_a_federated_run_names_the_clients(kdsim, tmp_path, name):
    command = ["fed", name, *SMALL, "--no-baseline", "--local-learning-rate", "1e30"]
    status, out, err = kdsim(*command, "--json", "--out", "out")
    assert status == 0
    *rounds, end, summary = read(out)
    assert [record["diverged"] for record in rounds] == [WHO] * 2
    assert end["diverged"] == WHO
    assert summary["diverged"] == [0]
    assert f"; DIVERGED: {WHO}\n" in err
    said = err
    status, out, _ = kdsim(*command, "--out", "out")  # which is done already
    assert status == 0
    assert f"DIVERGED: {run_folder.load(tmp_path)[0].path.name}: {WHO}" in out
    assert "accuracy –, " in said
    (row,) = [line.split() for line in out.splitlines() if line.split()[:1] == [name]]
    assert row[1:4] == ["1", "–", "–"]  # of one seed, which diverged; bytes were sent all the same


@pytest.mark.usefixtures("no_report")
def test_a_sound_run_says_nothing(kdsim):
    status, out, err = kdsim("fed", "local", *SMALL, "--json")
    assert (status, "diverged" in out, "DIVERGED" in err) == (0, False, False)


def test_a_prediction_that_is_no_number_counts_though_parameters_are(tiny):
    federation = tiny()
    (current,) = federated.federated_run(fed_experiment(), federation).rounds(
        federation, sequential
    )
    certainty = torch.tensor([0.1, float("nan"), 0.2, 0.3, 0.4])
    told = federated._divergence(federation, current, certainty, sequential)
    assert told["diverged"].startswith("parameters or predictions of client 1 are no finite")
    assert federated._divergence(federation, current, torch.zeros(5), sequential) == {}
    everyone = federated._divergence(federation, current, torch.full((9,), torch.nan), sequential)
    assert "clients 0, 1, 2, 3, 4 and 4 more are" in everyone["diverged"]


def fed_experiment():
    from fedkd import algorithms
    from simulations.config.experiments import FedExperiment

    return FedExperiment(algorithms.get("local")(), rounds=1)


def test_a_graph_run_ends_and_says_why(kdsim):
    command = ["graph", "glnn", "--epochs", "3", "--teacher-epochs", "3", "--lr", "1e30"]
    status, _, err = kdsim(*command)
    assert status == 1
    assert "FAILED" in err
    assert "training diverged: lower its learning rate (now 1e+30)" in err


def test_a_recipe_ends_and_says_why(kdsim, monkeypatch):
    lost = torch.tensor([[0.0, 1.0], [float("nan"), 0.0]])
    assert datasets.share_right(lost[:1], torch.tensor([1])) == 1.0
    monkeypatch.setattr(datasets, "load", lambda name, root=None: None)
    monkeypatch.setattr(
        compression.Compression,
        "measure",
        lambda *given: {"accuracy": datasets.share_right(lost, torch.tensor([1, 0]))},
    )
    status, _, err = kdsim("recipe", "compression", "--seeds", "1")
    assert status == 1
    assert "FAILED, ArithmeticError: training diverged: a prediction is no number" in err
