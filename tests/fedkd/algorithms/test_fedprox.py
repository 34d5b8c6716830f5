"""FedProx: a round worked by hand, and its two limits."""

import math

import pytest
import torch

from fedkd.algorithms.fedavg import FedAvg
from fedkd.algorithms.fedprox import FedProx
from fedkd.core import Client, Model, Task
from fedkd.rounds.round import private_of
from fedkd.rounds.synchronous import simulate
from kdcore.outputs import Outputs
from kdcore.training.loop import Examples, TrainingConfig

pytestmark = pytest.mark.usefixtures("double")


def look_up(params, x):
    return Outputs(params["table"][x[:, 0].long()])


def table(logits, labels):
    """One client, whose model is the table of its examples' logits."""
    start = torch.tensor(logits)
    model = Model(lambda generator: {"table": start.clone()}, look_up)
    x, y = torch.arange(float(len(start))).unsqueeze(1), torch.tensor(labels)
    client = Client(0, "table", {"table": start.clone()}, Examples(x, y, torch.arange(len(y))))
    return Task({"table": model}, start.shape[1]), [client]


def after(algorithm, task, clients, rounds=1):
    *_, last = simulate(algorithm, task, clients, rounds=rounds)
    return last.server


def test_two_steps_by_hand():
    # One example of class 0, logits (0, 0), steps of size 1. The first is that of FedAvg, to
    # (1/2, -1/2). The second descends p - onehot = (-s, s) with s = 1 / (1 + e), and mu times the
    # way gone so far, (1/2, -1/2).
    task, clients = table([[0.0, 0.0]], [0])
    server = after(FedProx(TrainingConfig(learning_rate=1.0, epochs=2), mu=0.4), task, clients)
    place = 0.5 + 1 / (1 + math.e) - 0.4 * 0.5
    torch.testing.assert_close(server["table/table"], torch.tensor([[place, -place]]))


def test_without_the_term_it_is_fedavg(tiny):
    federation, training = tiny(), TrainingConfig(learning_rate=0.1, epochs=2, batch_size=4)
    task, clients = federation.task, federation.clients
    free = after(FedProx(training, mu=0.0), task, clients, 2)
    plain = after(FedAvg(training), task, clients, 2)
    assert all(torch.equal(free[key], plain[key]) for key in plain)


def test_the_larger_mu_the_nearer_to_the_average(tiny):
    federation, training = tiny(), TrainingConfig(learning_rate=0.01, epochs=20, batch_size=4)
    task, clients = federation.task, federation.clients
    start = FedProx().init(task, torch.Generator().manual_seed(0))

    def way(mu):
        algorithm = FedProx(training, mu)
        group, client = clients[2].group, clients[2]
        received = algorithm.broadcast(start, 2, group)
        private = private_of(algorithm, client, 0, 1)
        params, _ = algorithm.client_update(
            task.models[group].predict, client.params, received, private, None
        )
        return float(sum((params[k] - received[k]).square().sum() for k in params)) ** 0.5

    ways = [way(mu) for mu in (0.0, 1.0, 10.0, 50.0)]
    assert ways == sorted(ways, reverse=True)
    assert ways[-1] < 0.1 * ways[0]


def test_a_negative_mu_is_an_error():
    with pytest.raises(ValueError, match="mu must be >= 0 and finite, got -1"):
        FedProx(mu=-1.0)
