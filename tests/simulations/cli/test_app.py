import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from simulations.cli import app
from simulations.execution import scheduler
from simulations.results import run_folder
from simulations.runners import federated
from tests.simulations.conftest import read, timeless

CHECKOUT = Path(__file__).resolve().parents[3]


def stored(folder):
    return {run.path.name: timeless(run.records) for run in run_folder.load(folder)}


def test_a_federated_run_from_flags_to_report(kdsim, small, tmp_path):
    status, out, err = kdsim("fed", "fedmd", *small, "--seeds", "2", "--workers", "1")
    assert status == 0
    assert "fedmd" in out
    assert "±" in out
    assert "fedmd on digits, seed 1: accuracy" in err
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "report.html").is_file()
    runs = run_folder.load(folder)
    assert sorted(run.path.name.rpartition("-")[0] for run in runs) == [
        f"{name}-digits-s{seed}" for name in ("fedmd", "local") for seed in (0, 1)
    ]
    assert all(run.complete for run in runs)


@pytest.mark.usefixtures("no_report")
def test_json_is_rounds_runs_and_one_summary(kdsim, small):
    status, out, err = kdsim("fed", "fd", *small, "--seeds", "2", "--json", "--workers", "1")
    assert status == 0
    records = read(out)
    kinds = [record["record"] for record in records]
    assert kinds == ["round", "round", "run"] * 2 + ["summary"]
    assert {record["method"] for record in records} == {"fd"}
    summary = records[-1]
    assert summary["seeds"] == [0, 1]
    assert summary["protocol"] == "3 clients, dirichlet 0.3, 2 rounds"
    expected = {"accuracy", "accuracy_local", "accuracy_baseline", "agreement"}
    expected |= {"accuracy_median", "accuracy_min"}
    assert expected | {"calibration_error", "bytes_up", "bytes_down"} == set(summary["metrics"])
    for value in summary["metrics"].values():
        assert value["n"] == 2
        assert value["std"] is not None
    assert "accuracy" in err


@pytest.mark.usefixtures("no_report")
def test_one_seed_has_no_spread(kdsim, small):
    _, out, _ = kdsim("fed", "local", *small, "--json")
    assert read(out)[-1]["metrics"]["accuracy"]["std"] is None


@pytest.mark.usefixtures("no_report")
def test_the_same_command_gives_the_same_records(kdsim, small, tmp_path):
    for name in ("one", "two"):
        assert kdsim("fed", "dsfl", *small, "--fraction", "0.7", "--out", tmp_path / name)[0] == 0
    assert stored(tmp_path / "one") == stored(tmp_path / "two")
    assert len(stored(tmp_path / "one")) == 2


@pytest.mark.usefixtures("no_report")
def test_what_is_done_is_not_done_again(kdsim, small, tmp_path, monkeypatch):
    command = ["fed", "fd", *small, "--json", "--out", tmp_path / "out"]
    _, first, _ = kdsim(*command)
    monkeypatch.setattr(federated, "run", lambda *_: pytest.fail("ran again"))
    status, second, err = kdsim(*command)
    assert status == 0
    assert second == first
    assert "2 of 2 runs are done already" in err


@pytest.mark.usefixtures("no_report")
def test_more_seeds_can_be_added_and_other_experiments_not(kdsim, small, tmp_path):
    command = ["fed", "local", *small, "--out", tmp_path / "out"]
    assert kdsim(*command)[0] == 0
    status, _, err = kdsim(*command, "--seeds", "2")
    assert status == 0
    assert "1 of 2 runs are done already" in err
    status, _, err = kdsim(*command, "--alpha", "2")
    assert status == 2
    assert "holds a different experiment" in err


@pytest.mark.usefixtures("no_report")
def test_an_experiment_file_that_was_written_can_be_run(kdsim, small, tmp_path):
    kdsim("fed", "fd", *small, "--local-epochs", "2", "--out", tmp_path / "one")
    status, _, _ = kdsim("run", tmp_path / "one" / "experiment.toml", "--out", tmp_path / "two")
    assert status == 0
    assert stored(tmp_path / "one") == stored(tmp_path / "two")


