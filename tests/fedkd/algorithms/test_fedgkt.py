"""FedGKT: a round worked by hand, and every example taught by what the server said of it."""

import math

import pytest
import torch

from fedkd.algorithms.fedgkt import FedGKT
from fedkd.communication.channel import Channel
from fedkd.components.sample_exchange import own_examples
from fedkd.core import Client, Model, Task
from fedkd.engines.batched import batched
from fedkd.messages import Received, Upload
from fedkd.rounds.round import check_federation, private_of
from fedkd.rounds.synchronous import simulate
from kdcore.outputs import Outputs
from kdcore.training.loop import Examples, TrainingConfig, draw

pytestmark = pytest.mark.usefixtures("double")
STILL = TrainingConfig(learning_rate=1e-300)
STEP = TrainingConfig(learning_rate=1.0, batch_size=8)


def linear(params, x):
    """A network that shows its inputs as features."""
    return Outputs(torch.nn.functional.linear(x, params["weight"], params["bias"]), (x,))


def federation(x, y, *holdings, classes=2):
    x, y = torch.tensor(x), torch.tensor(y)
    width = x.shape[1]
    zeros = {"weight": torch.zeros(classes, width), "bias": torch.zeros(classes)}
    model = Model(lambda generator: dict(zeros), linear)
    clients = [
        Client(i, "linear", dict(zeros), Examples(x, y, torch.tensor(rows, dtype=torch.long)))
        for i, rows in enumerate(holdings)
    ]
    return Task({"linear": model}, classes, shape=(width,)), clients


def close(value, expected):
    expected = torch.as_tensor(expected)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9, check_dtype=False)


def test_a_clients_step_by_hand():
    # Two examples, x = 1 with label 0 and x = 2 with label 1; p = 1/2 each. The server says
    # (0.8, 0.2) of the first, and (0.4, 0.6) of the second. The gradient by logit is
    # (p - onehot) + (p - q): (-0.8, 0.8) and (0.6, -0.6). A step of 1 on the mean moves the bias by
    # (0.1, -0.1), and the weights by -(-0.8 * 1 + 0.6 * 2) / 2 = -0.2. With the two swapped, the
    # weights would not move: (-0.4 * 1 + 0.2 * 2) = 0.
    task, (client,) = federation([[1.0], [2.0]], [0, 1], [1, 0])
    algorithm = FedGKT(STEP, temperature=1.0)
    told = {"logits": torch.tensor([[0.8, 0.2], [0.4, 0.6]]).log()}
    for index in range(1, 6):  # whatever the shuffle
        private = private_of(algorithm, client, 0, index)
        params, upload = algorithm.client_update(linear, client.params, told, private, None)
        close(params["bias"], [0.1, -0.1])
        close(params["weight"], [[-0.2], [0.2]])
        # What it shows is what the trained network gives: features x, logits w x + b, labels.
        held = upload.rows.bool()
        close(upload.payload["features"][held], [[1.0], [2.0]])
        close(upload.payload["logits"][held], [[-0.1, 0.1], [-0.3, 0.3]])
        assert upload.payload["labels"][held].tolist() == [0, 1]


def test_the_temperature_and_the_weight_of_the_teacher_by_hand():
    # T = 2, a = 3: the gradient of T^2 KL is T (softmax(z / T) - softmax(z_s / T)). The logits
    # z_s = (2 log 4, 0) give softmax (0.8, 0.2) at T = 2: (1/2 - 1) + 3 * 2 * (0.5 - 0.8) = -2.3.
    task, (client,) = federation([[0.0]], [0], [0])
    algorithm = FedGKT(STEP, temperature=2.0, loss_weight=3.0)
    told = {"logits": torch.tensor([[2 * math.log(4.0), 0.0]])}
    private = private_of(algorithm, client, 0, 1)
    params, _ = algorithm.client_update(linear, client.params, told, private, None)
    close(params["bias"], [2.3, -2.3])


def test_clients_train_before_the_server_has_spoken():
    task, (client,) = federation([[0.0]], [0], [0])
    algorithm = FedGKT(STEP)
    params, _ = algorithm.client_update(
        linear, client.params, {}, private_of(algorithm, client, 0, 1), None
    )
    close(params["bias"], [0.5, -0.5])


X = [[float(i), float(i * i % 7)] for i in range(9)]
Y = [i % 3 for i in range(9)]


def test_the_server_says_of_each_example_what_its_network_says_of_that_ones_features():
    task, clients = federation(X, Y, [8, 0, 3], [5], [2, 7, 4, 1], classes=3)
    algorithm = FedGKT(
        TrainingConfig(epochs=2, batch_size=2), TrainingConfig("adam", 0.01, batch_size=3)
    )
    for current in simulate(algorithm, task, clients, rounds=3):
        net = {
            key.removeprefix("net/linear/"): value
            for key, value in current.server.items()
            if key.startswith("net/")
        }
        for number, rows in ((0, [0, 3, 8]), (1, [5]), (2, [1, 2, 4, 7])):  # by row, ascending
            hidden = torch.tensor([X[row] for row in rows])
            for name in ("layer0", "layer1"):
                hidden = torch.relu(hidden @ net[f"{name}.weight"].T + net[f"{name}.bias"])
            close(
                current.server[f"logits/{number}"],
                hidden @ net["layer2.weight"].T + net["layer2.bias"],
            )


