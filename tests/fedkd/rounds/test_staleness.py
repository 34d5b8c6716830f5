"""What a late upload counts for: FedBuff by hand, and the newest predictions of each client."""

import math
from dataclasses import dataclass, fields

import pytest
import torch

from fedkd import algorithms
from fedkd.algorithms.fedavg import FedAvg
from fedkd.core import Client, Model, Task
from fedkd.engines.sequential import sequential
from fedkd.messages import PayloadSpec, Received, Upload
from fedkd.rounds import checkpoint
from fedkd.rounds.asynchronous import simulate_timed
from fedkd.rounds.clock import Clock
from fedkd.rounds.staleness import discount, moved, with_newest
from fedkd.rounds.synchronous import simulate
from kdcore.training.loop import Examples, TrainingConfig
from tests.conftest import tiny_federation

LATE = 1 / math.sqrt(2)  # what is left of an update that is one update of the server late


@dataclass(frozen=True)
class Adding(FedAvg):
    """Client k adds 10^k to the one parameter that it was told, in as many steps as examples."""

    local: TrainingConfig = TrainingConfig(epochs=1, batch_size=1)

    def client_update(self, predict, params, received, private, public):
        after = {"w": received["w"] + 10.0 ** params["number"]}
        return {"number": params["number"]}, Upload(after, private.size)


def adders(*sizes):
    task = Task({"one": Model(lambda generator: {"w": torch.zeros(1)}, lambda params, x: None)}, 2)
    data = torch.zeros(max(sizes), 1), torch.zeros(max(sizes)).long()
    return task, [
        Client(k, "one", {"number": torch.tensor(float(k))}, Examples(*data, torch.arange(size)))
        for k, size in enumerate(sizes)
    ]


def server_of(found):
    return [float(current.server["one/w"]) for current in found]


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_fedbuff_by_hand(rate):
    # A step a second; clients of 2 and 3 examples; the server moves after each upload.
    #   at 2: client 0, told at 0, adds 1, tau 0.
    #   at 3: client 1, told at 0, adds 10; the server has moved once since, tau 1.
    #   at 4: client 0, told at 2, adds 1, tau 1.
    #   at 6: client 0, told at 4, tau 0, and client 1, told at 3, tau 1: by 2 and 3 examples.
    clock = Clock(step_seconds=1.0, buffer=1, server_learning_rate=rate)
    found = list(simulate_timed(Adding(), *adders(2, 3), clock, rounds=4))
    assert [current.now for current in found] == [2.0, 3.0, 4.0, 6.0]
    steps = [1.0, 10 * LATE, 1 * LATE, (2 * 1 + 3 * 10 * LATE) / 5]
    expected = [rate * sum(steps[: k + 1]) for k in range(4)]
    assert server_of(found) == pytest.approx(expected, rel=1e-6)


@dataclass(frozen=True)
class Alike(Adding):
    """Each client counts once."""

    def client_update(self, predict, params, received, private, public):
        params, upload = super().client_update(predict, params, received, private, public)
        return params, upload._replace(weight=torch.tensor(1.0))


def test_the_papers_formula_where_each_client_counts_once():
    # w + eta / K sum_k s(tau_k) Delta_k, K = 2; clients of 1, 2 and 3 steps.
    #   at 2: clients 0 and 1, tau 0.
    #   at 3: client 0, told at 2, tau 0, and client 2, told at 0, tau 1.
    #   at 4: client 0, told at 3, tau 0, and client 1, told at 2, tau 1.
    clock = Clock(step_seconds=1.0, buffer=2, server_learning_rate=0.1)
    found = list(simulate_timed(Alike(), *adders(1, 2, 3), clock, rounds=3))
    assert [sorted(current.uploads) for current in found] == [[0, 1], [0, 2], [0, 1]]
    steps = [1 + 10, 1 + 100 * LATE, 1 + 10 * LATE]
    assert server_of(found) == pytest.approx([0.05 * sum(steps[: k + 1]) for k in range(3)])


def test_rounds_with_a_deadline_move_the_present_by_late_updates_too():
    # Deadline 2.5 s, staleness 1: client 1, told at 0, comes at 3, in the second round, which is to
    # end at 4 with client 0. Both move what is there: by 2 and 3 examples.
    clock = Clock(step_seconds=1.0, deadline=2.5, staleness=1)
    found = list(simulate_timed(Adding(), *adders(2, 3), clock, rounds=2))
    assert [current.stale for current in found] == [{}, {1: 1}]
    assert server_of(found) == pytest.approx([1.0, 1.0 + (2 * 1 + 3 * 10 * LATE) / 5], rel=1e-6)


def test_the_discount():
    assert [discount(age) for age in (0, 3, 8)] == [1, 1 / 2, 1 / 3]


PAYLOAD = {
    "w": PayloadSpec((1,), trained="parameters"),
    "u": PayloadSpec((1,), trained="update"),
    "n": PayloadSpec((1,), most=10),
}


def test_only_what_was_trained_is_moved():
    upload = Received(
        0, "one", {k: torch.tensor([v]) for k, v in {"w": 7.0, "u": 4.0, "n": 3.0}.items()}, 1.0
    )
    told, present = {"w": torch.tensor([5.0])}, {"w": torch.tensor([100.0])}
    found = moved(upload, PAYLOAD, told, present, age=3, rate=1.0).payload
    assert {key: float(value) for key, value in found.items()} == {"w": 101.0, "u": 2.0, "n": 3.0}
    assert moved(upload, PAYLOAD, told, present, age=0, rate=1.0) is upload
    again = moved(upload, PAYLOAD, told, told, age=0, rate=0.5).payload
    assert {key: float(value) for key, value in again.items()} == {"w": 6.0, "u": 2.0, "n": 3.0}


