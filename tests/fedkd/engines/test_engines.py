"""What the engines do beyond the answer: memory, work, cores, and saying so."""

from dataclasses import replace

import pytest
import torch

from fedkd.algorithms.fedmd import FedMD
from fedkd.engines.auto import AutoEngine
from fedkd.engines.batched import batched
from fedkd.engines.fault_tolerance import EngineError, fault_tolerant
from fedkd.engines.sequential import sequential
from fedkd.rounds.synchronous import simulate
from kdcore.training.loop import Clipping, TrainingConfig
from tests.conftest import tiny_federation


def last(engine, federation=None, algorithm=FedMD()):  # noqa: B008  (frozen)
    federation = federation or tiny_federation(models=("mlp-8",), sizes=(5, 3, 4, 6, 2))
    done = simulate(algorithm, federation.task, federation.clients, rounds=2, engine=engine)
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


def test_convolutions_with_privacy_of_each_example_are_stacked():
    federation, rows = counting(tiny_federation(models=("cnn-4-8",), sizes=(5, 3, 13)))
    training = TrainingConfig(privacy=Clipping(1.0, 1.0), batch_size=4)
    last(batched(), federation, FedMD(local=training))
    assert rows["stacked"] > 0


def test_auto_says_what_it_took():
    engine = AutoEngine(chunk=3)
    last(engine, tiny_federation())
    assert set(engine.chosen) == {"mlp-8", "mlp-7-8", "cnn-4-8"}
    names = {name for name, _ in engine.chosen.values()}
    assert names <= {"sequential", "batched"}
    assert len(engine.notes) == 3


def test_an_engine_that_cannot_go_on_is_not_tried_client_by_client():
    calls = []

    def lost(function, task, clients, inputs):
        calls.append(len(clients))
        raise EngineError("no worker is there")

    with pytest.raises(EngineError, match="no worker is there"):
        last(fault_tolerant(lost))
    assert calls == [5]
