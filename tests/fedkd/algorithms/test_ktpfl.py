"""KT-pFL: both halves worked by hand."""

import pytest
import torch

from fedkd.algorithms.ktpfl import KTpFL
from fedkd.algorithms.local import Local
from fedkd.core import Client, Model, Task
from fedkd.messages import Received
from fedkd.rounds.round import private_of, public_of
from fedkd.rounds.synchronous import simulate
from kdcore.outputs import Outputs
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


def test_coefficients_by_hand():
    # Two clients who are sure of different classes: products are 1 and 0. From halves the slope of
    # the first one's is 2 ((.5, .5) - (1, 0)) = (-1, 1): (.6, .4) after a step of a tenth. Then
    # 2 ((.6, .4) - (1, 0)) + 2 r (.1, -.1) = (-.7, .7) with r = 1/2: (.67, .33).
    algorithm = KTpFL(STILL, STILL, step=0.1, penalty=0.5)
    first = after(algorithm, {}, c0=1.0, c1=0.0)
    assert [told(algorithm, first, k) for k in range(2)] == pytest.approx([0.6, 0.4])
    second = after(algorithm, first, c0=1.0, c1=0.0)
    assert [told(algorithm, second, k) for k in range(2)] == pytest.approx([0.67, 0.33])


def test_who_says_alike_counts_more_for_each_other():
    algorithm, server = KTpFL(STILL, STILL, step=0.1, penalty=0.1), {}
    for _ in range(30):
        server = after(algorithm, server, c0=0.95, c1=0.9, c2=0.05)
    c = server["coefficients"] / server["coefficients"].sum(dim=1, keepdim=True)
    assert c[0, 1] > 2 * c[0, 2]
    assert c[2, 2] > 2 * c[2, 0]
    assert told(algorithm, server, 0) > 0.8 > 0.3 > told(algorithm, server, 2)


def test_without_steps_or_with_a_high_penalty_it_is_the_plain_mean():
    for algorithm in (KTpFL(STILL, STILL, step=0.0), KTpFL(STILL, STILL, step=1e-4, penalty=1e3)):
        server = {}
        for _ in range(5):
            server = after(algorithm, server, c0=1.0, c1=0.25, c2=0.25)
        assert [told(algorithm, server, k) for k in range(3)] == pytest.approx([0.5] * 3, abs=1e-3)


def test_who_was_away_is_told_by_its_own_coefficients_and_who_is_new_the_mean():
    # Client 0 has .6 of itself and .4 of client 1; of two who come next, of which it knows one, it
    # has 2 x .4 of that one and 1 of the other.
    algorithm = KTpFL(STILL, STILL, step=0.1, penalty=0.5)
    server = after(algorithm, {}, c0=1.0, c1=0.0)
    server = after(algorithm, server, c1=0.5, c2=0.5)
    assert server["known"].tolist() == [0, 1, 2]
    server = server | {"said": torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])}
    assert told(algorithm, server, 0) == pytest.approx(0.8 / 1.8)
    assert told(algorithm, server, 9) == pytest.approx(0.5)


def test_a_digest_at_a_temperature_by_hand():
    # T^2 CE has slope T (softmax(z / T) - q) = 2 ((.5, .5) - (1, 0)) = (-1, 1).
    algorithm = KTpFL(STILL, TrainingConfig(learning_rate=0.1), temperature=2.0)
    z, said = digested(algorithm, [1.0, 0.0])
    torch.testing.assert_close(z, torch.tensor([0.1, -0.1]))
    torch.testing.assert_close(said, torch.tensor([0.05, -0.05]).softmax(dim=-1))


def test_the_first_round_is_local(tiny):
    given, training = tiny(), TrainingConfig(learning_rate=0.05, epochs=1, batch_size=4)
    (one,) = simulate(KTpFL(training), given.task, given.clients, rounds=1)
    (other,) = simulate(Local(training), given.task, given.clients, rounds=1)
    for mine, theirs in zip(one.clients, other.clients, strict=True):
        assert all(torch.equal(mine.params[key], theirs.params[key]) for key in mine.params)
    assert (one.ledger.bytes_up, one.ledger.bytes_down) == (5 * 11 * 5 * 8, 0)
