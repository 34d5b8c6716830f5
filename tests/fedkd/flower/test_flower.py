"""Flower's Strategy and ClientApp give the clients that `simulate` gives, and name who fails."""

import functools
import importlib.util
import json
import math
import subprocess
import sys
import tomllib
import warnings
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedkd import algorithms
from fedkd.attacks.byzantine import FAULTS
from fedkd.communication.channel import Channel
from fedkd.communication.compression import float16
from fedkd.messages import Transform, Upload
from fedkd.rounds.client_sampling import uniform
from fedkd.rounds.evaluation import evaluate
from fedkd.rounds.round import deploy_all, deployed
from fedkd.rounds.synchronous import simulate
from kdcore.training.loop import Clipping, TrainingConfig

with warnings.catch_warnings():  # flwr imports typer, which imports names that click will drop
    warnings.filterwarnings("ignore", ".*click", DeprecationWarning)
    from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

    from fedkd.flower import (
        ClientRuntime,
        DistillationStrategy,
        LocalGrid,
        Plan,
        carry_out,
        client_app,
        pack,
        serialised,
        server_app,
        unpack,
    )
    from fedkd.flower.wire.serde import brief, terms

REPOSITORY = Path(__file__).resolve().parents[3]
APP = REPOSITORY / "simulations" / "flower_app"
CLIENTS = 5
every_algorithm = pytest.mark.parametrize("name", algorithms.names())


def small(name, **settings):
    """An algorithm, all of whose training is short."""
    training = TrainingConfig("adam", 0.02, epochs=2, batch_size=4)
    kind = algorithms.get(name)
    short = {f.name: training for f in fields(kind) if isinstance(f.default, TrainingConfig)}
    return kind(**short, **settings)


def party_of(algorithm, federation, channel, context, **more):
    number = context.node_config["partition-id"]
    return ClientRuntime(algorithm, federation.task, federation.clients[number], channel, **more)


@dataclass
class Run:
    """What a run through Flower left."""

    strategy: DistillationStrategy
    server: dict
    kept: dict


def flower(algorithm, federation, *, rounds=3, channel=Channel(), app=None, grid=LocalGrid, **how):  # noqa: B008
    """Run a federation through Flower's own `Strategy.start`, in this process."""
    if app is None:
        app = client_app(functools.partial(party_of, algorithm, federation, channel))
    there = grid(app, CLIENTS)
    strategy = DistillationStrategy(algorithm, federation.task, CLIENTS, channel=channel, **how)
    result = strategy.start(there, ArrayRecord(), rounds)
    kept = {
        context.node_config["partition-id"]: unpack(context.state["params"])
        for context in there.contexts.values()
        if "params" in context.state
    }
    return Run(strategy, unpack(result.arrays), kept)


def without(federation, number):
    """The federation that a client never joined."""
    clients = [client for client in federation.clients if client.id != number]
    return federation._replace(clients=clients)


def rounds_of(algorithm, federation, *, rounds=3, **how):
    return list(simulate(algorithm, federation.task, federation.clients, rounds=rounds, **how))


def assert_close(one, other, tolerance=1e-9):
    assert set(one) == set(other)
    for key, value in other.items():
        assert one[key].dtype == value.dtype
        torch.testing.assert_close(one[key], value, rtol=tolerance, atol=tolerance)


def assert_same_run(run, expected, tolerance=1e-9):
    """The same server, the same clients, and round by round the same cohort and bytes."""
    assert_close(run.server, expected[-1].server, tolerance)
    clients = {client.id: client.params for client in expected[-1].clients}
    assert set(run.kept) == {number for r in expected for number in r.cohort}
    for number, params in run.kept.items():
        assert_close(params, clients[number], tolerance)
    for record, r in zip(run.strategy.records, expected, strict=True):
        assert (record.index, record.cohort, record.ledger) == (r.index, r.cohort, r.ledger)
        assert (record.rejected, record.failed) == ({}, {})


# --- the same clients -----------------------------------------------------------------------------


@every_algorithm
def test_flower_gives_the_clients_of_the_sequential_engine_to_nine_digits(name, tiny, double):
    federation, algorithm = tiny(), small(name)
    expected = rounds_of(algorithm, federation, sample=uniform(0.6), seed=3)
    assert len({r.cohort for r in expected}) > 1
    run = flower(algorithm, federation, sample=uniform(0.6), seed=3)
    assert_same_run(run, expected)
    for number, params in run.kept.items():  # else the comparison says nothing
        first = federation.clients[number].params
        assert all(not torch.equal(params[key], first[key]) for key in first)