@pytest.mark.usefixtures("no_report")
def test_a_failing_run_is_reported_and_the_rest_goes_on(kdsim, small, tmp_path, monkeypatch):
    good = federated.run

    def sometimes(experiment, root=None, **more):
        if experiment.seed == 0:
            raise RuntimeError("out of [luck]")
        return good(experiment, root, **more)

    monkeypatch.setattr(federated, "run", sometimes)
    status, out, err = kdsim("fed", "local", *small, "--seeds", "2", "--json", "--workers", "1")
    assert status == 1
    assert "seed 0: FAILED, RuntimeError: out of [luck] (see " in err
    assert "Traceback" not in err
    (log,) = tmp_path.rglob("error.txt")
    assert "Traceback" in log.read_text()
    assert [record["record"] for record in read(out)] == [
        "failed",
        "round",
        "round",
        "run",
        "summary",
    ]


@pytest.mark.usefixtures("no_report")
def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(kdsim, small, monkeypatch):
    good = federated.run

    def stopped(experiment, root=None, **more):
        if experiment.seed == 1:
            raise KeyboardInterrupt
        return good(experiment, root, **more)

    command = ["fed", "local", *small, "--seeds", "2", "--workers", "1"]
    monkeypatch.setattr(federated, "run", stopped)
    status, _, err = kdsim(*command)
    assert status == 130
    assert "1 of 2 runs are done and kept in" in err
    assert "the same command goes on from there" in err
    monkeypatch.setattr(federated, "run", good)
    status, _, err = kdsim(*command)
    assert status == 0
    assert "1 of 2 runs are done already" in err


