"""A Flower app on `EngineGrid`: the answers of `LocalGrid` and `simulate`, as one, and in time."""

import logging
import threading
import time
import warnings
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from fedkd import algorithms
from fedkd.communication.channel import Channel
from fedkd.communication.compression import float16
from fedkd.core import Task
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.messages import Transform
from fedkd.rounds.client_sampling import uniform
from fedkd.rounds.evaluation import evaluate
from fedkd.rounds.synchronous import simulate
from kdcore.training.loop import TrainingConfig

with warnings.catch_warnings():  # flwr imports typer, which imports names that click will drop
    warnings.filterwarnings("ignore", ".*click", DeprecationWarning)
    from flwr.app import (
        Array,
        ArrayRecord,
        ConfigRecord,
        Context,
        Message,
        MetricRecord,
        RecordDict,
    )
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg

    from fedkd.flower import (
        ClientRuntime,
        DistillationApp,
        DistillationStrategy,
        EngineGrid,
        LocalGrid,
        client_app,
        pack,
        unpack,
    )
    from fedkd.flower.grids import engine as engine_grid
    from fedkd.flower.grids import job_queue
    from fedkd.flower.wire.arrays import to_array, to_numpy
    from fedkd.flower.wire.copying import copy_message

CLIENTS = 5
every_algorithm = pytest.mark.parametrize("name", algorithms.names())


def small(name, **settings):
    """An algorithm, all of whose training is short."""
    training = TrainingConfig("adam", 0.02, epochs=2, batch_size=4)
    kind = algorithms.get(name)
    short = {f.name: training for f in fields(kind) if isinstance(f.default, TrainingConfig)}
    return kind(**short, **settings)


def app_of(algorithm, federation, channel=Channel(), **more):  # noqa: B008
    def build(context):
        client = federation.clients[context.node_config["partition-id"]]
        return ClientRuntime(algorithm, federation.task, client, channel, **more)

    return client_app(build)


def run(grid, algorithm, federation, rounds=3, channel=Channel(), **how):  # noqa: B008
    """Flower's own loop; gives the server, what the clients keep, and the records."""
    strategy = DistillationStrategy(algorithm, federation.task, CLIENTS, channel=channel, **how)
    result = strategy.start(grid, ArrayRecord(), rounds)
    return unpack(result.arrays), kept(grid), strategy.records


def kept(grid):
    return {
        context.node_config["partition-id"]: unpack(context.state["params"])
        for context in grid.contexts.values()
        if "params" in context.state
    }


def assert_close(one, other, tolerance=1e-9):
    assert set(one) == set(other)
    for key, value in other.items():
        assert one[key].dtype == value.dtype
        torch.testing.assert_close(one[key], value, rtol=tolerance, atol=tolerance)


def assert_as_simulated(server, clients, records, expected, tolerance=1e-9):
    assert_close(server, expected[-1].server, tolerance)
    assert set(clients) == {number for r in expected for number in r.cohort}
    for number, params in clients.items():
        assert_close(params, expected[-1].clients[number].params, tolerance)
    for record, r in zip(records, expected, strict=True):
        assert (record.cohort, record.ledger) == (r.cohort, r.ledger)
        assert (record.rejected, record.failed) == ({}, {})


def assert_one_call_a_round(grid, records):
    assert grid.fallbacks == {}
    assert grid.calls == [len(record.cohort) for record in records]


# --- the same answers -----------------------------------------------------------------------------


@every_algorithm
@pytest.mark.parametrize("engine", [sequential, batched(50), batched(2)], ids=["1", "50", "2"])
def test_an_engine_answers_for_all_nodes_as_the_nodes_would(name, engine, tiny, double):
    federation, algorithm, how = tiny(), small(name), {"sample": uniform(0.6), "seed": 3}
    expected = list(simulate(algorithm, federation.task, federation.clients, rounds=3, **how))
    assert len({r.cohort for r in expected}) > 1
    grid = EngineGrid(app_of(algorithm, federation), CLIENTS, engine)
    server, clients, records = run(grid, algorithm, federation, **how)
    assert_as_simulated(server, clients, records, expected)
    assert_one_call_a_round(grid, records)
    local = LocalGrid(app_of(algorithm, federation), CLIENTS)
    other, others, _ = run(local, algorithm, federation, **how)
    assert_close(server, other)
    for number, params in clients.items():
        assert_close(params, others[number])
        first = federation.clients[number].params  # else the comparison says nothing
        assert all(not torch.equal(params[key], first[key]) for key in first)


