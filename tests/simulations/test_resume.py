"""A run that is killed goes on from its checkpoint, and ends as if nothing had happened."""

import json
import os
import signal

import pytest

from fedkd import checkpoint
from simulations import cli, fed, store
from tests.simulations.conftest import SMALL, timeless

COMMAND = ["fed", "fedmd", *SMALL, "--rounds", "5", "--checkpoint-every", "1", "--no-baseline"]
COMMAND += ["--fraction", "0.7", "--out", "runs"]

# Functions of a run's life, and which of their calls does not return: in the middle of a round,
# before and after a record is written, and before, during and after the writing of a checkpoint.
PLACES = {
    "evaluation": (fed, "_scores"),
    "record": (store, "line"),
    "checkpoint": (checkpoint, "save"),
    "tensors": (checkpoint, "save_file"),
    "hash": (checkpoint, "_sha256"),
    "flush": (checkpoint, "_flush"),
}
POINTS = [("evaluation", 1), ("evaluation", 3), ("record", 2), ("record", 4), ("checkpoint", 1)]
POINTS += [("checkpoint", 3), ("tensors", 1), ("tensors", 4), ("hash", 2), ("hash", 5)]
POINTS += [("flush", 3), ("flush", 10)]


def kill_at(place, count):
    """Run the command in a child process that is killed with SIGKILL; how it ended."""
    module, name = PLACES[place]
    good, calls = getattr(module, name), []

    def deadly(*given, **more):
        calls.append(given)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return good(*given, **more)

    child = os.fork()  # a fresh interpreter would spend seconds on imports
    if child == 0:
        setattr(module, name, deadly)
        os._exit(cli.main(COMMAND))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def records(folder):
    (path,) = folder.glob("runs/*/metrics.jsonl")
    return timeless([json.loads(line) for line in path.read_text().splitlines()])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.usefixtures("no_report")
def test_killed_anywhere_and_resumed(kdsim, tmp_path, monkeypatch, subtests):
    (tmp_path / "whole").mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    assert kdsim(*COMMAND)[0] == 0
    whole = records(tmp_path / "whole")
    assert len(whole[-1]["state"]) == 64
    for place, count in POINTS:
        with subtests.test(place=place, count=count):
            folder = tmp_path / f"{place}-{count}"
            folder.mkdir()
            monkeypatch.chdir(folder)
            assert kill_at(place, count) == -signal.SIGKILL
            status, _, err = kdsim("resume", "runs")
            assert status == 0, err
            assert records(folder) == whole


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
