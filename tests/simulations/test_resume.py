"""A run that is killed goes on from its checkpoint, and ends as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulations.conftest import SMALL, timeless

REPOSITORY = Path(__file__).resolve().parents[2]

# Kills the process at a named point of its life: the n-th time that a function is called.
KILLER = """
import os, signal, sys
from fedkd import checkpoint
from simulations import cli, fed, store
place, count = os.environ["KILL_AT"].split(":")
module, name = {"save": (checkpoint, "save"), "flush": (checkpoint, "_flush"),
    "sha": (checkpoint, "_sha256"), "tensors": (checkpoint, "save_file"),
    "line": (store, "line"), "scores": (fed, "_scores")}[place]
calls, good = [], getattr(module, name)
def deadly(*given, **more):
    calls.append(1)
    if len(calls) == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    return good(*given, **more)
setattr(module, name, deadly)
sys.exit(cli.main(sys.argv[1:]))
"""
FLAGS = [*SMALL, "--rounds", "5", "--checkpoint-every", "1", "--no-baseline", "--fraction", "0.7"]
COMMAND = ["fed", "fedmd", *FLAGS, "--out", "runs"]


def run(folder, *arguments, kill=None):
    code = KILLER if kill else "import sys; from simulations import cli; sys.exit(cli.main())"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    if kill:
        environment["KILL_AT"] = kill
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def records(folder):
    (path,) = folder.glob("runs/*/metrics.jsonl")
    return timeless([json.loads(line) for line in path.read_text().splitlines()])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    done = run(folder, *COMMAND)
    assert done.returncode == 0, done.stderr
    return records(folder)


POINTS = ["scores:1", "scores:3", "line:2", "line:4", "save:1", "save:3"]
POINTS += ["tensors:1", "tensors:4", "sha:2", "sha:5", "flush:3", "flush:10"]


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_and_resumed(whole, kdsim, tmp_path, point):
    killed = run(tmp_path, *COMMAND, kill=point)
    assert killed.returncode == -9
    status, _, err = kdsim("resume", "runs")
    assert status == 0, err
    assert records(tmp_path) == whole
    assert len(whole[-1]["state"]) == 64


@pytest.mark.usefixtures("no_report")
def test_finished_or_foreign_folders_are_not_resumed(kdsim, small, tmp_path):
    assert kdsim("fed", "local", *small, "--out", "done")[0] == 0
    (tmp_path / "done" / "report.html").touch()
    status, _, err = kdsim("resume", "done")
    assert (status, err.count("\n")) == (2, 1)
    assert "done is finished; see done/report.html" in err
    (tmp_path / "foreign").mkdir()
    status, _, err = kdsim("resume", "foreign")
    assert (status, err.count("\n")) == (2, 1)
    assert "foreign holds no experiment to resume" in err
