"""What the engines do beyond the answer: memory, work, cores, and saying so."""

import threading
from dataclasses import replace

import pytest
import torch

from fedkd.algorithms.fedmd import FedMD
from fedkd.core import Failure
from fedkd.engines.auto import AutoEngine
from fedkd.engines.batched import batched, quicker_in_turn
from fedkd.engines.fault_tolerance import EngineError, fault_tolerant
from fedkd.engines.sequential import sequential
from fedkd.rounds.synchronous import simulate
from kdcore.rng import generator
from kdcore.training.loop import Clipping, TrainingConfig, draw
from tests.conftest import tiny_federation


def last(engine, federation=None):
    federation = federation or tiny_federation(models=("mlp-8",), sizes=(5, 3, 4, 6, 2))
    done = simulate(FedMD(), federation.task, federation.clients, rounds=2, engine=engine)
    return list(done)[-1]


def test_a_chunk_without_memory_is_halved_and_noted(monkeypatch):
    import fedkd.engines.batched as module

    whole, tried = module._stacked, []

    def small(function, predict, calls):
        tried.append(len(calls))
        if len(calls) > 2:
            raise torch.OutOfMemoryError("too many")
        return whole(function, predict, calls)

    expected = last(batched(2))
    monkeypatch.setattr(module, "_stacked", small)
    engine = batched(5)
    assert last(engine).cohort == expected.cohort
    assert tried[:5] == [5, 2, 3, 1, 2]
    assert engine.notes[0] == "no memory for 5 clients at once: tried again with 2"


def test_one_client_without_memory_is_an_error(monkeypatch):
    import fedkd.engines.batched as module

    def never(function, predict, calls):
        raise torch.OutOfMemoryError("too many")

    monkeypatch.setattr(module, "_stacked", never)
    with pytest.raises(torch.OutOfMemoryError):
        last(batched(5))


def test_a_budget_cuts_chunks(monkeypatch):
    """mlp-8 on 36 pixels and 5 classes: 341 numbers, 1364 bytes; 36 numbers an example."""
    import fedkd.engines.batched as module

    whole, sizes = module._stacked, []

    def watched(function, predict, calls):
        sizes.append(len(calls))
        return whole(function, predict, calls)

    monkeypatch.setattr(module, "_stacked", watched)
    one = (6 * 1364 + 36 * 4 * 500) / 1e6  # megabytes
    last(batched(50, budget=2.5 * one))
    assert sizes == [2, 2, 1] * 2
    with pytest.raises(ValueError, match="needs about 0.0802 MB, and the memory budget is 0.08 MB"):
        last(batched(50, budget=0.08))
    with pytest.raises(ValueError, match="positive number of megabytes, got 0"):
        batched(50, budget=0)


def counting(federation):
    """A federation of CNNs, and the rows that go through one network and through stacks of them."""
    rows = {"alone": 0, "stacked": 0}

    def counted(form, kind):
        def run(params, x):
            rows[kind] += x.shape[:-3].numel()
            return form(params, x)

        return run

    (group,) = federation.task.models
    model = federation.task.models[group]
    forms = counted(model.predict.one, "alone"), counted(model.predict.stack, "stacked")
    network = replace(model.predict, one=forms[0], stack=forms[1])
    task = replace(federation.task, models={group: model._replace(predict=network)})
    return federation._replace(task=task), rows


def test_convolutions_on_a_cpu_run_in_turn_without_padding():
    """FedMD of clients with 5, 3 and 13 examples, 11 public: two rounds of two epochs of its own.

    Private: 21 examples twice in each round. Public: 11 for each client are predicted in both, and
    digested in three epochs of the second.
    """
    federation, rows = counting(tiny_federation(models=("cnn-4-8",), sizes=(5, 3, 13)))
    found = last(batched(), federation)
    assert rows == {"alone": 2 * 2 * 21 + 2 * 3 * 11 + 3 * 3 * 11, "stacked": 0}
    for one, other in zip(found.clients, last(sequential, federation).clients, strict=True):
        assert all(torch.equal(one.params[name], other.params[name]) for name in one.params)


@pytest.mark.parametrize(
    ("model", "privacy", "quicker"),
    [("cnn-4-8", None, True), ("cnn-4-8", Clipping(1.0, 1.0), False), ("mlp-8", None, False)],
    ids=["convolutions", "with privacy of each example", "dense"],
)
def test_what_is_quicker_in_turn(model, privacy, quicker):
    federation = tiny_federation(models=(model,))
    client, training = federation.clients[0], TrainingConfig(privacy=privacy)
    inputs = {}, draw(client.private, training, generator(0, "draw")), None
    predict = federation.task.models[model].predict
    assert quicker_in_turn(predict, client.params, inputs) is quicker
    elsewhere = {name: value.to("meta") for name, value in client.params.items()}
    assert not quicker_in_turn(predict, elsewhere, inputs)