def test_in_single_precision_through_a_channel_that_rounds_and_for_a_part_of_the_public_examples(
    tiny,
):
    channel = Channel((float16(),), (float16(),))
    federation, algorithm = tiny(), small("dsfl", public_size=7)
    expected = rounds_of(algorithm, federation, channel=channel)
    run = flower(algorithm, federation, channel=channel)
    assert run.server["rows"].dtype == torch.int32
    assert run.server["consensus"].dtype == torch.float32
    assert_same_run(run, expected, tolerance=0)


@pytest.mark.parametrize("name", ["dsfl", "fedavg"])
def test_scores_are_those_of_the_deployed_models(name, tiny, double):
    federation, algorithm = tiny(), small(name)
    task, test, counts = federation.task, federation.test, federation.label_counts

    def build(context):
        return party_of(algorithm, federation, Channel(), context, score=score)

    def score(client):
        scores = evaluate(task, [client], test, counts[client.id : client.id + 1])
        return {"accuracy": float(scores.accuracy)}

    run = flower(algorithm, federation, app=client_app(build), score={1, 3})
    expected = rounds_of(algorithm, federation)
    assert run.strategy.records[1].scores == {}
    for index in (1, 3):
        clients = deployed(algorithm, task, expected[index - 1])
        accuracy = evaluate(task, clients, test, counts).accuracy
        record = run.strategy.records[index - 1]
        assert [record.scores[c]["accuracy"] for c in range(CLIENTS)] == accuracy.tolist()
        assert record.means()["accuracy"] == pytest.approx(float(accuracy.mean()))
        assert record.deployment == deploy_all(algorithm, task, expected[index - 1]).ledger
    assert run.strategy.records[1].deployment.bytes_down == 0


class Backwards(LocalGrid):
    def pull_messages(self, message_ids):
        return super().pull_messages(message_ids)[::-1]


def test_the_order_of_replies_does_not_matter(tiny):
    federation, algorithm = tiny(), small("fedavg")
    one, other = (flower(algorithm, federation, grid=grid) for grid in (LocalGrid, Backwards))
    assert_close(one.server, other.server, tolerance=0)


def test_a_round_without_anybody_leaves_the_server_as_it_was(tiny):
    def sample(clients, generator):
        return []

    run = flower(small("fedavg"), tiny(), rounds=2, sample=sample)
    (first,) = rounds_of(small("fedavg"), tiny(), rounds=1, sample=sample)
    assert_close(run.server, first.server, tolerance=0)
    assert [record.cohort for record in run.strategy.records] == [(), ()]


# --- what crosses ---------------------------------------------------------------------------------

VALUES = [
    torch.tensor([[0.1, -0.0], [math.inf, math.nan]], dtype=torch.float64),
    torch.tensor([1e-45, 3.4e38]),
    torch.tensor([0.1]).half(),
    torch.tensor(3.5),
    torch.zeros(0, 4),
    torch.arange(6).reshape(2, 3).T,
    torch.tensor([7, -7], dtype=torch.int32),
    torch.tensor([True, False]),
]


def test_tensors_cross_bit_for_bit():
    message = {str(place): value for place, value in enumerate(VALUES)}
    for key, value in unpack(pack(message)).items():
        assert (value.dtype, value.shape) == (message[key].dtype, message[key].shape)
        assert value.numpy().tobytes() == message[key].contiguous().numpy().tobytes()
    assert unpack(pack({})) == {}


def test_a_type_that_numpy_lacks_is_an_error():
    with pytest.raises(TypeError, match="BFloat16"):
        pack({"weights": torch.zeros(2, dtype=torch.bfloat16)})


class Listening(LocalGrid):
    """Keeps a copy of each message for the weighing."""

    heard = []

    def deliver(self, messages):
        replies = super().deliver(messages)
        self.heard.append((messages, replies))
        return replies


