"""`kdsim flower`, as a newcomer meets it: a table, the run's status, and nothing left running."""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import psutil
import pytest

from fedkd.rounds.client_sampling import uniform
from fedkd.rounds.evaluation import evaluate
from fedkd.rounds.round import deployed
from fedkd.rounds.synchronous import simulate
from simulations.execution import flower

REPOSITORY = Path(__file__).resolve().parents[3]
SHORT = {"rounds": 2, "epochs": 1, "fraction": 0.6, "dtype": "float64"}
GIVEN = " ".join(f"{key}={value!r}" for key, value in SHORT.items())


@pytest.fixture
def folder():
    """A new one, with a short name: Ray keeps sockets in it."""
    with tempfile.TemporaryDirectory(prefix="kd") as name:
        yield Path(name)


def carried_out(command, folder, seconds=3000, after=None):
    """(status, standard output, standard error) of a command, and the processes that it left.

    Args:
        command: a list of words, run without the environment of Python on the PATH.
        folder: where it runs, and keeps its temporary files.
        seconds: that it may take.
        after: a text; when it has been printed, the command is interrupted.
    """
    bin_folder = str(Path(sys.executable).parent)
    path = [p for p in os.environ["PATH"].split(os.pathsep) if p != bin_folder]
    environment = os.environ | {"PATH": os.pathsep.join(path), "TMPDIR": str(folder)}
    environment |= {"OMP_NUM_THREADS": "1"}
    if not (REPOSITORY / ".venv").exists():  # where `make` has put it
        environment |= {"PYTHON": sys.executable}
    options = {"env": environment, "cwd": folder, "stdout": subprocess.PIPE, "text": True}
    log = folder / "said.txt"
    with open(log, "w") as said, subprocess.Popen(command, stderr=said, **options) as child:
        try:
            while after is not None and after not in log.read_text():
                assert child.poll() is None
                time.sleep(0.1)
            if after is not None:
                child.send_signal(signal.SIGINT)
            printed, _ = child.communicate(timeout=seconds)
        finally:
            child.kill()
            left = list(processes_of(folder))
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
    return child.returncode, printed, log.read_text(), left