def test_the_comparison_sees_a_thousandth_of_the_learning_rate(tiny, double):
    federation, algorithm = tiny(), small("fedmd")
    other = replace(algorithm, local=replace(algorithm.local, learning_rate=0.02002))

    def engine(function, *rest):
        return sequential(other.client_update, *rest)

    grid = EngineGrid(app_of(algorithm, federation), CLIENTS, engine)
    server, *_ = run(grid, algorithm, federation)
    expected = list(simulate(algorithm, federation.task, federation.clients, rounds=3))
    with pytest.raises(AssertionError, match="not close"):
        assert_close(server, expected[-1].server)


@pytest.mark.ray
@every_algorithm
def test_clients_that_live_in_ray_actors_answer_the_same(name, ray_engine, tiny, double):
    federation, algorithm = tiny(), small(name)
    expected = list(simulate(algorithm, federation.task, federation.clients, rounds=2))
    grid = EngineGrid(app_of(algorithm, federation), CLIENTS, ray_engine)
    server, clients, records = run(grid, algorithm, federation, rounds=2)
    assert_as_simulated(server, clients, records, expected)
    assert_one_call_a_round(grid, records)


@pytest.fixture(scope="module")
def ray_engine():
    from fedkd.engines.ray.engine import RayEngine

    with RayEngine(2) as engine:
        yield engine


def noise(message, generator):
    return {k: v + 1e-3 * torch.rand(v.shape, generator=generator) for k, v in message.items()}


@pytest.mark.parametrize("secret", [None, 7])
def test_noise_rounding_and_bytes_are_those_of_the_nodes(secret, tiny, double):
    channel = Channel((Transform(noise, error=1.0), float16()), (float16(),))
    federation, algorithm = tiny(), small("dsfl", public_size=7)
    grids = [
        kind(app_of(algorithm, federation, channel, secret=secret), CLIENTS)
        for kind in (EngineGrid, LocalGrid)
    ]
    server, clients, records = run(grids[0], algorithm, federation, channel=channel)
    other, others, other_records = run(grids[1], algorithm, federation, channel=channel)
    assert_close(server, other)
    assert_one_call_a_round(grids[0], records)
    assert clients.keys() == others.keys()
    for one, two in zip(records, other_records, strict=True):
        assert (one.ledger, one.rejected) == (two.ledger, two.rejected)
        assert (one.wire_up, one.wire_down) == (two.wire_up, two.wire_down)


@pytest.mark.parametrize("name", ["dsfl", "fedavg"])
def test_scores_are_those_of_the_nodes(name, tiny, double):
    federation, algorithm = tiny(), small(name)
    counts = federation.label_counts

    def score(client):
        own = counts[client.id : client.id + 1]
        return {"a": float(evaluate(federation.task, [client], federation.test, own).accuracy)}

    app = app_of(algorithm, federation, score=score)
    grids = [kind(app, CLIENTS) for kind in (EngineGrid, LocalGrid)]
    first, second = (run(grid, algorithm, federation, score={1, 2, 3}) for grid in grids)
    assert [r.scores for r in first[2]] == [r.scores for r in second[2]]
    assert all(len(r.scores) == CLIENTS for r in first[2])
    assert grids[0].calls == [CLIENTS] * 6  # a training and a deployment each round
    assert grids[0].fallbacks == {}


def test_a_whole_server_app_runs_and_stops_and_goes_on_from_the_states(tiny, double):
    federation, algorithm = tiny(), small("fedmd")
    grid = EngineGrid(app_of(algorithm, federation), CLIENTS)
    server, servers = ServerApp(), [ArrayRecord()]

    @server.main()
    def main(grid, context):
        strategy = DistillationStrategy(algorithm, federation.task, CLIENTS)
        strategy.start(grid, servers[0], 1)
        for context in grid.contexts.values():  # looked at between two rounds, and changed
            params = unpack(context.state["params"])
            context.state["params"] = pack({k: v + 1 for k, v in params.items()})
        nodes = {n: c.state["params"] for n, c in grid.contexts.items()}
        strategy.start(grid, servers[0], 1)
        assert all(grid.contexts[n].state["params"] is not nodes[n] for n in nodes)

    server(grid, Context(1, 0, {}, RecordDict(), {}))
    (first,) = simulate(algorithm, federation.task, federation.clients, rounds=1)
    moved = [replace(c, params={k: v + 1 for k, v in c.params.items()}) for c in first.clients]
    (second,) = simulate(algorithm, federation.task, moved, rounds=1)
    for number, params in kept(grid).items():
        assert_close(params, second.clients[number].params)


