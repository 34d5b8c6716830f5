"""Clients in shards: the rounds of a federation in one process, whoever has the clients."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch

from fedkd import algorithms
from fedkd.algorithms.fd import FD
from fedkd.attacks.byzantine import corrupt
from fedkd.communication.aggregation import check_summed
from fedkd.communication.channel import Channel
from fedkd.communication.compression import quantization
from fedkd.communication.compression.distributions import krr
from fedkd.core import Failure
from fedkd.engines.batched import batched
from fedkd.rounds.client_sampling import available, everyone, uniform
from fedkd.rounds.round import deployed
from fedkd.rounds.synchronous import simulate
from fedkd.sharding import rounds as sharded
from fedkd.sharding.shard import Rules, Shard
from tests.contracts.test_engines import small

SIZES = tuple(3 + k % 4 for k in range(12))
ENGINE = batched()


def summed():
    for name in algorithms.names():
        try:
            check_summed(small(name))
        except ValueError:
            continue
        yield name


def clients_of(federation, numbers):
    return [federation.clients[number] for number in numbers]


def params_of(clients):
    return [dict(client.params) for client in clients]


def played(
    federation, algorithm, shards, block=4, sample=everyone, start=sharded.Here, engine=ENGINE
):
    """Two rounds, and the clients' parameters in use after them."""
    rules = Rules(algorithm, federation.task, seed=3, engine=engine, block=block)
    given = sharded.dealt(rules, partial(clients_of, federation), len(SIZES), shards)
    made = start(Shard, given)
    with made if hasattr(made, "close") else nullcontext():
        rounds = list(sharded.simulate(rules, made, len(SIZES), rounds=2, sample=sample))
        blocks = sharded.ask(made, rounds[-1], params_of)
    return rounds, [params for block in blocks for params in block]


def unsharded(federation, algorithm, sample=everyone, engine=ENGINE):
    how = {"engine": engine, "seed": 3}
    task = federation.task
    rounds = list(
        simulate(algorithm, task, federation.clients, rounds=2, sample=sample, witness=False, **how)
    )
    return rounds, params_of(deployed(algorithm, task, rounds[-1], **how))


def assert_same(found, expected, tolerance=0.0):
    for one, other in zip(found[0], expected[0], strict=True):
        assert (one.index, one.cohort, one.ledger) == (other.index, other.cohort, other.ledger)
        assert (one.rejected, one.failed) == (other.rejected, other.failed)
        torch.testing.assert_close(one.server, other.server, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found[1], expected[1], rtol=tolerance, atol=tolerance)


QUICK = ("fedavg", "fedmd", "fedproto")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in summed()]
)
def test_rounds_do_not_depend_on_the_number_of_shards(name, tiny, double):
    federation = tiny(["mlp-8"], SIZES, public=5)
    algorithm = small(name, "momentum")
    one = played(federation, algorithm, 1)
    assert_same(played(federation, algorithm, 2), one)
    expected = unsharded(federation, algorithm)
    assert_same(one, expected, 1e-9)
    assert_same(played(federation, algorithm, 1, block=12), expected)


@pytest.mark.parametrize("sample", [uniform(0.4), available(0.3), available(0.05)])
def test_a_cohort_is_drawn_for_all_shards_at_once(sample, tiny, double):
    federation = tiny(["mlp-8", "mlp-4-4"], SIZES, public=5)
    algorithm = small("fedavg", "momentum")
    two = played(federation, algorithm, 2, sample=sample)
    assert_same(two, played(federation, algorithm, 3, sample=sample))
    assert_same(two, unsharded(federation, algorithm, sample), 1e-9)


def test_who_is_turned_away_somewhere_is_named(tiny, double):
    federation = tiny(["mlp-8"], SIZES, public=5)
    algorithm = small("fedavg", "momentum")
    engine = corrupt(ENGINE, 7, "nan")
    two = played(federation, algorithm, 2, engine=engine)
    assert_same(two, unsharded(federation, algorithm, engine=engine), 1e-9)
    assert [set(one.rejected) for one in two[0]] == [{7}, {7}]


def failing(*who):
    """An engine under which some clients give no result."""

    def run(function, task, clients, inputs):
        results = ENGINE(function, task, clients, inputs)
        return [
            Failure("lost") if client.id in who else result
            for client, result in zip(clients, results, strict=True)
        ]

    return run


def test_a_block_all_of_whom_fail_is_no_end_of_the_rounds(tiny, double):
    federation = tiny(["mlp-8"], SIZES, public=5)
    algorithm, engine = small("fedavg", "momentum"), failing(4, 5, 6, 7, 9)
    two = played(federation, algorithm, 2, engine=engine)
    assert_same(two, unsharded(federation, algorithm, engine=engine), 1e-9)
    assert [set(one.failed) for one in two[0]] == [{4, 5, 6, 7, 9}] * 2
    with pytest.raises(RuntimeError, match="every client failed; client 0: lost"):
        played(federation, algorithm, 2, engine=failing(*range(len(SIZES))))


def test_what_no_shard_could_do_is_said(tiny):
    task = tiny(["mlp-8", "mlp-4-4"], SIZES, public=5).task
    with pytest.raises(ValueError, match="needs each upload on its own"):
        sharded.dealt(Rules(FD(), task), list, 12, 1)
    with pytest.raises(
        ValueError, match="4 shards of 12 clients; expected 1 to 3, as a block of 4"
    ):
        sharded.dealt(Rules(small("fedavg"), task, block=4), list, 12, 4)
    noise = Channel(uplink=(krr(1.0),))
    with pytest.raises(ValueError, match="send no messages with noise"):
        sharded.dealt(Rules(small("dsfl"), task, channel=noise), list, 12, 1)
    coded = Channel(downlink=(quantization.quantise(8),))
    with pytest.raises(ValueError, match="coded, for clients of several architectures"):
        sharded.dealt(Rules(small("fedavg"), task, channel=coded), list, 12, 1)


def test_other_clients_than_were_asked_for_are_refused(tiny):
    federation = tiny(["mlp-8"], SIZES, public=5)
    rules = Rules(small("fedavg"), federation.task, block=4)
    with pytest.raises(ValueError, match=r"clients 4 to 7, in their order, and got 4: \[7, 6, 5"):
        Shard(rules, lambda numbers: clients_of(federation, numbers)[::-1], [1], 12)


@pytest.mark.ray
@pytest.mark.slow
def test_shards_in_processes_are_those_here(tiny):
    from fedkd.engines.ray.residents import Residents

    federation = tiny(["mlp-8"], SIZES, public=5)
    algorithm = small("fedmd", "momentum")
    there = played(federation, algorithm, 2, start=Residents)
    assert_same(there, played(federation, algorithm, 1))
