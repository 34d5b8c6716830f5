"""Small experiments, and the command in this process, with its folder of runs elsewhere."""

import json
from pathlib import Path

import pytest

import simulations.reporting.report
from simulations.cli import app

SMALL = ["--rounds", "2", "--clients", "3", "--private", "60", "--public", "20", "--test", "40"]
SMALL += ["--models", "mlp-8"]


@pytest.fixture
def kdsim(tmp_path, monkeypatch, capsys):
    """Run the command in a fresh folder: (exit status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KDSIM_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(*arguments):
        status = app.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def no_report(monkeypatch):
    """Figures take seconds; all tests but one do without."""
    monkeypatch.setattr(
        simulations.reporting.report,
        "write_report",
        lambda runs, out=None, select=None: Path("nowhere"),
    )


@pytest.fixture
def small():
    """The flags of a federated run that takes a tenth of a second."""
    return list(SMALL)


def read(text):
    """The records in lines of JSON."""
    return [json.loads(line) for line in text.splitlines()]


def timeless(records):
    """The records without the fields that may differ from run to run, or from start to start."""
    return [
        {k: v for k, v in record.items() if k not in ("seconds", "engine")} for record in records
    ]