@every_algorithm
def test_the_ledger_is_what_flower_serialises_but_for_a_small_frame(name, tiny, monkeypatch):
    monkeypatch.setattr(Listening, "heard", [])
    federation, algorithm = tiny(), small(name)
    run = flower(algorithm, federation, rounds=2, grid=Listening)
    said = sum(len(f"{k}{v}") for k, v in terms(algorithm, federation.task, Channel()).items())
    _, first, _, second, _ = Listening.heard  # a query, then train and (empty) evaluate
    for record, (requests, replies) in zip(run.strategy.records, (first, second), strict=True):
        down = [(message, message.content["broadcast"]) for message in requests]
        up = [(message, message.content["payload"]) for message in replies]
        assert record.wire_down == sum(map(own_count, requests))
        assert record.wire_up == sum(map(own_count, replies))
        assert record.ledger.bytes_down == sum(tensor_bytes(record) for _, record in down)
        weights = 8 * len(up) * ("weight" in algorithm.properties.beyond_training)
        assert record.ledger.bytes_up == sum(tensor_bytes(record) for _, record in up) + weights
        for message, tensors in down + up:
            frame = own_count(message) - tensor_bytes(tensors) - said
            others = 1 if "rows" in message.content else 0
            assert 0 < frame < 900 + 500 * (len(tensors) + others)


def own_count(message):
    """Bytes of the objects that Flower itself would push, each of them once."""
    return sum(len(part.deflate()) for part in get_all_nested_objects(message).values())


def tensor_bytes(record):
    return sum(value.nbytes for value in unpack(record).values())


def test_messages_need_not_be_weighed(tiny):
    run = flower(small("fedmd"), tiny(), rounds=1, weigh=False)
    (record,) = run.strategy.records
    assert (record.wire_up, record.wire_down) == (0, 0)
    assert record.ledger.bytes_up > 0


def test_weighing_leaves_nothing_behind_that_cannot_be_copied(tiny):
    LocalGrid(client_app(None), 1)  # so that messages can be made
    message = Message(RecordDict({"payload": pack({"a": torch.zeros(9)})}), 1, "train.distil")
    before = set(vars(message.content["payload"]["a"]))
    assert serialised(message) == own_count_of_copy(message)
    assert set(vars(message.content["payload"]["a"])) == before


def own_count_of_copy(message):
    copied = Message(RecordDict({"payload": message.content["payload"].copy()}), 1, "train.distil")
    copied.metadata.__dict__.update(message.metadata.__dict__)
    copied.content["payload"]["a"] = Array(message.content["payload"]["a"].numpy())
    return own_count(copied)


# --- who fails is named ---------------------------------------------------------------------------


def test_a_client_that_raises_is_named_keeps_its_state_and_the_others_go_on(tiny, double):
    federation, algorithm = tiny(), small("fedmd")
    build = functools.partial(party_of, algorithm, federation, Channel())
    working = client_app(build)

    def app(message, context):
        reply = working(message, context)
        if message.metadata.group_id == "2" and context.node_config["partition-id"] == 3:
            raise RuntimeError("the disk is full")  # after it wrote into its state
        return reply

    run = flower(algorithm, federation, app=app, rounds=2)
    assert [record.failed for record in run.strategy.records] == [
        {},
        {3: "RuntimeError: the disk is full"},
    ]
    (first,) = rounds_of(algorithm, federation, rounds=1)
    assert_close(run.kept[3], first.clients[3].params)
    assert run.strategy.records[1].ledger.bytes_up == first.ledger.bytes_up * 4 // 5


class Deaf(LocalGrid):
    """Client 3 never answers in training, and for client 1 Flower's server says that it is gone."""

    def deliver(self, messages):
        replies = super().deliver(messages)
        if messages and messages[0].metadata.message_type.startswith("query"):
            return replies
        kept = []
        for message, reply in zip(messages, replies, strict=True):
            number = self.contexts[message.metadata.dst_node_id].node_config["partition-id"]
            if number == 1:
                reply = Message(Error(5, "node unavailable"), reply_to=message)
                reply.metadata.__dict__["_src_node_id"] = 1
            if number != 3:
                kept.append(reply)
        return kept


def test_clients_that_are_gone_or_silent_are_named_and_count_as_not_there(tiny, double):
    federation, algorithm = tiny(), small("fedmd")
    run = flower(algorithm, federation, rounds=2, grid=Deaf)
    named = {1: "node unavailable", 3: "no answer in time"}
    assert [record.failed for record in run.strategy.records] == [named, named]
    expected = rounds_of(algorithm, without(without(federation, 1), 3), rounds=2)
    assert_close(run.server, expected[-1].server)


