"""Selective-FD: its ratio against a plain loop, its quantile against torch, a round by hand."""

import math

import numpy as np
import pytest
import torch

from fedkd.algorithms.dsfl import DSFL
from fedkd.algorithms.selectivefd import SelectiveFD
from fedkd.components.density_ratio import AUXILIARY, density_ratio, masked_quantile
from fedkd.core import Client, Model, Task
from fedkd.messages import Received
from fedkd.rounds.round import deployed, private_of, public_of
from fedkd.rounds.synchronous import simulate
from kdcore.outputs import Outputs
from kdcore.training.loop import Examples, TrainingConfig

pytestmark = pytest.mark.usefixtures("double")
STILL = TrainingConfig(learning_rate=1e-300)


def test_the_ratio_is_that_of_a_plain_loop():
    dice = torch.Generator().manual_seed(0)
    own, asked = torch.rand(6, 2, generator=dice), 3 * torch.rand(4, 2, generator=dice) - 1
    there = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    found = density_ratio(own, there, asked, torch.tensor(-1.0), torch.tensor(2.0), 0.7)
    mine = own[there > 0].numpy()
    points = np.random.default_rng(0).random((AUXILIARY, 2)) * 3 - 1

    def kernel(a, b):
        return math.exp(-sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) / (2 * 0.7**2))

    shrink = 1 / math.sqrt(AUXILIARY)
    matrix = np.array([[kernel(a, b) for b in points] for a in points]) / AUXILIARY
    right = np.array([sum(kernel(a, b) for b in mine) for a in points])
    alpha = -np.linalg.inv(matrix + shrink * np.eye(AUXILIARY)) @ right
    alpha /= AUXILIARY * len(mine) * shrink
    expected = [
        sum(a * kernel(z, u) for a, u in zip(alpha, points, strict=True))
        + sum(kernel(z, x) for x in mine) / (len(mine) * shrink)
        for z in asked.numpy()
    ]
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_the_quantile_is_that_of_those_who_are_there(share):
    values = torch.tensor([5.0, 1.0, 9.0, 3.0, 7.0, 2.0])
    there = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    expected = torch.quantile(values[there > 0], share)
    torch.testing.assert_close(masked_quantile(values, there, share), expected)
    one = masked_quantile(values, torch.eye(6)[2], share)
    assert (float(one), float(masked_quantile(values, 0 * there, share))) == (9.0, -math.inf)


def scene(count):
    """A client near (0, 0); public examples near it, and near (4, 4)."""
    dice = torch.Generator().manual_seed(1)
    own = 0.3 * torch.randn(count, 2, generator=dice)
    x = torch.cat([own, torch.tensor([[0.0, 0.0], [0.1, 0.1], [4.0, 4.0], [3.0, 4.0]])])
    y = torch.zeros(len(x)).long()
    model = Model(
        lambda dice: {"z": torch.zeros(2)}, lambda p, x: Outputs(p["z"].expand(len(x), 2))
    )
    client = Client(0, "g", {"z": torch.zeros(2)}, Examples(x, y, torch.arange(count)))
    return Task({"g": model}, 2, x[count:]), client


@pytest.mark.parametrize(("count", "rows"), [(40, [1, 1, 0, 0]), (4, [1, 1, 1, 1])])
def test_a_client_is_silent_about_what_is_unlike_its_own(count, rows):
    # With four examples none is held out, and there is no threshold.
    task, client = scene(count)
    algorithm = SelectiveFD(TrainingConfig(learning_rate=1e-300, batch_size=8), STILL, width=1.0)
    for index in (1, 2):  # in whichever order its examples come
        private = private_of(algorithm, client, 0, index)
        public = public_of(algorithm, task, 0, index)
        predict = task.models["g"].predict
        assert algorithm.familiar(predict, client.params, private, public).tolist() == rows


def after(*sent, **settings):
    """What is told of three public examples, by probabilities of class 0; None is not sent."""
    algorithm, task = SelectiveFD(**settings), Task({}, 2, torch.zeros(3, 1))
    uploads = [
        Received(
            k,
            "g",
            {"probabilities": torch.tensor([[p or 0.0, 1 - p if p else 0.0] for p in one])},
            1.0,
            torch.tensor([float(p is not None) for p in one]),
        )
        for k, one in enumerate(sent)
    ]
    return algorithm.server_update(task, {}, uploads, public_of(algorithm, task, 0, 1))


def test_the_server_by_hand():
    # The first by both, (.8 + .9) / 2; the second by one; the third by nobody. A mean of .85 misses
    # certainty by .15 + .15, one of .6 by .8.
    server = after([0.8, None, None], [0.9, 0.6, None])
    assert server["news/clear"].tolist() == [0, 1]
    torch.testing.assert_close(server["news/consensus"], torch.tensor([[0.85, 0.15], [0.6, 0.4]]))
    for most, told in ((0.8, [0, 1]), (0.79, [0]), (0.29, [])):
        server = after([0.8, None, None], [0.9, 0.6, None], ambiguity=most)
        assert server["news/clear"].tolist() == told


def test_where_everything_is_sent_it_is_the_mean_of_dsfl(tiny):
    # Fewer than five examples: nothing is held out.
    given = tiny(sizes=(4, 3, 2))
    local = TrainingConfig(learning_rate=0.05, epochs=2, batch_size=4)
    plain, same = (
        DSFL(local, local, public_size=5, aggregation="sa"),
        SelectiveFD(local, local, public_size=5),
    )
    used = [
        deployed(a, given.task, list(simulate(a, given.task, given.clients, rounds=3))[-1])
        for a in (plain, same)
    ]
    for first, second in zip(*used, strict=True):
        for key, value in first.params.items():
            torch.testing.assert_close(second.params[key], value)
