"""The virtual clock: timelines that are worked out on paper, and the run without one."""

from dataclasses import dataclass, replace

import pytest
import torch

from fedkd import algorithms
from fedkd.core import Algorithm, Client, Model, Properties, Task
from fedkd.engines.sequential import sequential
from fedkd.messages import Ledger, PayloadSpec, Upload
from fedkd.rounds import checkpoint
from fedkd.rounds.asynchronous import devices, pack, simulate_timed, unpack
from fedkd.rounds.client_sampling import uniform
from fedkd.rounds.clock import Arrival, Clock, Device, closing, seconds
from fedkd.rounds.synchronous import simulate
from kdcore.training.loop import Examples, TrainingConfig
from tests import by_default

SHORT = TrainingConfig("momentum", 0.05, epochs=1, batch_size=4)


@dataclass(frozen=True)
class Counting(Algorithm):
    """A client counts its rounds, and sends the count; the server keeps the newest of each."""

    local: TrainingConfig = TrainingConfig(epochs=1, batch_size=1)
    properties = Properties("none", "a count", "nothing", "any", True, "it")

    def client_update(self, predict, params, received, private, public):
        count = params["count"] + 1
        return {"count": count}, Upload({"count": count}, private.size)

    def payload_spec(self, task, group):
        return {"count": PayloadSpec((1,))}

    def server_update(self, task, server, uploads, public):
        return server | {str(upload.client): upload.payload["count"] for upload in uploads}


def counters(*sizes):
    """Clients of so many examples, which are as many steps; four bytes go up, none down."""
    task = Task({"counter": Model(lambda generator: {}, lambda params, x: None)}, 2)
    data = torch.zeros(max(sizes), 1), torch.zeros(max(sizes)).long()
    start = {"count": torch.zeros(1)}
    return task, [
        Client(i, "counter", start, Examples(*data, torch.arange(n))) for i, n in enumerate(sizes)
    ]


def timeline(clock, *sizes, rounds=4, **more):
    return list(simulate_timed(Counting(), *counters(*sizes), clock, rounds=rounds, **more))


def heard(current):
    return {int(client): int(count) for client, count in current.server.items()}


def test_a_client_takes_steps_and_bytes():
    # 3 steps of 0.5 s, and 200 bytes down and 100 up at 100 a second.
    assert seconds(Device(0.5, 0.01), 200 + 100, 3) == pytest.approx(1.5 + 3.0)


def test_a_synchronous_round_takes_as_long_as_its_slowest_client():
    # Steps of 1 s and 4 bytes at 8 a second: clients of 1, 2 and 5 steps take 1.5, 2.5, 5.5 s.
    found = timeline(Clock(step_seconds=1.0, bandwidth=8.0), 1, 2, 5, rounds=3)
    assert [current.now for current in found] == [5.5, 11.0, 16.5]
    assert [heard(current) for current in found] == [dict.fromkeys(range(3), i) for i in (1, 2, 3)]
    assert not any(current.pending or current.late or current.stale for current in found)


def test_a_deadline_discards_who_is_late_and_it_comes_back_when_it_is_done():
    # Deadline 3 s, clients of 1, 2 and 5 steps of 1 s. Client 2, told at 0, is done at 5.
    # Round 1 ends at 3, as client 2 is late. Round 2, of 0 and 1 alone, ends at 5: client 2 arrives
    # at that very moment, two rounds after it was told: too late. It is told again in round 3,
    # which ends at 8, and is done at 10; round 4 ends at 10 again.
    found = timeline(Clock(step_seconds=1.0, deadline=3.0), 1, 2, 5)
    assert [current.now for current in found] == [3.0, 5.0, 8.0, 10.0]
    assert [current.cohort for current in found] == [(0, 1, 2), (0, 1), (0, 1, 2), (0, 1)]
    assert [current.late for current in found] == [(), (2,), (), (2,)]
    assert [current.uploaders for current in found] == [{0, 1}] * 4
    assert [list(current.pending) for current in found] == [[2], [], [2], []]
    assert heard(found[-1]) == {0: 4, 1: 4}
    assert [int(current.clients[2].params["count"]) for current in found] == [0, 1, 1, 2]
    # what is late has crossed the network all the same
    assert [current.ledger.bytes_up for current in found] == [8, 12, 8, 12]


def test_a_stale_upload_counts_where_it_may():
    found = timeline(Clock(step_seconds=1.0, deadline=3.0, staleness=1), 1, 2, 5)
    assert [current.now for current in found] == [3.0, 5.0, 8.0, 10.0]
    assert [current.stale for current in found] == [{}, {2: 1}, {}, {2: 1}]
    assert [heard(current).get(2) for current in found] == [None, 1, 1, 2]
    assert not any(current.late for current in found)


