"""FedMD the paper's way: logits, absolute errors, and a labelled public phase before all else.

The default (probabilities) is worked by hand in `tests/fedkd/rounds/test_synchronous.py`.
"""

import pytest
import torch

from fedkd.algorithms.fedmd import FedMD
from fedkd.core import Client, Model, Task
from fedkd.engines.batched import batched
from fedkd.messages import Received
from fedkd.rounds.round import check_federation, private_of, public_of
from fedkd.rounds.synchronous import simulate
from kdcore.outputs import Outputs
from kdcore.training.loop import Examples, TrainingConfig

pytestmark = pytest.mark.usefixtures("double")
STILL = TrainingConfig(learning_rate=1e-300)  # training that moves nothing
HALF = TrainingConfig(learning_rate=0.5, batch_size=8)


def look_up(params, x):
    return Outputs(params["table"][x[:, 0].long()])


def tables(*logits, public=(1.0, 2.0), labels=None):
    """Clients whose logits for example i are row i of their only parameter; each owns example 0."""
    x, y = torch.arange(3.0).unsqueeze(1), torch.tensor([0, 1, 1])
    clients = [
        Client(i, "table", {"table": torch.tensor(rows)}, Examples(x, y, torch.tensor([0])))
        for i, rows in enumerate(logits)
    ]
    model = Model(lambda generator: {"table": torch.zeros(3, 2)}, look_up)
    shown = torch.tensor(public).unsqueeze(1)
    marks = None if labels is None else torch.tensor(labels)
    return Task({"table": model}, 2, shown, labels=marks), clients


def rounds(algorithm, task, clients, count=1, **more):
    return list(simulate(algorithm, task, clients, rounds=count, **more))


def close(value, expected):
    torch.testing.assert_close(value, torch.as_tensor(expected), rtol=1e-12, atol=1e-12)


ONE = [[0.0, 0.0], [3.0, -1.0], [0.0, 2.0]]
OTHER = [[0.0, 0.0], [1.0, 1.0], [4.0, 0.0]]


def test_logits_and_absolute_errors_by_hand():
    # The mean logits are (2, 0) and (2, 1). The mean absolute error over two classes has gradient
    # sign(z - mean) / 2; the mean over two public examples halves it again, the step of 1/2 a third
    # time: each logit of client 0 moves by an eighth towards the mean.
    task, clients = tables(ONE, OTHER)
    first, second = rounds(FedMD(STILL, HALF, exchange="logits"), task, clients, 2)
    close(first.server["consensus"], [[2.0, 0.0], [2.0, 1.0]])
    moved = second.clients[0].params["table"] - clients[0].params["table"]
    close(moved, [[0.0, 0.0], [-0.125, 0.125], [0.125, -0.125]])


def test_logits_cross_as_they_are_and_cost_what_probabilities_cost():
    task, clients = tables(ONE, OTHER)
    (logits,) = rounds(FedMD(STILL, HALF, exchange="logits"), task, clients)
    (plain,) = rounds(FedMD(STILL, HALF), task, clients)
    assert logits.rejected == {}
    assert logits.ledger.up == {"logits": 2 * 8 * 2 * 2}
    assert plain.ledger.bytes_up == logits.ledger.bytes_up


def test_one_client_of_twenty_turns_a_mean_of_logits_and_not_one_of_probabilities():
    right = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    task, _ = tables(ONE)
    for exchange, expected in (("logits", [1, 0]), ("probabilities", [0, 1])):
        algorithm = FedMD(exchange=exchange)
        public = public_of(algorithm, task, 0, 1)
        payloads = [right] * 19 + [-1e6 * right]
        if exchange == "probabilities":
            payloads = [payload.softmax(-1) for payload in payloads]
        uploads = [Received(k, "table", {exchange: p}, 1.0) for k, p in enumerate(payloads)]
        consensus = algorithm.server_update(task, {}, uploads, public)["consensus"]
        assert consensus.argmax(-1).tolist() == expected


# The labelled public phase


def test_the_public_phase_by_hand():
    # Zero logits: p = (1/2, 1/2). Labels 0 and 1, mean over two examples, a step of 1/2: each row
    # moves by (onehot - p) / 4. Only then are predictions made, for the first consensus.
    task, clients = tables([[0.0, 0.0]] * 3, labels=[0, 1])
    (first,) = rounds(FedMD(STILL, HALF, pretrain=1), task, clients)
    close(first.clients[0].params["table"], [[0.0, 0.0], [0.125, -0.125], [-0.125, 0.125]])
    sure = torch.sigmoid(torch.tensor(0.25))
    close(first.server["consensus"], [[sure, 1 - sure], [1 - sure, sure]])


def test_each_pass_is_another_step_whatever_the_epochs_of_digestion():
    task, clients = tables([[0.0, 0.0]] * 3, labels=[0, 1])
    for epochs in (1, 2, 3):
        distill = TrainingConfig(learning_rate=0.5, batch_size=8, epochs=epochs)
        (first,) = rounds(FedMD(STILL, distill, pretrain=4), task, clients)
        value = 0.0
        for _ in range(4):  # the first logit of example 1, the second being its negative
            value += 0.25 * (1 - 1 / (1 + torch.tensor(-2 * value).exp().item()))
        close(first.clients[0].params["table"][1], [value, -value])


