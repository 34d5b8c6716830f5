"""Without a server: the run with one on a complete topology, and averaging by W on any other."""

import inspect
import math
from dataclasses import dataclass, replace

import pytest
import torch

from fedkd import algorithms
from fedkd.communication.channel import Channel
from fedkd.communication.compression import channel, float16
from fedkd.core import Algorithm, Client, Model, Properties, Task
from fedkd.engines.batched import batched
from fedkd.messages import PayloadSpec, Transform, Upload
from fedkd.rounds.client_sampling import uniform
from fedkd.rounds.decentralized import Gossip, consensus_distance, gossip
from fedkd.rounds.round import deployed
from fedkd.rounds.synchronous import simulate
from fedkd.rounds.topology import build
from kdcore.training.loop import Examples, TrainingConfig
from tests import by_default

SHORT = TrainingConfig("momentum", 0.05, epochs=1, batch_size=4)


def topology(name, count=5, **more):
    return build(name, range(count), torch.Generator().manual_seed(0), **more)


def all_plain(stages):
    return all(isinstance(stage, Transform) for stage in stages)


def run(algorithm, federation, rounds=3, **more):
    return list(simulate(algorithm, federation.task, federation.clients, rounds=rounds, **more))


@dataclass(frozen=True)
class Averaging(Algorithm):
    """Clients hold a number; they send it, and take over the mean of what is heard."""

    properties = Properties("none", "it", "the mean", "any", "payload", "it")

    def broadcast(self, server, client, group):
        return server

    def client_update(self, predict, params, received, private, public):
        value = received.get("mean", params["value"])
        return {"value": value}, Upload({"value": value})

    def payload_spec(self, task, group):
        return {"value": PayloadSpec((1,))}

    def server_update(self, task, server, uploads, public):
        heard = [upload.payload["value"] for upload in uploads]
        return {"mean": torch.stack(heard).mean(dim=0)}


def numbers(*values):
    task = Task({"number": Model(lambda generator: {}, lambda params, x: None)}, 2)
    data = Examples(torch.zeros(1, 1), torch.zeros(1).long(), torch.arange(1))
    clients = [
        Client(i, "number", {"value": torch.tensor([v])}, data) for i, v in enumerate(values)
    ]
    return task, clients


def test_a_round_is_one_multiplication_by_w(double):
    # On a path 0 - 1 - 2 the values (6, 0, 0) become (3, 2, 0), and then (5/2, 5/3, 1).
    hears = {0: frozenset({0, 1}), 1: frozenset({0, 1, 2}), 2: frozenset({1, 2})}
    task, clients = numbers(6.0, 0.0, 0.0)
    rounds = list(simulate(gossip(Averaging(), hears), task, clients, rounds=3))
    values = [[float(c.params["value"]) for c in current.clients] for current in rounds]
    assert values[0] == [6, 0, 0]
    assert values[1] == [3, 2, 0]
    assert values[2] == pytest.approx([5 / 2, 5 / 3, 1])


@pytest.mark.parametrize("count", [6, 9])
def test_on_a_ring_disagreement_shrinks_by_the_second_eigenvalue(count, double):
    # cos(2 pi i / n) is an eigenvector of W with the eigenvalue 1 - gap.
    ring = topology("ring", count)
    task, clients = numbers(*(math.cos(2 * math.pi * i / count) for i in range(count)))
    algorithm = gossip(Averaging(), ring.neighbourhoods)
    rounds = list(simulate(algorithm, task, clients, rounds=5))
    apart = [consensus_distance(algorithm, task, current) for current in rounds]
    assert apart[0] == pytest.approx(math.sqrt(1 / 2))  # the root mean square of a cosine
    factors = [after / before for before, after in zip(apart, apart[1:], strict=False)]
    assert factors == pytest.approx([1 - ring.spectral_gap] * 4)


# Neighbours cannot read what is coded by what its sender was told.
ANSWERING = {n for n in algorithms.names() if not all_plain(algorithms.get(n)().uplink)}


@pytest.mark.parametrize("name", sorted(set(algorithms.names()) - ANSWERING))
def test_a_complete_topology_is_the_run_with_a_server(name, tiny, double):
    federation, algorithm = tiny(), by_default.make(name, local=SHORT)
    alone = gossip(algorithm, topology("complete").neighbourhoods)
    for one, other in zip(run(alone, federation), run(algorithm, federation), strict=True):
        for a, b in zip(one.clients, other.clients, strict=True):
            for key in a.params:
                torch.testing.assert_close(a.params[key], b.params[key], rtol=0, atol=1e-6)
        for peer in range(5):
            for key, value in other.server.items():
                torch.testing.assert_close(one.server[f"{peer}/{key}"], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["fedmd", "dsfl", "fd", "fedavg"])
