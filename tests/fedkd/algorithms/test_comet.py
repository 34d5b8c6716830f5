"""COMET: both halves worked by hand."""

import pytest
import torch

from fedkd.algorithms.comet import COMET, _numbered
from fedkd.algorithms.local import Local
from fedkd.core import Client, Model, Task
from fedkd.messages import Received
from fedkd.rounds.round import private_of, public_of
from fedkd.rounds.synchronous import simulate
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.training.loop import Examples, TrainingConfig

pytestmark = pytest.mark.usefixtures("double")
STILL = TrainingConfig(learning_rate=1e-300)
ONE = torch.zeros(1, 1, dtype=torch.float64)


def constant(params, x):
    return Outputs(params["z"].expand(len(x), -1))


TASK = Task({"g": Model(lambda dice: {"z": torch.zeros(2)}, constant)}, 2, ONE)


def after(algorithm, server, **said):
    """The server after clients c0, c1 ... have said that class 0 has some probability."""
    uploads = [
        Received(int(name[1:]), "g", {"probabilities": torch.tensor([[p, 1 - p]])}, 1.0)
        for name, p in said.items()
    ]
    return algorithm.server_update(TASK, server, uploads, public_of(algorithm, TASK, 0, 1))


def told(algorithm, server, client):
    """The probability of class 0 in what a client is told."""
    return float(algorithm.broadcast(server, client, "g")["consensus"][0, 0])


def digested(algorithm, q):
    """The logits of a client that started with zeros and was told q, before private training."""
    private = Examples(ONE, torch.tensor([0]), torch.tensor([0]))
    client = Client(0, "g", {"z": torch.zeros(2)}, private)
    received = {"consensus": torch.tensor([q])}
    batches = private_of(algorithm, client, 0, 1)
    public = public_of(algorithm, TASK, 0, 1)
    params, upload = algorithm.client_update(constant, client.params, received, batches, public)
    return params["z"], upload.payload["probabilities"][0]


def begun(algorithm):
    return algorithm.init(TASK, generator(0))


def test_clusters_by_hand():
    algorithm = COMET(STILL, STILL, clusters=2)
    server = after(algorithm, begun(algorithm), c0=0.9, c3=0.1, c4=0.8, c7=0.2)
    assert [told(algorithm, server, k) for k in (0, 4, 3, 7)] == pytest.approx(
        [0.85, 0.85, 0.15, 0.15]
    )
    assert algorithm.broadcast(server, 5, "g") == {}  # it was not there
    messages = algorithm.broadcasts(server, dict.fromkeys((0, 3, 4, 5), "g"))
    assert messages[0] is messages[4]  # so that it is encoded once


def test_there_are_no_more_clusters_than_clients_who_differ():
    algorithm = COMET(STILL, STILL, clusters=5)
    server = after(algorithm, begun(algorithm), c0=0.9, c1=0.9, c2=0.1)
    assert [told(algorithm, server, k) for k in range(2)] == pytest.approx([0.9, 0.9])
    assert len(server["means"]) == 2
    assert algorithm.broadcast(server, 2, "g") == {}  # alone, and would learn what it says itself


def test_one_cluster_is_everybody():
    algorithm = COMET(STILL, STILL, clusters=1)
    server = after(algorithm, begun(algorithm), c0=0.9, c1=0.3, c2=0.0)
    assert [told(algorithm, server, k) for k in range(3)] == pytest.approx([0.4] * 3)


def test_a_digest_by_hand():
    # |p - q|^2 has slope 2 (p - q) = (-1, 1) by p = (.5, .5), and (-1/2, 1/2) by the logits; all of
    # it twice.
    algorithm = COMET(STILL, TrainingConfig(learning_rate=0.1), strength=2.0)
    z, said = digested(algorithm, [1.0, 0.0])
    torch.testing.assert_close(z, torch.tensor([0.1, -0.1]))
    torch.testing.assert_close(said, z.softmax(dim=-1))


def test_without_strength_it_is_local(tiny):
    given, training = tiny(), TrainingConfig(learning_rate=0.05, epochs=1, batch_size=4)
    *_, one = simulate(COMET(training, strength=0.0), given.task, given.clients, rounds=2)
    *_, other = simulate(Local(training), given.task, given.clients, rounds=2)
    for mine, theirs in zip(one.clients, other.clients, strict=True):
        for key, value in theirs.params.items():
            torch.testing.assert_close(mine.params[key], value)


def test_clusters_are_numbered_as_they_are_met():
    assert _numbered(torch.tensor([2, 0, 2, 1, 0])).tolist() == [0, 1, 0, 2, 1]
    assert _numbered(torch.tensor([1, 1])).tolist() == [0, 0]