def test_states_are_written_when_somebody_looks_and_only_then(tiny, monkeypatch):
    federation, algorithm = tiny(), small("local")
    written = []
    grid = EngineGrid(app_of(algorithm, federation), CLIENTS)
    monkeypatch.setattr(
        "fedkd.flower.grids.client_pool.pack", lambda p: written.append(p) or pack(p)
    )
    DistillationStrategy(algorithm, federation.task, CLIENTS).start(grid, ArrayRecord(), 2)
    assert written == []
    assert len(kept(grid)) == len(written) == CLIENTS


# --- who fails ------------------------------------------------------------------------------------


def test_a_client_that_raises_is_named_and_keeps_its_state_and_that_is_noted(tiny, double, caplog):
    federation, algorithm = tiny(), small("fedmd")
    calls = []

    def engine(function, task, clients, inputs):
        calls.append(len(clients))
        if len(calls) > 1 and any(client.id == 3 for client in clients):
            raise FloatingPointError("3 overflows")
        return batched()(function, task, clients, inputs)

    grid = EngineGrid(app_of(algorithm, federation), CLIENTS, engine)
    with caplog.at_level(logging.WARNING, "flwr"):
        _, clients, records = run(grid, algorithm, federation, rounds=2)
    assert [record.failed for record in records] == [{}, {3: "FloatingPointError: 3 overflows"}]
    assert calls == [5, 5, 1, 1, 1, 1, 1]
    (reason,) = grid.fallbacks
    assert reason.startswith("5 clients one by one: run as one they raised FloatingPointError")
    assert reason in caplog.text
    (first,) = simulate(algorithm, federation.task, federation.clients, rounds=1)
    assert_close(clients[3], first.clients[3].params)
    assert records[1].ledger.bytes_up == first.ledger.bytes_up * 4 // 5


def test_what_one_node_gets_wrong_is_its_own_error(tiny):
    federation, algorithm = tiny(), small("fedmd")
    right = app_of(algorithm, federation).build
    fewer = replace(federation.task, public=federation.task.public[1:])

    def cannot(message, generator):
        raise OSError("no line")

    def build(context):
        runtime, number = right(context), context.node_config["partition-id"]
        if number == 0 and context.state:
            raise FileNotFoundError("the data is gone")
        wrong = {
            1: {"algorithm": small("dsfl")},
            2: {"client": replace(runtime.client, group="none")},
            3: {"channel": Channel((Transform(cannot),))},
            4: {"task": fewer},
        }
        return runtime._replace(**wrong.get(number, {}))

    grids = [kind(client_app(build), CLIENTS) for kind in (EngineGrid, LocalGrid)]
    nodes = grids[0].get_node_ids()
    order = ConfigRecord({"round": 1, "seed": 0, **right_terms(grids[0], right)})
    content = RecordDict({"order": order, "broadcast": pack({})})
    texts = []
    for grid in grids:
        sent = [Message(content, node, "train.distil") for node in nodes]
        replies = grid.send_and_receive(sent)
        by_number = {number_of(grid, r): r for r in replies}
        texts.append({n: r.error.reason for n, r in by_number.items() if r.has_error()})
        assert not by_number[0].has_error()
    assert texts[0] == texts[1]
    assert sorted(texts[0]) == [1, 2, 3, 4]
    assert texts[0][2] == "KeyError: 'none'"


def right_terms(grid, build):
    (context, *_) = grid.contexts.values()
    return build(context).terms()


def number_of(grid, reply):
    return grid.contexts[reply.metadata.src_node_id].node_config["partition-id"]


def test_a_node_that_cannot_be_built_is_asked_again(tiny):
    federation, algorithm = tiny(), small("local")
    right, tries = app_of(algorithm, federation).build, []

    def build(context):
        tries.append(context)
        if len(tries) == 1:
            raise FileNotFoundError("no data yet")
        return right(context)

    grid = EngineGrid(client_app(build), 1)
    replies = [ask(grid, "query.who", RecordDict(), timeout=100)[0] for _ in range(3)]
    assert [reply.has_error() for reply in replies] == [True, False, False]
    assert replies[0].error.reason == "FileNotFoundError: no data yet"
    assert len(tries) == 2


