"""Pooled: plain training on the union, and what it costs."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from fedkd.algorithms.fedavg import FedAvg
from fedkd.algorithms.pooled import Pooled
from fedkd.core import Client, Task
from fedkd.messages import Received
from fedkd.models import mlp
from fedkd.rounds.round import check_federation
from fedkd.rounds.synchronous import simulate
from kdcore.training.loop import Examples, TrainingConfig

pytestmark = pytest.mark.usefixtures("double")
FULL = TrainingConfig(learning_rate=0.3, weight_decay=0.01, epochs=3, batch_size=100)


def federation(sizes):
    """Linear models of three features; each client has its own tensors."""
    generator = torch.Generator().manual_seed(1)
    model = mlp((3,), 4, ())
    clients = []
    for number, size in enumerate(sizes):
        x = torch.randn(size, 3, generator=generator)
        y = torch.randint(4, (size,), generator=generator)
        clients.append(
            Client(number, "linear", model.init(generator), Examples(x, y, torch.arange(size)))
        )
    return Task({"linear": model}, 4, shape=(3,)), clients


def test_it_is_gradient_descent_on_the_union():
    task, clients = federation([2, 7, 1])
    server = Pooled(FULL).init(task, torch.Generator().manual_seed(5))
    names = ("layer0.weight", "layer0.bias")
    *_, last = simulate(Pooled(FULL), task, clients, rounds=2, seed=5)
    (first,) = simulate(Pooled(TrainingConfig(epochs=0)), task, clients, rounds=1, seed=5)
    weight, bias = (first.server[f"linear/{name}"].clone().requires_grad_() for name in names)
    x = torch.cat([client.private.x for client in clients])
    y = torch.cat([client.private.y for client in clients])
    for _ in range(2 * 3):
        loss = F.cross_entropy(F.linear(x, weight, bias), y)
        with torch.no_grad():
            slopes = torch.autograd.grad(loss, (weight, bias))
            for value, slope in zip((weight, bias), slopes, strict=True):
                value -= 0.3 * (slope + 0.01 * value)
    for name, value in zip(names, (weight, bias), strict=True):
        torch.testing.assert_close(last.server[f"linear/{name}"], value.detach())
    assert set(server) == set(last.server)


def test_it_is_fedavg_with_one_client_that_has_everything():
    task, clients = federation([4, 5])
    union = Examples(
        torch.cat([c.private.x for c in clients]),
        torch.cat([c.private.y for c in clients]),
        torch.arange(9),
    )
    one = [Client(0, "linear", clients[0].params, union)]
    *_, together = simulate(Pooled(FULL), task, clients, rounds=2)
    start = {k: v for k, v in together.server.items()}
    *_, pooled = simulate(Pooled(FULL), task, one, rounds=2)
    for key, value in pooled.server.items():
        torch.testing.assert_close(start[key], value)
    assert set(FedAvg().init(task, torch.Generator())) <= set(pooled.server)


def test_each_example_goes_up_once_however_many_epochs():
    task, clients = federation([2, 7, 1])
    (current,) = simulate(Pooled(TrainingConfig(epochs=3, batch_size=4)), task, clients, rounds=1)
    assert current.ledger.up == {"x": 8 * 3 * 10, "y": 8 * 10}  # float64, features, examples


def test_labels_that_are_none_are_left_out():
    task, clients = federation([2])
    server = Pooled(FULL).init(task, torch.Generator())
    x = torch.ones(5, 3)
    fine = Received(
        0, "linear", {"x": x, "y": torch.tensor([0.0, 3.0, 4.0, -1.0, 1.0])}, 5.0,
        torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0]),
    )  # fmt: skip
    two = fine._replace(payload={"x": x[:2], "y": torch.tensor([0.0, 3.0])}, rows=torch.ones(2))
    one, other = (Pooled(FULL).server_update(task, server, [u], None) for u in (fine, two))
    assert all(torch.equal(one[key], other[key]) for key in other)


def test_the_shape_of_an_example_must_be_known():
    task, clients = federation([2])
    with pytest.raises(ValueError, match="Pooled needs the shape of an example"):
        check_federation(Pooled(), Task(task.models, 4), clients)
