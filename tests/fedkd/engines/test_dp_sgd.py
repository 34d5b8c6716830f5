"""DP-SGD against Opacus, and in every engine what it is in the plain loop."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.utils._pytree import tree_map

from fedkd.algorithms.local import Local
from fedkd.core import Client, Task
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.models import build
from fedkd.models.modules import from_module
from fedkd.rounds.round import check_federation, private_of
from kdcore.rng import generator
from kdcore.training.loop import Clipping, Examples, TrainingConfig, draw, fit, supervised

SIZES = (100, 97, 41, 7)
STEPS = 15


def clients_of(model, kind=torch.float32):
    """Clients with images of 8 x 8 of their own, and a task of ten classes."""
    stream, total = generator(0, "data"), sum(SIZES)
    x = torch.rand(total, 1, 8, 8, generator=stream).to(kind)
    y = torch.randint(10, (total,), generator=stream)
    rows = torch.arange(total).split(list(SIZES))
    clients = [
        Client(k, "model", model.init(generator(0, "init", k)), Examples(x, y, own))
        for k, own in enumerate(rows)
    ]
    return Task({"model": model}, 10, shape=(1, 8, 8)), clients


def inputs_of(clients, training):
    """What each client is given: mini-batches of its own."""
    return [(draw(c.private, training, generator(1, "b", c.id)),) for c in clients]


def update(training, predict, params, private):
    return fit(predict, params, private, training, supervised)


def farthest(found, wanted):
    """The largest difference between parameters."""
    return max(
        float((one[name] - other[name]).abs().max())
        for one, other in zip(found, wanted, strict=True)
        for name in other
    )


def perceptron(*widths):
    pairs = zip((64, *widths), (*widths, 10), strict=True)
    layers = [layer for pair in pairs for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def convolutions():
    layers = [
        layer
        for before, behind in ((1, 16), (16, 32))
        for layer in (
            nn.Conv2d(before, behind, 3, padding=1, bias=False),
            nn.GroupNorm(4, behind),
            nn.MaxPool2d(2),
            nn.ReLU(),
        )
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 10))


THEIRS = {
    "mlp-64": lambda: perceptron(64),
    "mlp-128-64": lambda: perceptron(128, 64),
    "cnn": convolutions,
}


def by_opacus(module, params, batches, training):
    """The same training, step by step, by another library."""
    module.load_state_dict(dict(zip(module.state_dict(), params.values(), strict=True)))
    private = GradSampleModule(module, loss_reduction="sum")
    optimiser = DPOptimizer(
        torch.optim.SGD(private.parameters(), lr=training.learning_rate),
        noise_multiplier=0.0,
        max_grad_norm=training.privacy.norm,
        expected_batch_size=min(training.batch_size, int(batches.size)),
    )
    for order, mask in zip(batches.order, batches.mask, strict=True):
        rows = order[mask]
        optimiser.zero_grad()
        logits = private(batches.x[rows])
        nn.functional.cross_entropy(logits, batches.y[rows], reduction="sum").backward()
        optimiser.step()
    return dict(zip(params, map(torch.detach, module.parameters()), strict=True))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", THEIRS)
def test_without_noise_a_stack_is_trained_as_opacus_trains_each(name):
    model = build(name, (1, 8, 8), 10)
    task, clients = clients_of(model)
    training = TrainingConfig("sgd", 0.5, batch_size=20, steps=STEPS, privacy=Clipping(0.1, 0.0))
    given = inputs_of(clients, training)
    found = batched()(partial(update, training), task, clients, given)
    wanted = [
        by_opacus(THEIRS[name](), client.params, batches, training)
        for client, (batches,) in zip(clients, given, strict=True)
    ]
    assert farthest(found, wanted) < 1e-6
    assert farthest(found, [client.params for client in clients]) > 5e-3


class Dropped(nn.Module):
    """A module of a user's, with dropout."""

    def __init__(self):
        super().__init__()
        layers = nn.Flatten(), nn.Linear(64, 12), nn.Dropout(0.3), nn.ReLU(), nn.Linear(12, 10)
        self.body = nn.Sequential(*layers)

    def forward(self, x):
        return self.body(x)


class InTurn(Dropped):
    """One that cannot be stacked: it asks a number."""

    def forward(self, x):
        return self.body(x) * (2 if float(x.sum()) > 0 else 1)


def module_of(kind):
    return from_module(kind, examples=torch.rand(4, 1, 8, 8), num_classes=10)