@pytest.mark.parametrize("kind", [LocalGrid, EngineGrid])
def test_a_client_that_has_lost_its_parameters_is_named_and_does_not_begin_anew(kind, tiny):
    federation, algorithm = tiny(), small("fedmd")
    grid = kind(app_of(algorithm, federation), CLIENTS)
    strategy = DistillationStrategy(algorithm, federation.task, CLIENTS)
    strategy.start(grid, ArrayRecord(), 1)
    for context in grid.contexts.values():
        if partition(context) == 2:  # as in a SuperNode that was restarted
            del context.state["params"]
    strategy.start(grid, ArrayRecord(), 1)
    reason = "ValueError: it has answered in round 1 and lost its parameters since"
    assert strategy.records[1].failed == {2: f"{reason}; was it restarted?"}
    assert strategy.records[1].ledger.bytes_up == strategy.records[0].ledger.bytes_up * 4 // 5
    assert 2 not in kept(grid)


def test_clients_who_cannot_be_run_as_one_are_run_in_turn_and_that_is_noted(tiny, double):
    federation, algorithm = tiny(), small("fedmd")
    task = federation.task
    right = app_of(algorithm, federation).build

    def build(context):
        own = Task(task.models, task.num_classes, task.public)
        return right(context)._replace(task=own)

    grid = EngineGrid(client_app(build), CLIENTS)
    server, *_ = run(grid, algorithm, federation, rounds=1)
    (expected,) = simulate(algorithm, task, federation.clients, rounds=1)
    assert_close(server, expected.server)
    assert grid.calls == [1] * CLIENTS
    assert any("5 clients in 5 calls" in reason for reason in grid.fallbacks)


# --- any app --------------------------------------------------------------------------------------


def ask(grid, kind, content, **how):
    """One message to each node, in the order of their partitions."""
    order = sorted(grid.contexts, key=lambda node: grid.contexts[node].node_config["partition-id"])
    replies = grid.send_and_receive([Message(content, node, kind) for node in order], **how)
    return sorted(replies, key=lambda reply: order.index(reply.metadata.src_node_id))


@pytest.mark.parametrize("kind", [LocalGrid, EngineGrid])
def test_any_app_runs_node_by_node_and_shares_nothing(kind):
    app = ClientApp()

    @app.train("take")
    def take(message, context):
        message.content.pop("order")
        message.content["numbers"]["list"].append(1)
        message.content["array"]["a"].data = b""
        context.state["mark"] = pack({"n": torch.ones(1)})
        context.run_config["lr"] = 0.5
        if context.node_config["partition-id"] == 1:
            raise KeyError("order")
        content = {"mark": context.state["mark"], "numbers": message.content["numbers"]}
        return Message(RecordDict(content), reply_to=message)

    grid = kind(app, 3, run_config={"lr": 0.1})
    numbers, array = MetricRecord({"list": [1, 2]}), pack({"a": torch.ones(2)})
    content = RecordDict({"order": pack({}), "numbers": numbers, "array": array})
    first, second, third = ask(grid, "train.take", content, timeout=100)
    assert second.error.reason == "KeyError: 'order'"
    assert second.error.code == 2
    assert numbers["list"] == [1, 2]
    assert first.content["numbers"]["list"] == third.content["numbers"]["list"] == [1, 2, 1]
    assert "order" in content
    assert torch.equal(unpack(content["array"])["a"], torch.ones(2))
    states = [c.state for c in sorted(grid.contexts.values(), key=partition)]
    assert ["mark" in state for state in states] == [True, False, True]
    assert states[0]["mark"] is not first.content["mark"]
    assert [c.run_config["lr"] for c in sorted(grid.contexts.values(), key=partition)] == [
        0.5,
        0.1,
        0.5,
    ]


def partition(context):
    return context.node_config["partition-id"]


def test_flowers_own_strategy_runs_with_an_app_of_its_own():
    app, order = ClientApp(), []

    @app.train()
    def train(message, context):
        order.append(partition(context))
        values = message.content["arrays"].to_numpy_ndarrays()[0] + partition(context)
        content = {
            "arrays": ArrayRecord([values]),
            "metrics": MetricRecord({"num-examples": 1}),
        }
        return Message(RecordDict(content), reply_to=message)

    grid = EngineGrid(app, 3)
    result = FedAvg(fraction_evaluate=0.0).start(grid, ArrayRecord([np.zeros(2)]), 2)
    assert result.arrays.to_numpy_ndarrays()[0].tolist() == [2.0, 2.0]
    (reason,) = grid.fallbacks
    assert "not one of fedkd.flower.client_app" in reason
    assert grid.fallbacks[reason] == len(order) == 6
    assert grid.calls == []


