"""FedCache: relatives by a naive loop, a round worked by hand, and who is told what, once."""

import math

import pytest
import torch

from fedkd.algorithms.fedcache import FedCache
from fedkd.components.knowledge_cache import held_places, mean_of, noted, relatives
from fedkd.core import Client, Model, Task
from fedkd.encoders import Encoder
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.messages import Received
from fedkd.rounds.round import private_of
from fedkd.rounds.synchronous import simulate
from kdcore.outputs import Outputs
from kdcore.training.loop import Examples, TrainingConfig

pytestmark = pytest.mark.usefixtures("double")
STILL = TrainingConfig(learning_rate=1e-300)
STEP = TrainingConfig(learning_rate=1.0, batch_size=8)


def linear(params, x):
    return Outputs(torch.nn.functional.linear(x, params["weight"], params["bias"]), (x,))


def close(value, expected):
    torch.testing.assert_close(value, torch.as_tensor(expected), rtol=1e-9, atol=1e-9)


def federation(x, y, holdings, biases):
    """Clients of a linear model, each with a bias of its own and no weights."""
    x, y = torch.tensor(x), torch.tensor(y)
    width, classes = x.shape[1], len(biases[0])
    zeros = torch.zeros(classes, width)
    model = Model(lambda generator: {"weight": zeros, "bias": torch.zeros(classes)}, linear)
    clients = [
        Client(i, "linear", {"weight": zeros, "bias": torch.tensor(bias)}, Examples(x, y, rows))
        for i, (rows, bias) in enumerate(zip(map(torch.tensor, holdings), biases, strict=True))
    ]
    return Task({"linear": model}, classes, shape=(width,)), clients


def test_relatives_are_those_of_a_naive_loop():
    dice = torch.Generator().manual_seed(0)
    hashes, labels = torch.randn(30, 4, generator=dice), torch.arange(30) % 7 % 4
    found = relatives(hashes, labels, 6)
    for one in range(30):
        others = [k for k in range(30) if k != one and labels[k] == labels[one]]
        cosine = {
            k: float(torch.nn.functional.cosine_similarity(hashes[one], hashes[k], dim=0))
            for k in others
        }
        nearest = sorted(others, key=lambda k: -cosine[k])[:6]
        assert found[one].tolist() == nearest + [-1] * (6 - len(nearest))


def test_the_mean_of_relatives_by_hand():
    logits = torch.tensor([[1.0, 3.0], [5.0, -1.0], [9.0, 9.0]])
    related = torch.tensor([[1, 2], [0, -1], [-1, -1]])
    close(mean_of(logits, related), [[7.0, 4.0], [1.0, 3.0], [0.0, 0.0]])


X = [[1.0, 0.0], [1.0, 1.0], [4.0, 1.0], [0.0, 2.0], [3.0, 3.0]]
Y = [0, 0, 0, 1, 0]


def test_a_round_by_hand():
    # Client 0 holds (1, 0), client 1 all others, and its logits are its bias, whatever the example.
    # By cosine the nearest of label 0 to (1, 0) is (4, 1), not (1, 1) or (3, 3); (0, 2) is the only
    # one of label 1, and so has no teacher.
    task, clients = federation(X, Y, [[0], [1, 2, 3, 4]], [[0.0, 2.0], [1.0, -1.0]])
    algorithm = FedCache(STILL, encoder="pixels", related=1)
    (first,) = simulate(algorithm, task, clients, rounds=1)
    assert [list(first.broadcasts[i]) for i in (0, 1)] == [[], []]
    close(first.uploads[1].payload["hashes"], X[1:])
    assert first.uploads[1].payload["labels"].tolist() == Y[1:]
    # (1, 0) -> (4, 1); (1, 1) <-> (3, 3), parallel; (4, 1) -> (1, 0), of client 0.
    assert first.server["relatives"].flatten().tolist() == [2, 4, 0, -1, 1]
    close(first.server["teachers/0"], [[1.0, -1.0]])
    close(first.server["teachers/1"], [[1.0, -1.0], [0.0, 2.0], [0.0, 0.0], [1.0, -1.0]])


def test_a_clients_step_by_hand():
    # p = (1/2, 1/2) of one example of label 0. T = 2, and logits (2 log 4, 0) are (0.8, 0.2) there:
    # the gradient is (p - onehot) + 3 T (1/2 - 0.8) = -0.5 - 1.8, and the step against it.
    task, (client,) = federation([[0.0]], [0], [[0]], [[0.0, 0.0]])
    algorithm = FedCache(STEP, encoder="pixels", strength=3.0, temperature=2.0)
    private = private_of(algorithm, client, 0, 1)
    told = {"logits": torch.tensor([[2 * math.log(4.0), 0.0]])}
    params, upload = algorithm.client_update(linear, client.params, told, private, None)
    close(params["bias"], [2.3, -2.3])
    close(upload.payload["logits"][upload.rows > 0], [[2.3, -2.3]])
    assert list(upload.payload) == ["logits"]
    nobody = {"logits": torch.zeros(1, 2)}  # who has no relative has no teacher
    params, _ = algorithm.client_update(linear, client.params, nobody, private, None)
    close(params["bias"], [0.5, -0.5])