WRONG = {
    "unknown algorithm": (["fed", "fedmb"], "unknown algorithm 'fedmb'; did you mean 'fedmd'?"),
    "unknown method": (["graph", "glnm"], "unknown method 'glnm'"),
    "unknown command": (["fid"], "No such command 'fid'"),
    "unknown flag": (["fed", "fd", "--aplha", "1"], "--alpha"),
    "another's flag": (["fed", "fd", "--temperature", "1"], "No such option '--temperature'"),
    "data file": (["fed", "fd", "--data", "mnist"], "no train-images-idx3-ubyte.gz in"),
    "no Ray there": (
        ["fed", "fd", "--engine", "ray", "--ray-address", "127.0.0.1:1"],
        "no Ray cluster answers at '127.0.0.1:1'",
    ),
    "too many actors": (
        ["fed", "fd", "--engine", "ray", "--actors", "9999"],
        "9999 workers with their shares need 9999 CPU cores, and there are",
    ),
    "too little memory": (
        ["fed", "fd", "--engine", "batched", "--memory", "0.0001"],
        "and the memory budget is 0.0001 MB; raise it",
    ),
    "no clients": (["fed", "fd", "--clients", "0"], "clients must be >= 1, got 0"),
    "alpha": (["fed", "fd", "--alpha", "-1"], "alpha must be > 0 and finite, got -1.0"),
    "too many clients": (["fed", "fd", "--clients", "501"], "501 clients"),
    "rounds": (["fed", "fd", "--rounds", "-3"], "rounds must be >= 1, got -3"),
    "no number": (["fed", "fd", "--rounds", "x"], "'x' is not a valid integer"),
    "model": (["fed", "fd", "--models", "mlp,cnm"], "unknown model 'cnm'; did you mean 'cnn'?"),
    "features": (["fed", "fedproto"], "give all models one width by the end of their names"),
    "pools": (["fed", "fd", "--private", "1500", "--public", "900"], "1500 private, 900 public"),
    "fault": (["fed", "fd", "--corrupt", "7:nan"], "client from 0 to 4"),
    "lie": (["fed", "fedmd", "--liars", "0.2:nois"], "unknown lie 'nois'; did you mean 'noise'?"),
    "gpus": (["fed", "fd", "--gpus", "99"], "gpus is 99, and this machine has"),
    "no file": (["run", "nowhere.toml"], "no experiment file nowhere.toml"),
    "no TOML": (["run", "broken.toml"], "broken.toml is no TOML"),
    "unknown key": (["run", "key.toml"], "key.toml: unknown key 'aplha' in [fed]; did you mean"),
    "bad value": (["run", "ok.toml", "--set", "rounds=x"], "ok.toml: rounds is 'x'"),
    "a table": (["run", "ok.toml", "--set", "fed=3"], "fed is a table, and no setting; give one"),
    "no assignment": (["run", "ok.toml", "--set", "rounds"], "KEY=VALUE"),
    "out is a file": (["run", "ok.toml", "--out", "ok.toml"], "is no folder; name a new folder"),
    "no place": (
        ["run", "ok.toml", "--out", "ok.toml/x/y"],
        "ok.toml/x/y cannot be used: not a dir",
    ),
    "nested": (["run", "ok.toml", "--set", "rounds=" + "[" * 5000], "rounds is '[["),
    "deep": (["run", "deep.toml"], "nested too deep to be read"),
    "billions": (["fed", "fd", "--seeds", "1000000000"], "the most runs are 10000"),
    "list": (["list", "losse"], "did you mean 'losses'?"),
    "report": (["report", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_and_leaves_no_trace(kdsim, tmp_path, case):
    files = {
        "broken.toml": "[fed\n",
        "key.toml": "[fed]\nalgorithm = 'fd'\naplha = 1\n",
        "deep.toml": "[fed]\nalgorithm = 'fd'\n" + "a." * 2000 + "a = 1\n",
        "ok.toml": "[fed]\nalgorithm = 'fd'\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    arguments, message = WRONG[case]
    status, out, err = kdsim(*arguments)
    assert status == 2
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


@pytest.mark.usefixtures("no_report")
def test_a_folder_in_use_is_wrong_input(kdsim, small, tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom simulations.results.run_folder import locked\n"
    )
    code += "with locked(Path('out')):\n    print(flush=True); sys.stdin.read()"
    pipe = subprocess.PIPE
    path = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    other = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, env=path)
    other.stdout.readline()
    (tmp_path / "out" / "experiment.toml").write_text("")
    status, out, err = kdsim("fed", "local", *small, "--out", "out")
    assert (status, out) == (2, "")
    assert f"out is in use by process {other.pid}" in err
    assert err.count("\n") == 1
    assert (tmp_path / "out" / "experiment.toml").read_text() == ""
    other.communicate()


def test_the_unexpected_is_a_short_line_and_a_traceback_elsewhere(kdsim, small, monkeypatch):
    monkeypatch.setattr(scheduler, "check", lambda *_: [][0])
    status, _, err = kdsim("fed", "local", *small)
    assert status == 1
    assert err.startswith("failed: IndexError: list index out of range (traceback in ")
    assert err.count("\n") == 1
    log = Path(err.rpartition(" ")[2].strip().rstrip(")"))
    assert "Traceback" in log.read_text()
    log.unlink()


def test_help_lists_the_flags_and_their_defaults(kdsim):
    status, out, _ = kdsim("fed", "dsfl", "--help")
    assert status == 0
    words = " ".join(out.split())
    for text in ("--alpha FLOAT", "--local-learning-rate FLOAT", "--temperature FLOAT"):
        assert text in words
    assert "[default: 0.3]" in words
    assert "[default: mlp-64,mlp-128-64,cnn]" in words


def test_no_flag_means_two_things():
    for kind in ("fed", "graph", "recipe"):
        group = app.command().commands[kind]
        context = click.Context(group)
        names = group.list_commands(context) if isinstance(group, click.Group) else []
        for name in names:
            flags = [flag for one in group.get_command(context, name).params for flag in one.opts]
            assert len(flags) == len(set(flags)), name


def test_list_says_what_an_algorithm_reveals(kdsim):
    status, out, _ = kdsim("list", "algorithms", "--json")
    assert status == 0
    found = {record["name"]: record for record in read(out)}
    assert found["fedmd"]["public"] == "unlabelled"
    assert found["fedavg"]["summand"] == "weighted payload"
    assert found["fd"]["beyond_training"] == ["means", "rows"]
    assert "labels" in found["fd"]["server_learns"]
    assert found["dsfl"]["settings"]["temperature"] == 0.1
    _, out, _ = kdsim("list", "algorithms")
    words = " ".join(out.split())
    assert "server learns: which labels the client holds" in words
    assert "beyond training: means, rows" in words
    assert "beyond training: nothing" in words


def test_list_shows_everything(kdsim):
    status, out, _ = kdsim("list", "--json")
    assert status == 0
    names = {(record["record"], record["name"]) for record in read(out)}
    assert {
        ("algorithm", "fedmd"),
        ("method", "glnn"),
        ("loss", "graphkd.losses.local_structure"),
        ("loss", "kdcore.losses.response.kl"),
        ("model", "cnn"),
        ("dataset", "digits"),
        ("dataset", "digits-knn"),
        ("partition", "dirichlet"),
    } <= names


def test_the_doctor_says_what_is_missing_and_how_to_mend_it(kdsim):
    status, out, _ = kdsim("doctor")
    assert status == 0
    words = " ".join(out.split())
    for text in ("torch", "cores", "memory", "GPUs", "digits", "RAY_USAGE_STATS_ENABLED"):
        assert text in words
    assert "mnist: MNIST: no train-images-idx3-ubyte.gz" in words
    assert "mutag: mutag: no file" in words  # many graphs, each an example
    assert "coloured-trees │ there" in words


@pytest.mark.parametrize(
    ("commands", "heavy"),
    [
        ([["--help"]], ["torch"]),
        ([["fed", "--help"], ["fed", "fedmd", "--help"], ["list", "algorithms"]], []),
    ],
)
def test_start_up_loads_nothing_heavy(commands, heavy):
    heavy = [*heavy, "torch_geometric", "flwr", "ray", "matplotlib", "sklearn"]
    code = "import sys; from simulations.cli.app import main\n"
    code += f"assert not any([main(command) for command in {commands}])\n"
    code += f"assert not [m for m in {heavy} if m in sys.modules]"
    subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, check=True)


def test_switches_are_set_and_the_users_are_kept(kdsim, monkeypatch):
    monkeypatch.delenv("FLWR_TELEMETRY_ENABLED", raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    kdsim("--help")
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"
    assert set(app.SWITCHES) <= set(os.environ)


def test_a_cluster_not_this_machine_is_asked_for_gpus(kdsim, small, monkeypatch):
    """At port 1 nobody answers; that is what is said, not that this machine has none."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    command = ["fed", "fedmd", *small, "--engine", "ray", "--gpus", "1"]
    status, _, err = kdsim(*command, "--ray-address", "127.0.0.1:1")
    assert (status, err.partition(" (")[0]) == (2, "no Ray cluster answers at '127.0.0.1:1'")
    for here in (["graph", "mlp", "--gpus", "1"], ["fed", "fedmd", *small, "--gpus", "1"]):
        status, _, err = kdsim(*here)
        assert (status, err.partition(" that")[0]) == (2, "gpus is 1, and this machine has 0")
    status, _, err = kdsim(*command, "--actors", "1")
    assert status == 2
    assert err.startswith("1 worker with their shares need 1 GPUs, and there are 0; take fewer")


def test_the_module_is_the_command(tmp_path):
    run = [sys.executable, "-m", "simulations", "run", "nowhere.toml"]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "no experiment file nowhere.toml, nor one of that name that comes with kdsim; "
        "see `kdsim list experiments`\n"
    )


def test_the_version_is_that_of_the_distribution(kdsim):
    import importlib.metadata

    assert kdsim("--version") == (0, f"kdsim {importlib.metadata.version('kdsim')}\n", "")


@pytest.mark.parametrize("name", ["kdsim", "fedkd", "kdcore"])
def test_a_file_that_hides_a_package_of_ours_is_named_in_one_line(tmp_path, name):
    (tmp_path / f"{name}.py").write_text("")
    run = [sys.executable, "-m", "simulations", "--version"]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"is hidden by {tmp_path / name}.py; rename that" in done.stderr


@pytest.mark.usefixtures("no_report")
def test_an_algorithm_in_the_working_folder_is_found(tmp_path, small, kdsim):
    (tmp_path / "my_algorithm.py").write_text(
        "from fedkd.algorithms.local import Local\nclass Mine(Local):\n    pass\n"
    )
    before = list(sys.path)
    status, out, _ = kdsim("fed", "my_algorithm:Mine", *small, "--no-baseline", "--json")
    assert status == 0
    assert read(out)[-1]["method"] == "my_algorithm:Mine"
    assert sys.path == before
    sys.modules.pop("my_algorithm")
