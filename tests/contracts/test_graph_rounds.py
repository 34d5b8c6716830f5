"""Clients that hold graphs in all kinds of rounds: among peers, on a clock, in shards."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils._pytree import tree_leaves

from fedgraphkd import partition
from fedgraphkd.federated_collection import federate_graphs
from fedgraphkd.federated_graph import federate
from fedkd.algorithms import get
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.rounds.asynchronous import simulate_timed
from fedkd.rounds.clock import Clock
from fedkd.rounds.decentralized import gossip
from fedkd.rounds.round import deployed
from fedkd.rounds.synchronous import simulate
from fedkd.rounds.topology import build
from fedkd.sharding import rounds as sharded
from fedkd.sharding.shard import Rules, Shard
from kdcore.training.loop import TrainingConfig
from tests.fedgraphkd.graphs import fake, trees

COUNT = 4
ENGINES = {"sequential": sequential, "batched": batched()}


def made(name):
    short = TrainingConfig("adam", 0.01, epochs=2, batch_size=0)
    return get(name)(local=short, **({"distill": short} if name == "fedmd" else {}))


def nodes(name):
    models = ["gcn-8"] if name == "fedavg" else ["gcn-8", "sage-8"]
    return federate(fake(3, 40), COUNT, models, 0, partition.greedy).federated, made(name)


def graphs(name):
    models = ["gin-8"] if name == "fedavg" else ["gin-8", "gcn-8"]
    deal = partial(partition.partition, "dirichlet")
    return federate_graphs(trees(40), COUNT, models, 0, deal), made(name)


of_both = pytest.mark.parametrize("clients", [nodes, graphs], ids=["nodes", "graphs"])
slow = (pytest.param(name, marks=pytest.mark.slow) for name in ("fd", "fedavg"))
of_some = pytest.mark.parametrize("name", ["fedmd", *slow])


def same(found, expected):
    found, expected = map(tree_leaves, (found, expected))
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def params(clients):
    return [dict(client.params) for client in clients]


def peers(name):
    return build(name, range(COUNT), torch.Generator()).neighbourhoods


@of_both
@of_some
def test_peers_that_all_hear_each_other_are_a_server(clients, name, double):
    found, algorithm = clients(name)
    ends = [
        list(simulate(one, found.task, found.clients, rounds=2))[-1].clients
        for one in (algorithm, gossip(algorithm, peers("complete")))
    ]
    same(*map(params, ends))


@of_both
@of_some
def test_on_a_ring_engines_agree(clients, name, double):
    found, algorithm = clients(name)
    among = gossip(algorithm, peers("ring"))
    ends = [
        list(simulate(among, found.task, found.clients, rounds=2, engine=engine))[-1]
        for engine in ENGINES.values()
    ]
    assert all(not end.rejected and not end.failed for end in ends)
    same(*[[params(end.clients), end.server] for end in ends])


@of_both
@of_some
def test_on_a_clock_engines_agree_on_who_is_late_and_what_is_learnt(clients, name, double):
    found, algorithm = clients(name)
    clock = Clock(step_seconds=0.1, stragglers=0.5, slowdown=10, deadline=1.5, staleness=1)
    runs = [
        list(simulate_timed(algorithm, found.task, found.clients, clock, rounds=3, engine=engine))
        for engine in ENGINES.values()
    ]
    for one, other in zip(*runs, strict=True):
        assert (one.now, one.late, one.stale) == (other.now, other.late, other.stale)
    assert any(len(one.uploads) < COUNT for one in runs[0])
    assert all(not one.rejected and not one.failed for one in runs[0])
    same(*[[params(run[-1].clients), run[-1].server] for run in runs])


@of_both
@of_some
def test_in_shards_a_round_is_that_of_one_process(clients, name, double):
    found, algorithm = clients(name)
    if name == "fd":
        algorithm = replace(algorithm, leave_one_out=False)  # the server is told a sum
    rules = Rules(algorithm, found.task, seed=0, engine=batched(), block=2)
    dealt = sharded.dealt(rules, lambda numbers: [found.clients[k] for k in numbers], COUNT, 2)
    shards = sharded.Here(Shard, dealt)
    *_, last = sharded.simulate(rules, shards, COUNT, rounds=2)
    *_, whole = simulate(algorithm, found.task, found.clients, rounds=2)
    assert last.ledger == whole.ledger
    used = [one for block in sharded.ask(shards, last, params) for one in block]
    same([last.server, used], [whole.server, params(deployed(algorithm, found.task, whole))])
