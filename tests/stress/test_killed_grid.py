"""A grid over Ray that is killed again and again, or stopped, ends as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from simulations.results import run_folder
from tests.conftest import REPOSITORY
from tests.simulations.conftest import timeless

GRID = """
[fed]
algorithm = ["local", "dsfl"]
seeds = 2
rounds = 60
clients = 3
private = 60
public = 20
test = 40
models = ["mlp-8"]
fraction = 0.7

[graph]
method = "glnn"
seeds = 2
epochs = 30
teacher_epochs = 30

[resources]
checkpoint_every = 1
"""
MOMENTS = 20

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def start(folder, out, workers):
    """The command, as a process of its own."""
    command = [sys.executable, "-m", "simulations", "run", "grid.toml", "--workers", str(workers)]
    return subprocess.Popen(
        [*command, "--out", out],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HOME": str(folder)}
        | {"RAY_worker_niceness": "0"},  # by default workers wait for whatever else runs
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Its exit status and what it said, once it has ended."""
    out, err = process.communicate(timeout=6000)
    return process.returncode, out + err


def progress(folder):
    """How many bytes of records there are."""
    return sum(path.stat().st_size for path in folder.glob("*/metrics.jsonl"))


def wait_for_progress(process, folder):
    """Return when there are new records, or when the process has ended."""
    before = progress(folder)
    while progress(folder) <= before and process.poll() is None:
        time.sleep(0.005)


def metrics(folder):
    """What a grid has come to: the records of every run."""
    return {run.path.name: timeless(run.records) for run in run_folder.load(folder)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The grid, and the metrics that it has without Ray and without a disturbance."""
    folder = tmp_path_factory.mktemp("grid")
    (folder / "grid.toml").write_text(GRID)
    status, said = finish(start(folder, "whole", workers=1))
    assert status == 0, said
    return folder, metrics(folder / "whole")


def test_killed_at_twenty_moments(undisturbed):
    """While Ray starts, between records, within checkpoints and teachers: SIGKILL to the driver."""
    folder, expected = undisturbed
    draw = random.Random(0)
    killed = 0
    for moment in range(MOMENTS):
        process = start(folder, "killed", workers=2)
        if moment % 5 == 0:
            time.sleep(draw.uniform(0.5, 6.0))
        else:
            wait_for_progress(process, folder / "killed")
            time.sleep(draw.uniform(0.0, 0.2))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        process.communicate()
    assert killed >= MOMENTS // 4  # the last ones find it done, more of them where it goes fast
    status, said = finish(start(folder, "killed", workers=2))
    assert status == 0, said
    assert metrics(folder / "killed") == expected
    assert not list((folder / "killed").rglob(".draft-*"))
    assert (folder / "killed" / "report.html").is_file()


def test_sigterm_ends_it_with_its_status_and_no_dump(undisturbed):
    folder, expected = undisturbed
    process = start(folder, "stopped", workers=2)
    wait_for_progress(process, folder / "stopped")
    process.send_signal(signal.SIGTERM)
    status, said = finish(process)
    assert status == 143, said
    assert "runs are done and kept in stopped; the same command goes on from there" in said
    assert "***" not in said
    assert "Traceback" not in said
    status, said = finish(start(folder, "stopped", workers=2))
    assert status == 0, said
    assert metrics(folder / "stopped") == expected
