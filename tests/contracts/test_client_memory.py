"""What clients remember is carried by whatever carries their parameters, and is no model's."""

from dataclasses import fields, replace

import pytest
import torch

from fedkd import algorithms
from fedkd.components.client_memory import model_alone, remembered, with_memory
from fedkd.core import MEMORY
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.messages import Ledger
from fedkd.rounds import checkpoint
from fedkd.rounds.evaluation import training_accuracy
from fedkd.rounds.round import deployed
from fedkd.rounds.synchronous import simulate
from fedkd.storage.client_store import ClientStore
from kdcore.training.loop import TrainingConfig

REMEMBERING = pytest.mark.parametrize("name", ["scarlet"])


def made(name):
    training = TrainingConfig("momentum", 0.05, epochs=1, batch_size=4)
    kind = algorithms.get(name)
    return kind(**{f.name: training for f in fields(kind) if isinstance(f.default, TrainingConfig)})


def some(clients, generator):
    """Not everybody, so that some remember and some do not yet."""
    return [0, 2, 3]


def rounds(name, federation, count=4, **how):
    return list(simulate(made(name), federation.task, federation.clients, rounds=count, **how))


def same(one, other):
    for mine, theirs in zip(one.clients, other.clients, strict=True):
        assert list(mine.params) == list(theirs.params)
        assert all(torch.equal(mine.params[key], theirs.params[key]) for key in mine.params)
    assert all(torch.equal(one.server[key], other.server[key]) for key in one.server)


def test_memory_lies_before_the_parameters_and_is_not_shared(tiny):
    model = tiny(["mlp-8"]).task.models["mlp-8"]
    params = model.init(torch.Generator().manual_seed(0))
    both = with_memory(with_memory(params, {"a": torch.ones(2)}), {"b": torch.ones(3)})
    assert list(both) == [f"{MEMORY}b", *params]
    assert list(remembered(both)) == ["b"]
    assert model_alone(both) == model.shared(both) == params


@REMEMBERING
def test_clients_remember_and_models_in_use_do_not(name, tiny):
    federation = tiny()
    last = rounds(name, federation, sample=some)[-1]
    assert [bool(remembered(c.params)) for c in last.clients] == [True, False, True, True, False]
    for used, began in zip(
        deployed(made(name), federation.task, last), federation.clients, strict=True
    ):
        assert list(used.params) == list(began.params)


@REMEMBERING
def test_a_run_goes_on_from_a_checkpoint_with_its_memory(name, tiny, tmp_path):
    federation = tiny()
    expected = rounds(name, federation, sample=some)
    checkpoint.save(tmp_path, expected[1], Ledger(), "run")
    loaded = checkpoint.load(tmp_path, federation.clients, "run")
    assert loaded is not None
    same(loaded[0], expected[1])
    same(rounds(name, federation, sample=some, after=loaded[0])[-1], expected[-1])


@REMEMBERING
def test_a_store_of_files_keeps_it(name, tiny, tmp_path):
    federation = tiny(["mlp-8"])
    expected = rounds(name, federation, sample=some)
    store = ClientStore(0, tmp_path)
    stored = rounds(name, federation, sample=some, store=store)
    assert store.notes
    same(stored[-1], expected[-1])
    everybody = store(expected[-1].clients)
    same(expected[-1], replace(stored[-1], clients=tuple(everybody)))


@REMEMBERING
def test_networks_do_not_look_at_it(name, tiny):
    federation = tiny()
    last = rounds(name, federation)[-1]
    plain = [replace(client, params=model_alone(client.params)) for client in last.clients]
    for engine in (sequential, batched(50)):
        found = training_accuracy(federation.task, last.clients, engine)
        assert torch.equal(found, training_accuracy(federation.task, plain, engine))