def test_public_examples_come_before_private_ones():
    # Both phases move the same row: the private step is taken from where the public one ended.
    task, clients = tables([[0.0, 0.0]] * 3, public=[0.0], labels=[1])
    algorithm = FedMD(TrainingConfig(learning_rate=1.0), HALF, pretrain=1)
    (first,) = rounds(algorithm, task, clients)
    after_public = torch.tensor([-0.25, 0.25])
    step = torch.tensor([1.0, 0.0]) - after_public.softmax(-1)
    close(first.clients[0].params["table"][0], after_public + step)


def test_it_happens_once_and_in_a_clients_own_first_round():
    task, clients = tables([[0.0, 0.0]] * 3, [[0.0, 0.0]] * 3, labels=[0, 1])
    cohorts = [[0], [0, 1], [0, 1]]

    def sample(numbers, generator):
        return cohorts.pop(0)

    first, second, third = rounds(FedMD(STILL, HALF, pretrain=1), task, clients, 3, sample=sample)
    size = first.server["consensus"].nbytes
    assert [r.ledger.bytes_down for r in (first, second, third)] == [0, size, 2 * size]
    newcomer = second.clients[1].params["table"]
    close(newcomer[1], [0.125, -0.125])  # pretrained, and told nothing yet
    close(first.clients[0].params["table"], newcomer)
    # From then on it digests the consensus, as everybody does, and sees no label.
    assert second.server["met"].tolist() == [0, 1]
    p, q = newcomer[1].softmax(-1), second.server["consensus"][0]
    close(third.clients[1].params["table"][1], newcomer[1] + 0.25 * (q - p))


def test_who_was_away_for_a_round_does_not_pretrain_again():
    task, clients = tables([[0.0, 0.0]] * 3, [[0.0, 0.0]] * 3, labels=[0, 1])
    cohorts = [[0], [1], [0]]

    def sample(numbers, generator):
        return cohorts.pop(0)

    *_, second, third = rounds(FedMD(STILL, HALF, pretrain=1), task, clients, 3, sample=sample)
    assert second.server["met"].tolist() == third.server["met"].tolist() == [0, 1]
    assert set(third.broadcasts[0]) == {"consensus"}


def test_it_needs_labels_and_says_so():
    algorithm = FedMD(pretrain=1)
    assert (algorithm.properties.public, FedMD().properties.public) == ("labelled", "unlabelled")
    task, clients = tables(ONE)
    with pytest.raises(ValueError, match="needs labels of public examples"):
        check_federation(algorithm, task, clients)
    check_federation(FedMD(), task, clients)


def test_settings_that_cannot_be_are_errors():
    with pytest.raises(ValueError, match="exchange must be probabilities or logits, got 'votes'"):
        FedMD(exchange="votes")
    with pytest.raises(ValueError, match="pretrain must be >= 0"):
        FedMD(pretrain=-1)
    with pytest.raises(ValueError, match="pretrain 2 takes distill.epochs >= 1, got 0"):
        FedMD(distill=TrainingConfig(epochs=0), pretrain=2)
    with pytest.raises(ValueError, match="pretrain takes whole epochs, and steps is 5"):
        FedMD(distill=TrainingConfig(steps=5), pretrain=2)


@pytest.mark.parametrize("settings", [{"exchange": "logits"}, {"pretrain": 2}, {"public_size": 4}])
def test_a_stack_of_clients_does_what_each_does_alone(settings, tiny):
    federation = tiny(sizes=(1, 2, 9, 4, 3))
    training = TrainingConfig("momentum", 0.05, epochs=2, batch_size=4)
    algorithm = FedMD(training, training, **settings | {"pretrain": settings.get("pretrain", 1)})
    expected = rounds(algorithm, federation.task, federation.clients, 3)[-1]
    result = rounds(algorithm, federation.task, federation.clients, 3, engine=batched(50))[-1]
    for one, other in zip(result.clients, expected.clients, strict=True):
        for key in other.params:
            torch.testing.assert_close(one.params[key], other.params[key], rtol=1e-9, atol=1e-9)


def test_private_examples_are_not_in_the_public_phase(tiny):
    federation = tiny(["mlp-8"], sizes=(6,))
    algorithm = FedMD(TrainingConfig(epochs=0), TrainingConfig(batch_size=4), pretrain=1)
    public = public_of(algorithm, federation.task, 0, 1)
    private = private_of(algorithm, federation.clients[0], 0, 1)
    assert public.labels.shape == (11,)
    predict = federation.task.models["mlp-8"].predict
    params, _ = algorithm.client_update(predict, federation.clients[0].params, {}, private, public)
    blind = private._replace(x=private.x * torch.nan)
    again, _ = algorithm.client_update(predict, federation.clients[0].params, {}, blind, public)
    assert all(torch.equal(params[key], again[key]) for key in params)
