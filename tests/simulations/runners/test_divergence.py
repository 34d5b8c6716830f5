"""A run whose training diverged says so: in its records, in the summary, and on the terminal."""

import numpy as np
import pandas as pd
import pytest
import torch

from fedkd.engines.sequential import sequential
from simulations.results import run_folder
from simulations.runners import federated, federated_scores
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
    told = federated_scores.divergence(federation, current, certainty, sequential)
    assert told["diverged"].startswith("parameters or predictions of client 1 are no finite")
    assert federated_scores.divergence(federation, current, torch.zeros(5), sequential) == {}
    everyone = federated_scores.divergence(
        federation, current, torch.full((9,), torch.nan), sequential
    )
    assert "clients 0, 1, 2, 3, 4 and 4 more are" in everyone["diverged"]


def houses(path, rows, spread=0.5, outliers=0.0):
    """A table whose targets are whole numbers, some of them wrong by a factor of a hundred."""
    draw = np.random.default_rng(0)
    size, age = draw.lognormal(4.5, spread, rows), draw.integers(0, 120, rows)
    town = draw.choice(["Bern", "Basel", "Chur"], rows)
    noise = draw.normal(0, 30_000, rows)
    price = 3_000 * size - 500 * age + 50_000 * (town == "Bern") + noise
    price = np.where(draw.random(rows) < outliers, 100 * price, price).astype(int)
    table = pd.DataFrame({"size": size, "age": age, "town": town, "price": price})
    others = pd.DataFrame(draw.normal(size=(rows, 8))).add_prefix("noise")
    pd.concat([others, table], axis=1).to_csv(path, index=False)
    return price.std()


TABLES = {
    "small": {"rows": 60},
    "outliers": {"rows": 300, "outliers": 0.02},
    "long tails": {"rows": 300, "spread": 1.2},
}


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("about", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("name", ["fedmd", "fedavg", "dsfl"])
def test_real_targets_do_not_diverge_by_default(kdsim, tmp_path, about, name):
    """And learn: they err by less than the spread, which is what the mean of all would err by."""
    spread = houses(tmp_path / "houses.csv", **about)
    command = ["fed", name, "--data", "houses.csv", "--label", "price"]
    command += ["--public", str(about["rows"] // 3)]
    command += ["--aggregation", "sa"] if name == "dsfl" else []
    command += ["--models", "mlp-64"] if name == "fedavg" else []
    status, out, err = kdsim(*command, "--rounds", "5", "--no-baseline", "--json")
    assert (status, "DIVERGED" in err) == (0, False), err
    *_, last, _ = read(out)
    assert last["metrics"]["rmse"] < 1.1 * spread


@pytest.mark.usefixtures("no_report")
def test_squared_errors_did(kdsim, tmp_path):
    houses(tmp_path / "houses.csv", **TABLES["outliers"])
    more = ["--public", "100", "--no-baseline", "--loss", "squared"]
    more += ["--distillation-loss", "squared", "--rounds", "5"]
    status, _, err = kdsim("fed", "fedmd", "--data", "houses.csv", "--label", "price", *more)
    assert (status, "DIVERGED" in err) == (0, True)


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