@every_algorithm
def test_a_client_that_sends_nan_is_named_and_the_server_is_as_without_it(name, tiny, double):
    asking = {"duration": 1} if name == "scarlet" else {}  # in each round, so that all are broken
    federation, algorithm = tiny(), small(name, **asking)
    app = tampered(algorithm, federation, 2, broken_numbers)
    run = flower(algorithm, federation, app=app)
    if name == "local":  # sends nothing that could be broken
        assert all(record.rejected == {} for record in run.strategy.records)
        return
    for record in run.strategy.records:
        assert record.failed == {}
        assert list(record.rejected) == [2]
        reason = "cannot be read" if name == "cfd" else "not finite"  # its bytes hold no NaN
        assert reason in record.rejected[2]
    expected = rounds_of(algorithm, without(federation, 2))
    assert_close(run.server, expected[-1].server)


@pytest.mark.parametrize("fault", ["huge-values", "scaled", "huge-weight"])
def test_a_client_far_out_of_bounds_is_named_and_the_server_is_as_without_it(fault, tiny):
    federation, algorithm = tiny(), small("fedavg")

    def far_out(content):
        upload = Upload(unpack(content["payload"]), torch.tensor(content["report"]["weight"]))
        after = FAULTS[fault](upload)
        content["payload"] = pack(after.payload)
        content["report"]["weight"] = float(after.weight)

    app = tampered(algorithm, federation, 2, far_out)
    run = flower(algorithm, federation, app=app, rounds=2)
    assert [list(record.rejected) for record in run.strategy.records] == [[2], [2]]
    expected = rounds_of(algorithm, without(federation, 2), rounds=2)
    assert_close(run.server, expected[-1].server, tolerance=0)
    assert all(record.notes == [] for record in run.strategy.records)


def test_a_round_without_a_single_upload_that_could_be_used_says_so(tiny, caplog):
    federation, algorithm = tiny(), small("fedavg")

    def only(numbers, generator):
        return [2]

    app = tampered(algorithm, federation, 2, broken_numbers)
    with caplog.at_level("WARNING", logger="flwr"):
        run = flower(algorithm, federation, app=app, rounds=1, sample=only)
    (record,) = run.strategy.records
    (note,) = record.notes
    assert note.startswith(
        "round 1: every upload was turned away (1 in all), and the server learnt"
    )
    assert record.as_json()["notes"] == [note]
    assert note in caplog.text


def tampered(algorithm, federation, number, change):
    """An app in which one client's reply is changed on its way."""
    working = client_app(functools.partial(party_of, algorithm, federation, Channel()))

    def app(message, context):
        reply = working(message, context)
        if (
            context.node_config["partition-id"] == number
            and message.metadata.message_type != "query.who"
        ):
            change(reply.content)
        return reply

    return app


def broken_numbers(content):
    payload = unpack(content["payload"])
    broken = {
        k: v if v.dtype == torch.int32 else torch.full(v.shape, math.nan)
        for k, v in payload.items()
    }
    content["payload"] = pack(broken)


def no_payload(content):
    del content["payload"]


def no_terms(content):
    del content["terms"]


def no_weight(content):
    content["report"] = pack({})


def damaged_payload(content):
    content["payload"]["probabilities"].data = b"\x93NUMPY but not really"


def pickled_payload(content):
    content["payload"]["probabilities"] = Array(
        "object", (1,), "pickle", b"cos\nsystem\n(S'ls'\ntR."
    )


def endless_weight(content):
    content["report"]["weight"] = math.inf


def other_noise(content):
    content["terms"]["uplink"] = "fedkd.privacy.gaussian(sigma=0.1)"


def single_precision(content):
    payload = unpack(content["payload"])
    content["payload"] = pack({k: v.half() for k, v in payload.items()})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (no_payload, "unreadable reply"),
        (no_terms, "unreadable reply"),
        (no_weight, "unreadable reply"),
        (damaged_payload, ""),
        (pickled_payload, "unreadable reply"),
        (endless_weight, "weight inf"),
        (other_noise, "uplink: the other side has fedkd.privacy.gaussian"),
        (single_precision, "type torch.float16"),
    ],
)
def test_a_reply_that_is_not_what_it_should_be_is_turned_away(change, reason, tiny):
    federation, algorithm = tiny(), small("fedmd")
    run = flower(algorithm, federation, app=tampered(algorithm, federation, 2, change), rounds=1)
    (record,) = run.strategy.records
    assert record.failed == {}
    assert list(record.rejected) == [2]
    assert reason in record.rejected[2]
    (expected,) = rounds_of(algorithm, without(federation, 2), rounds=1)
    assert_close(run.server, expected.server, tolerance=0)


