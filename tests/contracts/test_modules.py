"""A module with batch normalisation and dropout under every algorithm, in every engine.

Its clients run in turn, and in turn is what the sequential engine does, bit for bit: statistics
and streams of chance too. One with dropout alone is stacked, with the same masks.
"""

import functools
import warnings
from dataclasses import fields, replace

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from fedkd import algorithms
from fedkd.core import STREAM
from fedkd.engines.auto import AutoEngine
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.messages import Ledger
from fedkd.models import from_module
from fedkd.rounds import checkpoint
from fedkd.rounds.round import check_federation, deployed, left_out
from fedkd.rounds.synchronous import simulate
from kdcore.training.loop import TrainingConfig
from tests import modules

with warnings.catch_warnings():  # flwr imports typer, which imports names that click will drop
    warnings.filterwarnings("ignore", ".*click", DeprecationWarning)
    from flwr.app import ArrayRecord

SIZES = (7, 1, 12, 3, 5)  # of mini-batches of four: last ones of 3, 1, 4, 3 and 1 examples


def all_but_some_slow(*quick, without=()):
    names = [name for name in algorithms.names() if name not in without]
    slow = {n: () if n in quick else pytest.mark.slow for n in names}
    return pytest.mark.parametrize("name", [pytest.param(n, marks=m) for n, m in slow.items()])


AT_SERVER = (
    "feddf",
    "fedbe",
    "fedet",
    "fedaux",
)  # where public examples are learnt from, and not at clients
ONE_TABLE = ("coboosting", "dense")  # whose servers make inputs, and refuse several
every_algorithm = all_but_some_slow("fedavg", "fedmd", "fml", "feddf")


def short(name, **settings):
    training = TrainingConfig("momentum", 0.02, epochs=2, batch_size=4)
    kind = algorithms.get(name)
    found = {f.name: training for f in fields(kind) if isinstance(f.default, TrainingConfig)}
    return kind(**found | settings)


def run(name, federation, engine, rounds=2, **more):
    algorithm, task = short(name), federation.task
    check_federation(algorithm, task, federation.clients)
    done = list(simulate(algorithm, task, federation.clients, rounds=rounds, engine=engine, **more))
    return done, deployed(algorithm, task, done[-1], engine=engine)


@functools.cache
def expected(name, tiny):
    """What the sequential engine makes of it: the federation, three rounds, who is used after two.

    For all tests once.
    """
    federation = tiny([modules.Net], SIZES)
    done, in_use = run(name, federation, sequential)
    task, clients = federation.task, federation.clients
    (third,) = simulate(short(name), task, clients, rounds=3, after=done[-1])
    return federation, [*done, third], in_use


def bits(done, in_use):
    return [checkpoint.digest(r) for r in (*done, replace(done[-1], clients=tuple(in_use)))]


@every_algorithm
def test_in_turn_is_sequential_bit_for_bit(name, tiny):
    federation, (*two, _), in_use = expected(name, tiny)
    engine = batched()
    assert bits(*run(name, federation, engine)) == bits(two, in_use)
    assert engine.notes == [
        "Net: clients run in turn: the module keeps statistics of its mini-batches "
        "(body.2.running_mean)"
    ]


def test_the_faster_engine_is_that_too(tiny):
    federation, (*two, _), in_use = expected("fedavg", tiny)
    assert bits(*run("fedavg", federation, AutoEngine())) == bits(two, in_use)


@every_algorithm
def test_every_algorithm_trains_with_dropout_and_statistics(name, tiny):
    federation, (_, last, _), in_use = expected(name, tiny)
    # Those with a mini-batch of two examples or more: a step on one alone is left out.
    for client, before, used in zip(last.clients, federation.clients, in_use, strict=True):
        trained = len(before.private) > 1 or short(name).public_training is not None
        steps = int(client.params[STREAM]) - int(before.params[STREAM])
        counted = int(client.params["~body.2.num_batches_tracked"])
        assert steps == counted
        if name not in ("pooled", *AT_SERVER):
            assert (steps > 0) == trained
        if name not in AT_SERVER and steps:
            moved = client.params["~body.2.running_mean"]
            assert not torch.equal(moved, before.params["~body.2.running_mean"])
        assert all(value.isfinite().all() for value in used.params.values())
        assert list(used.params) == list(before.params)


@every_algorithm
def test_streams_and_counts_never_leave(name, tiny):
    _, done, _ = expected(name, tiny)
    for current in done:
        sent = [upload.payload for upload in current.uploads.values()]
        for message in (*current.broadcasts.values(), *sent):
            assert not {STREAM, "~body.2.num_batches_tracked"} & set(message)
    assert not any(current.rejected for current in done)


@every_algorithm
def test_a_run_is_resumed_bit_for_bit(name, tiny, tmp_path):
    federation, (_, second, third), _ = expected(name, tiny)
    task, clients = federation.task, federation.clients
    checkpoint.save(tmp_path, second, Ledger(), "same")
    found, _ = checkpoint.load(tmp_path, clients, "same")
    (last,) = simulate(short(name), task, clients, rounds=3, after=found)
    assert checkpoint.digest(last) == checkpoint.digest(third)