def test_engines_agree_on_a_ring(name, tiny, double):
    federation = tiny()
    algorithm = replace(algorithms.get(name)(), local=SHORT)
    algorithm = gossip(algorithm, topology("ring").neighbourhoods)
    one, other = (run(algorithm, federation, engine=e)[-1] for e in (simple, batched()))
    assert one.server.keys() == other.server.keys()
    for key, value in one.server.items():
        torch.testing.assert_close(value, other.server[key], rtol=0, atol=1e-9)


def simple(function, task, clients, inputs):
    models = [task.models[client.group].predict for client in clients]
    return [
        function(predict, client.params, *given)
        for predict, client, given in zip(models, clients, inputs, strict=True)
    ]


def test_each_peer_hears_its_neighbours_and_nobody_else(tiny, double):
    # The consensus of peer 2 on a ring of five is that of the peers 1, 2 and 3.
    federation, algorithm = tiny(), algorithms.get("fedmd")(local=SHORT)
    (current,) = run(gossip(algorithm, topology("ring").neighbourhoods), federation, rounds=1)
    said = [current.uploads[peer].payload["probabilities"] for peer in (1, 2, 3)]
    torch.testing.assert_close(current.server["2/consensus"], torch.stack(said).mean(dim=0))
    assert set(current.server) == {f"{peer}/consensus" for peer in range(5)}


def test_who_is_not_there_sends_nothing_and_hears(tiny):
    federation, algorithm = tiny(), algorithms.get("fedmd")(local=SHORT)
    algorithm = gossip(algorithm, topology("complete").neighbourhoods)
    (current,) = run(algorithm, federation, rounds=1, sample=uniform(0.4))
    assert len(current.cohort) == len(current.uploads) == 2
    assert len(current.server) == 5


def test_who_hears_one_peer_alone_takes_over_what_it_says(tiny):
    # On a ring of five with peer 0 alone in the round, 4, 0 and 1 hear it, and nobody hears more.
    federation, algorithm = tiny(), algorithms.get("fedmd")(local=SHORT)
    algorithm = gossip(algorithm, topology("ring").neighbourhoods)
    (current,) = run(algorithm, federation, rounds=1, sample=lambda clients, generator: [0])
    said = current.uploads[0].payload["probabilities"]
    assert set(current.server) == {"4/consensus", "0/consensus", "1/consensus"}
    assert all(torch.equal(consensus, said) for consensus in current.server.values())


def test_bytes_cross_every_link_once_in_each_direction_and_nothing_goes_down(tiny):
    federation, algorithm = tiny(), algorithms.get("fedmd")(local=SHORT)
    for name, links in [("ring", 5), ("complete", 10)]:
        peers = gossip(algorithm, topology(name).neighbourhoods)
        for current in run(peers, federation, rounds=2):
            found = current.ledger
            assert found.up == {"probabilities": 2 * links * 11 * 5 * 4}  # P = 11, C = 5, float32
            assert found.down == {}
        assert current.broadcasts[0]  # it told itself a consensus, which crossed no link
    halves = Channel((float16(),), (float16(),))
    half, _ = run(gossip(algorithm, topology("ring").neighbourhoods), federation, 2, channel=halves)
    assert half.ledger.bytes_up == 2 * 5 * 11 * 5 * 2


def test_who_is_heard_by_more_costs_more(tiny):
    # On a path 0 - 1 - 2, where FedAvg sends parameters and a number of examples.
    hears = {0: frozenset({0, 1}), 1: frozenset({0, 1, 2}), 2: frozenset({1, 2})}
    federation = tiny(["mlp-3"], sizes=(2, 2, 2), classes=2, held=2)
    algorithm = gossip(algorithms.get("fedavg")(local=SHORT), hears)
    each = 4 * (36 * 3 + 3 + 3 * 2 + 2) + 8
    (middle,) = run(algorithm, federation, rounds=1, sample=lambda clients, generator: [1])
    assert middle.ledger.bytes_up == 2 * each
    (end,) = run(algorithm, federation, rounds=1, sample=lambda clients, generator: [2])
    assert end.ledger.bytes_up == each


@pytest.mark.parametrize("name", sorted(ANSWERING))
def test_codings_that_neighbours_cannot_read_are_refused(name, tiny):
    federation, algorithm = tiny(), algorithms.get(name)(local=SHORT)
    peers = gossip(algorithm, topology("ring").neighbourhoods)
    with pytest.raises(ValueError, match="which without a server its neighbours do not know; take"):
        run(peers, federation, rounds=1)


