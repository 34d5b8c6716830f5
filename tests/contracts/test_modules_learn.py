"""Modules as users bring them learn under the methods of the field, well above chance of 0.1."""

import functools
from dataclasses import fields
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from fedkd import algorithms
from fedkd.core import Client, Task
from fedkd.data import datasets, partition
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.messages import Ledger
from fedkd.models import build
from fedkd.rounds import checkpoint
from fedkd.rounds.evaluation import evaluate
from fedkd.rounds.round import check_federation, deployed
from fedkd.rounds.synchronous import simulate
from kdcore.rng import generator
from kdcore.training.batches import rows
from kdcore.training.loop import Examples, TrainingConfig, draw, fit, predict_logits, supervised
from tests import modules

pytestmark = pytest.mark.slow

DATA = datasets.load("digits")
PRIVATE, PUBLIC, TEST, BEFORE = torch.randperm(len(DATA.y), generator=generator(1)).split(
    [500, 200, 500, 597]
)
TOKENS = (F.avg_pool2d(DATA.x, 2).flatten(1) * 16).round().long()  # 16 of 17 kinds
TWO = DATA.x, torch.ones_like(DATA.x)


@functools.cache
def frozen_backbone():
    """A narrow ResNet, trained to tell five classes from others, with a new head."""
    model = build(modules.ResNet18, (1, 8, 8), 5, DATA.x[:4])
    training = TrainingConfig("adam", 3e-3, epochs=8, batch_size=40)
    examples = Examples(DATA.x, DATA.y % 5, BEFORE)
    batches = draw(examples, training, generator(3, "order"))
    params = fit(model.predict, model.init(generator(3)), batches, training, supervised)
    module = model.module(params).requires_grad_(False)
    module.fc = nn.Linear(64, 10)
    return module


MODULES = {  # what makes it, its inputs, its learning rate, and the size of its mini-batches
    "resnet18": (modules.ResNet18, DATA.x, 3e-3, 16),
    "lstm": (modules.Lstm, DATA.x, 1e-2, 16),
    "transformer": (modules.Tokens, TOKENS, 5e-3, 32),
    "scales": (modules.Scaled, DATA.x, 3e-3, 16),
    "frozen": (frozen_backbone, DATA.x, 1e-2, 32),
    "two": (modules.Two, TWO, 5e-3, 16),
}


class World(NamedTuple):
    task: Task
    clients: list
    test: Examples
    counts: torch.Tensor


@functools.cache
def world(what):
    make, x, *_ = MODULES[what]
    few = rows(x, PRIVATE[:4])
    model = build(make() if what == "frozen" else make, (1, 8, 8), 10, few)
    parts = partition.dirichlet(DATA.y[PRIVATE], 4, generator(5, "partition"), alpha=1.0)
    clients = [
        Client(i, what, model.init(generator(0, "client", i)), Examples(x, DATA.y, PRIVATE[places]))
        for i, places in enumerate(parts)
    ]
    counts = [torch.bincount(c.private.y[c.private.rows], minlength=10) for c in clients]
    task = Task({what: model}, 10, rows(x, PUBLIC), few=few)
    return World(task, clients, Examples(x, DATA.y, TEST), torch.stack(counts))


def settings(name, what):
    *_, rate, size = MODULES[what]
    kind = algorithms.get(name)
    training = {
        f.name: TrainingConfig("adam", rate, epochs=3 if f.name == "local" else 2, batch_size=size)
        for f in fields(kind)
        if isinstance(f.default, TrainingConfig)
    }
    return kind(**training)


@functools.cache
def learnt(what, name):
    """Two rounds in the sequential engine."""
    task, clients, *_ = world(what)
    algorithm = settings(name, what)
    check_federation(algorithm, task, clients)
    return list(simulate(algorithm, task, clients, rounds=2))


def accuracy(what, name, last):
    task, _, test, counts = world(what)
    used = deployed(settings(name, what), task, last)
    return float(evaluate(task, used, test, counts).accuracy.mean())