def processes_of(folder):
    """Those with a state of Flower's in the folder."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("FLWR_HOME", "").startswith(str(folder)):
                yield process


@pytest.fixture
def kdsim_app():
    """The app's module."""
    spec = importlib.util.spec_from_file_location("kdsim_app", flower.APP / "kdsim_app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command_of_the_readme():
    """The one that runs the demo federation in Flower, with this Python's `kdsim`."""
    text = (REPOSITORY / "README.md").read_text()
    (found,) = re.findall(r"^    (kdsim flower)\b.*demo federation", text, re.MULTILINE)
    name, *words = found.split()
    return [Path(sys.executable).with_name(name), *words]


@pytest.mark.flower
@pytest.mark.slow
def test_the_command_of_the_readme_ends_with_a_table_that_is_the_simulation(
    kdsim_app, folder, double
):
    command = [*command_of_the_readme(), "-c", GIVEN]
    status, printed, said, left = carried_out(command, folder)
    assert status == 0, said
    assert left == []
    assert "Federated distillation, in Flower, 5 clients, 2 rounds" in printed
    results = folder / "runs" / "flower-1"
    assert str(results) in said
    assert {p.name for p in folder.iterdir()} - {"ray"} == {"runs", "said.txt"}  # and Ray's logs

    app = tomllib.loads((flower.APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    config = app["config"] | SHORT
    federation, algorithm = kdsim_app.federation(config), kdsim_app.algorithm(config)
    *_, last = simulate(
        algorithm, federation.task, federation.clients, rounds=2, sample=uniform(0.6)
    )
    clients = deployed(algorithm, federation.task, last)
    expected = evaluate(federation.task, clients, federation.test, federation.label_counts)
    result = json.loads((results / "result.json").read_text())
    assert (result["rejected"], result["failed"], result["rounds"]) == (0, 0, 2)
    scores = [result["scores"][str(client.id)]["accuracy"] for client in clients]
    assert scores == expected.accuracy.tolist()
    row = next(line for line in printed.splitlines() if line.split()[:1] == ["dsfl"])
    assert row.split()[1:4] == [
        "1",
        f"{100 * expected.accuracy.mean():.1f}",
        f"{100 * expected.accuracy_local.mean():.1f}",
    ]


@pytest.mark.flower
@pytest.mark.parametrize(("model", "data"), [("gin-4", "coloured-trees"), ("gcn-4", "digits-knn")])
def test_a_node_with_graphs_scores_on_its_own_and_builds_no_others(model, data, kdsim_app, double):
    from flwr.app import Context, RecordDict

    app = tomllib.loads((flower.APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    config = app["config"] | {"data": data, "models": model, "partition": "random", "clients": 3}
    config |= {"dtype": "float64", "algorithm": "fedavg"}
    runtime = kdsim_app.runtime(Context(0, 0, {"partition-id": 1}, RecordDict(), config))
    assert runtime.client.id == 1
    scores = runtime.score(runtime.client)
    assert scores["accuracy"] == pytest.approx(scores["accuracy_local"])
    assert 0 < scores["accuracy"] < 1
    held, server = (
        task.models[model].predict.one.args[0].held
        for task in (
            runtime.task,
            kdsim_app.plan(Context(0, 0, {}, RecordDict(), config)).strategy.task,
        )
    )
    own = {*runtime.client.private.rows.tolist()}
    assert (held - server == {1}) if data == "digits-knn" else (own <= held - server)


@pytest.mark.flower
@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "partition", "model"),
    [("digits-knn", "louvain", "gcn-4"), ("coloured-trees", "random", "gin-4")],
)
def test_the_command_with_graphs_ends_with_what_the_simulation_says(
    data, partition, model, kdsim_app, folder, double
):
    given = {"data": data, "partition": partition, "models": model, "algorithm": "fedmd"}
    given |= {"rounds": 1, "epochs": 1, "dtype": "float64"}
    words = " ".join(f"{key}={value!r}" for key, value in given.items())
    command = [Path(sys.executable).with_name("kdsim"), "flower", "-c", words, "--clients", "2"]
    status, _, said, left = carried_out([*command, "--out", "here"], folder)
    assert (status, left) == (0, []), said

    app = tomllib.loads((flower.APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    config = app["config"] | given | {"clients": 2}
    found, algorithm = kdsim_app.graph_federation(config, range(2)), kdsim_app.algorithm(config)
    *_, last = simulate(algorithm, found.task, found.clients, rounds=1)
    clients = deployed(algorithm, found.task, last)
    expected = evaluate(found.task, clients, found.test, found.kind_counts, kinds=found.kinds)
    result = json.loads((folder / "here" / "result.json").read_text())
    assert (result["rejected"], result["failed"], result["rounds"]) == (0, 0, 1)
    scores = [result["scores"][str(client.id)]["accuracy_local"] for client in clients]
    assert scores == pytest.approx(expected.accuracy_local.tolist())


@pytest.mark.flower
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_script_tells_of_an_app_that_fails(folder):
    script = REPOSITORY / "simulations" / "flower_app" / "run.sh"
    command = ["bash", script, "-c", "patience=0.001", "--out", "here"]  # no client comes so soon
    status, printed, said, left = carried_out(command, folder)
    assert (status, left) == (1, [])
    assert said.splitlines()[-1].startswith("failed: finished:failed")
    assert printed == ""


@pytest.mark.flower
@pytest.mark.slow
def test_an_interrupted_run_leaves_nothing_running(folder):
    command = [*command_of_the_readme(), "-c", "rounds=1000"]
    status, _, _, left = carried_out(command, folder, 600, after="Successfully started run")
    assert (status, left) == (130, [])


def test_results_go_to_a_new_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert flower.folder(None) == tmp_path / "runs" / "flower-1"
    (tmp_path / "runs" / "flower-1").mkdir(parents=True)
    assert flower.folder(None) == tmp_path / "runs" / "flower-2"
    (tmp_path / "empty").mkdir()
    assert flower.folder(Path("empty")) == tmp_path / "empty"
    with pytest.raises(ValueError, match="runs is there already; name a new folder with --out"):
        flower.folder(Path("runs"))
    with pytest.raises(ValueError, match="Flower takes no quotes"):
        flower.folder(Path("it's"))


WRONG = {
    "x": "-c takes KEY=VALUE, such as rounds=3, got 'x'",
    "algorithm='nonsense'": "unknown algorithm 'nonsense'",
    "algorithm=fedmd": "A text needs quotes of its own, as in -c \"algorithm='fedmd'\"",
    "algorithm='fedmd": "No closing quotation",
    "epoch=3": "unknown setting 'epoch'; did you mean 'epochs'? the app has algorithm",
    "zzz=3": "unknown setting 'zzz'; the app has algorithm",
    "clients=3": "take --clients instead",
    "results='/x'": "take --out instead",
    "rounds=-1": "rounds must be at least 1, got -1",
    "rounds='x'": "rounds is 'x'; expected a value such as 10",
    "rounds=true": "rounds is True; expected a value such as 10",
    "dtype='float16' seed=1": "dtype must be one of float32, float64, got 'float16'",
    "learning-rate=nan": "learning_rate must be",
    "private=100000": "100000 private, 578 public",
    "settings.toml": "-c takes KEY=VALUE",
}


@pytest.mark.flower
@pytest.mark.parametrize("change", WRONG)
def test_what_the_app_would_refuse_is_refused_before_flower_is_started(
    kdsim, monkeypatch, tmp_path, change
):
    monkeypatch.setattr(flower, "run", lambda *given: pytest.fail("started"))
    status, printed, said = kdsim("flower", "-c", change)
    assert (status, printed, said.count("\n")) == (2, "", 1), said
    assert WRONG[change] in said
    assert not list(tmp_path.iterdir())


@pytest.mark.flower
def test_limits_and_folders_that_cannot_be_are_refused_before_flower_is_started(
    kdsim, monkeypatch, tmp_path
):
    monkeypatch.setattr(flower, "run", lambda *given: 0)
    for limit in ("nan", "inf", "1e300"):
        status, _, said = kdsim("flower", f"--limit={limit}")
        assert (status, said.count("\n")) == (2, 1)
        assert "limit must be seconds" in said or "is not in the range" in said
    (tmp_path / "file").write_text("")
    status, _, said = kdsim("flower", "--out", "file/x")
    assert (status, said.count("\n"), "file/x" in said) == (2, 1, True)
    assert kdsim("flower", "-c", "learning-rate=1 rounds=1 patience=0.5", "--out", "new")[0] == 0