def quick(name, **settings):
    training = TrainingConfig("momentum", 0.05, epochs=1, batch_size=4)
    kind = algorithms.get(name)
    short = {f.name: training for f in fields(kind) if isinstance(f.default, TrainingConfig)}
    return kind(**short | settings)


@pytest.mark.parametrize("name", algorithms.names())
def test_with_everybody_in_the_buffer_it_is_the_run_without_a_clock(name):
    federation = tiny_federation()
    given = quick(name), federation.task, federation.clients
    clock = Clock(step_seconds=1.0, bandwidth=1e3, spread=1.0, buffer=5)
    for one, other in zip(
        simulate(*given, rounds=3), simulate_timed(*given, clock, rounds=3), strict=True
    ):
        assert checkpoint.digest(one) == checkpoint.digest(other)


ONE_BY_ONE = Clock(step_seconds=1.0, bandwidth=1e4, spread=0.5, buffer=1)


def test_the_servers_model_is_no_late_clients_model():
    federation = tiny_federation(["mlp-8"])
    given = quick("fedavg"), federation.task, federation.clients
    before, late = None, 0
    for current in simulate_timed(*given, ONE_BY_ONE, rounds=8):
        for number, upload in current.uploads.items():
            if current.stale.get(number):
                late += 1
                for key, value in upload.payload.items():
                    now, was = current.server[f"mlp-8/{key}"], before[f"mlp-8/{key}"]
                    step = discount(current.stale[number]) * (value - current.answered[number][key])
                    assert not torch.equal(now, value)
                    if len(current.uploads) == 1:
                        torch.testing.assert_close(now, was + step)
        before = current.server
    assert late > 3


@pytest.mark.parametrize("name", ["fedmd", "dsfl"])
def test_a_consensus_is_over_the_newest_of_each_client_heard(name):
    federation = tiny_federation()
    settings = {"aggregation": "sa"} if name == "dsfl" else {}
    given = quick(name, **settings), federation.task, federation.clients
    newest = {}
    for current in list(simulate_timed(*given, ONE_BY_ONE, rounds=10)):  # none changes later
        newest |= {k: upload.payload["probabilities"] for k, upload in current.uploads.items()}
        assert sorted(current.newest) == sorted(newest)
        expected = torch.stack(list(newest.values())).double().mean(dim=0)
        torch.testing.assert_close(current.server["consensus"].double(), expected)
    assert len(newest) > 3


def test_nothing_new_is_no_reason_to_look_at_the_old_again():
    def says(client, value):
        return Received(client, "one", {"p": torch.tensor([value])}, 1.0)

    newest = {}
    assert list(with_newest([says(2, 0.5), says(0, 0.1)], newest)) == [says(0, 0.1), says(2, 0.5)]
    assert list(with_newest([], newest)) == []
    assert list(with_newest([says(0, 0.2)], newest)) == [says(0, 0.2), says(2, 0.5)]
    assert sorted(newest) == [0, 2]


PREDICTING = [n for n in algorithms.names() if n not in ("local", "pooled")]


@pytest.mark.parametrize("name", PREDICTING)
def test_every_method_learns_without_rounds(name):
    federation = tiny_federation()
    given = quick(name), federation.task, federation.clients
    found = list(simulate_timed(*given, ONE_BY_ONE, rounds=8))
    assert any(current.stale for current in found)
    for current in found:
        assert current.rejected == {}
        assert all(value.isfinite().all() for value in current.server.values())


def test_an_upload_that_is_turned_away_leaves_the_one_before():
    federation = tiny_federation(["mlp-8"], sizes=(4, 4))
    seen = []

    def engine(function, task, clients, inputs):
        results = sequential(function, task, clients, inputs)
        seen.extend(client.id for client in clients)
        bad = {0: seen.count(0) > 1}
        return [
            (params, upload._replace(weight=torch.tensor(-1.0)) if bad.get(c.id) else upload)
            for c, (params, upload) in zip(clients, results, strict=True)
        ]

    clock = Clock(step_seconds=1.0, buffer=2)
    first, second = simulate_timed(
        *(quick("fedmd"), federation.task, federation.clients, clock), rounds=2, engine=engine
    )
    assert second.rejected.keys() == {0}
    kept, fresh = first.uploads[0].payload, second.uploads[1].payload
    expected = (kept["probabilities"].double() + fresh["probabilities"].double()) / 2
    torch.testing.assert_close(second.server["consensus"].double(), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(buffer=2, server_learning_rate=0.0), "server_learning_rate must be > 0 and finite"),
        (dict(server_learning_rate=0.5), "for the updates of a buffer; give buffer, or leave it"),
    ],
)
def test_learning_rates_of_the_server_that_cannot_be_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        Clock(step_seconds=1.0, **settings)


def test_predictions_have_no_learning_rate_at_the_server():
    federation = tiny_federation()
    clock = Clock(step_seconds=1.0, buffer=2, server_learning_rate=0.5)
    with pytest.raises(ValueError, match="moves parameters, and FedMD sends none; leave it at 1"):
        next(simulate_timed(quick("fedmd"), federation.task, federation.clients, clock, rounds=1))
