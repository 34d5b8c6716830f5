import pytest
import torch

from fedkd import algorithms
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.faults import FAULTS, corrupt
from fedkd.federation import simulate
from simulations import fed
from simulations.config import FedExperiment

CASES = [
    (name, fault)
    for name in ("fedmd", "dsfl", "fd", "fedavg")
    for fault in FAULTS
    if (name, fault) != ("fedavg", "simplex")  # parameters are no distributions
]


def without(client):
    return lambda clients, generator: [number for number in clients if number != client]


@pytest.mark.parametrize(("name", "fault"), CASES)
def test_a_corrupt_client_counts_as_absent(tiny, name, fault):
    federation, algorithm = tiny(), algorithms.get(name)()
    tampered = corrupt(sequential, 3, fault)
    with_it = simulate(algorithm, federation.task, federation.clients, rounds=3, engine=tampered)
    absent = simulate(algorithm, federation.task, federation.clients, rounds=3, sample=without(3))
    for one, other in zip(with_it, absent, strict=True):
        assert list(one.rejected) == [3]
        assert one.rejected[3]
        assert not other.rejected
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
        "simplex": "no distribution",
        "negative-weight": "weight -1",
        "huge-weight": "weight 1e+15",
    }
    for fault in FAULTS:
        engine = corrupt(batched(), 0, fault)
        (one,) = simulate(algorithm, federation.task, federation.clients, rounds=1, engine=engine)
        assert expected[fault] in one.rejected[0]


def test_an_unknown_fault_is_refused():
    with pytest.raises(ValueError, match="unknown fault 'bad'; choose one of nan, inf"):
        corrupt(sequential, 0, "bad")


def test_a_run_with_a_corrupt_client_ends_and_names_it():
    algorithm = algorithms.get("dsfl")()
    settings = dict(clients=4, private=60, public=20, test=40, rounds=2, models=("mlp-8",))
    *rounds, end = fed.run(FedExperiment(algorithm, corrupt="2:inf", **settings))
    assert [set(record["rejected"]) for record in rounds] == [{"2"}, {"2"}]
    assert "not finite" in rounds[0]["rejected"]["2"]
    assert end["metrics"]["accuracy"] > 0
