"""The disk is full: at the start, at a checkpoint, during the report. One line, and no half files.

A file may not grow beyond so many bytes (RLIMIT_FSIZE), which the system tells a process as it
tells it of a full disk: in the middle of a write.
"""

import json
import os
import resource
import sys

import pytest
import sklearn.datasets  # noqa: F401  (joblib tries whether it can write, once)

import simulations.reporting.report
from simulations.cli import app
from tests.simulations.conftest import timeless

pytestmark = pytest.mark.slow
COMMAND = ["fed", "dsfl", "--rounds", "4", "--clients", "3", "--private", "60", "--public", "20"]
COMMAND += ["--test", "40", "--models", "mlp-64", "--checkpoint-every", "1", "--no-baseline"]
COMMAND += ["--out", "out"]

# What is said of runs that are done, whatever becomes of the report.
AS_EVER = ("1 of 1 runs are done already", "final weights: ")

# Where the disk is full: bytes that a file may have, the file named, and what is there already.
PLACES = {
    "at the start": (0, ".lock", 0),
    "with the experiment": (10, "experiment.toml", 0),
    "with the run": (700, "run.json", 0),
    "in the records": (2_500, "metrics.jsonl", 0),
    "at a checkpoint": (30_000, "round-000001", 0),
    "in a table": (200, "tables.md", 1),
    "in a figure": (6_000, "figures/", 1),
    "in the page": (90_000, "report.html", 1),
}


def kdsim(command, size=resource.RLIM_INFINITY):
    """Run the command in a child process whose files may not be larger: status, output, errors."""
    pipes = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        sys.stdout, sys.stderr = (os.fdopen(writer, "w") for _, writer in pipes)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        status = app.main(command)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    said = []
    for reader, writer in pipes:
        os.close(writer)
        with os.fdopen(reader) as file:
            said.append(file.read())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), *said


def records(folder):
    (path,) = folder.glob("out/*/metrics.jsonl")
    return timeless([json.loads(line) for line in path.read_text().splitlines()])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("place", PLACES)
def test_a_full_disk_is_a_line_and_the_same_command_goes_on(tmp_path, monkeypatch, place):
    size, name, done = PLACES[place]
    for folder in ("whole", "full"):
        (tmp_path / folder).mkdir()
    with monkeypatch.context() as here:  # a page takes longer than all the rest
        here.setattr(simulations.reporting.report, "write_report", lambda runs, out=None: "nowhere")
        here.chdir(tmp_path / "whole")
        assert kdsim(COMMAND)[0] == 0
        here.chdir(tmp_path / "full")
        if done:
            assert kdsim(COMMAND)[0] == 0
    expected = records(tmp_path / "whole")
    monkeypatch.chdir(tmp_path / "full")
    page = tmp_path / "full" / "out" / "report.html"
    command = COMMAND + ["--checkpoint-every", "0"] * (name == "metrics.jsonl")
    status, out, err = kdsim(command, size)
    assert status == 1, err
    (told,) = [line for line in err.splitlines() if not line.startswith(AS_EVER)]
    assert "File too large" in told
    assert name in told
    assert "Traceback" not in out
    assert not page.exists()
    assert not list((tmp_path / "full").rglob(".draft-*"))
    if not done:
        monkeypatch.setattr(
            simulations.reporting.report, "write_report", lambda runs, out=None: "nowhere"
        )
    status, _, err = kdsim(COMMAND)
    assert status == 0, err
    assert records(tmp_path / "full") == expected
    assert page.is_file() == bool(done)
