"""FedHKD: both halves worked by hand."""

import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from fedkd.algorithms.fedavg import FedAvg
from fedkd.algorithms.fedhkd import FedHKD
from fedkd.core import Client, Model, Task
from fedkd.messages import Received
from fedkd.rounds.round import private_of
from fedkd.rounds.synchronous import simulate
from kdcore.outputs import Outputs
from kdcore.training.loop import Examples, TrainingConfig

pytestmark = pytest.mark.usefixtures("double")
STILL = TrainingConfig(learning_rate=1e-300)
LN3 = math.log(3.0)


def look_up(params, x):
    features = params["table"][x[:, 0].long()]
    logits = F.linear(features, params["head.weight"], params["head.bias"])
    return Outputs(logits, (features,))


def client_of(number, table, labels, head=0.0):
    """A client whose features are a table, of width 2, and whose head says (h_0 head, 0)."""
    table = torch.tensor(table)
    weight = torch.tensor([[head, 0.0], [0.0, 0.0]])
    params = {"table": table, "head.weight": weight, "head.bias": torch.zeros(2)}
    x, y = torch.arange(float(len(table))).unsqueeze(1), torch.tensor(labels)
    return Client(number, "table", params, Examples(x, y, torch.arange(len(y))))


def sent(client, algorithm, told=None):
    """What a client sends that learns nothing."""
    private = private_of(algorithm, client, 0, 1)
    received = dict(client.params) | (told or {})
    _, upload = algorithm.client_update(look_up, client.params, received, private, None)
    return upload


def test_what_a_client_tells_by_hand():
    # Of four examples three have label 0: features (1, 0), (0, 0), (2, 0) with mean (1, 0). With
    # T = 1/2 and a head of ln(3) / 2 the first feature is the exponent of 3: odds 3, 1 and 9.
    client = client_of(0, [[1.0, 0.0], [0.0, 0.0], [2.0, 0.0], [0.0, 4.0]], [0, 0, 0, 1], LN3 / 2)
    upload = sent(client, FedHKD(STILL))
    torch.testing.assert_close(upload.payload["shares"], torch.tensor([0.75, 0.25]))
    features = torch.tensor([[0.75, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(upload.payload["features"], features)
    first = 0.75 * (3 / 4 + 1 / 2 + 9 / 10) / 3
    predictions = torch.tensor([[first, 0.75 - first], [0.125, 0.125]])
    torch.testing.assert_close(upload.payload["predictions"], predictions)
    assert int(upload.weight) == 4


def test_a_label_of_which_there_are_few_is_not_told():
    # One of four is half of an even share of two labels.
    client = client_of(0, [[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [0.0, 4.0]], [0, 0, 0, 1])
    for least, told in ((0.5, [0.75, 0.25]), (0.51, [0.75, 0.0])):
        upload = sent(client, FedHKD(STILL, least=least))
        assert upload.payload["shares"].tolist() == told
        assert upload.payload["features"][1].any() == (told[1] > 0)


def test_the_server_weighs_means_by_the_examples_of_a_label():
    # Label 0: three examples with mean feature (1, 0) and one with (5, 0): (2, 0). Label 1: one
    # with (0, 4). Whatever the architecture.
    clients = [
        client_of(0, [[1.0, 0.0], [0.0, 0.0], [2.0, 0.0], [0.0, 4.0]], [0, 0, 0, 1]),
        client_of(1, [[5.0, 0.0]], [0]),
    ]
    model = Model(lambda dice: dict(clients[0].params), look_up)
    algorithm, task = FedHKD(STILL), Task({"table": model, "other": model}, 2)
    uploads = [
        Received(c.id, group, (one := sent(c, algorithm)).payload, float(one.weight))
        for c, group in zip(clients, ("table", "other"), strict=True)
    ]
    server = algorithm.server_update(task, {}, uploads, None)
    torch.testing.assert_close(server["known/features"], torch.tensor([[2.0, 0.0], [0.0, 4.0]]))
    torch.testing.assert_close(server["known/predictions"], torch.full((2, 2), 0.5))
    assert {"table/table", "other/table"} <= set(server)
    # Nobody of the next cohort holds label 1, so that it is known as before.
    after = algorithm.server_update(task, server, uploads[1:], None)
    torch.testing.assert_close(after["known/features"], torch.tensor([[5.0, 0.0], [0.0, 4.0]]))


def moved(told, **settings):
    """How far a step of size 1 goes on one example of label 0 with features (3, 4)."""
    client = client_of(0, [[3.0, 4.0]], [0])
    algorithm = FedHKD(TrainingConfig(learning_rate=1.0), **settings)
    private = private_of(algorithm, client, 0, 1)
    received = dict(client.params) | told
    after, _ = algorithm.client_update(look_up, client.params, received, private, None)
    return {name: after[name] - client.params[name] for name in after}


def test_a_step_towards_mean_features_by_hand():
    # With a head of zeros the label's loss does not reach the features. The norm of (3, 4) has
    # slope (0.6, 0.8), towards features of (0, 0) whose predictions are a distribution.
    told = {"features": torch.zeros(2, 2), "predictions": torch.full((2, 2), 0.5)}
    found = moved(told, answer_weight=0.0, feature_weight=0.5)
    torch.testing.assert_close(found["table"], torch.tensor([[-0.3, -0.4]]))
    nobody = told | {"predictions": torch.tensor([[0.0, 0.0], [0.5, 0.5]])}
    assert not moved(nobody, answer_weight=0.0, feature_weight=0.5)["table"].any()


def test_a_step_towards_mean_predictions_by_hand():
    # q is (1/2, 1/2) for both labels; Q[0] = (1, 0), at a distance of root 1/2; Q[1] = q. The slope
    # of the distance by q is (-1, 1) / root 2, by the logits, with T = 1/2, (-1, 1) / root 2; half
    # of it, a mean over two labels, times H[0] = (1, 0). The own example, of label 0, adds
    # (1/2, -1/2) times (3, 4).
    told = {
        "features": torch.tensor([[1.0, 0.0], [7.0, 7.0]]),
        "predictions": torch.tensor([[1.0, 0.0], [0.5, 0.5]]),
    }
    found = moved(told, answer_weight=1.0, feature_weight=0.0)
    pull = math.sqrt(0.5) / 2
    weight = torch.tensor([[1.5 + pull, 2.0], [-1.5 - pull, -2.0]])
    torch.testing.assert_close(found["head.weight"], weight)


def test_without_weights_it_is_fedavg(tiny):
    given, training = tiny(), TrainingConfig(learning_rate=0.05, epochs=1, batch_size=4)
    free = FedHKD(training, answer_weight=0.0, feature_weight=0.0)
    *_, one = simulate(free, given.task, given.clients, rounds=2)
    *_, other = simulate(FedAvg(training), given.task, given.clients, rounds=2)
    for key, value in other.server.items():
        torch.testing.assert_close(one.server[key], value)


def test_bytes_of_a_round(tiny):
    given = tiny(["mlp-8"], sizes=(6, 4))
    rounds = list(simulate(FedHKD(), given.task, given.clients, rounds=2))
    plain = list(simulate(FedAvg(), given.task, given.clients, rounds=2))
    more = [a.ledger.bytes_up - b.ledger.bytes_up for a, b in zip(rounds, plain, strict=True)]
    assert more == [2 * 8 * 5 * (8 + 5 + 1)] * 2  # clients, float64, labels, features and labels
    more = [a.ledger.bytes_down - b.ledger.bytes_down for a, b in zip(rounds, plain, strict=True)]
    assert more == [0, 2 * 8 * 5 * (8 + 5)]
