"""Rounds worked by hand, one for each algorithm, and the theorems that connect the algorithms.

Most clients here are tables: the logits of example i are row i of the only parameter, so that
every prediction is known, and the gradient of an example's loss concerns its own row alone.
"""

import math
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from fedkd import algorithms
from fedkd.algorithms.dsfl import DSFL
from fedkd.algorithms.fd import FD
from fedkd.algorithms.fedavg import FedAvg
from fedkd.algorithms.feddf import FedDF
from fedkd.algorithms.fedmd import FedMD
from fedkd.algorithms.local import Local
from fedkd.communication.channel import Channel
from fedkd.core import Algorithm, Client, Model, Task
from fedkd.messages import Received, Transform
from fedkd.models import mlp
from fedkd.rounds.client_sampling import everyone
from fedkd.rounds.round import deployed, open_round, private_of, public_of
from fedkd.rounds.synchronous import simulate
from fedkd.storage.client_store import ClientStore
from kdcore.outputs import Outputs
from kdcore.training.loop import Examples, TrainingConfig
from tests.conftest import tiny_federation

pytestmark = pytest.mark.usefixtures("double")

STILL = TrainingConfig(learning_rate=1e-300)  # training that moves nothing
ONE_STEP = TrainingConfig(learning_rate=1.0, batch_size=8)


def look_up(params, x):
    return Outputs(params["table"][x[:, 0].long()])


def tables(*probabilities, labels, holdings, public=None):
    """A federation of tables. Each client holds the examples that `holdings` names."""
    first = torch.tensor(probabilities[0]).log()
    model = Model(lambda generator: {"table": torch.zeros_like(first)}, look_up)
    x, y = torch.arange(float(len(first))).unsqueeze(1), torch.tensor(labels)
    clients = [
        Client(i, "table", {"table": torch.tensor(p).log()}, Examples(x, y, torch.tensor(rows)))
        for i, (p, rows) in enumerate(zip(probabilities, holdings, strict=True))
    ]
    shown = None if public is None else torch.tensor(public).unsqueeze(1)
    return Task({"table": model}, first.shape[1], shown), clients


def linear(clients, classes=2, features=1, public=None):
    """A federation of linear models that start from zero; a client is its (x, y)."""
    zeros = {
        "layer0.weight": torch.zeros(classes, features),
        "layer0.bias": torch.zeros(classes),
    }
    model = Model(lambda generator: dict(zeros), mlp((features,), classes, ()).predict)
    parties = [
        Client(i, "linear", dict(zeros), Examples(x, y, torch.arange(len(y))))
        for i, (x, y) in enumerate(clients)
    ]
    return Task({"linear": model}, classes, public), parties


def noise(count, features=3, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, features, generator=generator)
    return x, torch.randint(classes, (count,), generator=generator)


def last(algorithm, task, clients, rounds=1, **settings):
    *_, current = simulate(algorithm, task, clients, rounds=rounds, **settings)
    return current


def close(value, expected, tolerance=1e-12):
    torch.testing.assert_close(
        value, torch.as_tensor(expected), rtol=tolerance, atol=tolerance, check_dtype=False
    )


# FedAvg


def test_fedavg_by_hand():
    # From zero, both classes have probability 1/2. One step of size 1 moves row c of the weights by
    # (onehot - 1/2) x: client 0 (x = 1, y = 0) to (1/2, -1/2), client 1 (three times x = 2, y = 1)
    # to (-1, 1). The mean by examples is ((1/2, -1/2) + 3 (-1, 1)) / 4 = (-5/8, 5/8); for the
    # biases ((1/2, -1/2) + 3 (-1/2, 1/2)) / 4 = (-1/4, 1/4).
    task, clients = linear(
        [
            (torch.tensor([[1.0]]), torch.tensor([0])),
            (torch.tensor([[2.0]] * 3), torch.tensor([1, 1, 1])),
        ]
    )
    current = last(FedAvg(ONE_STEP), task, clients)
    close(current.server["linear/layer0.weight"], [[-0.625], [0.625]])
    close(current.server["linear/layer0.bias"], [-0.25, 0.25])
    close(current.clients[0].params["layer0.weight"], [[0.5], [-0.5]])
    for client in deployed(FedAvg(ONE_STEP), task, current):
        close(client.params["layer0.weight"], [[-0.625], [0.625]])