def test_a_client_with_another_channel_sends_nothing_past_it(tiny):
    federation, algorithm = tiny(), small("fedmd")
    guarded = Channel((float16(),))

    def build(context):
        forgot = context.node_config["partition-id"] == 2
        return party_of(algorithm, federation, Channel() if forgot else guarded, context)

    run = flower(algorithm, federation, channel=guarded, app=client_app(build), rounds=1)
    (record,) = run.strategy.records
    assert list(record.failed) == [2]
    assert (
        "uplink: the other side has fedkd.communication.compression.quantization.float16"
        in record.failed[2]
    )
    assert "this one nothing" in record.failed[2]
    assert 2 not in run.kept


def test_a_client_with_another_algorithm_or_other_public_examples_is_named(tiny):
    federation, algorithm = tiny(), small("fedmd")
    fewer = replace(federation.task, public=federation.task.public[1:])

    def build(context):
        runtime = party_of(algorithm, federation, Channel(), context)
        number = context.node_config["partition-id"]
        if number == 1:
            return runtime._replace(algorithm=small("dsfl"))
        return runtime._replace(task=fewer) if number == 4 else runtime

    run = flower(algorithm, federation, app=client_app(build), rounds=1)
    failed = run.strategy.records[0].failed
    assert list(failed) == [1, 4]
    assert "algorithm: the other side has FedMD" in failed[1]
    assert "public: the other side has ((11," in failed[4]


def test_a_client_that_cannot_score_itself_is_named(tiny):
    run = flower(small("local"), tiny(), rounds=1, score={1})
    (record,) = run.strategy.records
    assert set(record.failed) == set(range(CLIENTS))
    assert "no score: ValueError: this client was built without" in record.failed[0]


def test_the_last_line_of_a_traceback_is_the_reason():
    pages = "\x1b[36mray::run()\x1b[39m (pid=1)\n  File x\nValueError: too\x1b[0m bad\n\n'>"
    assert brief(pages) == "ValueError: too bad"
    assert brief(None) == brief("\n") == "no reason given"
    assert brief("<class 'a.b.TooBad'>:<'it is'>") == "TooBad: it is"


# --- terms ----------------------------------------------------------------------------------------


def noise(sigma, generator_of=None):
    def encode(message, generator):
        return {
            k: v + sigma * torch.randn(v.shape, generator=generator) for k, v in message.items()
        }

    return Transform(encode, error=math.inf)


class Clip:
    def __init__(self, bound):
        self.bound = bound

    def __call__(self, message, generator):
        return message


def scaled(message, generator, factor):
    return message


STAGES = [
    lambda: noise(0.5),
    lambda: noise(0.25),
    lambda: float16(),
    lambda: Transform(Clip(1.0)),
    lambda: Transform(Clip(2.0)),
    lambda: Transform(functools.partial(scaled, factor=2)),
    lambda: Transform(functools.partial(scaled, factor=3)),
    lambda: Transform(functools.partial(scaled, factor=torch.ones(2))),
]


def test_channels_that_differ_are_told_apart_and_equal_ones_are_not(tiny):
    def said(*stages):
        return terms(small("fedmd"), tiny().task, Channel(tuple(stages)))["uplink"]

    words = [said(stage()) for stage in STAGES]
    assert words == [said(stage()) for stage in STAGES]
    assert len({said(), said(float16(), float16()), *words}) == len(STAGES) + 2
    assert not any("0x" in word for word in words)


def test_noise_is_that_of_the_simulation_unless_the_client_has_a_secret(tiny, double):
    federation, algorithm, channel = tiny(), small("fedmd"), Channel((noise(0.01),))
    expected = rounds_of(algorithm, federation, rounds=2, channel=channel)
    assert_same_run(flower(algorithm, federation, rounds=2, channel=channel), expected)

    def build(context):
        return party_of(algorithm, federation, channel, context, secret=7)

    own = flower(algorithm, federation, rounds=2, channel=channel, app=client_app(build))
    assert own.strategy.records[0].rejected == {}
    assert not torch.equal(own.server["consensus"], expected[-1].server["consensus"])