def test_other_messages_and_a_lifespan_are_run_by_the_node_and_that_is_noted(tiny, double, caplog):
    federation, algorithm = tiny(), small("fedmd")
    app = app_of(algorithm, federation)

    @app.query("norm")
    def norm(message, context):
        total = sum(float(v.abs().sum()) for v in unpack(context.state["params"]).values())
        return Message(RecordDict({"norm": MetricRecord({"l1": total})}), reply_to=message)

    grid = EngineGrid(app, CLIENTS)
    run(grid, algorithm, federation, rounds=1)
    assert (grid.fallbacks, grid.calls) == ({}, [CLIENTS])
    replies = ask(grid, "query.norm", RecordDict(), timeout=100)
    (r,) = simulate(algorithm, federation.task, federation.clients, rounds=1)
    expected = [sum(float(v.abs().sum()) for v in c.params.values()) for c in r.clients]
    assert [reply.content["norm"]["l1"] for reply in replies] == pytest.approx(expected)
    assert any("query.norm is a message of the app's own" in reason for reason in grid.fallbacks)

    entered = []

    @app.lifespan()
    def lifespan(context):
        entered.append(context.node_id)
        yield

    other = EngineGrid(app, CLIENTS)
    server, *_ = run(other, algorithm, federation, rounds=1)
    assert_close(server, r.server)
    assert len(entered) == 2 * CLIENTS
    assert any("the app has a lifespan" in reason for reason in other.fallbacks)
    assert caplog.text.count("the app has a lifespan") == 1
    assert other.calls == []


def test_an_app_that_only_looks_like_ours_is_not_taken_for_it(tiny):
    class Louder(DistillationApp):
        def __call__(self, message, context):
            raise RuntimeError("not what the engine would answer")

    grid = EngineGrid(Louder(app_of(small("local"), tiny()).build), 1)
    (reply,) = ask(grid, "query.who", RecordDict())
    assert reply.error.reason == "RuntimeError: not what the engine would answer"
    assert len(grid.fallbacks) == 1


def test_two_messages_for_a_node_are_answered_one_after_the_other(tiny, double):
    federation, algorithm = tiny(), small("local")
    app = app_of(algorithm, federation)
    grids = [kind(app, 1) for kind in (EngineGrid, LocalGrid)]
    for grid in grids:
        (node,) = grid.get_node_ids()
        order = ConfigRecord({"round": 1, "seed": 0, **right_terms(grid, app.build)})
        content = RecordDict({"order": order, "broadcast": pack({})})
        assert len(grid.send_and_receive([Message(content, node, "train.distil")])) == 1
        two = [Message(content, node, "train.distil") for _ in range(2)]
        assert len(grid.send_and_receive(two)) == 2
    assert grids[0].calls == [1, 1, 1]
    assert_close(kept(grids[0])[0], kept(grids[1])[0])


def test_a_message_to_nobody_is_answered_with_an_error(tiny):
    for app in (client_app(None), ClientApp()):
        grid = EngineGrid(app, 1)
        (reply,) = grid.send_and_receive([grid.create_message(RecordDict(), "query.who", 7, "")])
        assert (reply.error.code, reply.error.reason) == (5, "there is no node 7")


# --- in time --------------------------------------------------------------------------------------


class Clock:
    """In the place of `time`: a clock that goes on only while all who work hang, or are made to.

    So whoever does not hang is in time, however slow the machine is.
    """

    def __init__(self):
        self.now, self.start = 0.0, time.time()
        self.hanging, self.counting = 0, threading.Lock()

    def monotonic(self):
        if self.hanging and len(working()) == self.hanging:
            self.now += 0.05
        return self.now

    def time(self):
        return self.start + self.monotonic()

    def hang(self, released):
        with self.counting:
            self.hanging += 1
        released.wait()
        with self.counting:
            self.hanging -= 1


def working():
    return [thread for thread in threading.enumerate() if thread.name == "kdsim-jobs"]


