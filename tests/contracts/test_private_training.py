"""Every algorithm trains with privacy of each record, as it is: a new one from its first day."""

import sys
from dataclasses import fields, replace

import pytest
import torch

from fedkd import algorithms
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.rounds.round import deployed
from fedkd.rounds.synchronous import simulate
from kdcore.training.loop import Clipping, TrainingConfig, fit

REFUSING = {"fedkt"}  # it trains many models on each example, which nobody accounts for
every_algorithm = pytest.mark.parametrize("name", sorted({*algorithms.names()} - REFUSING))
SIZES = (9, 1, 6)
TRAINS = [name for name in algorithms.names() if name != "pooled"]  # its clients do not


def private(name):
    """An algorithm, all of whose training is short, and private where the examples are."""
    training = TrainingConfig("momentum", 0.05, epochs=1, batch_size=2)
    kind = algorithms.get(name)
    short = {f.name: training for f in fields(kind) if isinstance(f.default, TrainingConfig)}
    return kind(**short | {"local": replace(training, privacy=Clipping(0.5, 0.4))})


def rounds(algorithm, federation, engine=sequential):
    return list(simulate(algorithm, federation.task, federation.clients, rounds=2, engine=engine))


def farthest(current, other):
    """The largest difference between the parameters of two rounds' clients."""
    pairs = zip(current.clients, other.clients, strict=True)
    return max(float((a.params[n] - b.params[n]).abs().max()) for a, b in pairs for n in b.params)


@every_algorithm
def test_it_trains_privately_and_alike_in_a_stack(name, tiny):
    federation = tiny(models=("mlp-8",), sizes=SIZES)
    algorithm = private(name)
    one = rounds(algorithm, federation)[-1]
    assert not one.rejected
    assert not one.failed
    used = deployed(algorithm, federation.task, one)
    assert all(value.isfinite().all() for client in used for value in client.params.values())
    stack = rounds(algorithm, federation, batched())[-1]
    assert farthest(stack, one) < 1e-6
    assert farthest(one, replace(one, clients=federation.clients)) > 1e-3


@every_algorithm
def test_a_client_trains_once_on_its_records_and_all_else_is_public(name, tiny, monkeypatch):
    """So what an accountant counts is one round of steps; the seeds of noise are used once."""
    federation, seen = tiny(models=("mlp-8",), sizes=SIZES), []

    def watched(predict, params, batches, training, *more, **named):
        seen.append((training.privacy, len(batches.own) > 0))
        return fit(predict, params, batches, training, *more, **named)

    for module in [m for key, m in sys.modules.items() if key.startswith("fedkd.")]:
        if getattr(module, "fit", None) is fit:
            monkeypatch.setattr(module, "fit", watched)
    algorithm = private(name)
    counts = []

    def engine(function, task, clients, inputs):
        results = []
        for client, given in zip(clients, inputs, strict=True):
            seen.clear()
            results += sequential(function, task, [client], [given])
            assert all((privacy is not None) == own for privacy, own in seen)
            counts.append(sum(own for _, own in seen))
        return results

    rounds(algorithm, federation, engine)
    assert set(counts) == ({1} if name in TRAINS else {0})


@pytest.mark.parametrize(
    "name", ["fd", "fedproto", "fedtgp", "fedgh", "fedgen", "fedgkt", "pooled"]
)
def test_records_are_counted_once_though_steps_take_them_by_chance(name, tiny):
    """Means, counts and examples that are sent are of all records, and of no copies."""
    federation = tiny(models=("mlp-8",), sizes=SIZES)
    algorithm, sent = private(name), {}
    held = {
        client.id: torch.bincount(client.private.y[client.private.rows], minlength=5)
        for client in federation.clients
    }

    def engine(function, task, clients, inputs):
        results = sequential(function, task, clients, inputs)
        sent.update({c.id: upload for c, (_, upload) in zip(clients, results, strict=True)})
        return results

    rounds(algorithm, federation, engine)
    for client, upload in sent.items():
        if name == "fedgen":
            assert torch.equal(upload.payload["label_counts"].long(), held[client])
        elif name in ("fedgkt", "pooled"):
            labels = upload.payload["labels" if name == "fedgkt" else "y"][upload.rows > 0]
            assert torch.equal(torch.bincount(labels.long(), minlength=5), held[client])
        else:
            assert torch.equal(upload.rows > 0, held[client] > 0)