def test_a_round_waits_for_one_upload_whatever_the_deadline():
    found = timeline(Clock(step_seconds=1.0, deadline=0.5), 2, 3, rounds=3)
    # Round 1 ends at 2 with client 0; client 1 arrives at 3, in round 2, which waits till 4 for
    # client 0; then both are told, and round 3 ends at 6.
    assert [current.now for current in found] == [2.0, 4.0, 6.0]
    assert [current.late for current in found] == [(), (1,), ()]


def test_uploads_arrive_as_they_are_done_where_there_are_no_rounds():
    # After every upload: clients of 2 and 3 steps are done at 2, 4, 6, 8 and at 3, 6, 9. Two that
    # arrive at the same moment are heard together.
    found = timeline(Clock(step_seconds=1.0, buffer=1), 2, 3, rounds=6)
    assert [current.now for current in found] == [2.0, 3.0, 4.0, 6.0, 8.0, 9.0]
    assert [sorted(current.uploads) for current in found] == [[0], [1], [0], [0, 1], [0], [1]]
    assert [current.stale for current in found] == [{}, {1: 1}, {0: 1}, {1: 1}, {}, {1: 1}]
    assert heard(found[-1]) == {0: 4, 1: 3}


def test_a_buffer_waits_for_so_many():
    found = timeline(Clock(step_seconds=1.0, buffer=2), 1, 2, 5, rounds=3)
    # At 2 come 0 (which has waited since 1) and 1. Both start again, and are done at 3 and 4; the
    # slowest comes at 5, and 0 and 1, told at 4, come at 5 and 6.
    assert [current.now for current in found] == [2.0, 4.0, 5.0]
    assert [sorted(current.uploads) for current in found] == [[0, 1], [0, 1], [0, 2]]


def test_closing_by_hand():
    deadline, awaited = Clock(step_seconds=1.0, deadline=3.0), [Arrival(9.0, 1), Arrival(7.0, 2)]
    assert closing(deadline, awaited, 5.0, 2) == 7.0
    assert closing(deadline, [*awaited, Arrival(8.5, 2)], 5.0, 2) == 8.0
    assert closing(deadline, awaited[:1], 5.0, 2) == 9.0  # all others are busy too
    assert closing(deadline, [], 5.0, 2) == 5.0
    assert closing(Clock(), [*awaited, Arrival(8.5, 2)], 5.0, 2) == 8.5


@pytest.mark.parametrize("name", algorithms.names())
def test_where_nobody_is_late_it_is_the_run_without_a_clock(name, tiny):
    federation, algorithm = tiny(), by_default.make(name, local=SHORT)
    given = algorithm, federation.task, federation.clients
    more = {"rounds": 3, "sample": uniform(0.7), "seed": 4}
    for one, other in zip(
        simulate(*given, **more),
        simulate_timed(*given, Clock(step_seconds=1.0, bandwidth=1e3), **more),
        strict=True,
    ):
        assert checkpoint.digest(one) == checkpoint.digest(other)
        assert one.cohort == other.cohort
        assert one.ledger == other.ledger


LATE = Clock(step_seconds=1.0, bandwidth=100.0, spread=0.5, stragglers=0.4, slowdown=4.0)
LATE = replace(LATE, dropout=0.2, deadline=12.0, staleness=2)


@pytest.mark.parametrize("clock", [LATE, replace(LATE, deadline=0.0, staleness=0, buffer=2)])
@pytest.mark.parametrize("name", ["fedmd", "fd", "fedavg"])
def test_a_run_goes_on_from_its_checkpoint_with_all_that_is_under_way(name, clock, tiny, tmp_path):
    federation, algorithm = tiny(), replace(algorithms.get(name)(), local=SHORT)
    given = algorithm, federation.task, federation.clients, clock
    whole = list(simulate_timed(*given, rounds=6))
    assert any(current.pending for current in whole)
    assert any(current.stale for current in whole)
    for stop in (2, 4):
        checkpoint.save(tmp_path / str(stop), pack(whole[stop - 1]), Ledger(), "x")
        saved, _ = checkpoint.load(tmp_path / str(stop), federation.clients, "x")
        rest = list(simulate_timed(*given, rounds=6, after=unpack(saved)))
        for one, other in zip(rest, whole[stop:], strict=True):
            assert checkpoint.digest(pack(one)) == checkpoint.digest(pack(other))
            assert (one.now, one.stale, one.failed) == (other.now, other.stale, other.failed)


def test_what_is_turned_away_was_heard_and_what_cannot_be_sent_too():
    def engine(function, task, clients, inputs):
        results = sequential(function, task, clients, inputs)
        bad = {0: lambda upload: None, 1: lambda upload: upload._replace(weight=-1.0)}
        return [
            (params, bad.get(c.id, lambda upload: upload)(upload))
            for c, (params, upload) in zip(clients, results, strict=True)
        ]

    # Client 0 takes no time, as it has nothing to send; client 2 is late in the first round,
    # and comes in the second, too late to be looked at.
    first, second = timeline(
        Clock(step_seconds=1.0, deadline=2.0), 1, 2, 3, rounds=2, engine=engine
    )
    assert [sorted(current.rejected) for current in (first, second)] == [[0, 1]] * 2
    assert second.late == (2,)
    assert [current.uploaders for current in (first, second)] == [{0, 1}] * 2
    assert [int(current.clients[0].params["count"]) for current in (first, second)] == [1, 2]