@pytest.fixture
def clock(monkeypatch):
    """A clock that grids and their queues look at."""
    until(lambda: not working())  # of tests before this one
    found = Clock()
    for module in (engine_grid, job_queue):
        monkeypatch.setattr(module, "time", found)
    return found


@pytest.fixture
def hanging(clock):
    """An app in which node 1 hangs until the test ends, having written into its state."""
    app, released = ClientApp(), threading.Event()

    @app.train("work")
    def work(message, context):
        context.state["mark"] = pack({"n": torch.ones(1)})
        if context.node_config["partition-id"] == 1:
            clock.hang(released)
        return Message(RecordDict(), reply_to=message)

    yield app, released
    released.set()


def numbers(grid, replies):
    return sorted(number_of(grid, reply) for reply in replies if not reply.has_error())


def until(true, seconds=100):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_handler_that_hangs_is_dropped_and_the_others_are_heard(hanging, clock):
    app, released = hanging
    grid = EngineGrid(app, 4)
    replies = ask(grid, "train.work", RecordDict(), timeout=1.0)
    assert 1.0 <= clock.now < 1.5
    assert numbers(grid, replies) == [0, 2, 3]
    again = ask(grid, "train.work", RecordDict(), timeout=1.0)  # the grid is as good as before
    assert numbers(grid, again) == [0, 2, 3]
    released.set()
    until(lambda: not working())
    marked = {partition(c) for c in grid.contexts.values() if "mark" in c.state}
    assert marked == {0, 2, 3}  # what it wrote is ignored, also after it has come back
    assert numbers(grid, ask(grid, "train.work", RecordDict(), timeout=1.0)) == [0, 1, 2, 3]


def test_a_handler_that_is_slow_but_in_time_is_heard(clock):
    """It takes more than half of the time, so that node 2 is asked while it is at work."""
    app, overtaken = ClientApp(), threading.Event()

    @app.train("work")
    def work(message, context):
        if context.node_config["partition-id"] == 1:
            clock.now += 0.7
            assert overtaken.wait(100)
        if context.node_config["partition-id"] == 2:
            overtaken.set()
        return Message(RecordDict(), reply_to=message)

    grid = EngineGrid(app, 3)
    assert numbers(grid, ask(grid, "train.work", RecordDict(), timeout=1.2)) == [0, 1, 2]
    assert numbers(grid, ask(grid, "train.work", RecordDict())) == [0, 1, 2]


def test_no_time_gives_no_answers_and_no_states(hanging):
    app, released = hanging
    grid = EngineGrid(app, 4)
    assert ask(grid, "train.work", RecordDict(), timeout=0) == []
    released.set()
    until(lambda: not working())
    assert all("mark" not in context.state for context in grid.contexts.values())


def test_an_answer_that_is_there_at_once_is_late_where_there_is_no_time():
    app = ClientApp()

    @app.train("work")
    def work(message, context):
        context.state["mark"] = pack({"n": torch.ones(1)})
        return Message(RecordDict(), reply_to=message)

    grid = EngineGrid(app, 2)
    queue = grid._queue  # whose thread has done its work before anybody looks for answers
    grid._wait = lambda *_: queue.changed.wait_for(lambda: queue._turn is None, 100)
    assert ask(grid, "train.work", RecordDict(), timeout=0) == []
    assert all("mark" not in context.state for context in grid.contexts.values())


def test_a_message_that_outlives_its_time_gets_an_error(hanging, clock):
    grid = EngineGrid(hanging[0], 3)
    nodes = sorted(grid.contexts, key=lambda n: partition(grid.contexts[n]))
    sent = [Message(RecordDict(), node, "train.work", ttl=0.5) for node in nodes]
    for message in sent:
        message.metadata.created_at = clock.time()
    sent[0].metadata.created_at -= 1  # dead on arrival
    replies = {number_of(grid, reply): reply for reply in grid.send_and_receive(sent)}
    assert 0.5 <= clock.now < 1.0
    for number in (0, 1):
        assert replies[number].error.code == 3
        assert replies[number].error.reason == "no answer within the 0.5 s that the message had"
    marked = {partition(c) for c in grid.contexts.values() if "mark" in c.state}
    assert 0 not in marked
    assert 1 not in marked


