"""Grids on a cluster of two nodes: the same runs as here, whatever happens to the nodes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import kdsim as api
from simulations.execution import cluster, remote
from simulations.execution.scheduler import TEACHERS
from simulations.results import run_folder
from tests import clusters
from tests.clusters import add
from tests.fedkd.data.test_datasets import write
from tests.simulations.conftest import timeless

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("no_report")]
CHECKOUT = Path(__file__).resolve().parents[3]

FED = """
[fed]
algorithm = ["local", "fd", "fedmd"]
seeds = 4
alpha = [0.3, 1.0]
rounds = 3
clients = 3
private = 60
public = 20
test = 40
models = ["mlp-8"]
"""

MIXED = """
[fed]
algorithm = "fedmd"
engine = "ray"
rounds = 2
clients = 3
private = 60
public = 20
test = 40
models = ["mlp-16", "cnn-4", "resnet8-4"]

[graph]
method = ["glnn", "krd"]
data = "digits-knn"
seeds = 2
[method.glnn]
epochs = 4
teacher_epochs = 20
[method.krd]
epochs = 4
teacher_epochs = 20

[resources]
actors = 1
gpus = 0.25
shares = ["cnn-4=1:0.5", "mlp-16=1"]
"""

LONG = """
[fed]
algorithm = "fedmd"
seeds = 2
rounds = 80
clients = 8
private = 400
public = 100
test = 100
models = ["mlp-64"]
eval_every = 10
[resources]
checkpoint_every = 5
"""


@pytest.fixture(scope="module")
def two():
    """Two nodes of four cores, each as if it had a GPU, which nothing there finds."""
    with clusters.cluster() as found:
        add(found, 2, num_cpus=4, num_gpus=1)
        yield found


@pytest.fixture
def small_nodes():
    """Two nodes of one core, to be lost."""
    with clusters.cluster() as found:
        add(found, 2)
        yield found


def records_in(folder):
    return {run.path.name: timeless(run.records) for run in run_folder.load(folder)}


def places_in(folder):
    heads = [run_folder.head(path.parent) for path in folder.glob("*/run.json")]
    return {f"{h['experiment'].get('algorithm', '')}{h['experiment']['seed']}": h for h in heads}


def test_a_grid_gives_the_same_records_as_here(two, kdsim, tmp_path):
    (tmp_path / "grid.toml").write_text(FED)
    status, out, err = kdsim(
        "run", "grid.toml", "--ray-address", two.address, "--out", "there", "--json"
    )
    assert status == 0, err
    assert out.count('"record": "run"') == 24
    assert err.count(" with 1 CPU cores and 0 GPUs") == 24  # a line for each, and where it is
    assert "Where it ran" in err
    assert kdsim("run", "grid.toml", "--workers", "1", "--out", "here")[0] == 0
    there = records_in(tmp_path / "there")
    assert len(there) == 24
    assert there == records_in(tmp_path / "here")
    # It is done, and so nobody needs the cluster.
    again = kdsim("run", "grid.toml", "--ray-address", "127.0.0.1:1", "--out", "there")
    assert again[0] == 0
    weights = [f"{name}/{run_folder.WEIGHTS}" for name in there]
    assert all(
        (tmp_path / "there" / w).read_bytes() == (tmp_path / "here" / w).read_bytes()
        for w in weights
    )


def test_shares_of_gpus_and_of_architectures_are_kept(two, kdsim, tmp_path):
    """As the nodes have GPUs for Ray alone, all compute on the CPU, and a note says so."""
    (tmp_path / "grid.toml").write_text(MIXED)
    status, _, err = kdsim("run", "grid.toml", "--ray-address", two.address, "--out", "there")
    assert status == 0, err
    assert err.count("of which PyTorch") == 2
    heads = [run_folder.head(path.parent) for path in (tmp_path / "there").glob("*/run.json")]
    fed = [h["placed"] for h in heads if h["experiment"]["kind"] == "fed"]
    graph = [h["placed"] for h in heads if h["experiment"]["kind"] == "graph"]
    assert [where["share"] for where in fed] == [{"cpus": 1, "gpus": 0}]
    shares = sorted((a["share"]["gpus"], a["share"]["cpus"], a["gpus"]) for a in fed[0]["actors"])
    assert shares == [(0.0, 1.0, []), (0.25, 1.0, [0]), (0.5, 1.0, [0])]
    assert all((w["share"], w["gpus"]) == ({"cpus": 1, "gpus": 0.25}, [0]) for w in graph)
    assert {head["device"] for head in heads} == {"cpu"}
    options = ["--set", "resources.gpus=0.0", "--set", "resources.shares=[]"]
    assert kdsim("run", "grid.toml", *options, "--workers", "1", "--out", "here")[0] == 0
    assert records_in(tmp_path / "there") == records_in(tmp_path / "here")


def test_a_teacher_is_trained_by_one_run_and_others_wait_for_it(two, tmp_path):
    """Two methods and one seed: there is room for both at once, and yet the second comes later."""
    heard = []

    def hear(job, record):
        heard.append((job.experiment.name, record["record"], record.get("phase")))

    where = {"out": tmp_path / "out", "ray_address": two.address, "listener": hear}
    api.run(["glnn", "krd"], "digits-knn", epochs=3, teacher_epochs=40, **where)
    first = heard[0][0]
    (second,) = {"glnn", "krd"} - {first}
    assert heard[0] == (first, "placed", None)
    assert heard.index((first, "epoch", "baseline")) < heard.index((second, "placed", None))
    assert len(list((tmp_path / "out" / TEACHERS).glob("*.safetensors"))) == 1


def test_code_of_ones_own_goes_along(two, kdsim, own_code):
    (own_code / "parts.py").write_text("WIDTH = 12\n")
    (own_code / "net.py").write_text(NET)
    (own_code / "mine.py").write_text(MINE)
    (own_code / "grid.toml").write_text(
        FED.replace('["local", "fd", "fedmd"]', '["mine:Mine"]')
        .replace('"mlp-8"', '"net.py:Net"')
        .replace("seeds = 4", "seeds = 1")
    )
    status, _, err = kdsim("run", "grid.toml", "--ray-address", two.address, "--out", "there")
    assert status == 0, err
    assert kdsim("run", "grid.toml", "--workers", "1", "--out", "here")[0] == 0
    assert records_in(own_code / "there") == records_in(own_code / "here")


def test_a_search_joins_the_cluster_once(two, kdsim, own_code, monkeypatch):
    (own_code / "parts.py").write_text("WIDTH = 12\n")
    (own_code / "net.py").write_text(NET)
    (own_code / "grid.toml").write_text(SEARCHED)
    joined, join = [], cluster.ours.join

    def counted(*where, **how):
        joined.append(how)
        join(*where, **how)

    monkeypatch.setattr(cluster.ours, "join", counted)
    rate = ["--search", "local.learning_rate=log(0.01, 1)", "--trials", "3"]
    status, _, err = kdsim("tune", "grid.toml", *rate, "--ray-address", two.address, "--out", "a")
    assert status == 0, err
    assert len(joined) == 1
    assert kdsim("tune", "grid.toml", *rate, "--workers", "1", "--out", "b")[0] == 0
    for name in ("000", "001", "002"):
        assert records_in(own_code / "a/trials" / name) == records_in(own_code / "b/trials" / name)


SEARCHED = """
[fed]
algorithm = "fedmd"
rounds = 1
clients = 3
private = 60
public = 20
validation = 20
test = 40
models = ["net.py:Net"]
"""

NET = """
from torch import nn
from parts import WIDTH

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
"""

MINE = '''
from dataclasses import dataclass
from fedkd.algorithms.fd import FD

@dataclass(frozen=True)
class Mine(FD):
    """FD by another name."""

@dataclass(frozen=True)
class Broken(FD):
    """FD that cannot sum."""

    def server_update(self, task, server, uploads, public):
        raise ArithmeticError("these do not add up")
'''


def test_a_run_that_fails_there_fails_here(two, kdsim, own_code):
    (own_code / "mine.py").write_text(MINE)
    small = ["--rounds", "2", "--clients", "3", "--private", "60", "--public", "0"]
    where = ["--ray-address", two.address, "--out", "out", "--no-baseline"]
    status, _, err = kdsim("fed", "mine:Broken", *small, "--models", "mlp-8", *where)
    assert status == 1
    assert "FAILED, ArithmeticError: these do not add up (see " in err
    (log,) = (own_code / "out").glob(f"*/{run_folder.ERROR}")
    assert "in server_update" in log.read_text()


MISTAKES = {
    "address": (["--ray-address", "auto"], "the address of a Ray cluster is 'auto'; expected HOST"),
    "client": (["--ray-address", "ray://127.0.0.1:10001"], "expected HOST:PORT of one that `ray"),
    "nobody": (["--ray-address", "127.0.0.1:1"], "no Ray cluster answers at '127.0.0.1:1'"),
    "too many GPUs": (["--set", "resources.gpus=2"], "1 worker of 1 CPU cores and 2 GPUs each do"),
    "fractions": (
        ["--set", "fed.engine=ray", "--set", "resources.actors=3", "--set", "resources.gpus=0.6"],
        "3 workers of 1 CPU cores and 0.6 GPUs each do not fit",
    ),
    "no data": (["--set", "fed.data=mnist", "--data-root", "/nowhere"], "/nowhere"),
    "no CUDA": (
        ["--device", "cuda", "--set", "resources.gpus=0.5"],
        "Ray has 1 GPUs here, of which PyTorch",
    ),
    "no share": (["--device", "cuda"], "device cuda on a cluster: say which share of a GPU"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_run_there_is_said_before_any_run(name, two, kdsim, tmp_path):
    (tmp_path / "grid.toml").write_text(FED)
    more, expected = MISTAKES[name]
    address = [] if "--ray-address" in more else ["--ray-address", two.address]
    status, out, err = kdsim("run", "grid.toml", *address, *more, "--out", "out")
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert expected in err
    assert not (tmp_path / "out").exists()


def test_other_versions_on_a_node_are_said_before_any_run(two, kdsim, tmp_path, monkeypatch):
    (tmp_path / "grid.toml").write_text(FED)
    own = run_folder.versions()
    monkeypatch.setattr(run_folder, "versions", lambda: own | {"torch": "2.4.0"})
    status, _, err = kdsim("run", "grid.toml", "--ray-address", two.address, "--out", "out")
    assert status == 2
    assert err.startswith("node ")
    assert f"has torch {own['torch']} (here 2.4.0); install the same versions there" in err
    assert not (tmp_path / "out").exists()


def test_data_that_one_node_lacks_are_said_before_any_run(two, kdsim, tmp_path, monkeypatch):
    """They are there when this process looks, and gone when a node does."""
    from simulations.execution import scheduler

    (tmp_path / "grid.toml").write_text(FED)
    monkeypatch.setattr(scheduler, "check", lambda *_, **__: None)
    more = ["--set", "fed.data=mnist", "--data-root", tmp_path]
    status, _, err = kdsim("run", "grid.toml", "--ray-address", two.address, *more, "--out", "out")
    assert status == 2
    assert err.startswith("node ")
    assert str(tmp_path / "MNIST") in err


def test_other_data_on_a_node_are_said_before_any_run(two, kdsim, tmp_path):
    """This process has read them already when a label of theirs is changed."""
    folder = write(tmp_path / "MNIST" / "raw", packed=False)
    (tmp_path / "grid.toml").write_text(FEW)
    status, _, err = kdsim("run", "grid.toml", "--data-root", tmp_path, "--out", "here")
    assert status == 0, err
    for path in folder.glob("train-labels*"):
        path.write_bytes(path.read_bytes()[:-1] + b"\x09")
    more = ["--data-root", tmp_path, "--ray-address", two.address, "--out", "out"]
    status, _, err = kdsim("run", "grid.toml", *more)
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("node ")
    assert "has other data under the name 'mnist' than this machine; copy the data root" in err
    assert not (tmp_path / "out").exists()


FEW = """
[fed]
algorithm = "local"
data = "mnist"
rounds = 1
clients = 2
private = 4
public = 0
test = 3
partition = "iid"
models = ["mlp-8"]
"""


def test_a_node_that_is_lost_costs_nothing_but_time(small_nodes, kdsim, tmp_path):
    (tmp_path / "long.toml").write_text(LONG)
    nodes = {node.node_id: node for node in small_nodes.worker_nodes}
    places, notes = {}, []

    def hear(job, record):
        if record["record"] == "placed":
            places.setdefault(job.folder, []).append(record["node"])
        notes.extend(record.get("notes", ()))
        if record.get("round") == 20 and len(nodes) == 2:
            (lost,) = (i for i in nodes if places[job.folder][-1] == f"node {i[:12]}")
            small_nodes.remove_node(nodes.pop(lost), allow_graceful=False)

    there = api.run("long.toml", out="there", ray_address=small_nodes.address, listener=hear)
    assert len(there) == 2
    assert sorted(len(nodes) for nodes in places.values()) == [1, 2]
    (said,) = notes
    assert said.startswith("its worker was lost (")
    assert "goes on elsewhere from the checkpoint of round " in said
    assert kdsim("run", "long.toml", "--workers", "1", "--out", "here")[0] == 0
    assert records_in(tmp_path / "there") == records_in(tmp_path / "here")


def test_actors_that_are_lost_for_good_are_done_without(kdsim, tmp_path):
    """The run and one actor need all of the first node, the other actor all of the second."""
    (tmp_path / "grid.toml").write_text(ACTORS)
    with clusters.cluster() as found:
        add(found, 1, num_cpus=3)
        (second,) = add(found, 1, num_cpus=2)
        notes = []

        def hear(job, record):
            notes.extend(record.get("notes", ()))
            if record.get("round") == 3:
                found.remove_node(second, allow_graceful=False)

        api.run("grid.toml", out="there", ray_address=found.address, listener=hear)
    assert [note for note in notes if note.startswith("1 workers were lost, and 0 came")]
    one = ["--set", "resources.actors=1"]  # for which this machine may have the cores
    assert kdsim("run", "grid.toml", *one, "--out", "here")[0] == 0
    there, here = (
        [{k: v for k, v in r.items() if k != "notes"} for r in records]
        for out in ("there", "here")
        for records in records_in(tmp_path / out).values()
    )
    assert there == here


ACTORS = """
[fed]
algorithm = "fedmd"
engine = "ray"
chunk = 2
rounds = 6
clients = 6
private = 120
public = 20
test = 40
models = ["mlp-8"]
[resources]
cpus = 2
actors = 2
"""


def test_ctrl_c_leaves_nothing_behind(small_nodes, kdsim, tmp_path):
    (tmp_path / "long.toml").write_text(LONG.replace("rounds = 80", "rounds = 100000"))
    command = [sys.executable, "-m", "simulations", "run", "long.toml", "--out", "out"]
    command += ["--ray-address", small_nodes.address]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    driver = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    while len(list(tmp_path.glob("out/*/checkpoint/round-*"))) < 3:
        assert driver.poll() is None, driver.stderr.read()
        time.sleep(0.2)
    left = ours()
    assert left
    driver.send_signal(signal.SIGINT)
    _, err = driver.communicate()
    assert driver.returncode == 130
    assert "stopped; 0 of 2 runs are done and kept in out" in err
    assert not any(path.exists() for path in left)
    while not ended(left):
        time.sleep(0.2)
    reached = [len(run.records) for run in run_folder.load(tmp_path / "out")]
    assert max(reached) >= 5


def test_a_head_that_is_lost_is_said_in_a_line(tmp_path):
    (tmp_path / "long.toml").write_text(LONG.replace("rounds = 80", "rounds = 100000"))
    command = [sys.executable, "-m", "simulations", "run", "long.toml", "--out", "out"]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with clusters.cluster() as found:
        add(found, 2)
        address = found.address
        command += ["--ray-address", address]
        driver = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
        while len(list(tmp_path.glob("out/*/checkpoint/round-*"))) < 3:
            assert driver.poll() is None, driver.stderr.read()
            time.sleep(0.2)
        found.remove_node(found.head_node, allow_graceful=False)
        _, err = driver.communicate()
    assert driver.returncode == 1
    said = f"the head of the Ray cluster at {address} was lost, and with it all that ran "
    assert f"{said}there; 0 of 2 runs are done and kept in out; start the cluster, and " in err
    assert "Traceback" not in err
    assert not list(tmp_path.glob("out/*/error.txt"))


def ours():
    """Folders of runs whose processes are below this one."""
    found = Path(remote.tempfile.gettempdir()).glob(f"{remote.PREFIX}*")
    return [path for path in found if os.getpid() in above(path)]


def above(path):
    try:
        return [parent.pid for parent in psutil.Process(owner(path)).parents()]
    except psutil.NoSuchProcess:
        return []


def owner(path):
    return int(path.name.rsplit("-", 2)[1])


def ended(folders):
    return not any(psutil.pid_exists(owner(path)) for path in folders)