def test_devices_are_drawn_once_by_the_seed():
    clock = Clock(step_seconds=2.0, bandwidth=10.0, stragglers=0.25, slowdown=8.0)
    found = devices(clock, range(100), 0)
    slow = {k for k, device in found.items() if device == Device(16.0, 0.8)}
    assert len(slow) == 25
    assert all(found[k] == Device(2.0, 0.1) for k in found if k not in slow)
    assert found == devices(clock, range(100), 0) != devices(clock, range(100), 1)


def test_the_spread_is_log_normal_with_median_one():
    found = devices(Clock(step_seconds=1.0, bandwidth=1.0, spread=0.7), range(4000), 0)
    logs = torch.tensor(list(found.values()), dtype=torch.float64).log()
    assert logs.mean(dim=0).tolist() == pytest.approx([0, 0], abs=0.05)  # 0.7 / sqrt(4000) = 0.011
    assert logs.std(dim=0).tolist() == pytest.approx([0.7, 0.7], abs=0.05)
    assert abs(float(torch.corrcoef(logs.T)[0, 1])) < 0.08


def test_who_drops_out_was_told_and_keeps_what_it_had():
    found = timeline(Clock(dropout=0.5), *[1] * 20, rounds=20)
    lost = [client for current in found for client in current.failed]
    assert len(lost) / 400 == pytest.approx(0.5, abs=0.1)  # standard deviation 0.025
    for current in found:
        assert set(current.failed.values()) <= {"dropped out"}
        assert current.cohort == tuple(range(20))
        assert set(current.uploads) == set(range(20)) - set(current.failed)
    last = found[-1].clients
    assert all(int(client.params["count"]) == 20 - lost.count(client.id) for client in last)


def test_everybody_may_drop_out():
    found = timeline(Clock(dropout=0.9), 1, 1, rounds=30)
    assert any(not current.uploads for current in found)


def test_public_steps_are_counted_from_when_something_was_told(tiny):
    # mlp-8 of 7 examples: one epoch of 2 batches; 11 public examples: 3 batches in every round but
    # the first. With one step a second the slowest, of 12 examples, takes 3 and then 6.
    federation = tiny(sizes=(7, 1, 12))
    training = replace(SHORT, epochs=1)
    algorithm = algorithms.get("fedmd")(local=training, distill=training)

    def times(algorithm):
        given = algorithm, federation.task, federation.clients
        found = simulate_timed(*given, Clock(step_seconds=1.0), rounds=3)
        return [current.now for current in found]

    assert times(algorithm) == [3.0, 9.0, 15.0]
    assert times(replace(algorithm, pretrain=2)) == [9.0, 15.0, 21.0]  # first 2 x 3 public ones
    assert times(replace(algorithms.get("feddf")(), local=training)) == [3.0, 6.0, 9.0]
    assert times(replace(algorithms.get("pooled")(), local=training)) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(step_seconds=-1.0), "step_seconds must be from 0 to 1e.12, got -1.0"),
        (dict(stragglers=1.0), "stragglers must be >= 0 and < 1, got 1.0"),
        (dict(step_seconds=1e308), "step_seconds must be from 0 to 1e.12, got 1e.308"),
        (dict(bandwidth=1e-300), "bandwidth must be 0, or >= 1e-12, got 1e-300: a byte would take"),
        (dict(spread=100.0, step_seconds=1.0), "spread must be from 0 to 10, got 100"),
        (dict(slowdown=0.5), "slowdown must be from 1 to 1e.09, got 0.5"),
        (dict(stragglers=0.2), "nothing takes any time, and nobody is late; give one of them"),
        (dict(step_seconds=1.0, buffer=2, deadline=3.0), "no round to be late for; leave out"),
    ],
)
def test_clocks_that_cannot_be_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        Clock(**settings)


@pytest.mark.parametrize("late", [dict(staleness=1, deadline=1.0), dict(buffer=2)])
def test_late_predictions_about_other_examples_are_an_error(late, tiny):
    federation, algorithm = tiny(), algorithms.get("fedmd")(public_size=5)
    given = algorithm, federation.task, federation.clients
    with pytest.raises(ValueError, match="public_size 5: late predictions would be about other"):
        next(simulate_timed(*given, Clock(step_seconds=1.0, **late), rounds=1))
    next(simulate_timed(*given, Clock(step_seconds=1.0, deadline=1.0), rounds=1))