def test_a_round_without_the_one_who_hangs_is_the_round_of_the_others(tiny, double, clock):
    federation, algorithm = tiny(), small("fedmd")
    released = threading.Event()

    def engine(function, task, clients, inputs):
        if any(client.id == 3 for client in clients) and len(grid.calls) == 2:
            clock.hang(released)
        return batched()(function, task, clients, inputs)

    grid = EngineGrid(app_of(algorithm, federation), CLIENTS, engine)
    strategy = DistillationStrategy(algorithm, federation.task, CLIENTS)
    strategy.start(grid, ArrayRecord(), 1)
    before = kept(grid)
    strategy.start(grid, ArrayRecord(), 1, timeout=0.5)
    silent = dict.fromkeys(range(CLIENTS), "no answer in time")
    assert strategy.records[1].failed == silent
    released.set()
    until(lambda: not working())
    for number, params in kept(grid).items():
        assert_close(params, before[number], 0)
    strategy.start(grid, ArrayRecord(), 1, timeout=0.5)
    assert strategy.records[2].failed == {}


def test_pushed_messages_are_answered_later(hanging):
    app, released = hanging
    grid = EngineGrid(app, 3)
    nodes = sorted(grid.contexts, key=lambda n: partition(grid.contexts[n]))
    ids = grid.push_messages(Message(RecordDict(), node, "train.work") for node in nodes)
    replies = []
    until(lambda: replies.extend(grid.pull_messages(ids)) or len(replies) == 1)
    assert numbers(grid, replies) == [0]
    released.set()
    until(lambda: replies.extend(grid.pull_messages(ids)) or len(replies) == 3)
    assert grid.pull_messages(ids) == []
    assert [r.metadata.reply_to_message_id for r in replies] == ids


def test_a_handler_that_would_end_the_thread_is_an_error(caplog):
    app = ClientApp()

    @app.train("work")
    def work(message, context):
        raise SystemExit("enough")

    grid = EngineGrid(app, 2)
    replies = ask(grid, "train.work", RecordDict(), timeout=100)
    assert [reply.error.reason for reply in replies] == ["SystemExit: enough"] * 2
    assert "without an answer" in caplog.text


def test_a_grid_leaves_no_threads_behind(tiny):
    grid = EngineGrid(app_of(small("local"), tiny()), CLIENTS)
    run(grid, small("local"), tiny(), rounds=2)
    until(lambda: not working())


# --- records --------------------------------------------------------------------------------------

VALUES = [
    np.array([[0.1, -0.0], [np.inf, np.nan]]),
    np.zeros((0, 4), "f4"),
    np.array(3.5),
    np.array([7, -7], "i4"),
    np.array([True, False]),
    np.arange(6, dtype="f2").reshape(2, 3),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: f"{v.dtype}{v.shape}")
def test_arrays_are_written_and_read_as_numpy_does(value):
    ours, theirs = to_array(value), Array(value)
    assert vars(ours) == vars(theirs)
    for read in (to_numpy(ours), ours.numpy(), to_numpy(Array(np.array(value, order="F")))):
        assert (read.dtype, read.shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(read, value)
    assert to_numpy(ours).flags.writeable


@pytest.mark.parametrize("cut", [1, 5, 9, 11, 40, -1])
def test_arrays_that_are_damaged_are_errors(cut):
    array = to_array(np.ones(3))
    array.data = array.data[:cut]
    with pytest.raises((ValueError, EOFError)):
        to_numpy(array)


def test_an_array_of_objects_is_an_error():
    file = to_array(np.ones(1)).data.replace(b"'<f8'", b"'|O' ")
    with pytest.raises(ValueError, match="pickle"):
        to_numpy(Array("object", (1,), "numpy.ndarray", file))


def test_a_copied_message_says_the_same_and_shares_nothing_that_can_change():
    LocalGrid(ClientApp(), 1)  # so that messages can be made
    content = RecordDict(
        {"a": pack({"x": torch.ones(2)}), "c": ConfigRecord({"l": ["u"], "b": b"v", "n": 1})}
    )
    message = Message(content, 5, "train.work", ttl=7, group_id="g")
    copied = copy_message(message)
    assert copied.metadata == message.metadata
    assert copied.content == message.content
    assert copied.content.object_id == message.content.object_id
    copied.metadata.group_id = "h"
    copied.content["c"]["l"].append("w")
    copied.content["a"]["x"].data = b""
    assert message.metadata.group_id == "g"
    assert message.content["c"]["l"] == ["u"]
    assert message.content["a"]["x"].data
