"""A run that is killed goes on from its checkpoint, and ends as if nothing had happened."""

import json
import os
import signal

import pytest

from fedkd.rounds import checkpoint
from fedkd.storage import atomic_files
from simulations.cli import app
from simulations.execution import console
from simulations.results import run_folder
from simulations.runners import federated_scores
from tests.simulations.conftest import SMALL, timeless

COMMAND = ["fed", "fedmd", *SMALL, "--rounds", "5", "--checkpoint-every", "1", "--no-baseline"]
COMMAND += ["--fraction", "0.7", "--out", "runs"]

# Functions of a run's life, and which of their calls does not return: in the middle of a round,
# before and after a record is written, and before, during and after the writing of a checkpoint.
PLACES = {
    "evaluation": (federated_scores, "scored"),
    "record": (run_folder, "line"),
    "checkpoint": (checkpoint, "save"),
    "tensors": (checkpoint, "save_file"),
    "hash": (checkpoint, "_sha256"),
    "flush": (atomic_files, "flush"),
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
        os._exit(app.main(COMMAND))
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


CUTS = [(0, "starts over"), (2, "starts over"), (3, "goes on from the checkpoint of round 3")]


@pytest.mark.parametrize(("left", "said"), CUTS)
@pytest.mark.usefixtures("no_report")
def test_a_checkpoint_whose_records_are_lost_is_not_gone_on_from(kdsim, tmp_path, left, said):
    """The machine lost power: checkpoints of rounds 3 and 4 are there, records up to fewer."""
    assert kdsim(*COMMAND)[0] == 0
    (path,) = tmp_path.glob("runs/*/metrics.jsonl")
    whole = records(tmp_path)
    kept = path.parent / "checkpoint"
    assert checkpoint.rounds(kept) == [3, 4]
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:left]) + lines[left][:20])
    status, _, err = kdsim("resume", "runs")
    assert status == 0, err
    assert "does not have all rounds up to the newest checkpoint, that of round 4" in err
    assert said in err
    assert records(tmp_path) == whole
    assert checkpoint.rounds(kept) == [3, 4]


@pytest.mark.usefixtures("no_report")
def test_records_are_on_the_disk_before_the_checkpoint(kdsim, monkeypatch):
    order = []
    for module, name in ((run_folder, "settle"), (checkpoint, "save")):
        good = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *given, good=good, name=name: (order.append(name), good(*given))
        )
    flushed = []
    monkeypatch.setattr(atomic_files, "flush", lambda path: flushed.append(path.name))
    assert kdsim(*COMMAND)[0] == 0
    assert order == ["settle", "save"] * 4
    assert flushed.count("metrics.jsonl") == 4


@pytest.mark.parametrize("name", ["state.json", "clients.safetensors", "manifest.json"])
@pytest.mark.usefixtures("no_report")
def test_a_damaged_checkpoint_is_refused_before_anything_runs(kdsim, tmp_path, name):
    assert kill_at("evaluation", 4) == -signal.SIGKILL
    (path,) = tmp_path.glob("runs/*/checkpoint/round-000003/" + name)
    path.write_bytes(path.read_bytes()[:-2])
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.j*")}
    status, out, err = kdsim("resume", "runs")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "round-000003 is damaged: " in err
    assert name.partition(".")[0] in err
    assert "remove that folder to go on from the one before it" in err
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.j*")} == before


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl"])
@pytest.mark.parametrize("command", [["resume", "runs"], COMMAND, ["report", "runs"]])
def test_a_damaged_run_is_named_by_whoever_reads_it(kdsim, tmp_path, monkeypatch, name, command):
    with monkeypatch.context() as here:
        here.setattr(console, "_finish", lambda *given: None)
        assert kdsim(*COMMAND)[0] == 0
    (path,) = tmp_path.glob(f"runs/*/{name}")
    path.write_text("{\n" + path.read_text())
    status, out, err = kdsim(*command)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"{path.relative_to(tmp_path)} is damaged" in err


def cut(path, rounds):
    """As if the process had been killed after so many rounds."""
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:rounds]))


@pytest.mark.usefixtures("no_report")
def test_what_was_noted_is_not_said_again(kdsim, tmp_path):
    command = [*COMMAND, "--partition", "auto"]
    _, _, err = kdsim(*command)
    note = "partition auto is dirichlet, alpha 0.3 on these data"
    assert err.count(note) == 1
    (path,) = tmp_path.glob("runs/*/metrics.jsonl")
    whole, head = records(tmp_path), json.loads((path.parent / "run.json").read_text())
    assert [record.get("notes") for record in whole] == [[note], *[None] * 5]
    assert head["engine"] == {"mlp-8": "stacked (many small products become few large ones)"}
    cut(path, 3)
    status, _, err = kdsim(*command)
    assert status == 0, err
    assert note not in err
    assert records(tmp_path) == whole
    assert json.loads((path.parent / "run.json").read_text()) == head


@pytest.mark.usefixtures("no_report")
def test_runs_of_when_the_default_was_another_engine_go_on_with_theirs(kdsim, tmp_path):
    assert kdsim(*COMMAND, "--engine", "sequential")[0] == 0
    (path,), document = tmp_path.glob("runs/*/metrics.jsonl"), tmp_path / "runs" / "experiment.toml"
    whole = records(tmp_path)
    cut(path, 3)
    document.write_text(document.read_text().replace('engine = "sequential"\n', ""))
    assert "engine" not in document.read_text()
    status, _, err = kdsim("resume", "runs")
    assert status == 0, err
    assert "engine auto" not in err
    assert records(tmp_path) == whole
    assert len(list(tmp_path.glob("runs/*/metrics.jsonl"))) == 1
