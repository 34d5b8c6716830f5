"""FedGH: a round worked by hand."""

import pytest
import torch

from fedkd.algorithms.fedgh import FedGH
from fedkd.algorithms.local import Local
from fedkd.core import Client, Model, Task
from fedkd.messages import Received
from fedkd.rounds.round import check_federation, deployed, private_of
from fedkd.rounds.synchronous import simulate
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.training.loop import Examples, TrainingConfig

pytestmark = pytest.mark.usefixtures("double")
STILL = TrainingConfig(learning_rate=1e-300)
STEP = TrainingConfig(learning_rate=1.0, epochs=1, batch_size=0)  # on all pairs at once


def look_up(params, x):
    features = params["table"][x[:, 0].long()]
    logits = torch.nn.functional.linear(features, params["own.weight"], params["own.bias"])
    return Outputs(logits, (features,))


def client_of(number, features, labels):
    """A client whose features are a table, and whose head is none that anybody would keep."""
    table = torch.tensor(features)
    params = {"table": table, "own.weight": torch.full((3, 2), 9.0), "own.bias": torch.ones(3)}
    x, y = torch.arange(float(len(table))).unsqueeze(1), torch.tensor(labels)
    return Client(number, "table", params, Examples(x, y, torch.arange(len(y))))


@pytest.fixture
def federation():
    """Label 0 has means (2, 0) and (0, 4), label 1 has (0, 2); nobody holds label 2."""
    clients = [
        client_of(0, [[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]], [0, 0, 1]),
        client_of(1, [[0.0, 4.0]], [0]),
    ]
    return Task({"table": Model(lambda dice: dict(clients[0].params), look_up)}, 3), clients


def from_zero(algorithm, task):
    """The server's knowledge with a head of zeros."""
    server = algorithm.init(task, generator(0))
    return server | {k: torch.zeros_like(v) for k, v in server.items() if k.startswith("head/")}


def uploads(algorithm, task, clients):
    (current,) = simulate(algorithm, task, clients, rounds=1)
    for number, sent in current.uploads.items():
        # Of rows that did not cross the network the server sees zeros.
        means = torch.zeros(3, 2).index_copy(
            0, sent.rows.nonzero().flatten(), sent.payload["prototypes"]
        )
        yield Received(number, "table", {"prototypes": means}, 1.0, sent.rows)


def test_a_round_by_hand(federation):
    # With a head of zeros each pair has gradient (1/3 - [c = l]) P; the step takes the mean of the
    # three pairs, (2, 0) and (0, 4) of label 0 and (0, 2) of label 1.
    task, clients = federation
    algorithm = FedGH(STILL, server=STEP)
    given = list(uploads(algorithm, task, clients))
    after = algorithm.server_update(task, from_zero(algorithm, task), given, None)
    weight = torch.tensor([[4 / 9, 6 / 9], [-2 / 9, 0.0], [-2 / 9, -6 / 9]])
    torch.testing.assert_close(after["head/layer0.weight"], weight)
    torch.testing.assert_close(after["head/layer0.bias"], torch.tensor([1 / 3, 0.0, -1 / 3]))
    assert after["round"].tolist() == [1]


def test_bytes_of_a_round(federation):
    (current,) = simulate(FedGH(STILL), *federation, rounds=1)
    assert current.ledger.bytes_up == 3 * 2 * 8  # labels held by clients, features, float64
    assert current.ledger.bytes_down == 2 * (2 + 1) * 3 * 8  # clients, (features + 1) labels


def test_training_starts_from_the_head_of_all_and_so_does_use(federation):
    task, clients = federation
    algorithm = FedGH(STILL, server=STEP)
    (current,) = simulate(algorithm, task, clients, rounds=1)
    used = deployed(algorithm, task, current)
    for own, model, start in zip(current.clients, used, clients, strict=True):
        torch.testing.assert_close(own.params["table"], start.params["table"])
        torch.testing.assert_close(model.params["table"], start.params["table"])
        torch.testing.assert_close(model.params["own.weight"], current.server["head/layer0.weight"])
        torch.testing.assert_close(model.params["own.bias"], current.server["head/layer0.bias"])
    begun = algorithm.init(task, generator(0, "server"))["head/layer0.weight"]
    for client in current.clients:  # nothing was learnt, so theirs is what was received
        torch.testing.assert_close(client.params["own.weight"], begun)


def test_a_client_step_is_that_of_local_training_from_that_head(federation):
    task, (client, _) = federation
    training = TrainingConfig(learning_rate=0.5, epochs=2, batch_size=2)
    weight, bias = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]), torch.zeros(3)
    head = {"layer0.bias": bias, "layer0.weight": weight}
    private = private_of(FedGH(training), client, 0, 1)
    found, _ = FedGH(training).client_update(look_up, client.params, head, private, None)
    start = client.params | {"own.weight": weight, "own.bias": bias}
    expected, _ = Local(training).client_update(look_up, start, {}, private, None)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_one_head_says_labels_that_a_client_has_never_seen(tiny):
    # Two clients with one label each, in features that they share: nothing is learnt of the
    # extractor, and yet each tells both labels apart.
    clients = [client_of(k, [[1.0, 0.0], [0.0, 1.0]], [k, k]) for k in range(2)]
    clients = [
        Client(c.id, c.group, c.params, Examples(c.private.x, c.private.y, torch.tensor([c.id])))
        for c in clients
    ]
    task = Task({"table": Model(lambda dice: dict(clients[0].params), look_up)}, 3)
    *_, last = simulate(FedGH(STILL), task, clients, rounds=5)
    for model in deployed(FedGH(STILL), task, last):
        said = look_up(model.params, clients[0].private.x).logits.argmax(dim=-1)
        assert said.tolist() == [0, 1]


def test_features_of_different_widths_are_an_error(tiny):
    given = tiny(["mlp-8", "cnn-4-6"])
    with pytest.raises(ValueError, match="mlp-8 8, cnn-4-6 6"):
        check_federation(FedGH(), given.task, given.clients)