def test_the_noise_of_private_training_is_of_the_clients_secret_too(tiny, double):
    private = TrainingConfig("sgd", 0.1, epochs=1, batch_size=4, privacy=Clipping(1.0, 1.0))
    federation, algorithm = tiny(), replace(small("fedmd"), local=private)
    app = client_app(functools.partial(party_of, algorithm, federation, Channel(), secret=7))
    run = flower(algorithm, federation, rounds=2, app=app)
    assert_same_run(run, rounds_of(algorithm, federation, rounds=2, secret=7))
    known = rounds_of(algorithm, federation, rounds=2)[-1].server["consensus"]
    assert not torch.allclose(run.server["consensus"], known, atol=1e-3)


# --- who is there ---------------------------------------------------------------------------------


@pytest.mark.parametrize("expected", [CLIENTS - 1, CLIENTS + 1])
def test_more_or_fewer_nodes_than_clients_are_an_error(expected, tiny):
    algorithm, federation = small("local"), tiny()
    app = client_app(functools.partial(party_of, algorithm, federation, Channel()))
    strategy = DistillationStrategy(algorithm, federation.task, expected, patience=0.1)
    with pytest.raises(ValueError, match=f"5 Flower nodes are there, and {expected} clients"):
        strategy.start(LocalGrid(app, CLIENTS), ArrayRecord(), 1)


def test_two_nodes_that_are_the_same_client_are_an_error(tiny):
    runtime = ClientRuntime(small("local"), tiny().task, tiny().clients[2])
    with pytest.raises(ValueError, match="two Flower nodes say that they are client 2"):
        flower(runtime.algorithm, tiny(), app=client_app(lambda context: runtime))


def test_a_node_that_does_not_say_who_it_is_is_an_error(tiny):
    class Mute(LocalGrid):
        def deliver(self, messages):
            return super().deliver(messages)[:3]

    with pytest.raises(ValueError, match="of 5 clients only"):
        flower(small("local"), tiny(), grid=Mute)


def test_a_client_that_cannot_be_built_ends_the_run_with_its_reason(tiny):
    def build(context):
        raise FileNotFoundError("no data here")

    with pytest.raises(ValueError, match="cannot take part: FileNotFoundError: no data here"):
        flower(small("local"), tiny(), app=client_app(build))


def test_a_federation_that_cannot_run_is_an_error_before_the_first_round(tiny):
    federation = tiny(public=0)
    with pytest.raises(ValueError, match="needs public examples"):
        flower(small("fedmd"), federation)


# --- the grid -------------------------------------------------------------------------------------


def test_nodes_share_no_records_and_a_state_is_kept_only_if_the_handler_returns(tiny):
    app = ClientApp()

    @app.train("take")
    def take(message, context):
        message.content.pop("order")
        context.state["mark"] = pack({"n": torch.ones(1)})
        if context.node_config["partition-id"] == 1:
            raise KeyError("order")
        return Message(RecordDict({"mark": context.state["mark"]}), reply_to=message)

    grid = LocalGrid(app, 3, {"lr": 0.1}, run_id=5)
    content = RecordDict({"order": pack({})})
    nodes = {c.node_config["partition-id"]: node for node, c in grid.contexts.items()}
    ids = grid.push_messages(Message(content, nodes[i], "train.take") for i in range(3))
    replies = {reply.metadata.reply_to_message_id: reply for reply in grid.pull_messages(ids)}
    assert grid.pull_messages(ids) == []
    assert [replies[i].has_error() for i in ids] == [False, True, False]
    assert "order" in content
    assert [("mark" in grid.contexts[nodes[i]].state) for i in range(3)] == [True, False, True]
    assert grid.contexts[nodes[0]].run_config == {"lr": 0.1}
    kept, sent = grid.contexts[nodes[0]].state["mark"], replies[ids[0]].content["mark"]
    assert kept is not sent
    assert (grid.run.run_id, sorted(nodes.values())) == (5, grid.get_node_ids())


