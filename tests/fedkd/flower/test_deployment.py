"""A SuperLink and three SuperNodes on this machine end up with the server of `simulate`."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedkd.rounds.synchronous import simulate

REPOSITORY = Path(__file__).resolve().parents[3]
APP = REPOSITORY / "simulations" / "flower_app"
SCRIPT = APP / "local_deployment.sh"
SHORT = {"epochs": 1, "dtype": "float64", "eval-every": 0}

needs_a_shell = pytest.mark.skipif(
    not (shutil.which("bash") and Path("/proc/self/environ").exists()),
    reason="needs bash, and looks for processes in /proc",
)


@pytest.fixture
def kdsim_app():
    """The app's module."""
    spec = importlib.util.spec_from_file_location("kdsim_app", APP / "kdsim_app.py")
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():  # flwr imports typer, which imports names that click will drop
        warnings.filterwarnings("ignore", ".*click", DeprecationWarning)
        spec.loader.exec_module(module)
    return module


def settings(**changed):
    given = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    return given | changed


def deploy(folder, *words):
    """Run the script to its end, and see to it that nothing of it is left."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    if not (REPOSITORY / ".venv").exists():  # where `make` has put it, and the script finds it
        environment |= {"PYTHON": sys.executable}
    command = [str(SCRIPT), *words]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as script:
        try:
            printed, _ = script.communicate(timeout=3000)
        finally:
            script.kill()
            left = of_the_deployment(folder)
            for number in left:
                with contextlib.suppress(OSError):
                    os.kill(number, signal.SIGKILL)
    return script.returncode, printed, left


def of_the_deployment(folder):
    """The processes whose FLWR_HOME lies in a folder, and that are not dead already."""
    mark, found = f"FLWR_HOME={folder}".encode(), []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(v.startswith(mark) for v in (place / "environ").read_bytes().split(b"\0")):
                found.append(int(place.name))
    return found


@pytest.mark.flower
@pytest.mark.slow
@needs_a_shell
def test_a_deployment_on_loopback_is_the_simulation(kdsim_app, tmp_path, double):
    results = tmp_path / "results"
    given = " ".join(f"{k}={v!r}" for k, v in SHORT.items())
    status, printed, left = deploy(
        tmp_path, "--rounds", "2", "--results", str(results), "--timeout", "2500", "-c", given
    )
    assert status == 0, printed
    assert left == []
    assert not list(tmp_path.glob("kdsim-deployment.*"))
    config = settings(clients=3, rounds=2, **SHORT)
    federation, algorithm = kdsim_app.federation(config), kdsim_app.algorithm(config)
    *_, last = simulate(algorithm, federation.task, federation.clients, rounds=2)
    server = load_file(results / "server.safetensors")
    assert set(server) == {"consensus"} == set(last.server)
    assert server["consensus"].dtype == torch.float64
    torch.testing.assert_close(server["consensus"], last.server["consensus"], rtol=0, atol=1e-9)
    lines = [json.loads(line) for line in (results / "metrics.jsonl").read_text().splitlines()]
    assert [line["cohort"] for line in lines] == [[0, 1, 2]] * 2
    assert lines[-1]["traffic"]["up"] == dict(last.ledger.up)


@needs_a_shell
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nonsense"], "unknown argument --nonsense"),
        (["--rounds"], "--rounds needs a value"),
        (["--rounds", "many"], "--rounds and --timeout are whole numbers"),
    ],
)
def test_wrong_arguments_end_it_at_once(words, said, tmp_path):
    code, printed, left = deploy(tmp_path, *words)
    assert (code, left) == (2, [])
    assert said in printed
    assert list(tmp_path.iterdir()) == []
