"""The main job on one machine, on Ray and on Flower: one algorithm, one consensus."""

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import simulations
from fedkd.algorithms.fd import FD
from fedkd.engines import made
from fedkd.engines.batched import batched
from fedkd.rounds.synchronous import simulate
from simulations import machine
from simulations.config import files, grid
from simulations.config.experiments import FedExperiment
from simulations.config.resources import Resources
from simulations.runners import federated

with warnings.catch_warnings():  # flwr imports typer, which imports names that click will drop
    warnings.filterwarnings("ignore", ".*click", DeprecationWarning)
    from flwr.app import ArrayRecord

    from fedkd.flower import (
        ClientRuntime,
        DistillationStrategy,
        EngineGrid,
        LocalGrid,
        client_app,
        unpack,
    )

DEMO = Path(simulations.__file__).parent / "experiments" / "demo.toml"
ROUNDS = 3


@pytest.fixture(scope="module")
def demo():
    """FedMD of the demo, with its first seed, for a few rounds."""
    found = grid.expand(files.read(DEMO), DEMO.name).experiments
    experiment = next(e for e in found if e.name == "fedmd" and e.seed == 0)
    return replace(experiment, rounds=ROUNDS)


def consensus_on(kind, experiment, federation):
    """The consensus after Flower's own loop on a grid."""

    def build(context):
        client = federation.clients[context.node_config["partition-id"]]
        return ClientRuntime(experiment.algorithm, federation.task, client)

    count = len(federation.clients)
    strategy = DistillationStrategy(
        experiment.algorithm, federation.task, count, seed=experiment.seed
    )
    result = strategy.start(kind(client_app(build), count), ArrayRecord(), ROUNDS)
    assert all(not record.failed and not record.rejected for record in strategy.records)
    return unpack(result.arrays)["consensus"]


@pytest.mark.ray
@pytest.mark.flower
def test_three_runtimes_give_one_consensus(demo):
    from fedkd.engines.ray.engine import RayEngine

    federation = federated.prepare(demo)
    start = {"rounds": ROUNDS, "seed": demo.seed}
    parties = demo.algorithm, federation.task, federation.clients

    def consensus(engine):
        *_, last = simulate(*parties, engine=engine, **start)
        return last.server["consensus"]

    expected = consensus(batched())
    with RayEngine(2) as ray_engine:
        found = {"ray": consensus(ray_engine)}
    found |= {
        kind.__name__: consensus_on(kind, demo, federation) for kind in (LocalGrid, EngineGrid)
    }
    assert expected.std() > 0.1  # the clients have learned something to agree on
    for name, other in found.items():
        torch.testing.assert_close(other, expected, rtol=0, atol=1e-6, msg=name)


def test_shares_are_read_and_their_architectures_must_be_there(demo):
    found = Resources(shares=("cnn=1:0.5", "mlp-64=0.5"))
    assert found.share_of == {"cnn": (1.0, 0.5), "mlp-64": (0.5, 0.0)}
    ray_demo = replace(demo, engine="ray")
    with pytest.raises(ValueError, match="shares names 'cmn', which is none of the models"):
        federated.prepare(ray_demo, resources=Resources(shares=("cmn=1",)))


@pytest.mark.parametrize("text", ["cnn", "cnn=", "=1", "cnn=0", "cnn=1:-1", "cnn=a", ""])
def test_shares_of_another_form_are_refused(text):
    with pytest.raises(ValueError, match="shares takes MODEL=CPUS or MODEL=CPUS:GPUS"):
        Resources(shares=(text,))


def test_a_memory_budget_moves_parameters_to_files_and_says_so(demo):
    budget = Resources(memory=0.05)  # megabytes, about what two of the five have
    records = list(federated.run(replace(demo, engine="sequential", rounds=1), resources=budget))
    (expected,) = [
        r for r in federated.run(replace(demo, engine="sequential", rounds=1)) if "state" in r
    ]
    assert records[-1]["state"] == expected["state"]
    assert any("the rest is in files" in note for r in records for note in r.get("notes", []))


def test_the_engine_auto_has_all_cores_or_as_many_as_it_is_given(demo, monkeypatch):
    asked = []

    def watched(name, chunk, budget, workers):
        asked.append((name, workers))
        return made(name, chunk, budget, workers)

    monkeypatch.setattr(machine, "cores", lambda: 7)
    monkeypatch.setattr(federated, "made", watched)
    for resources in (Resources(), Resources(cores=2), Resources(cpus=3).beside_others()):
        with federated.engine_of(replace(demo, engine="auto"), resources):
            pass
    assert asked == [("auto", 7), ("auto", 2), ("auto", 3)]


def test_the_engine_auto_gives_the_same_run_on_any_number_of_cores(demo):
    one, three = (
        [
            record["state"]
            for record in federated.run(
                replace(demo, engine="auto", rounds=2), resources=Resources(cores=cores)
            )
            if "state" in record
        ]
        for cores in (1, 3)
    )
    assert one == three
    assert len(one) == 1


def test_by_default_clients_run_as_the_engine_auto_has_chosen():
    usual = FedExperiment(FD(), clients=3, private=60, public=0, test=40, rounds=2)
    first, *later = federated.run(usual)
    ways = {group: way.partition(" (")[0] for group, way in first["engine"].items()}
    turns = "in turn, one on each core"
    assert ways == {"mlp-64": "stacked", "mlp-128-64": "stacked", "cnn": turns}
    assert not any("engine" in record for record in later)
    named = [*federated.run(replace(usual, engine="auto"))]
    assert named[-1]["state"] == later[-1]["state"]
    assert not any("engine" in r for r in federated.run(replace(usual, engine="sequential")))
