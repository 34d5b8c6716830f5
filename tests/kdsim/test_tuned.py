"""A search from Python, held to what its trials have measured; with data and models as objects."""

from pathlib import Path

import pytest
import torch
from torch import nn

import kdsim
import simulations.reporting.report

HOW = {"clients": 2, "test": 40, "rounds": 1, "workers": 1, "validation": 40}


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """No page is drawn, which would take seconds."""
    monkeypatch.setattr(
        simulations.reporting.report, "write_report", lambda *_, **__: Path("report.html")
    )


class Net(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(4, classes))

    def forward(self, x):
        return self.layers(x)


def test_a_search_with_objects_and_what_is_best_run(tmp_path):
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(3).repeat(60)
    mine = kdsim.data(torch.eye(3)[y] @ torch.randn(3, 4, generator=draw), y)
    told = []
    tuned = kdsim.tune(
        "fd",
        mine,
        models=[Net],
        search={"local.learning_rate": "log(1e-6, 1)", "local.epochs": [1, 2]},
        trials=5,
        seeds=[100],
        out=tmp_path / "search",
        listener=told.append,
        progress=False,
        public=0,
        **HOW,
    )
    frame = tuned.frame()
    assert list(frame.trial) == [one.number for one in told] == [0, 1, 2, 3, 4]
    assert list(frame.columns) == [
        "method", "trial", "local.learning_rate", "local.epochs", "accuracy_validation"
    ]  # fmt: skip
    best = frame.loc[frame.accuracy_validation.idxmax()]
    assert tuned.best["fd"].settings["local.learning_rate"] == best["local.learning_rate"]
    assert sum(tuned.importance["fd"].values()) == pytest.approx(1)
    assert "local.epochs=" in repr(tuned)
    assert "<table" in tuned._repr_html_()
    runs = kdsim.run(
        tuned.file, mine, models=[Net], seeds=2, workers=1, out=tmp_path / "runs", progress=False
    )
    assert [run.experiment["seed"] for run in runs] == [0, 1]
    rates = {run.experiment["local.learning_rate"] for run in runs}
    assert rates == {tuned.best["fd"].settings["local.learning_rate"]}


def test_a_search_needs_validation_examples(tmp_path):
    with pytest.raises(ValueError, match="nothing to choose by: validation is 0"):
        kdsim.tune("fd", search={"local.epochs": [1, 2]}, out=tmp_path / "search")
    assert not (tmp_path / "search").exists()