def test_a_channel_that_neighbours_cannot_read_is_refused(tiny):
    federation, algorithm = tiny(), algorithms.get("fedmd")(local=SHORT)
    peers, differences = gossip(algorithm, topology("ring").neighbourhoods), channel("root8-delta")
    with pytest.raises(ValueError, match="neighbours do not know"):
        run(peers, federation, rounds=1, channel=differences)
    assert run(algorithm, federation, rounds=2, channel=differences)[-1].rejected == {}
    with pytest.raises(ValueError, match="neighbours do not know"):
        deployed(peers, federation.task, run(peers, federation, 1)[0], channel=differences)


def test_what_only_a_server_has_is_not_there_among_peers():
    patient = algorithms.get("feddf")(patience=2)
    with pytest.raises(ValueError, match="FedDF with these settings selects on labelled examples"):
        gossip(patient, topology("ring").neighbourhoods)
    gossip(algorithms.get("feddf")(), topology("ring").neighbourhoods)


def test_disagreement_by_hand(double):
    # Distances to the mean 2 of the values 0, 1 and 5: sqrt((4 + 1 + 9) / 3).
    task, clients = numbers(0.0, 1.0, 5.0)
    algorithm = gossip(Averaging(), topology("complete", 3).neighbourhoods)
    first, second = simulate(algorithm, task, clients, rounds=2)
    assert consensus_distance(algorithm, task, first) == pytest.approx(math.sqrt(14 / 3))
    assert consensus_distance(algorithm, task, second) == 0
    assert math.isnan(consensus_distance(algorithm, task, replace(first, uploads={})))


def test_disagreement_leaves_out_what_a_peer_does_not_hold(tiny):
    federation, algorithm = tiny(), algorithms.get("fd")(local=SHORT)
    (current,) = run(algorithm, federation, rounds=1)
    rows = {
        k: dict(zip(u.rows.nonzero().flatten().tolist(), u.payload["means"], strict=True))
        for k, u in current.uploads.items()
    }
    total = count = 0.0
    for label in range(5):
        held = [rows[k][label].double() for k in rows if label in rows[k]]
        mean = sum(held) / len(held) if held else 0
        total += sum(float((row - mean).square().sum()) for row in held)
        count += len(held)
    assert consensus_distance(algorithm, federation.task, current) == pytest.approx(
        math.sqrt(total / count)
    )


def test_what_peers_say_of_their_own_examples_is_no_disagreement(tiny):
    federation, algorithm = tiny(), algorithms.get("fedcache")(local=SHORT, encoder="pixels")
    (current,) = run(algorithm, federation, rounds=1)
    assert len({len(upload.rows) for upload in current.uploads.values()}) > 1
    assert math.isnan(consensus_distance(algorithm, federation.task, current))


def test_disagreement_is_among_those_who_say_something(tiny):
    """One alone is as its own mean: its rows count, and nothing is added to what they sum up to."""
    federation, algorithm = tiny(["mlp-8"]), algorithms.get("fedaux")(local=SHORT)
    (current,) = run(algorithm, federation, rounds=1)
    plain = {k: dict(u.payload) for k, u in current.uploads.items()}
    certainties = [payload.pop("certainty") for payload in plain.values()]

    def squared(payloads):
        uploads = {k: u._replace(payload=payloads[k]) for k, u in current.uploads.items()}
        heard = replace(current, uploads=uploads)
        return consensus_distance(algorithm, federation.task, heard) ** 2

    rows = sum(len(value) for payload in plain.values() for value in payload.values())
    first = plain | {0: plain[0] | {"certainty": certainties[0]}}
    expected = squared(plain) * rows / (rows + len(certainties[0]))
    assert squared(first) == pytest.approx(expected)


def test_peers_use_what_they_themselves_know(tiny):
    federation, algorithm = tiny(), algorithms.get("dsfl")(local=SHORT)
    algorithm = gossip(algorithm, topology("ring").neighbourhoods)
    current = run(algorithm, federation)[-1]
    for client in deployed(algorithm, federation.task, current):
        assert not torch.equal(
            client.params["layer0.weight"]
            if "layer0.weight" in client.params
            else next(iter(client.params.values())),
            next(iter(current.clients[client.id].params.values())),
        )


def test_gossip_passes_on_every_part_of_an_algorithm():
    # A part that core grows and gossip forgets would be the default's, not the algorithm's.
    parts = {n for n, v in vars(Algorithm).items() if inspect.isfunction(v) or type(v) is property}
    parts = {name for name in parts if not name.startswith("_")}
    assert {"client_update", "asks"} <= parts <= set(vars(Gossip))


def test_a_peer_that_does_not_hear_itself_is_an_error():
    with pytest.raises(ValueError, match="peer 1 must hear itself"):
        gossip(Averaging(), {0: frozenset({0}), 1: frozenset({0})})