def test_fedavg_with_one_client_is_training_in_one_place():
    training = TrainingConfig(learning_rate=0.3, weight_decay=0.01, epochs=2, batch_size=4)
    task, clients = linear([noise(10)], classes=4, features=3)
    current = last(FedAvg(training), task, clients, rounds=3)
    module = nn.Linear(3, 4)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    train(module, [private_of(FedAvg(training), clients[0], 0, r) for r in (1, 2, 3)], training)
    close(current.server["linear/layer0.weight"], module.weight.detach())
    close(current.server["linear/layer0.bias"], module.bias.detach())


def train(module, rounds, training):
    optimiser = torch.optim.SGD(
        module.parameters(), training.learning_rate, weight_decay=training.weight_decay
    )
    for batches in rounds:
        for index, mask in zip(batches.order, batches.mask, strict=True):
            rows = index[mask.bool()]
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(batches.x[rows]), batches.y[rows]).backward()
            optimiser.step()


def test_fedavg_of_single_steps_is_one_step_on_all_examples():
    # McMahan et al.: with one full batch each, averaging by examples is gradient descent (FedSGD).
    training = TrainingConfig(learning_rate=0.5, batch_size=100)
    parts = [noise(3, seed=1), noise(8, seed=2), noise(1, seed=3)]
    apart = last(FedAvg(training), *linear(parts, 4, 3), rounds=4)
    union = (torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))
    together = last(FedAvg(training), *linear([union], 4, 3), rounds=4)
    for key, value in together.server.items():
        close(apart.server[key], value)


def test_groups_are_averaged_apart_and_an_absent_group_keeps_what_it_has(tiny):
    federation = tiny(["mlp-8", "mlp-7-6"], sizes=(4, 5, 6))
    algorithm, task = FedAvg(), federation.task
    start = algorithm.init(task, torch.Generator())
    uploads = [
        Received(0, "mlp-8", federation.clients[0].params, 1.0),
        Received(2, "mlp-8", federation.clients[2].params, 0.0),
    ]
    server = algorithm.server_update(task, start, uploads, None)
    for key, value in server.items():
        group, _, name = key.partition("/")
        expected = federation.clients[0].params[name] if group == "mlp-8" else start[key]
        assert torch.equal(value, expected)


# Local


@pytest.mark.parametrize("epochs", [1, 3])
def test_local_is_plain_torch(epochs):
    training = TrainingConfig(learning_rate=0.3, weight_decay=0.01, epochs=epochs, batch_size=4)
    task, clients = linear([noise(10), noise(3, seed=1)], 4, 3)
    current = last(Local(training), task, clients, rounds=2)
    for before, after in zip(clients, current.clients, strict=True):
        module = nn.Linear(3, 4)
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)
        train(module, [private_of(Local(training), before, 0, r) for r in (1, 2)], training)
        close(after.params["layer0.weight"], module.weight.detach())
        close(after.params["layer0.bias"], module.bias.detach())


# FD

P = [
    [0.8, 0.1, 0.1],  # label 0
    [0.6, 0.2, 0.2],  # label 0
    [0.2, 0.7, 0.1],  # label 1
    [0.1, 0.5, 0.4],  # label 1
    [0.2, 0.2, 0.6],  # label 2
    [0.4, 0.3, 0.3],  # label 0
]
FD_FEDERATION = {"labels": [0, 0, 1, 1, 2, 0], "holdings": [[0, 1, 2], [3, 4], [5]]}
NOBODY = [0.0, 0.0, 0.0]


