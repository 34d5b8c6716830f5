"""Modules as users bring them learn under the methods of the field, well above chance of 0.1."""

from dataclasses import fields

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from fedkd import algorithms
from fedkd.core import Client, Task
from fedkd.data import datasets, partition
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
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
    [500, 300, 500, 497]
)
TOKENS = (F.avg_pool2d(DATA.x, 2).flatten(1) * 16).round().long()  # 16 of 17 kinds
TWO = DATA.x, torch.ones_like(DATA.x)


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


MODULES = {
    "resnet18": (modules.ResNet18, DATA.x, 3e-3),
    "lstm": (modules.Lstm, DATA.x, 1e-2),
    "transformer": (modules.Tokens, TOKENS, 5e-3),
    "scales": (modules.Scaled, DATA.x, 3e-3),
    "frozen": (frozen_backbone, DATA.x, 1e-2),
    "two": (modules.Two, TWO, 5e-3),
}


def world(what):
    make, x, rate = MODULES[what]
    few = rows(x, PRIVATE[:4])
    model = build(make() if what == "frozen" else make, (1, 8, 8), 10, few)
    parts = partition.dirichlet(DATA.y[PRIVATE], 4, generator(5, "partition"), alpha=1.0)
    clients = [
        Client(i, what, model.init(generator(0, "client", i)), Examples(x, DATA.y, PRIVATE[places]))
        for i, places in enumerate(parts)
    ]
    task = Task({what: model}, 10, rows(x, PUBLIC), few=few)
    return task, clients, Examples(x, DATA.y, TEST), rate


def settings(name, rate):
    kind = algorithms.get(name)
    training = {
        f.name: TrainingConfig("adam", rate, epochs=3 if f.name == "local" else 2, batch_size=16)
        for f in fields(kind)
        if isinstance(f.default, TrainingConfig)
    }
    return kind(**training)


@pytest.mark.parametrize("name", ["fedmd", "dsfl", "fedavg", "fd"])
@pytest.mark.parametrize("what", list(MODULES))
def test_it_learns_in_every_engine(what, name):
    task, clients, test, rate = world(what)
    algorithm = settings(name, rate)
    check_federation(algorithm, task, clients)
    counts = torch.stack(
        [torch.bincount(c.private.y[c.private.rows], minlength=10) for c in clients]
    )
    *_, last = simulate(algorithm, task, clients, rounds=3)
    used = deployed(algorithm, task, last)
    assert float(evaluate(task, used, test, counts).accuracy.mean()) > 0.3
    network = task.models[what].predict
    if network.alone is not None:
        *_, other = simulate(algorithm, task, clients, rounds=3, engine=batched())
        assert checkpoint.digest(other) == checkpoint.digest(last)


def test_learned_scales_reach_what_plain_pytorch_reaches():
    """Same initial values, batches and optimiser, in torch's own loop: within a point."""
    task, _, test, rate = world("scales")
    model = task.models["scales"]
    training = TrainingConfig("adam", rate, epochs=10, batch_size=16)
    batches = draw(Examples(DATA.x, DATA.y, PRIVATE), training, generator(0, "order"))
    start = model.init(generator(0, "client"))
    found = fit(model.predict, start, batches, training, supervised)
    plain = model.module(start)
    optimiser = torch.optim.Adam(plain.parameters(), rate)
    for order, mask in zip(batches.order, batches.mask, strict=True):
        index = order[mask]
        optimiser.zero_grad()
        F.cross_entropy(plain(DATA.x[index]), DATA.y[index]).backward()
        optimiser.step()
    said = predict_logits(model.predict, found, DATA.x, TEST).argmax(1)
    ours = (said == DATA.y[TEST]).double().mean()
    theirs = (plain(DATA.x[TEST]).argmax(1) == DATA.y[TEST]).double().mean()
    assert float(theirs) > 0.9
    assert abs(float(ours - theirs)) <= 0.01


def test_a_frozen_backbone_with_a_head_sends_its_head():
    task, clients, _, rate = world("frozen")
    sent = [client.params for client in clients]
    assert {name for params in sent for name in params} == {"fc.weight", "fc.bias"}
    *_, last = simulate(settings("fedavg", rate), task, clients, rounds=1, engine=sequential)
    assert last.ledger.up["fc.weight"] + last.ledger.up["fc.bias"] == 4 * 4 * (64 * 10 + 10)
