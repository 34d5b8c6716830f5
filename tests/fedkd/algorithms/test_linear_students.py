"""Regression by exchanged predictions where there is a theory of it: linear models, squared errors.

With A the public examples (a column of ones beside them) a client's predictions are A w, and their
mean is A times the mean of all w. So a student that fits it is known in closed form.
"""

import pytest
import torch

from fedkd.algorithms.dsfl import DSFL
from fedkd.core import Client, Task
from fedkd.losses import squared, with_losses
from fedkd.models import mlp
from fedkd.rounds.round import deployed
from fedkd.rounds.synchronous import simulate
from fedkd.targets import REAL
from kdcore.rng import generator
from kdcore.training.loop import Examples, TrainingConfig

pytestmark = pytest.mark.usefixtures("double")
CLIENTS, D = 3, 2
MODEL = mlp((D,), 1, ())


def design(x):
    return torch.cat([x, torch.ones(len(x), 1)], dim=1)


def weights(params):
    return torch.cat([params["layer0.weight"].squeeze(0), params["layer0.bias"]])


def ridge(x, y, decay):
    """argmin_w mean_n (a_n w - y_n)^2 + decay / 2 |w|^2."""
    a = design(x)
    inner = a.T @ a + decay * len(x) / 2 * torch.eye(D + 1)
    return torch.linalg.solve(inner, a.T @ y).squeeze(1)


def descending(decay, epochs):
    """Gradient descent on all examples at once."""
    return TrainingConfig("sgd", 0.25, weight_decay=decay, epochs=epochs, batch_size=100)


def a_round(public, local, distill):
    """The clients' examples, and their weights before and after they are students of their mean."""
    x = torch.randn(30, D, generator=generator(0))
    y = x @ torch.tensor([[1.0], [-2.0]]) + torch.randn(30, 1, generator=generator(1))
    parts = torch.arange(30).tensor_split(CLIENTS)
    clients = [
        Client(k, "linear", MODEL.init(generator(2, k)), Examples(x, y, rows))
        for k, rows in enumerate(parts)
    ]
    task = Task({"linear": MODEL}, 1, public, (D,), target=REAL)
    task = with_losses(task, clients, squared, squared)
    algorithm = DSFL(local=local, distill=distill, aggregation="sa")
    (last,) = simulate(algorithm, task, clients, rounds=1)
    before = torch.stack([weights(client.params) for client in last.clients])
    after = torch.stack([weights(one.params) for one in deployed(algorithm, task, last)])
    return [(x[rows], y[rows]) for rows in parts], before, after


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_a_student_of_ridge_regressions_is_a_ridge_regression_on_their_mean(decay):
    public = torch.randn(12, D, generator=generator(3))
    held, before, after = a_round(public, descending(0.5, 150), descending(decay, 150))
    teachers = torch.stack([ridge(x, y, 0.5) for x, y in held])
    torch.testing.assert_close(before, teachers)
    said = design(public) @ teachers.mean(dim=0).unsqueeze(1)
    student = ridge(public, said, decay)
    torch.testing.assert_close(after, student.expand(CLIENTS, -1))
    if not decay:  # as if weights had been averaged, whatever the public examples are
        torch.testing.assert_close(after[0], teachers.mean(dim=0))
        return
    # With decay it shrinks along each direction of the public examples, most where they are few.
    _, spread, directions = torch.linalg.svd(design(public), full_matrices=False)
    left = directions @ student / (directions @ teachers.mean(dim=0))
    torch.testing.assert_close(left, spread**2 / (spread**2 + decay * len(public) / 2))


def test_what_public_examples_do_not_span_stays_a_clients_own():
    public = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # the second feature is never seen
    _, before, after = a_round(public, descending(0.0, 5), descending(0.0, 100))
    mean = before.mean(dim=0)
    torch.testing.assert_close(after[:, [0, 2]], mean[[0, 2]].expand(CLIENTS, -1))
    torch.testing.assert_close(after[:, 1], before[:, 1])
    assert (before[:, 1] - mean[1]).abs().min() > 1e-3
