"""A cluster of several nodes: what finds no room is named, and a lost node costs time alone."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedkd.algorithms.fedmd import FedMD
from fedkd.engines.batched import batched
from fedkd.engines.fault_tolerance import EngineError, fault_tolerant
from fedkd.engines.ray.cluster import ray
from fedkd.engines.ray.engine import RayEngine, Share
from fedkd.engines.ray.engine import check as check_engine
from fedkd.rounds import checkpoint
from fedkd.rounds.synchronous import simulate
from tests import clusters
from tests.clusters import add
from tests.conftest import tiny_federation

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SIZES = (7, 1, 12, 3, 5, 4, 9, 2)


@pytest.fixture
def cluster():
    with clusters.cluster() as found:
        yield found


def join(cluster):
    """Connect as the engine would, to stay connected when it is closed."""
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")


@ray.remote
class Holder:
    """Somebody else's actor, which holds what an actor of ours would need."""

    def there(self):
        return True

    def leave(self, after):
        time.sleep(after)
        ray.actor.exit_actor()


def hold():
    holder = Holder.options(num_cpus=1).remote()
    assert ray.get(holder.there.remote())
    return holder


@dataclass(frozen=True)
class Signalled(FedMD):
    """FedMD whose clients say that they are at work, and then wait to be heard."""

    folder: str = ""

    def client_update(self, predict, params, received, private, public):
        folder = Path(self.folder)
        if received and (folder / "listening").exists():
            (folder / "at work").touch()
            while not (folder / "heard").exists():
                time.sleep(0.05)
        return super().client_update(predict, params, received, private, public)


# Up to 100 kB travel within messages; parameters of half of these clients lie in stores of Ray's.
MODELS = ("mlp-2000", "mlp-7-8")


def federation():
    return tiny_federation(models=MODELS, sizes=SIZES)


def rounds_of(engine, algorithm=None, rounds=4):
    parties = federation()
    return simulate(
        algorithm or FedMD(), parties.task, parties.clients, rounds=rounds, engine=engine
    )


def undisturbed():
    """The same rounds in this process, chunk by chunk as the engine's actors do them."""
    with RayEngine(1, chunk=2) as engine:
        *_, last = rounds_of(engine)
        return checkpoint.digest(last)


def test_a_share_that_no_node_holds_is_refused_at_once(cluster):
    add(cluster, 2)
    for refuse in (
        lambda: check_engine([Share(2)], cluster.address),
        lambda: RayEngine(1, share=Share(2), address=cluster.address),
    ):
        with pytest.raises(ValueError, match="2 CPU cores and 0 GPUs each do not fit: node "):
            refuse()
        assert not ray.is_initialized()


def test_a_deadline_does_not_count_until_a_worker_has_started(cluster):
    """The only core is held for longer than the deadline."""
    add(cluster, 1)
    join(cluster)
    holder = hold()
    holder.leave.remote(after=35)
    with RayEngine(1, chunk=2, deadline=30.0) as engine:
        first = next(iter(rounds_of(engine)))
    assert first.failed == {}
    assert engine.restarts == 0


def test_where_only_some_find_room_they_do_the_work_of_all(cluster):
    add(cluster, 2)
    join(cluster)
    holder = hold()
    with RayEngine(2, chunk=2, patience=15.0) as engine:
        *_, last = rounds_of(engine)
    assert engine.notes == [
        "1 of 2 workers came; no room for more within 15 s",
    ]
    ray.kill(holder)
    assert checkpoint.digest(last) == undisturbed()


def test_where_nobody_finds_room_the_engine_ends_in_one_line(cluster):
    add(cluster, 1)
    join(cluster)
    holder = hold()
    with RayEngine(1, chunk=2, patience=10.0) as engine, pytest.raises(EngineError) as raised:
        next(iter(rounds_of(fault_tolerant(engine))))
    said = str(raised.value)
    assert said.startswith(
        "no worker of 1 CPU cores and 0 GPUs is there: no room for more within 10 s; "
    )
    assert " has 1 CPU cores and 0 GPUs" in said
    assert "\n" not in said
    del holder


@pytest.mark.parametrize("replaced", [True, False])
def test_a_node_lost_between_rounds_costs_nothing_but_time(cluster, replaced):
    nodes = add(cluster, 2)
    join(cluster)
    with RayEngine(2, chunk=2, patience=600.0 if replaced else 15.0) as engine:
        for done in rounds_of(engine):
            if done.index == 2:
                cluster.remove_node(nodes.pop(), allow_graceful=False)
                if replaced:
                    nodes += add(cluster, 1)
            assert done.failed == {}
    assert engine.restarts == 1
    came = "1 came" if replaced else "0 came"
    assert engine.notes[0].startswith(f"1 workers were lost, and {came} in their place")
    assert checkpoint.digest(done) == undisturbed()


def test_a_node_lost_in_the_middle_of_a_round_costs_nothing_but_time(cluster, tmp_path):
    """Two actors go with it at once, both at work."""
    (lost,) = add(cluster, 1, num_cpus=2)
    join(cluster)

    def lose():
        while not (tmp_path / "at work").exists():
            time.sleep(0.05)
        cluster.remove_node(lost, allow_graceful=False)
        (tmp_path / "listening").unlink()
        (tmp_path / "heard").touch()

    thief = threading.Thread(target=lose)
    thief.start()
    with RayEngine(2, chunk=2) as engine:
        for done in rounds_of(engine, Signalled(folder=str(tmp_path))):
            assert done.failed == {}
            if done.index == 2:  # the actors are where they are; now there is room elsewhere too
                add(cluster, 2)
                (tmp_path / "listening").touch()
    thief.join()
    assert engine.restarts == 2
    assert checkpoint.digest(done) == undisturbed()


def test_without_any_node_left_the_engine_ends_in_one_line(cluster):
    (only,) = add(cluster, 1)
    join(cluster)
    with RayEngine(1, chunk=2, patience=10.0) as engine:
        rounds = rounds_of(fault_tolerant(engine))
        next(rounds)
        cluster.remove_node(only, allow_graceful=False)
        with pytest.raises(EngineError, match="no worker of 1 CPU cores and 0 GPUs is there"):
            next(rounds)


def test_a_cluster_is_asked_for_its_own_gpus(cluster, tmp_path):
    """As if the nodes had one each; what runs on them still finds none, and takes the CPU."""
    from simulations.cli import app

    add(cluster, 1, num_cpus=2, num_gpus=1)
    small = ["--rounds", "1", "--clients", "3", "--private", "60", "--models", "mlp-8"]
    where = ["--engine", "ray", "--actors", "1", "--ray-address", cluster.address]
    command = ["fed", "fedmd", *small, *where, "--out", str(tmp_path / "out"), "--no-baseline"]
    assert app.main([*command, "--gpus", "0.5"]) == 0
    assert app.main([*command, "--gpus", "2"]) == 2


def test_the_batched_engine_agrees(cluster):
    add(cluster, 2)
    join(cluster)
    with RayEngine(2, chunk=2) as engine:
        *_, last = rounds_of(engine)
    *_, expected = rounds_of(batched(2))
    assert (last.server["consensus"] - expected.server["consensus"]).abs().max() < 1e-5
