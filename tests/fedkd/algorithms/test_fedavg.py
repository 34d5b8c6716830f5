"""FedAvg of a module with BatchNorm, held to the loop that one would write in plain PyTorch."""

import copy

import torch
from torch import nn

from fedkd.algorithms.fedavg import FedAvg
from fedkd.core import Client, Task
from fedkd.models.modules import from_module
from fedkd.rounds.round import deployed
from fedkd.rounds.synchronous import simulate
from kdcore.rng import generator
from kdcore.training.batches import Examples
from kdcore.training.loop import TrainingConfig

ROUNDS, RATE = 3, 0.1
SEEN = []  # the mini-batches of each client, round by round


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        return self.layers(x)


class Watched(FedAvg):
    """FedAvg that leaves a note of the mini-batches which it is given."""

    def client_update(self, predict, params, received, private, public):
        SEEN.append(private)
        return super().client_update(predict, params, received, private, public)


def a_federation():
    """Three clients of different sizes, whose labels and inputs differ."""
    draw = generator(0, "data")
    x = torch.randn(60, 4, generator=draw) + torch.arange(60).unsqueeze(1) / 20
    y = (x.sum(dim=1) > 6).long() + (torch.arange(60) % 2)
    model = from_module(Net, examples=x, num_classes=3)
    rows = torch.arange(60).split([10, 18, 32])
    clients = [
        Client(k, "net", model.init(generator(k, "client")), Examples(x, y, own))
        for k, own in enumerate(rows)
    ]
    return Task({"net": model}, 3, shape=(4,), few=x[:4]), clients, x, y


def trained(net, batches, x, y):
    """One client's epochs, as anybody would write them."""
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    for row, mask in zip(batches.order, batches.mask, strict=True):
        own = row[mask.bool()]
        if len(own) < 2:  # BatchNorm refuses to learn of one example
            continue
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[own]), y[own]).backward()
        optimizer.step()


def plain_fedavg(start, clients, rounds, x, y):
    """Weights, and means and variances of BatchNorm, averaged with the numbers of examples."""
    nets = [copy.deepcopy(start) for _ in clients]
    for batches in rounds:
        for net, own in zip(nets, batches, strict=True):
            trained(net, own, x, y)
        sizes = [len(client.private) for client in clients]
        states = [net.state_dict() for net in nets]
        mean = {
            name: sum(n * s[name].double() for n, s in zip(sizes, states, strict=True)) / sum(sizes)
            for name, value in states[0].items()
            if value.is_floating_point()
        }
        for net, state in zip(nets, states, strict=True):
            net.load_state_dict(state | {k: v.float() for k, v in mean.items()})
    return nets[0].eval()


def test_with_batch_norm_it_is_the_loop_of_plain_pytorch():
    task, clients, x, y = a_federation()
    algorithm = Watched(local=TrainingConfig(learning_rate=RATE, epochs=2, batch_size=5))
    SEEN.clear()
    model = task.models["net"]
    first = algorithm.init(task, generator(0, "server"))
    start = Net()
    values = {name.removeprefix("net/").removeprefix("~"): v for name, v in first.items()}
    start.load_state_dict(start.state_dict() | values)
    *_, last = simulate(algorithm, task, clients, rounds=ROUNDS, seed=0)
    used = deployed(algorithm, task, last)
    ours = model.module(used[0].params)
    each = [SEEN[n : n + 3] for n in range(0, len(SEEN), 3)]
    assert len(each) == ROUNDS
    plain = plain_fedavg(start, clients, each, x, y)
    for name, value in plain.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    moved = plain.layers[1].running_mean
    assert moved.abs().max() > 0.1  # statistics have moved, and are not those of the start
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-4, atol=1e-4)