def test_hashes_cross_once_and_who_comes_later_is_asked_then():
    task, clients = federation(X, Y, [[0], [1, 2], [3, 4]], [[0.0, 1.0]] * 3)
    cohorts = iter([[0, 1], [0, 1, 2], [0, 2]])
    rounds = simulate(
        FedCache(STILL, encoder="pixels"),
        *(task, clients),
        rounds=3,
        sample=lambda numbers, generator: next(cohorts),
    )
    first, second, third = rounds
    assert [sorted(i for i in r.uploads if "hashes" in r.uploads[i].payload) for r in (first,)] == [
        [0, 1]
    ]
    assert [i for i in second.uploads if "hashes" in second.uploads[i].payload] == [2]
    assert [i for i in third.uploads if "hashes" in third.uploads[i].payload] == []
    assert third.rejected == {}
    # Up: 2 logits of 8 bytes for each example, and once a hash of 16 and a label of 4.
    assert [r.ledger.bytes_up for r in (first, second, third)] == [3 * 36, 3 * 16 + 2 * 36, 3 * 16]
    assert third.ledger.bytes_down == 3 * 16
    assert 1 not in third.cohort
    assert "logits/1" in third.server  # its word is still passed on


def said(client, count, *keys, value=1.0):
    payload = {
        "logits": torch.full((count, 2), value),
        "hashes": torch.ones(count, 2),
        "labels": torch.zeros(count).int(),
    }
    return Received(client, "g", {k: payload[k] for k in keys}, 1.0, torch.ones(count))


def note(cache, upload):
    return noted(cache, upload, *held_places([upload]))


def test_who_names_no_examples_or_other_ones_is_not_noted():
    everything = ("logits", "hashes", "labels")
    assert note({}, said(3, 2, "logits")) == {}
    assert note({}, said(3, 2, "logits", "hashes")) == {}
    cache = note({}, said(3, 2, *everything))
    assert sorted(cache) == ["hashes/3", "labels/3", "logits/3"]
    assert note(cache, said(3, 5, *everything)) == {}
    assert list(note(cache, said(3, 2, *everything, value=4.0))) == ["logits/3"]


def test_what_is_held_of_several_uploads_is_read_at_once():
    rows = [[0, 1, 1], [0], [1, 0, 0, 1]]
    uploads = [said(k, len(own))._replace(rows=torch.tensor(own)) for k, own in enumerate(rows)]
    assert [places.tolist() for places in held_places(uploads)] == [[1, 2], [], [0, 3]]
    assert held_places([]) == []


MODULE = torch.nn.Linear(2, 3, bias=False, dtype=torch.float64).requires_grad_(False)
MODULE.weight.copy_(torch.tensor([[0.0, 1], [1, 0], [1, 1]]))


class Turned(Encoder):
    """One's own: a module with weights from elsewhere."""

    def shown(self, predict):
        return lambda params, x: Outputs(MODULE(x))


@pytest.mark.parametrize("engine", [sequential, batched(50)], ids=["sequential", "batched"])
def test_an_encoder_of_ones_own(engine):
    task, clients = federation(X, Y, [[0], [1, 2, 3, 4]], [[0.0, 2.0], [1.0, -1.0]])
    algorithm = FedCache(STILL, encoder=f"{__name__}:Turned")
    assert algorithm.properties.public == "none"
    (first,) = simulate(algorithm, task, clients, rounds=1, engine=engine)
    assert first.rejected == first.failed == {}
    close(first.uploads[0].payload["hashes"], [[0.0, 1.0, 1.0]])
    close(first.uploads[1].payload["hashes"][0], [1.0, 1.0, 2.0])


class Narrow(torch.nn.Module):
    """A network of the user's, of as many classes as there are."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(2, 2)

    def forward(self, x):
        return self.head(x)


def test_a_network_of_ones_own_is_refused_for_what_it_is():
    # The encoder's network has one class, since its head is not used: no word of that to the user.
    task, clients = federation(X, Y, [[0], [1, 2, 3, 4]], [[0.0, 2.0], [1.0, -1.0]])
    with pytest.raises(ValueError, match="is a torch module, which only a client's own model"):
        next(
            simulate(
                FedCache(encoder="untrained", network=f"{__name__}:Narrow"), task, clients, rounds=1
            )
        )
