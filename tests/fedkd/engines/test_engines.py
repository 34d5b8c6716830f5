"""What the engines do beyond the answer: memory, timing, and saying so."""

import pytest
import torch

from fedkd.algorithms.fedmd import FedMD
from fedkd.engines.auto import AutoEngine
from fedkd.engines.batched import batched
from fedkd.engines.fault_tolerance import EngineError, fault_tolerant
from fedkd.rounds.synchronous import simulate
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