def model_of(name):
    own = {"dropout": Dropped, "in turn": InTurn}
    return module_of(own[name]) if name in own else build(name, (1, 8, 8), 10)


@pytest.mark.parametrize("name", ["mlp-16-12", "cnn-4-6", "lenet", "dropout", "in turn"])
def test_a_stack_with_noise_is_the_plain_loop(name):
    model = model_of(name)
    assert (getattr(model.predict, "alone", None) is None) == (name != "in turn")
    task, clients = clients_of(model)
    training = TrainingConfig("momentum", 0.2, batch_size=2, steps=9, privacy=Clipping(0.5, 0.8))
    given = inputs_of(clients, training)
    assert any(not batches.mask.any(dim=1).all() for (batches,) in given)
    wanted = sequential(partial(update, training), task, clients, given)
    found = batched()(partial(update, training), task, clients, given)
    assert farthest(found, wanted) < 1e-6
    assert farthest(found, [client.params for client in clients]) > 1e-2


@pytest.mark.ray
def test_actors_with_noise_are_the_plain_loop():
    from fedkd.engines.ray.engine import RayEngine

    task, clients = clients_of(build("mlp-16", (1, 8, 8), 10))
    training = TrainingConfig(batch_size=6, steps=6, privacy=Clipping(0.5, 0.8))
    given = inputs_of(clients, training)
    wanted = sequential(partial(update, training), task, clients, given)
    with RayEngine(1) as engine:
        found = engine(partial(update, training), task, clients, given)
        assert farthest([dict(one) for one in found], wanted) < 1e-6


def test_clients_with_batches_of_any_width_are_one_stack(monkeypatch):
    import fedkd.engines.batched as module

    task, clients = clients_of(build("mlp-16", (1, 8, 8), 10))
    training = TrainingConfig(batch_size=6, steps=6, privacy=Clipping(0.5, 0.8))
    given = inputs_of(clients, training)
    assert len({batches.order.shape[1] for (batches,) in given}) > 1
    whole, stacks = module._stacked, []

    def watched(function, predict, calls):
        stacks.append(len(calls))
        return whole(function, predict, calls)

    monkeypatch.setattr(module, "_stacked", watched)
    batched()(partial(update, training), task, clients, given)
    assert stacks == [len(clients)]


# Networks in which one record reaches what is learnt from another


class Normed(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Flatten(), nn.LazyLinear(10))

    def forward(self, x):
        return self.body(x)


COUPLED = {
    "running": nn.BatchNorm2d(4),
    "of the batch alone": nn.BatchNorm2d(4, track_running_stats=False),
}


@pytest.mark.parametrize("norm", COUPLED.values(), ids=COUPLED)
def test_batch_normalisation_is_refused_in_a_line(norm):
    model = from_module(partial(Normed, norm), examples=torch.rand(4, 1, 8, 8), num_classes=10)
    task, clients = clients_of(model)
    private = Local(TrainingConfig(privacy=Clipping(1.0, 1.0)))
    with pytest.raises(
        ValueError, match=r"^local.privacy: model .*; leave out local.privacy, or the epsilon"
    ):
        check_federation(private, task, clients)
    check_federation(replace(private, local=TrainingConfig()), task, clients)


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4)], ids=["group", "own"])
def test_a_norm_within_an_example_is_not_refused(norm):
    model = from_module(partial(Normed, norm), examples=torch.rand(4, 1, 8, 8), num_classes=10)
    task, clients = clients_of(model)
    check_federation(Local(TrainingConfig(privacy=Clipping(1.0, 1.0))), task, clients)


def test_every_architecture_of_ours_can_be_trained_privately():
    for name in ("mlp", "cnn", "mobile", "lenet", "resnet8", "cnn@8"):
        task, clients = clients_of(build(name, (1, 8, 8), 10))
        check_federation(Local(TrainingConfig(privacy=Clipping(1.0, 1.0))), task, clients)


def test_each_round_has_noise_and_examples_of_its_own():
    _, clients = clients_of(build("mlp-8", (1, 8, 8), 10))
    training = TrainingConfig(batch_size=6, steps=6, privacy=Clipping(0.5, 0.8))
    first, second = (private_of(Local(training), clients[0], 0, index) for index in (1, 2))
    assert not set(first.noise.tolist()) & set(second.noise.tolist())
    taken = [set(tree_map(int, list(b.order[b.mask]))) for b in (first, second)]
    assert taken[0] != taken[1]