def test_fd_by_hand():
    # Client 0 holds labels 0 (twice: the mean of rows 0 and 1) and 1, client 1 holds 1 and 2,
    # client 2 holds 0. Each is told the mean of the others.
    task, clients = tables(P, P, P, **FD_FEDERATION)
    algorithm = FD(STILL)
    current = last(algorithm, task, clients)
    own = torch.tensor(
        [
            [[0.7, 0.15, 0.15], [0.2, 0.7, 0.1], NOBODY],
            [NOBODY, [0.1, 0.5, 0.4], [0.2, 0.2, 0.6]],
            [[0.4, 0.3, 0.3], NOBODY, NOBODY],
        ]
    )
    close(current.server["means"], own)
    close(current.server["held"], [[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    told = [algorithm.broadcast(current.server, client, "table")["means"] for client in (0, 1, 2)]
    close(told[0], [[0.4, 0.3, 0.3], [0.1, 0.5, 0.4], [0.2, 0.2, 0.6]])
    close(told[1], [[0.55, 0.225, 0.225], [0.2, 0.7, 0.1], NOBODY])
    close(told[2], [[0.7, 0.15, 0.15], [0.15, 0.6, 0.25], [0.2, 0.2, 0.6]])


def test_fd_averages_the_newest_cohort_alone_and_tells_newcomers():
    task, clients = tables(P, P, P, **FD_FEDERATION)
    cohorts = iter([[0, 1, 2], [0, 1]])
    current = last(FD(STILL), task, clients, 2, sample=lambda clients, generator: next(cohorts))
    told = [FD().broadcast(current.server, client, "table")["means"] for client in (0, 2)]
    close(told[0], [NOBODY, [0.1, 0.5, 0.4], [0.2, 0.2, 0.6]])
    close(told[1], [[0.7, 0.15, 0.15], [0.15, 0.6, 0.25], [0.2, 0.2, 0.6]])


def test_one_step_of_fd_by_hand():
    # Client 2 holds example 5 alone, label 0, p = (0.4, 0.3, 0.3); it is told (0.7, 0.15, 0.15).
    # The gradient is (p - onehot) + gamma (p - G) = (-0.6, 0.3, 0.3) + 2 (-0.3, 0.15, 0.15).
    task, clients = tables(P, P, P, **FD_FEDERATION)
    algorithm = FD(ONE_STEP, gamma=2.0)
    means = torch.tensor([[0.7, 0.15, 0.15], NOBODY, NOBODY])
    private = private_of(algorithm, clients[2], 0, 1)
    params, upload = algorithm.client_update(
        look_up, clients[2].params, {"means": means}, private, None
    )
    moved = params["table"] - clients[2].params["table"]
    close(moved[5], [1.2, -0.6, -0.6])
    close(moved[:5], torch.zeros(5, 3))
    close(upload.payload["means"][0], params["table"][5].softmax(-1))  # of the trained model
    assert upload.rows.tolist() == [1.0, 0.0, 0.0]
    # a row of zeros, for a label that nobody else holds, adds nothing
    params, _ = algorithm.client_update(
        look_up, clients[2].params, {"means": torch.zeros(3, 3)}, private, None
    )
    close((params["table"] - clients[2].params["table"])[5], [0.6, -0.3, -0.3])


def test_fd_counts_each_example_once_however_many_epochs_and_however_padded():
    task, clients = tables(P, P, P, **FD_FEDERATION)
    once = last(FD(STILL), task, clients).server
    thrice = last(FD(replace(STILL, epochs=3, batch_size=2)), task, clients).server
    close(thrice["means"], once["means"])
    assert torch.equal(thrice["held"], once["held"])


def test_fd_with_gamma_zero_is_local():
    parts, training = [noise(10), noise(3, seed=1)], TrainingConfig(epochs=2, batch_size=4)
    task, clients = linear(parts, 4, 3)
    together = last(FD(training, gamma=0.0), task, clients, rounds=3)
    alone = last(Local(training), task, clients, rounds=3)
    for one, other in zip(together.clients, alone.clients, strict=True):
        for key in one.params:
            close(one.params[key], other.params[key])
    told = last(FD(training, gamma=1.0), task, clients, rounds=3)
    assert not torch.allclose(
        told.clients[0].params["layer0.bias"], alone.clients[0].params["layer0.bias"]
    )


# FedMD

ONE = [[0.5, 0.5], [0.9, 0.1], [0.6, 0.4]]
OTHER = [[0.5, 0.5], [0.3, 0.7], [0.2, 0.8]]
TWO_TABLES = {"labels": [0, 1, 1], "holdings": [[0], [0]]}


def test_fedmd_by_hand():
    task, clients = tables(ONE, OTHER, **TWO_TABLES, public=[1.0, 2.0])
    current = last(FedMD(STILL, STILL), task, clients)
    close(current.server["consensus"], [[0.6, 0.4], [0.4, 0.6]])
    assert set(current.server) == {"consensus"}


def test_fedmd_asks_about_a_part_and_says_which():
    task, clients = tables(ONE, OTHER, **TWO_TABLES, public=[1.0, 2.0])
    seen = set()
    for seed in range(8):
        current = last(FedMD(STILL, STILL, public_size=1), task, clients, seed=seed)
        (row,) = current.server["rows"].tolist()
        close(current.server["consensus"], [[[0.6, 0.4], [0.4, 0.6]][row]])
        seen.add(row)
    assert seen == {0, 1}


def test_one_digestion_by_hand():
    # Client 0, whose p for the public example is (0.9, 0.1), fits the consensus (0.6, 0.4): the
    # gradient of the cross-entropy is p - consensus = (0.3, -0.3).
    task, clients = tables(ONE, OTHER, **TWO_TABLES, public=[1.0])
    algorithm = FedMD(STILL, replace(ONE_STEP, learning_rate=0.5))
    current = last(algorithm, task, clients, rounds=2)
    moved = current.clients[0].params["table"] - clients[0].params["table"]
    close(moved[1], [-0.15, 0.15])
    close(moved[0], [0.0, 0.0])
    # example 1 is not the only public one: the mean over two halves each step
    task, clients = tables(ONE, OTHER, **TWO_TABLES, public=[1.0, 2.0])
    current = last(algorithm, task, clients, rounds=2)
    moved = current.clients[0].params["table"] - clients[0].params["table"]
    close(moved[1], [-0.075, 0.075])
    close(moved[2], [-0.05, 0.05])


def test_a_consensus_about_a_part_is_digested_on_that_part():
    # The targets of round 1 are about its one row, whichever row round 2 asks about.
    task, clients = tables(ONE, OTHER, **TWO_TABLES, public=[1.0, 2.0])
    algorithm = FedMD(STILL, replace(ONE_STEP, learning_rate=0.5), public_size=1)
    crossed = 0
    for seed in range(8):
        first, second = simulate(algorithm, task, clients, rounds=2, seed=seed)
        row = first.server["rows"].item()
        crossed += row != second.server["rows"].item()
        moved = second.clients[0].params["table"] - clients[0].params["table"]
        close(moved[1], [-0.15, 0.15] if row == 0 else [0.0, 0.0])
        close(moved[2], [0.0, 0.0] if row == 0 else [-0.1, 0.1])
    assert crossed


def test_fedmd_that_digests_nothing_is_local():
    training = TrainingConfig(epochs=2, batch_size=4)
    task, clients = linear([noise(10), noise(3, seed=1)], 4, 3, public=noise(5, seed=2)[0])
    for kind in (FedMD, DSFL):
        together = last(kind(training, TrainingConfig(epochs=0)), task, clients, rounds=3)
        alone = last(Local(training), task, clients, rounds=3)
        for one, other in zip(together.clients, alone.clients, strict=True):
            assert all(torch.equal(one.params[key], other.params[key]) for key in one.params)
        digested = last(kind(training, TrainingConfig()), task, clients, rounds=3).clients[0]
        assert not torch.allclose(digested.params["layer0.bias"], one.params["layer0.bias"])


# DS-FL


def test_dsfl_by_hand():
    # The means are (0.6, 0.4) and (0.4, 0.6). Divided by T = 0.1 they are the logits (6, 4), and
    # their softmax gives the first class 1 / (1 + exp(-2)) = 0.8808.
    task, clients = tables(ONE, OTHER, **TWO_TABLES, public=[1.0, 2.0])
    current = last(DSFL(STILL, STILL), task, clients)
    sure = 1 / (1 + math.exp(-2))
    assert sure == pytest.approx(0.8808, abs=1e-4)
    close(current.server["consensus"], [[sure, 1 - sure], [1 - sure, sure]])


def test_the_temperature_of_dsfl_goes_from_the_winner_to_all_alike():
    task, clients = tables(ONE, OTHER, **TWO_TABLES, public=[1.0, 2.0])

    def consensus(temperature):
        return last(DSFL(STILL, STILL, temperature=temperature), task, clients).server["consensus"]

    close(consensus(1e6), [[0.5, 0.5], [0.5, 0.5]], 1e-6)
    close(consensus(1e-3), [[1.0, 0.0], [0.0, 1.0]], 1e-12)


def test_dsfl_is_fedmd_but_for_the_sharpening():
    task, clients = tables(ONE, OTHER, **TWO_TABLES, public=[1.0, 2.0])
    soft, sharp = last(FedMD(STILL, STILL), task, clients), last(DSFL(STILL, STILL), task, clients)
    close(sharp.server["consensus"], (soft.server["consensus"] / 0.1).softmax(-1))
    for one, other in zip(soft.clients, sharp.clients, strict=True):
        assert torch.equal(one.params["table"], other.params["table"])


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_is_an_error(temperature):
    with pytest.raises(ValueError, match=f"temperature must be > 0 and finite, got {temperature}"):
        DSFL(temperature=temperature)


@pytest.mark.parametrize("kind", [FedMD, DSFL])
@pytest.mark.parametrize("size", [0, -3])
def test_a_public_size_below_one_is_an_error(kind, size):
    with pytest.raises(ValueError, match=f"public_size must be >= 1, or None, got {size}"):
        kind(public_size=size)


def test_a_public_size_above_all_is_all():
    task, clients = tables(ONE, OTHER, **TWO_TABLES, public=[1.0, 2.0])
    current = last(FedMD(STILL, STILL, public_size=99), task, clients)
    assert set(current.server) == {"consensus"}
    assert current.rejected == {}


# FedDF


def test_feddf_by_hand():
    # Tables a = (0, 0) and b = (2, 0) for the public example, with weights 1 and 3. The average is
    # (1.5, 0), the teacher is the plain mean of the logits, (1, 0). One step of size 1 on
    # KL(teacher || student) moves the student by softmax(teacher) - softmax(student).
    task, clients = tables(
        [[0.5, 0.5]], [[0.5, 0.5]], labels=[0], holdings=[[0], [0]], public=[0.0]
    )
    algorithm = FedDF(STILL, distill=ONE_STEP)
    uploads = [
        Received(0, "table", {"table": torch.tensor([[0.0, 0.0]])}, 1.0),
        Received(1, "table", {"table": torch.tensor([[2.0, 0.0]])}, 3.0),
    ]
    public = public_of(algorithm, task, 0, 1)
    server = algorithm.server_update(task, {}, uploads, public)
    gap = 1 / (1 + math.exp(-1.0)) - 1 / (1 + math.exp(-1.5))
    close(server["table/table"], [[1.5 + gap, -gap]])
    assert gap == pytest.approx(-0.0865, abs=1e-4)


def test_feddf_hears_all_architectures_and_teaches_each(tiny):
    federation = tiny(["mlp-8", "mlp-7-6"], sizes=(4, 5, 6))
    algorithm, task = FedDF(distill=TrainingConfig(epochs=0)), federation.task
    still = last(algorithm, task, federation.clients)
    plain = last(FedAvg(), task, federation.clients)
    assert still.server.keys() == plain.server.keys()
    assert all(torch.equal(still.server[key], plain.server[key]) for key in still.server)

    # after much distillation both architectures say what the mean of all logits says
    public = public_of(FedDF(), task, 0, 1)
    uploads = [Received(c.id, c.group, c.params, 1.0) for c in federation.clients]
    logits = [task.models[u.group].predict(u.payload, task.public).logits for u in uploads]
    teacher = torch.stack(logits).mean(dim=0).softmax(-1)
    distill = TrainingConfig("adam", 0.01, epochs=400, batch_size=20)
    public = public_of(FedDF(distill=distill), task, 0, 1)
    server = FedDF(distill=distill).server_update(task, {}, uploads, public)
    for group, model in task.models.items():
        start = f"{group}/"
        student = {k.removeprefix(start): v for k, v in server.items() if k.startswith(start)}
        close(model.predict(student, task.public).logits.softmax(-1), teacher, 1e-2)


# A round


def test_a_round_tells_who_took_part_and_what_it_cost():
    task, clients = tables(P, P, P, **FD_FEDERATION)
    first, second = simulate(FD(STILL), task, clients, rounds=2)
    assert (first.index, second.index) == (1, 2)
    assert first.cohort == (0, 1, 2)
    assert first.ledger.bytes_down == 0
    assert first.ledger.bytes_up == 8 * 3 * 5  # float64, three classes, five rows held
    assert second.ledger.bytes_down == 8 * 3 * 3 * 3
    assert [client.id for client in second.clients] == [0, 1, 2]


def test_a_model_deployed_is_the_one_that_the_next_round_would_train(tiny):
    federation = tiny()
    training = TrainingConfig(learning_rate=0.1, batch_size=4)
    for name in ("dsfl", "fedavg", "feddf"):
        kind = algorithms.get(name)
        algorithm = kind(training) if name == "fedavg" else kind(training, distill=training)
        current = last(algorithm, federation.task, federation.clients, rounds=2)
        models = deployed(algorithm, federation.task, current)
        resting = replace(algorithm, local=replace(training, epochs=0))
        # the third round, in which nobody trains after hearing the broadcast
        calls = simulate_from(resting, federation.task, current)
        for client, expected in zip(models, calls, strict=True):
            assert all(torch.equal(client.params[k], v) for k, v in expected.items())
        assert any(
            not torch.equal(a.params[k], b.params[k])
            for a, b in zip(models, current.clients, strict=True)
            for k in a.params
        )


def simulate_from(algorithm, task, current):
    """What clients' parameters would be after the round that follows, in the plainest way."""
    public = public_of(algorithm, task, 0, current.index + 1)
    results = []
    for client in current.clients:
        received = algorithm.broadcast(current.server, client.id, client.group)
        private = private_of(algorithm, client, 0, current.index + 1)
        predict = task.models[client.group].predict
        params, _ = algorithm.client_update(predict, client.params, received, private, public)
        results.append(params)
    return results


def test_models_that_are_used_as_they_are():
    task, clients = tables(ONE, OTHER, **TWO_TABLES, public=[1.0, 2.0])
    for algorithm in (FedMD(), FD(), Local()):
        current = last(algorithm, task, clients, rounds=2)
        for one, other in zip(deployed(algorithm, task, current), current.clients, strict=True):
            assert one.params.keys() == other.params.keys()
            assert all(one.params[name] is value for name, value in other.params.items())


class Signs(Algorithm):
    """Tells even clients {"plus": t} and odd ones {"minus": t}, one and the same tensor."""

    def broadcast(self, server, client, group):
        return {"minus" if client % 2 else "plus": server["t"]}

    def client_update(self, predict, params, received, private, public):
        raise NotImplementedError


def test_a_message_is_encoded_once_for_all_who_are_told_the_same():
    encoded = []
    spy = Transform(lambda message, generator: encoded.append(message) or dict(message))
    opening = open_round(
        Signs(),
        {"t": torch.ones(3)},
        dict.fromkeys(range(6), "g"),
        Channel((), (spy,)),
        everyone,
        0,
        1,
    )
    assert len(encoded) == 2
    assert [list(opening.broadcasts[i]) for i in range(4)] == [
        ["plus"],
        ["minus"],
        ["plus"],
        ["minus"],
    ]
    assert opening.broadcasts[0] is opening.broadcasts[4]
    assert opening.ledger.down == {"plus": 3 * 24, "minus": 3 * 24}


def test_shuffles_are_new_in_each_round_and_for_each_client_and_known_beforehand():
    task, clients = linear([noise(20), noise(20, seed=1)], 4, 3, public=noise(20, seed=2)[0])
    algorithm = FedMD(TrainingConfig(batch_size=20), TrainingConfig(batch_size=20), public_size=10)

    def orders(seed):
        drawn = {
            (c.id, r): private_of(algorithm, c, seed, r).order for c in clients for r in (1, 2)
        }
        public = {r: public_of(algorithm, task, seed, r) for r in (1, 2)}
        drawn |= {("rows", r): p.rows for r, p in public.items()}
        drawn |= {("public", r): p.order for r, p in public.items()}
        return {key: tuple(value.flatten().tolist()) for key, value in drawn.items()}

    one, again, other = orders(0), orders(0), orders(1)
    assert one == again
    assert len(set(one.values()) | set(other.values())) == 2 * len(one) == 16


def test_rounds_are_run_only_when_asked_for():
    task, clients = tables(ONE, OTHER, **TWO_TABLES)
    ran = []

    def engine(*arguments):
        ran.append(1)
        raise KeyboardInterrupt

    rounds = simulate(Local(), task, clients, rounds=10**9, engine=engine)
    assert not ran
    with pytest.raises(KeyboardInterrupt):
        next(rounds)


# Federations that cannot run


def test_a_federation_without_clients_is_an_error():
    task, _ = tables(ONE, OTHER, **TWO_TABLES)
    with pytest.raises(ValueError, match="at least one client, got none"):
        last(Local(), task, [])


def test_two_clients_of_one_number_are_an_error():
    task, (client, _) = tables(ONE, OTHER, **TWO_TABLES)
    with pytest.raises(ValueError, match=r"client numbers must differ, got \[0, 0\]"):
        last(Local(), task, [client, client])


def test_an_unknown_group_is_an_error():
    task, (client, _) = tables(ONE, OTHER, **TWO_TABLES)
    with pytest.raises(ValueError, match="no model for the group 'chair'; the task has table"):
        last(Local(), task, [replace(client, group="chair")])


@pytest.mark.parametrize("public", [None, torch.zeros(0, 1)])
def test_public_examples_that_are_missing_are_an_error(public):
    task, clients = tables(ONE, OTHER, **TWO_TABLES)
    with pytest.raises(ValueError, match=r"FedMD needs public examples \(unlabelled\)"):
        last(FedMD(), replace(task, public=public), clients)


def test_an_unknown_algorithm_is_an_error_that_names_the_nearest():
    with pytest.raises(ValueError, match="unknown algorithm 'fedmdd'; did you mean 'fedmd'?"):
        algorithms.get("fedmdd")
    with pytest.raises(
        ValueError, match="unknown algorithm 'zzz'; choose one of cfd, coboosting, comet, "
    ):
        algorithms.get("zzz")


# Waves


def waves_of_two(monkeypatch):
    for module in ("round", "synchronous"):
        monkeypatch.setattr(f"fedkd.rounds.{module}.WAVE", 2)


def test_waves_of_clients_change_nothing(monkeypatch):
    federation = tiny_federation(sizes=(5, 3, 4, 6, 2, 1, 7))
    parties = federation.task, federation.clients
    whole = list(simulate(FedMD(), *parties, rounds=2))
    waves_of_two(monkeypatch)
    waves = list(simulate(FedMD(), *parties, rounds=2))
    for one, other in zip(waves, whole, strict=True):
        assert torch.equal(one.server["consensus"], other.server["consensus"])
        assert (one.cohort, one.ledger) == (other.cohort, other.ledger)
        for mine, theirs in zip(one.clients, other.clients, strict=True):
            assert all(torch.equal(mine.params[k], theirs.params[k]) for k in theirs.params)


def test_only_one_wave_of_uploads_is_alive_at_a_time(monkeypatch):
    """A server that needs a sum alone sees each upload once, and nobody else holds on to it."""
    waves_of_two(monkeypatch)
    alive, most = [], []

    class Counting(FedMD):
        def server_update(self, task, server, uploads, public):
            total = 0
            for upload in uploads:
                alive.append(weakref.ref(upload.payload["probabilities"]))
                most.append(sum(reference() is not None for reference in alive))
                total = total + upload.payload["probabilities"].double()
            return {"consensus": (total / len(alive)).float()}

    federation = tiny_federation(sizes=(2,) * 9)
    running = simulate(Counting(), federation.task, federation.clients, rounds=1, witness=False)
    (only,) = running
    assert (len(alive), max(most)) == (9, 3)  # a wave, and the one that the loop still names
    assert (only.uploads, only.broadcasts) == ({}, {})


def test_parameters_past_the_budget_are_in_files_and_the_run_is_the_same():
    federation = tiny_federation(sizes=(5, 3, 4, 6, 2))
    store = ClientStore(1e-9)
    expected = last(FedMD(), federation.task, federation.clients, rounds=2)
    found = last(FedMD(), federation.task, federation.clients, rounds=2, store=store)
    assert "files" in store.notes[0]
    for mine, theirs in zip(found.clients, expected.clients, strict=True):
        assert all(torch.equal(mine.params[k], theirs.params[k]) for k in theirs.params)