@every_algorithm
def test_stacked_dropout_has_the_masks_of_the_sequential_engine(name, tiny, double):
    federation = tiny([modules.Dropped], SIZES)
    assert federation.task.models["Dropped"].predict.alone is None
    done, in_use = run(name, federation, sequential)
    others, also = run(name, federation, batched())
    for one, other in ((done[-1].server, others[-1].server), (in_use, also)):
        one, other = ([c.params for c in v] if isinstance(v, list) else v for v in (one, other))
        for a, b in zip(tree_leaves(one), tree_leaves(other), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_statistics_are_averaged_with_the_weights(tiny):
    federation, done, _ = expected("fedavg", tiny)
    mean = "~body.2.running_mean"
    sizes = torch.tensor([float(len(c.private)) for c in federation.clients])
    values = torch.stack([done[0].uploads[c.id].payload[mean] for c in federation.clients])
    average = (sizes.unsqueeze(1) * values).sum(0) / sizes.sum()
    torch.testing.assert_close(done[0].server[f"Net/{mean}"], average)
    for client in deployed(short("fedavg"), federation.task, done[0]):
        torch.testing.assert_close(client.params[mean], average)


NORM = {"body.2.weight", "body.2.bias", "~body.2.running_mean", "~body.2.running_var"}
HEAD = {"head.weight", "head.bias"}
NUMBERS = {"body.1.weight": 8 * 36, "body.1.bias": 8, "head.weight": 5 * 8, "head.bias": 5}
NUMBERS |= dict.fromkeys(NORM, 8)


@pytest.mark.parametrize(
    ("name", "local", "kept"),
    [
        pytest.param("fedavg", [nn.BatchNorm1d], NORM, id="FedBN"),
        pytest.param("fedprox", [nn.BatchNorm1d], NORM, id="FedBN-fedprox"),
        pytest.param("fedavg", "head", HEAD, id="FedPer"),
    ],
)
def test_what_is_local_stays_and_the_rest_is_averaged(name, local, kept, tiny):
    """Norms (FedBN) or heads (FedPer) stay; streams and counts never leave, whatever is asked."""
    federation = tiny([from_module(modules.Net, local=local)], SIZES)
    done, in_use = run(name, federation, sequential)
    last, sent = done[-1], set(NUMBERS) - kept
    for client, upload in last.uploads.items():
        assert set(upload.payload) == set(last.broadcasts[client]) == sent
    assert last.ledger.up == {n: len(SIZES) * 4 * NUMBERS[n] for n in sent} | {"weight": 5 * 8}
    assert last.ledger.down == {n: len(SIZES) * 4 * NUMBERS[n] for n in sent}
    assert set(last.server) == {f"Net/{n}" for n in sent}
    for client, used in zip(last.clients, in_use, strict=True):
        for key in sent:
            torch.testing.assert_close(used.params[key], last.server[f"Net/{key}"])
        for key in set(used.params) - sent:
            assert torch.equal(used.params[key], client.params[key])
    for key in kept:
        assert not torch.equal(in_use[0].params[key], in_use[2].params[key])
    assert bits(*run(name, federation, batched())) == bits(done, in_use)


@pytest.mark.parametrize(("name", "said"), [("feddf", "keep"), ("fedgen", "head of Net is local")])
def test_what_a_server_has_to_have_cannot_be_local(name, said, tiny):
    federation = tiny([from_module(modules.Net, local="head")], SIZES)
    with pytest.raises(ValueError, match=said):
        check_federation(short(name), federation.task, federation.clients)


def test_a_frozen_backbone_is_not_sent(tiny):
    body = nn.Sequential(nn.Flatten(), nn.Linear(36, 64), nn.ReLU()).requires_grad_(False)
    module = nn.Sequential(body, nn.Linear(64, 5))
    federation = tiny([module], SIZES)
    done, _ = run("fedavg", federation, sequential, rounds=1)
    assert done[0].ledger.up["1.weight"] == len(SIZES) * 4 * 64 * 5
    assert set(done[0].ledger.up) == {"1.weight", "1.bias", "weight"}  # the last is n_k
    assert {key.partition("/")[2] for key in done[0].server} == {"1.weight", "1.bias"}


def test_the_same_start_is_that_of_a_group(tiny):
    made = [modules.Net, "mlp-8"]
    same, own = tiny(made, SIZES, same_start=True).clients, tiny(made, SIZES).clients
    assert torch.equal(same[0].params["head.weight"], same[2].params["head.weight"])
    assert torch.equal(same[1].params["layer0.weight"], same[3].params["layer0.weight"])
    assert not torch.equal(own[0].params["head.weight"], own[2].params["head.weight"])
    assert int(same[0].params[STREAM]) != int(same[2].params[STREAM])


@pytest.fixture(scope="module")
def ray_engine():
    """One for all: Ray takes its time to start, on a busy machine more than a minute."""
    from fedkd.engines.ray.engine import RayEngine

    with RayEngine(1, chunk=3, patience=600.0) as engine:
        yield engine


@pytest.mark.ray
@all_but_some_slow()
def test_actors_of_ray_are_sequential_bit_for_bit(name, tiny, ray_engine):
    federation, (*two, _), in_use = expected(name, tiny)
    assert bits(*run(name, federation, ray_engine)) == bits(two, in_use)


def test_mini_batches_of_one_example_are_said_to_be_left_out(tiny):
    """Of 7, 1, 12, 3 and 5 examples by fours the last mini-batch has 3, 1, 4, 3 and 1."""
    federation = tiny([modules.Net], SIZES)
    said = left_out(short("fedavg"), federation.task, federation.clients)
    assert said == (
        "Net normalises over its mini-batches and cannot learn from a single example: the last "
        "mini-batch of client 1, client 4 has one, and is left out",
    )
    (also,) = left_out(short("fedmd", public_size=9), federation.task, federation.clients)
    assert "of client 1, client 4, the public examples has one" in also
    for other in (tiny([modules.Dropped], SIZES), tiny(["mlp-8"], SIZES)):
        assert left_out(short("fedmd"), other.task, other.clients) == ()
    alone = short("fedavg", local=TrainingConfig(batch_size=1))
    with pytest.raises(ValueError, match=r"^local.batch_size 1: Net normalises .* take 2 or more$"):
        check_federation(alone, federation.task, federation.clients)


def of_flower(name, federation):
    """The server, and what each node keeps, after two rounds."""
    from fedkd.flower import ClientRuntime, DistillationStrategy, LocalGrid, client_app, unpack

    algorithm, count = short(name), len(federation.clients)

    def party(context):
        client = federation.clients[context.node_config["partition-id"]]
        return ClientRuntime(algorithm, federation.task, client)

    grid = LocalGrid(client_app(party), count)
    strategy = DistillationStrategy(algorithm, federation.task, count)
    server = unpack(strategy.start(grid, ArrayRecord(), 2).arrays)
    kept = {
        c.node_config["partition-id"]: unpack(c.state["params"]) for c in grid.contexts.values()
    }
    return server, kept


def assert_close(found, done):
    server, clients = found
    expected = {client.id: dict(client.params) for client in done.clients}
    torch.testing.assert_close(server, done.server, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(clients, expected, rtol=1e-9, atol=1e-9)


def state(done):
    return done.server, {client.id: dict(client.params) for client in done.clients}


@all_but_some_slow("fedavg")
def test_nodes_of_flower_do_the_same(name, tiny, double):
    """Each by itself, with what it keeps in its own context between rounds."""
    federation = tiny([modules.Net], SIZES)
    done, _ = run(name, federation, sequential)
    assert_close(of_flower(name, federation), done[-1])


@functools.cache
def several(name, tiny):
    """Clients whose examples are pixels and token ids, of a module or a perceptron, in turn."""
    federation = tiny([modules.Words, "mlp-24"], SIZES, tokens=True)
    return federation, run(name, federation, sequential)


@all_but_some_slow("fedkd", "pooled", without=ONE_TABLE)
def test_several_inputs_are_those_of_one_everywhere(name, tiny, double, tmp_path):
    """Stacked, from a checkpoint, and in nodes of Flower."""
    federation, ((first, last), in_use) = several(name, tiny)
    task, clients = federation.task, federation.clients
    assert not last.rejected
    others, also = run(name, federation, batched())
    assert_close(state(others[-1]), last)
    assert_close((others[-1].server, {c.id: c.params for c in also}), replace(last, clients=in_use))
    checkpoint.save(tmp_path, first, Ledger(), "same")
    found, _ = checkpoint.load(tmp_path, clients, "same")
    (again,) = simulate(short(name), task, clients, rounds=2, after=found)
    assert checkpoint.digest(again) == checkpoint.digest(last)
    assert_close(of_flower(name, federation), last)


@pytest.mark.ray
@all_but_some_slow(without=ONE_TABLE)
def test_several_inputs_in_actors_of_ray(name, tiny, double, ray_engine):
    federation, ((*_, last), _) = several(name, tiny)
    done, _ = run(name, federation, ray_engine)
    assert_close(state(done[-1]), last)


@pytest.mark.parametrize("name", ONE_TABLE)
def test_inputs_that_are_made_are_one_table(name, tiny):
    federation = tiny([modules.Words, "mlp-24"], SIZES, tokens=True)
    with pytest.raises(ValueError, match=r"makes inputs from noise, in one table .*; take fedavg"):
        check_federation(short(name), federation.task, federation.clients)


def test_pooled_sends_several_inputs_side_by_side(tiny):
    """36 pixels and four token ids: 40 numbers, a label and whether it is there."""
    federation = tiny([modules.Words], SIZES, tokens=True)
    done, _ = run("pooled", federation, sequential, rounds=1)
    upload = done[0].uploads[3]
    x, tokens = federation.clients[3].private.x
    order = upload.payload["x"][:, :36].reshape(-1, 1, 6, 6)
    places = [int((x == one).flatten(1).all(1).nonzero()) for one in order]
    assert sorted(places) == sorted(federation.clients[3].private.rows.tolist())
    assert torch.equal(upload.payload["x"][:, 36:], tokens[places].float())