def test_a_message_to_nobody_is_answered_with_an_error():
    grid = LocalGrid(client_app(None), 1)
    (reply,) = grid.send_and_receive([grid.create_message(RecordDict(), "query.who", 7, "")])
    assert (reply.error.code, reply.error.reason) == (5, "there is no node 7")


# --- a plan and its results -----------------------------------------------------------------------


def test_a_plan_leaves_its_results_once(tiny, tmp_path):
    federation, algorithm = tiny(), small("fd")
    app = client_app(functools.partial(party_of, algorithm, federation, Channel()))

    def plan(context):
        strategy = DistillationStrategy(algorithm, federation.task, CLIENTS)
        return Plan(strategy, 2, tmp_path / "run")

    server_app(plan)(LocalGrid(app, CLIENTS), None)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    expected = rounds_of(algorithm, federation, rounds=2)
    first, second = map(json.loads, lines)
    assert (first["round"], first["cohort"]) == (1, [0, 1, 2, 3, 4])
    assert second["traffic"]["up"] == {"means": expected[1].ledger.bytes_up}
    total = sum(r.ledger.bytes_up for r in expected)
    assert result["metrics"]["bytes_up"] == total < result["wire"]["up"]
    assert_close(load_file(tmp_path / "run" / "server.safetensors"), expected[-1].server)
    with pytest.raises(FileExistsError, match="name another folder"):
        carry_out(plan(None), LocalGrid(app, CLIENTS))
    with pytest.raises(ValueError, match="absolute path, got 'here'"):
        carry_out(plan(None)._replace(results=Path("here")), LocalGrid(app, CLIENTS))


def test_the_core_does_not_load_flower():
    code = "import sys, fedkd, fedkd.rounds.round, fedkd.engines; assert 'flwr' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


# --- the app --------------------------------------------------------------------------------------


@pytest.fixture
def kdsim_app():
    """The app's module."""
    spec = importlib.util.spec_from_file_location("kdsim_app", APP / "kdsim_app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings(**changed):
    """The app's configuration, as Flower reads it, with some values changed."""
    given = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert set(changed) <= set(given)
    return given | changed


SHORT = {"rounds": 2, "epochs": 1, "fraction": 0.6, "dtype": "float64"}


def assert_as_simulated(kdsim_app, config, results):
    """Server, scores and bytes of a finished run are those of `simulate`."""
    federation, algorithm = kdsim_app.federation(config), kdsim_app.algorithm(config)
    expected = rounds_of(algorithm, federation, rounds=config["rounds"], sample=uniform(0.6))
    clients, brought = deploy_all(algorithm, federation.task, expected[-1])
    accuracy = evaluate(federation.task, clients, federation.test, federation.label_counts).accuracy
    result = json.loads((results / "result.json").read_text())
    assert (result["rejected"], result["failed"], result["rounds"]) == (0, 0, config["rounds"])
    assert [result["scores"][str(c.id)]["accuracy"] for c in clients] == accuracy.tolist()
    assert result["metrics"]["bytes_up"] == sum(r.ledger.bytes_up for r in expected)
    down = sum(r.ledger.bytes_down for r in expected) + brought.bytes_down
    assert result["metrics"]["bytes_down"] == down
    assert_close(load_file(results / "server.safetensors"), expected[-1].server)


@pytest.mark.parametrize("name", ["dsfl", "fedmd"])
def test_the_app_runs_the_demo_federation(name, kdsim_app, tmp_path, double):
    results = tmp_path / "results"
    config = settings(algorithm=name, results=str(results), **SHORT)
    grid = LocalGrid(kdsim_app.client, CLIENTS, config)
    (context, *_) = grid.contexts.values()
    kdsim_app.server(grid, context)
    assert_as_simulated(kdsim_app, config, results)
    federation = kdsim_app.federation(config)
    assert [client.group for client in federation.clients[:3]] == ["mlp-64", "mlp-128-64", "cnn"]
    assert sum(len(client.private) for client in federation.clients) == 500
    assert len(federation.task.public) == 578


def test_the_app_says_what_is_wrong_with_its_configuration(kdsim_app, double):
    with pytest.raises(ValueError, match="compression must be one of none, float16, .*got 'zip'"):
        kdsim_app.channel(settings(compression="zip"))
    with pytest.raises(ValueError, match="dtype must be one of float32, float64, got 'half'"):
        kdsim_app.federation(settings(dtype="half"))
