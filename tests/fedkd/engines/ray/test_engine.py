"""Clients in Ray actors: the same bits for any number of workers, and nothing lost with one."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fedkd.algorithms.fedmd import FedMD
from fedkd.engines.fault_tolerance import fault_tolerant
from fedkd.rounds import checkpoint
from fedkd.rounds.client_sampling import uniform
from fedkd.rounds.evaluation import evaluate
from fedkd.rounds.round import deployed
from fedkd.rounds.synchronous import simulate
from tests import hostile_modules
from tests.conftest import tiny_federation

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SIZES = (7, 1, 12, 3, 5, 4, 9, 2, 6, 8)


@pytest.fixture(scope="module")
def cluster():
    """One Ray for all tests here, as for a user whose process is connected already."""
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # loopback only
    from fedkd.engines.ray.engine import ray

    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    ray.init(address="local", num_cpus=4, object_store_memory=2**27, **quiet)
    yield ray
    ray.shutdown()


def last(algorithm, federation, **options):
    return list(simulate(algorithm, federation.task, federation.clients, rounds=3, **options))[-1]


def test_same_bits_for_any_number_of_workers(cluster):
    from fedkd.engines.ray.engine import RayEngine

    algorithm = FedMD()
    federation = tiny_federation(sizes=SIZES)
    digests, scores = set(), []
    for workers in (1, 2, 4):
        with RayEngine(workers, chunk=2) as engine:
            done = last(algorithm, federation, engine=engine, sample=uniform(0.6))
            digests.add(checkpoint.digest(done))
            clients = deployed(algorithm, federation.task, done, engine=engine)
            counts = federation.label_counts
            scores.append(evaluate(federation.task, clients, federation.test, counts, engine))
    assert len(digests) == 1
    for score in scores[1:]:
        assert score.keys() == scores[0].keys()
        assert all(torch.equal(value, scores[0][name]) for name, value in score.items())


def test_engine_leaves_ray_as_it_found_it(cluster):
    from fedkd.engines.ray.engine import RayEngine

    other = cluster.put("somebody else's")
    with RayEngine(2) as engine:
        last(FedMD(), tiny_federation(), engine=engine)
    assert cluster.is_initialized()
    assert cluster.get(other) == "somebody else's"


@dataclass(frozen=True)
class Killed(FedMD):
    """FedMD whose clients kill their process once, as often as there are files in a folder."""

    folder: str = ""

    def client_update(self, predict, params, received, private, public):
        for file in sorted(Path(self.folder).iterdir())[:1] if received else ():
            # Where the other worker took the same file first, there is nothing to die for: an error
            # would make the engine run this chunk client by client, which rounds otherwise.
            with suppress(FileNotFoundError):
                file.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().client_update(predict, params, received, private, public)


@pytest.mark.parametrize("kills", [1, 2])
def test_a_killed_worker_loses_no_reply(cluster, tmp_path, kills):
    from fedkd.engines.ray.engine import RayEngine

    federation = tiny_federation(sizes=SIZES)
    with RayEngine(2, chunk=2) as engine:
        calm = last(Killed(folder=str(tmp_path)), federation, engine=engine)
    for number in range(kills):
        (tmp_path / str(number)).touch()
    with RayEngine(2, chunk=2) as engine:
        stormy = last(Killed(folder=str(tmp_path)), federation, engine=engine)
        assert engine.restarts >= 1
    assert not list(tmp_path.iterdir())
    assert stormy.failed == {}
    assert checkpoint.digest(stormy) == checkpoint.digest(calm)


@dataclass(frozen=True)
class Odd(FedMD):
    """FedMD in which the client with one example raises, or hangs, from the second round on."""

    does: str = "raise"

    def client_update(self, predict, params, received, private, public):
        if received and not self._stacked(private) and float(private.size) == 1:
            if self.does == "raise":
                raise ZeroDivisionError("one example is too few")
            time.sleep(3600)
        if received and self._stacked(private):
            raise RuntimeError("look at each client alone")
        return super().client_update(predict, params, received, private, public)

    @staticmethod
    def _stacked(private):
        return torch._C._functorch.is_batchedtensor(private.order)


def test_a_client_that_raises_is_named_and_the_others_go_on(cluster):
    from fedkd.engines.ray.engine import RayEngine

    federation = tiny_federation(sizes=SIZES)
    with RayEngine(2, chunk=2) as engine:
        done = last(Odd(), federation, engine=engine)
    assert list(done.failed) == [1]
    assert "ZeroDivisionError: one example is too few" in done.failed[1]


def test_without_ray_too():
    done = last(Odd(), tiny_federation(sizes=SIZES), engine=fault_tolerant())
    assert done.failed == {1: "ZeroDivisionError: one example is too few"}


def test_a_client_that_hangs_meets_the_deadline(cluster):
    from fedkd.engines.ray.engine import RayEngine

    federation = tiny_federation(sizes=(7, 1, 5))
    with RayEngine(1, chunk=2, deadline=30.0) as engine:  # in which all others are done, anywhere
        task, clients = federation.task, federation.clients
        rounds = list(simulate(Odd(does="hang"), task, clients, rounds=2, engine=engine))
    assert rounds[0].failed == {}
    assert rounds[1].failed == {1: "no result within 30 s"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers and chunk must be at least 1"),
        ({"deadline": 0.0}, "the deadline and the patience positive"),
        ({"workers": 9999}, "need 9999 CPU cores, and there are"),
    ],
)
def test_what_cannot_be(cluster, options, message):
    from fedkd.engines.ray.engine import RayEngine

    with pytest.raises(ValueError, match=message):
        RayEngine(**options)


def test_more_gpus_than_there_are(cluster):
    from fedkd.engines.ray.engine import RayEngine, Share

    with pytest.raises(ValueError, match="GPUs, and there are"):
        RayEngine(2, share=Share(1, 64.0))


LISTENS = """
import psutil
from fedkd.engines.ray.engine import RayEngine
with RayEngine(1):
    for process in psutil.Process().children(recursive=True):
        for place in process.net_connections("inet"):
            if place.status == psutil.CONN_LISTEN:
                print(place.laddr.ip)
"""


def test_a_ray_of_our_own_listens_on_loopback_alone():
    """From a script, without the command's switches."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", LISTENS],
        env=environment | {"OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).resolve().parents[4],
        capture_output=True,
        text=True,
    )
    assert set(done.stdout.split()) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, done.stdout
    assert done.stdout, done.stderr


def test_a_model_that_cannot_be_sent_is_refused_in_a_line(cluster):
    from fedkd.engines.ray.engine import RayEngine, check_models

    federation = tiny_federation([hostile_modules.Spectral], sizes=(3, 4))
    said = "^model Spectral cannot be sent to actors of Ray .*parametrized.*take another engine"
    with pytest.raises(ValueError, match=said) as caught:
        check_models(federation.task.models)
    assert "\n" not in str(caught.value)
    with RayEngine(1) as engine, pytest.raises(ValueError, match=said):
        last(FedMD(), federation, engine=engine)
    sent = [hostile_modules.Remembering, hostile_modules.Hooked, hostile_modules.compiled]
    check_models(tiny_federation(sent, sizes=(3, 4)).task.models)
