import os
import signal
import threading
import time

import pytest

from fedkd import algorithms
from graphkd import methods
from simulations import machine
from simulations.config import identity
from simulations.config.experiments import FedExperiment, GraphExperiment
from simulations.config.resources import Resources
from simulations.execution import scheduler
from simulations.execution.scheduler import Job
from simulations.results import run_folder
from tests.simulations.conftest import read, timeless

SMALL = dict(clients=3, private=60, public=20, test=40, rounds=2, models=("mlp-8",))


@pytest.fixture(autouse=True)
def _same_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))


def jobs(out, count, **settings):
    local = algorithms.get("fd")()
    experiments = [FedExperiment(local, seed=s, **(SMALL | settings)) for s in range(count)]
    return [Job(e, out / identity.folder_name(e), None, Resources()) for e in experiments]


def test_each_setting_is_checked_once(monkeypatch):
    from simulations.runners import federated

    prepared = []
    monkeypatch.setattr(
        federated, "prepare", lambda experiment, root, **more: prepared.append(experiment)
    )
    local, fd = (algorithms.get(name)() for name in ("local", "fd"))
    experiments = [FedExperiment(a, seed=s) for a in (local, fd) for s in range(3)]
    scheduler.check(experiments, None)
    assert [experiment.name for experiment in prepared] == ["local", "fd"]


def test_workers_are_as_many_as_the_cores_hold():
    cores = machine.cores()
    assert scheduler.workers_for(Resources(), None) == cores
    assert scheduler.workers_for(Resources(cpus=cores + 1), None) == 1
    assert scheduler.workers_for(Resources(), 7) == 7


def test_short_work_does_not_start_ray(tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "_on_ray", lambda *_: pytest.fail("Ray was started"))
    records = list(scheduler.run(jobs(tmp_path, 3), workers=2, patience=1e6))
    assert [record["record"] for _, record in records].count("run") == 3


def test_all_settings_have_their_first_seed_before_any_has_its_second(tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "attempt", lambda job: [{"record": "run"}])
    slow, quick = jobs(tmp_path, 3, rounds=2), jobs(tmp_path, 3)
    order = [job for job, _ in scheduler.run([*slow, *quick], workers=1)]
    assert order == [job for pair in zip(slow, quick, strict=True) for job in pair]


def test_graph_runs_of_a_folder_share_their_teachers(tmp_path):
    quick = {"epochs": 3, "teacher_epochs": 3}
    experiments = [GraphExperiment(methods.get(n)(**quick)) for n in ("glnn", "krd")]
    chosen = [Job(e, tmp_path / identity.folder_name(e), None, Resources()) for e in experiments]
    ends = [record for _, record in scheduler.run(chosen, 1) if record["record"] == "run"]
    assert len({end["metrics"]["accuracy_teacher"] for end in ends}) == 1
    assert len(list((tmp_path / scheduler.TEACHERS).glob("*.safetensors"))) == 1
    assert len(run_folder.load(tmp_path)) == 2


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray leaves files to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("no_report")
def test_a_grid_on_ray_outlives_its_workers_and_gives_the_same_records(kdsim, tmp_path):
    (tmp_path / "grid.toml").write_text(GRID)
    killer = threading.Thread(target=kill_worker, args=(tmp_path / "ray",))
    killer.start()
    status, out, err = kdsim("run", "grid.toml", "--workers", "2", "--json", "--out", "ray")
    killer.join()
    assert status == 0, err
    assert err.count("accuracy") == 8
    records = read(out)
    assert [record["record"] for record in records].count("run") == 8
    summaries = [record for record in records if record["record"] == "summary"]
    assert len(summaries) == 4
    assert all(summary["metrics"]["accuracy_baseline"]["n"] == 2 for summary in summaries)
    assert kdsim("run", "grid.toml", "--workers", "1", "--out", "here")[0] == 0
    one, other = (
        {run.path.name: timeless(run.records) for run in run_folder.load(tmp_path / out)}
        for out in ("ray", "here")
    )
    assert one == other


GRID = """
[fed]
algorithm = ["local", "fd"]
seeds = 2
rounds = [60, 2]
clients = 3
private = 60
public = 20
test = 40
models = ["mlp-8"]
"""


def kill_worker(folder):
    """Kill the process that writes the first run, once, after its first records."""
    while not (held := holders(folder)):
        time.sleep(0.01)
    os.kill(held[0], signal.SIGKILL)


def holders(folder):
    """The processes that write a run's records just now."""
    begun = [path for path in folder.glob("*/metrics.jsonl") if path.read_text()]
    locks = [(path.parent / run_folder.LOCK).read_text() for path in begun]
    return [int(text) for text in locks if text]