def test_the_server_learns_by_hand():
    # One example, and a step of the server's network by torch: a CE + T^2 KL, a = 3.
    task, clients = federation(X, Y, [4], classes=3)
    server = TrainingConfig(learning_rate=0.1, batch_size=4)
    algorithm = FedGKT(STILL, server, loss_weight=3.0, temperature=2.0)
    before = algorithm.init(task, torch.Generator().manual_seed(0))
    said = torch.tensor([[1.0, -1.0, 0.5]])
    payload = {"features": torch.tensor([X[4]]), "logits": said, "labels": torch.tensor([1])}
    upload = Received(0, "linear", payload, 1.0, torch.ones(1))
    after = algorithm.server_update(task, before, [upload], None)

    net = {k: v.clone().requires_grad_() for k, v in before.items() if k.startswith("net/")}
    value = payload["features"]
    for i in range(3):
        weight, bias = (net[f"net/linear/layer{i}.{part}"] for part in ("weight", "bias"))
        value = torch.nn.functional.linear(value, weight, bias)
        value = value.relu() if i < 2 else value
    soft = torch.nn.functional.kl_div(
        (value / 2).log_softmax(-1), (said / 2).softmax(-1), reduction="batchmean"
    )
    loss = 3 * torch.nn.functional.cross_entropy(value, payload["labels"]) + 4 * soft
    for key, gradient in zip(net, torch.autograd.grad(loss, list(net.values())), strict=True):
        close(after[key], (net[key] - 0.1 * gradient).detach())


def test_shuffles_do_not_touch_the_names_of_examples():
    examples = Examples(torch.zeros(20, 1), torch.zeros(20), torch.tensor([17, 3, 11, 5, 8]))
    for seed in range(5):
        for epochs in (1, 2, 3):
            training = TrainingConfig(batch_size=2, epochs=epochs)
            private = draw(examples, training, torch.Generator().manual_seed(seed))
            for batches in (private, private.padded(private.steps + 4)):
                rows, spare, held = own_examples(batches, epochs)
                assert rows[held.bool()].tolist() == [3, 5, 8, 11, 17]
                assert rows.shape == spare.shape == held.shape
                assert set(spare.tolist()) <= {0, 3, 5, 8, 11, 17}
    nobody = Examples(torch.zeros(20, 1), torch.zeros(20), torch.tensor([], dtype=torch.long))
    nothing = draw(nobody, TrainingConfig(), torch.Generator())
    assert own_examples(nothing.padded(3), 1)[2].sum() == 0
    assert len(own_examples(private, 0)[0]) == 0


def test_only_private_examples_go_up_each_once_and_to_the_byte():
    # (4 D + 4 C + 4) bytes an example in float32; here float64, of which labels stay int32.
    task, clients = federation(X, Y, [8, 0, 3], [5], [], classes=3)
    algorithm = FedGKT(TrainingConfig(epochs=3, batch_size=2), STILL)
    first, second = simulate(algorithm, task, clients, rounds=2)
    assert first.ledger.up == {"features": 4 * 8 * 2, "logits": 4 * 8 * 3, "labels": 4 * 4}
    assert (first.ledger.bytes_down, second.ledger.down) == (0, {"logits": 4 * 8 * 3})


def test_a_client_that_was_away_is_taught_what_was_said_of_it_last():
    task, clients = federation(X, Y, [8, 0, 3], [5, 1], classes=3)
    cohorts = [[0, 1], [1], [0]]
    algorithm = FedGKT(STILL, TrainingConfig("adam", 0.05, batch_size=3))
    first, second, third = simulate(
        algorithm, task, clients, rounds=3, sample=lambda numbers, stream: cohorts.pop(0)
    )
    assert torch.equal(first.server["logits/0"], second.server["logits/0"])
    assert not torch.equal(first.server["logits/1"], second.server["logits/1"])
    assert third.ledger.down == {"logits": 3 * 3 * 8}


def test_a_stack_of_clients_does_what_each_does_alone(tiny):
    training = TrainingConfig("momentum", 0.05, epochs=2, batch_size=4)
    parties = tiny(["cnn-4-8"], sizes=(1, 2, 9, 4, 0, 9))
    runs = [
        list(simulate(FedGKT(training, training), parties.task, parties.clients, rounds=3, **more))
        for more in ({}, {"engine": batched(50)})
    ]
    for one, other in zip(*runs, strict=True):
        assert one.ledger == other.ledger
        for key, value in one.server.items():
            torch.testing.assert_close(value, other.server[key], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, 3], "labels goes from 0 to 3, not 0 to 2"), ([-1, 0], "labels goes from -1 to 0")],
)
def test_labels_that_are_none_are_turned_away(labels, message):
    task, _ = federation(X, Y, [0], classes=3)
    payload = {
        "features": torch.zeros(2, 2),
        "logits": torch.zeros(2, 3),
        "labels": torch.tensor(labels, dtype=torch.int32),
    }
    payload_spec = FedGKT().payload_spec(task, "linear")
    with pytest.raises(ValueError, match=message):
        Channel().read_up(Upload(payload, torch.tensor(1.0), torch.ones(2)), payload_spec)


def test_models_that_show_no_features_are_an_error():
    task, clients = federation(X, Y, [0], classes=3)
    blind = Model(task.models["linear"].init, lambda p, x: Outputs(linear(p, x).logits))
    with pytest.raises(ValueError, match="linear shows no features"):
        check_federation(FedGKT(), Task({"linear": blind}, 3, shape=(2,)), clients)


def test_settings_that_cannot_be_are_errors():
    for name, value, range_ in (
        ("server_width", 0, "from 1 to 16384"),
        ("loss_weight", -1.0, ">= 0 and finite"),
        ("temperature", 0.0, "> 0 and finite"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be {range_}, got {value}"):
            FedGKT(**{name: value})