def test_auto_chooses_by_architecture_and_says_why():
    engine = AutoEngine(chunk=3)
    last(engine, tiny_federation())
    stacked = "stacked (many small products become few large ones)"
    turns = "in turn, one on each core (stacked convolutions are no quicker on a CPU)"
    assert engine.chosen == {"mlp-8": stacked, "mlp-7-8": stacked, "cnn-4-8": turns}
    assert engine.notes == []  # it did as it was asked to


def test_auto_runs_networks_that_cannot_be_stacked_one_after_another_and_says_why():
    federation = tiny_federation(models=("mlp-8",), sizes=(5, 3))
    model = federation.task.models["mlp-8"]
    alone = replace(model.predict, alone="it counts its calls")
    task = replace(federation.task, models={"mlp-8": model._replace(predict=alone)})
    engine = AutoEngine()
    found = last(engine, federation._replace(task=task))
    assert engine.chosen == {"mlp-8": "one after another (it counts its calls)"}
    assert engine.notes == []
    for one, other in zip(found.clients, last(sequential, federation).clients, strict=True):
        assert all(torch.equal(one.params[name], other.params[name]) for name in one.params)


def test_auto_says_both_ways_of_clients_that_train_in_one_and_predict_in_another():
    training = TrainingConfig(epochs=1, batch_size=4, privacy=Clipping(1.0, 1.0))
    federation = tiny_federation(models=("cnn-4-8",), sizes=(5, 3))
    engine, (client, other) = AutoEngine(), federation.clients
    batches = [draw(one.private, training, generator(0, "draw")) for one in (client, other)]

    def steps(predict, params, drawn):
        return params

    given = federation.task, federation.clients
    engine(steps, *given, [({"own": one},) for one in batches])
    engine(steps, *given, [({},)] * 2)
    (said,) = engine.chosen.values()
    assert [way.partition(" (")[0] for way in said.split("; ")] == [
        "stacked",
        "in turn, one on each core",
    ]


@pytest.fixture
def threads():
    """Sets how many threads torch has; afterwards it has as many as before."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_auto_is_sequential_bit_for_bit_by_any_number_of_threads(threads):
    """Convolutions alone, as stacks of dense networks have bits of their own."""
    federation = tiny_federation(models=("cnn-4-8",), sizes=(5, 3, 13, 1, 9))
    expected = last(sequential, federation)
    for workers, torchs in ((1, 1), (2, 1), (3, 1), (None, 2), (2, 3)):
        threads(torchs)
        found = last(AutoEngine(workers=workers), federation)
        for one, other in zip(found.clients, expected.clients, strict=True):
            assert all(torch.equal(one.params[name], other.params[name]) for name in one.params)


def test_auto_has_as_many_clients_at_once_as_workers(threads):
    """Three clients meet: with two workers, the third of them would be waited for in vain."""
    threads(4)
    federation = tiny_federation(models=("cnn-4-8",), sizes=(5, 3, 13))
    meeting = threading.Barrier(3)

    def met(predict, params):
        meeting.wait(timeout=60)
        return {"threads": torch.get_num_threads()}

    given = federation.task, federation.clients, [()] * 3
    assert AutoEngine(workers=3)(met, *given) == [{"threads": 1}] * 3
    assert AutoEngine()(met, *given) == [{"threads": 1}] * 3
    assert torch.get_num_threads() == 4
    with pytest.raises(ValueError, match="at least one worker, got 0"):
        AutoEngine(workers=0)


def test_clients_of_auto_end_with_their_mini_batch_where_one_raises():
    """One goes on for ever, by itself; the other one raises as soon as it has begun."""
    federation = tiny_federation(models=("cnn-4-8",), sizes=(5, 3))
    begun, x = threading.Event(), federation.test.x

    def endless(predict, params, number):
        if number:
            begun.wait(timeout=60)
            raise KeyboardInterrupt
        while True:
            predict(params, x)
            begun.set()

    given = federation.task, federation.clients[::-1]
    with pytest.raises(KeyboardInterrupt):
        AutoEngine(workers=2)(endless, *given, [(1,), (0,)])


def test_of_auto_too_a_client_that_raises_is_a_failure_and_the_others_go_on():
    federation = tiny_federation(models=("cnn-4-8", "mlp-8"), sizes=(5, 3, 13))

    def picky(predict, params, number):
        if number == 2:
            raise ValueError("not me")
        return number + 0 * params["head.weight" if number == 0 else "layer0.weight"].sum()

    engine = fault_tolerant(AutoEngine(workers=2))
    results = engine(picky, federation.task, federation.clients, [(0,), (1,), (2,)])
    assert results == [0, 1, Failure("ValueError: not me")]


def test_an_engine_that_cannot_go_on_is_not_tried_client_by_client():
    calls = []

    def lost(function, task, clients, inputs):
        calls.append(len(clients))
        raise EngineError("no worker is there")

    with pytest.raises(EngineError, match="no worker is there"):
        last(fault_tolerant(lost))
    assert calls == [5]
