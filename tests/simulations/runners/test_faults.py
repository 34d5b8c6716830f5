"""Clients that send what they should not: they are named, and nothing else changes."""

import json
from dataclasses import fields
from functools import cache

import pytest
import torch

from fedkd import algorithms
from fedkd.attacks.byzantine import FAULTS, corrupt
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.rounds.synchronous import simulate
from kdcore.training.loop import TrainingConfig
from simulations.config.experiments import FedExperiment
from simulations.runners import federated
from tests.conftest import tiny_federation


def bites(name, fault):
    """Whether anybody could see the fault: not in payloads that are empty or no distributions."""
    task = tiny_federation().task
    payload_spec = [
        c for g in task.models for c in algorithms.get(name)().payload_spec(task, g).values()
    ]
    if fault.endswith("weight"):
        return True
    return any(spec.simplex for spec in payload_spec) if fault == "simplex" else bool(payload_spec)


CASES = [(name, fault) for name in algorithms.names() for fault in FAULTS if bites(name, fault)]


def without(client):
    return lambda clients, generator: [number for number in clients if number != client]


def quick(name):
    """An algorithm, all of whose training is short."""
    short = TrainingConfig("momentum", 0.05, epochs=1, batch_size=4)
    kind = algorithms.get(name)
    asking = {"duration": 1} if name == "scarlet" else {}  # each round, so that all are broken
    training = {f.name: short for f in fields(kind) if isinstance(f.default, TrainingConfig)}
    return kind(**training | asking)


@pytest.fixture(scope="module")
def absent():
    """Runs without client 3, each made once."""
    federation = tiny_federation()

    @cache
    def run(name):
        given = quick(name), federation.task, federation.clients
        return list(simulate(*given, rounds=2, sample=without(3)))

    return run


@pytest.mark.parametrize(("name", "fault"), CASES)
def test_a_corrupt_client_is_named_and_counts_as_absent(tiny, absent, name, fault):
    federation, algorithm = tiny(), quick(name)
    tampered = corrupt(sequential, 3, fault)
    with_it = simulate(algorithm, federation.task, federation.clients, rounds=2, engine=tampered)
    for one, other in zip(with_it, absent(name), strict=True):
        assert list(one.rejected) == [3]
        assert one.rejected[3]
        assert one.failed == other.rejected == {}
        assert one.server.keys() == other.server.keys()
        for key in one.server:
            assert torch.equal(one.server[key], other.server[key]), key
        for a, b in zip(one.clients, other.clients, strict=True):
            if a.id != 3:
                assert all(torch.equal(a.params[key], b.params[key]) for key in a.params)


def test_the_reason_says_what_was_wrong(tiny):
    federation, algorithm = tiny(), algorithms.get("fedmd")()
    expected = {
        "nan": "not finite",
        "inf": "not finite",
        "shape": "instead of",
        "huge-values": "no distribution",
        "scaled": "no distribution",
        "simplex": "no distribution",
        "negative-weight": "weight -1",
        "huge-weight": "weight 1e+15",
    }
    for fault in FAULTS:
        engine = corrupt(batched(), 0, fault)
        (one,) = simulate(algorithm, federation.task, federation.clients, rounds=1, engine=engine)
        assert expected[fault] in one.rejected[0]


def test_an_unknown_fault_is_refused():
    with pytest.raises(ValueError, match="unknown fault 'bad'; choose one of huge-values"):
        corrupt(sequential, 0, "bad")


def test_a_run_with_a_corrupt_client_ends_and_names_it():
    algorithm = algorithms.get("dsfl")()
    settings = dict(clients=4, private=60, public=20, test=40, rounds=2, models=("mlp-8",))
    *rounds, end = federated.run(FedExperiment(algorithm, corrupt="2:inf", **settings))
    assert [set(record["rejected"]) for record in rounds] == [{"2"}, {"2"}]
    assert "not finite" in rounds[0]["rejected"]["2"]
    assert end["metrics"]["accuracy"] > 0


@pytest.mark.usefixtures("no_report")
def test_a_run_whose_uploads_are_all_turned_away_says_so(kdsim, small):
    flags = [*small, "--no-baseline", "--json", "--corrupt", "0:nan", "--clients", "1"]
    status, out, err = kdsim("fed", "dsfl", *flags)
    assert status == 0
    assert err.count("every upload was turned away (1 in all), and the server learnt nothing") == 2
    assert "client 0: probabilities holds 200 entries that are not finite" in err
    records = [json.loads(line) for line in out.splitlines()]
    notes = [note for r in records if r["record"] == "round" for note in r["notes"]]
    assert [note[:8] for note in notes] == ["round 1:", "round 2:"]
