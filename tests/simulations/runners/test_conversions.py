"""Each conversion on the way to a run is noted: in its head, its first record and the report."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import kdsim
from simulations.results import tables

HOW = {"clients": 2, "test": 20, "public": 0, "workers": 1, "progress": False, "out": "runs"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch, no_report):
    monkeypatch.chdir(tmp_path)


class Norm(nn.Module):
    """BatchNorm needs two examples or more, and cannot be stacked."""

    def __init__(self, shape, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(shape[0]), nn.Linear(shape[0], classes))

    def forward(self, x):
        return self.layers(x)


def of(runs):
    (run,) = runs
    head = json.loads((run.path / "run.json").read_text())
    (table,) = tables.tables(list(runs))
    return run, head["notes"], " ".join(table.notes)


def test_of_a_table_and_a_module_all_is_noted():
    draw = np.random.default_rng(0)
    kind = draw.choice(["a", "b", None], 80)
    table = pd.DataFrame({"size": draw.random(80), "kind": kind, "risk": draw.random(80) > 0.5})
    mine = kdsim.data(table.assign(risk=table.risk.map({True: "high", False: "low"})), label="risk")
    more = {"engine": "batched", "partition": "iid", "local": {"batch_size": 29}}  # of 30 each
    run, noted, said = of(kdsim.run("fedavg", mine, models=[Norm], rounds=2, **more, **HOW))
    missing = sum(one is None for one in kind)
    name = run.experiment["models"][0]
    assert noted == [
        f"column kind is text: one-hot, 3 kinds, {missing} missing, which are a kind of their own",
        "labels high, low are numbered 0 to 1",
        "1 column has mean 0 and standard deviation 1 over the 60 private examples",
        f"{name} normalises over its mini-batches and cannot learn from a single example: the last "
        "mini-batch of client 0, client 1 has one, and is left out",
        f"{name}: clients run in turn: the module keeps statistics of its mini-batches "
        "(layers.0.running_mean)",
    ]
    assert run.records[0]["notes"] == noted
    assert not any(record.get("notes") for record in run.records[1:])
    for note in noted:
        assert f"{note}." in said


def test_of_bytes_and_in_the_sequential_engine_nothing_but_these():
    x = (torch.arange(60 * 64) % 256).to(torch.uint8).reshape(60, 8, 8)
    _, noted, said = of(
        kdsim.run("local", kdsim.data(x, torch.arange(60) % 3), models=["mlp-8"], rounds=1, **HOW)
    )
    assert noted == [
        "pictures of 8 x 8 get a channel",
        "features that are bytes are divided by 255",
    ]
    assert "divided by 255." in said


@pytest.mark.slow
def test_a_run_that_goes_on_keeps_what_it_has_noted():
    x = torch.zeros(60, 4, dtype=torch.uint8) + torch.arange(60, dtype=torch.uint8)[:, None]
    mine = kdsim.data(x, torch.arange(60) % 3)
    how = {"models": ["mlp-8"], "rounds": 3, "resources": {"checkpoint_every": 1}, **HOW}
    run, noted, _ = of(kdsim.run("local", mine, **how))
    path = run.path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]))  # after the checkpoint of round 2
    again, kept, _ = of(kdsim.run("local", mine, **how))
    assert kept == noted == ["features that are bytes are divided by 255"]
    assert [record["record"] for record in again.records] == ["round", "round", "round", "run"]


@pytest.mark.slow
def test_what_needs_no_conversion_has_no_notes():
    kdsim.run("local", clients=2, private=20, public=0, test=20, models=["mlp-8"], rounds=1,
              workers=1, progress=False, out="runs")  # fmt: skip
    (path,) = Path("runs").glob("*/run.json")
    assert "notes" not in json.loads(path.read_text())