def gone_on(what, name, first, engine):
    """The second round after a first one."""
    task, clients, *_ = world(what)
    algorithm = settings(name, what)
    *_, last = simulate(algorithm, task, clients, rounds=2, engine=engine, after=first)
    return last


@pytest.mark.parametrize("name", ["fedmd", "dsfl", "fedavg", "fd"])
@pytest.mark.parametrize("what", list(MODULES))
def test_it_learns_and_goes_on_bit_for_bit(what, name, tmp_path):
    """From a checkpoint after the first round; what cannot be stacked in the batched engine."""
    first, last = learnt(what, name)
    assert accuracy(what, name, last) > 0.3
    task, clients, *_ = world(what)
    constants = task.models[what].constants
    checkpoint.save(tmp_path, first, Ledger(), "same", constants)
    found, _ = checkpoint.load(tmp_path, clients, "same", constants=constants)
    alone = task.models[what].predict.alone is not None
    assert alone == (what in ("resnet18", "lstm"))
    again = gone_on(what, name, found, batched() if alone else sequential)
    assert checkpoint.digest(again) == checkpoint.digest(last)


@pytest.fixture(scope="module")
def ray_engine():
    from fedkd.engines.ray.engine import RayEngine

    with RayEngine(1) as engine:
        yield engine


@pytest.mark.ray
@pytest.mark.parametrize(
    ("what", "name"),
    [*((what, "fedavg") for what in MODULES), ("lstm", "fedmd"), ("two", "fedmd"),
     ("transformer", "dsfl")],
)  # fmt: skip
def test_it_learns_in_actors_of_ray(what, name, ray_engine):
    first, last = learnt(what, name)
    found = gone_on(what, name, first, ray_engine)
    if world(what).task.models[what].predict.alone is not None:
        assert checkpoint.digest(found) == checkpoint.digest(last)
    assert accuracy(what, name, found) > 0.3


@pytest.mark.parametrize(("what", "floor"), [("scales", 0.9), ("resnet18", 0.8)])
def test_it_reaches_what_plain_pytorch_reaches(what, floor):
    """Same initial values, batches and optimiser, in torch's own loop: within a point."""
    task, _, test, _ = world(what)
    model, (*_, rate, size) = task.models[what], MODULES[what]
    training = TrainingConfig("adam", rate, epochs=6, batch_size=size)
    batches = draw(Examples(DATA.x, DATA.y, PRIVATE), training, generator(0, "order"))
    start = model.init(generator(0, "client"))
    found = fit(model.predict, start, batches, training, supervised)
    plain = model.module(start).train()
    optimiser = torch.optim.Adam(plain.parameters(), rate)
    for order, mask in zip(batches.order, batches.mask, strict=True):
        index = order[mask]
        optimiser.zero_grad()
        F.cross_entropy(plain(DATA.x[index]), DATA.y[index]).backward()
        optimiser.step()
    said = predict_logits(model.predict, found, DATA.x, TEST).argmax(1)
    ours = (said == DATA.y[TEST]).double().mean()
    theirs = (plain.eval()(DATA.x[TEST]).argmax(1) == DATA.y[TEST]).double().mean()
    assert float(theirs) > floor
    assert abs(float(ours - theirs)) <= 0.01


def test_a_frozen_backbone_with_a_head_sends_its_head():
    """10.4 kB for four clients: 64 x 10 weights, 10 biases and the number of examples of each."""
    task, clients, *_ = world("frozen")
    assert all(set(client.params) == {"fc.weight", "fc.bias"} for client in clients)
    first, _ = learnt("frozen", "fedavg")
    assert first.ledger.bytes_up == 4 * (4 * (64 * 10 + 10) + 8)
    whole, _ = learnt("resnet18", "fedavg")  # the same network, all of it trained
    assert whole.ledger.bytes_up > 300 * first.ledger.bytes_up
    backbone = frozen_backbone()
    assert set(first.server) == {"frozen/fc.weight", "frozen/fc.bias"}
    for client in first.clients:
        module = task.models["frozen"].module(client.params)
        assert torch.equal(module.blocks[0].a[0].weight, backbone.blocks[0].a[0].weight)
