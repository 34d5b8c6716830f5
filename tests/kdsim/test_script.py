"""The script to aim at: own table, own network, several algorithms and seeds, in a few lines."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from kdsim import trained
from simulations.runners import federated

SCRIPT = """
import kdsim as kd
from torch import nn

class Net(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.n = nn.Sequential(nn.Flatten(), nn.LazyLinear(64), nn.BatchNorm1d(64), nn.ReLU(),
                               nn.Dropout(0.1), nn.Linear(64, classes))
    def forward(self, x): return self.n(x)

runs = kd.run([kd.FedMD(public_size=200), "fedavg"], kd.data("patients.csv", label="risk"),
              models=[Net], clients=10, partition="dirichlet", alpha=0.3, public=500, test=500,
              rounds=20, seeds=3, out="runs/mine")
print(runs.table())                     # mean ± s.d.
df = runs.frame()                       # a row for each run and round
runs.report                             # path of report.html
net = runs.model("fedmd", seed=0, client=3)     # nn.Module, trained
"""
SHORTER = SCRIPT.replace('"fedavg"]', '"fedavg", "dsfl"]').replace("rounds=20", "rounds=4")


@pytest.fixture
def patients(tmp_path, monkeypatch):
    """A made-up table with columns of text, in a fresh working folder."""
    monkeypatch.chdir(tmp_path)
    dice = np.random.default_rng(0)
    n = 1500
    age, town = dice.integers(20, 90, n), dice.choice(["north", "south", "west"], n)
    smokes = dice.choice(["yes", "no"], n)
    score = (age - 55) / 15 + 1.5 * (smokes == "yes") - (town == "west") + dice.normal(0, 0.3, n)
    risk = np.select([score < -0.5, score < 1], ["low", "middle"], "high")
    table = pd.DataFrame({"age": age, "town": town, "smokes": smokes, "risk": risk})
    table.to_csv("patients.csv", index=False)


def executed(text, tmp_path):
    """The names that a script leaves; it is a file, as that of a user is."""
    path = tmp_path / "script.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("script", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["script"] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["script"]
    return module


@pytest.mark.slow
@pytest.mark.parametrize("text", [SCRIPT, SHORTER], ids=["as written", "three algorithms"])
def test_the_script_runs_as_written(text, patients, tmp_path, capsys):
    assert len(text.strip().splitlines()) <= 20
    text = text.replace('out="runs/mine"', 'out="runs/mine", workers=1')  # no Ray in a test
    found = executed(text, tmp_path)
    methods = ["fedmd", "fedavg", "dsfl"][: 2 + (text.count("dsfl") > 0)]
    rounds = 20 if "rounds=20" in text else 4
    said = capsys.readouterr().out
    assert all(f"  {method} " in said and "±" in said for method in methods)
    frame = found.df
    assert len(frame) == len(methods) * 3 * rounds
    assert {"method", "seed", "round", "accuracy", "accuracy_local"} <= set(frame.columns)
    assert set(frame["method"]) == set(methods)
    assert frame["accuracy"].map(math.isfinite).all()
    assert found.runs.report == Path("runs/mine/report.html")
    assert found.runs.report.is_file()
    last = frame[frame["round"] == rounds].groupby("method").accuracy.mean()
    assert last.max() > 0.6  # a third is chance, which an average of statistics may stay at

    run = next(one for one in found.runs if trained.method_of(one) == "fedmd")
    experiment, (data,) = trained.experiment_of(run), found.runs.given.data.values()
    test = federated.dealt(experiment, data, found.runs.given).test
    assert isinstance(found.net, found.Net)
    assert not found.net.training
    with torch.no_grad():
        right = found.net(test.x[test.rows]).argmax(1) == test.y[test.rows]
    assert len(right) == 500
    told = [one for one in run.records if one.get("round") == rounds][0]["clients"]
    assert float(right.double().mean()) == told["accuracy"][3]
