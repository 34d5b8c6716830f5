"""FD: leaving one out by subtraction is leaving one out."""

import torch

from fedkd.algorithms.fd import FD
from fedkd.core import Client, Task
from fedkd.messages import Received
from fedkd.rounds.round import private_of
from kdcore.outputs import Outputs
from kdcore.training.loop import Examples, TrainingConfig


def upload(client, generator, held):
    means = torch.randn(4, 4, generator=generator).softmax(dim=-1)
    rows = torch.tensor(held, dtype=means.dtype)
    return Received(client, "any", {"means": means * rows.unsqueeze(1)}, 1.0, rows)


def test_a_broadcast_is_the_mean_of_the_others(double):
    generator = torch.Generator().manual_seed(0)
    held = [[1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 0], [0, 1, 0, 0]]
    uploads = [
        upload(client, generator, rows) for client, rows in zip((1, 4, 5, 9), held, strict=True)
    ]
    server = FD().server_update(Task({}, 4), {}, iter(uploads), None)
    for client in range(11):  # members and newcomers, before, between and after them
        told = FD().broadcast(server, client, "any")["means"]
        for label in range(4):
            others = [u for u in uploads if u.client != client and u.rows[label]]
            expected = torch.zeros(4)
            if others:
                expected = torch.stack([u.payload["means"][label] for u in others]).mean(dim=0)
            torch.testing.assert_close(told[label], expected)


def test_a_label_that_nobody_else_holds_leaves_exactly_nothing():
    generator = torch.Generator().manual_seed(0)
    uploads = [upload(0, generator, [1, 1, 0, 0]), upload(1, generator, [0, 1, 0, 0])]
    server = FD().server_update(Task({}, 4), {}, uploads, None)
    told = FD().broadcast(server, 0, "any")["means"]
    assert not told[[0, 2, 3]].any()
    assert told[1].sum().item() > 0.99


def test_two_epochs_count_each_example_once(double):
    # Label 0 is that of (0.8, 0.1, 0.1) and (0.6, 0.2, 0.2): a mean of (0.7, 0.15, 0.15). Batches
    # of two make three examples four places, which come twice; repetitions and padding say nothing.
    rows = torch.tensor([[0.8, 0.1, 0.1], [0.6, 0.2, 0.2], [0.1, 0.5, 0.4]])
    x, y = torch.arange(3.0).unsqueeze(1), torch.tensor([0, 0, 1])
    client = Client(0, "any", {"table": rows.log()}, Examples(x, y, torch.arange(3)))
    algorithm = FD(TrainingConfig(learning_rate=1e-300, epochs=2, batch_size=2))
    private = private_of(algorithm, client, 0, 1)
    _, upload = algorithm.client_update(look_up, client.params, {}, private, None)
    expected = torch.tensor([[0.7, 0.15, 0.15], [0.1, 0.5, 0.4], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(upload.payload["means"], expected)
    assert upload.rows.tolist() == [1, 1, 0]


def look_up(params, x):
    return Outputs(params["table"][x[:, 0].long()])


def test_a_broadcast_looks_at_one_client_however_many_there_are():
    # The sum is kept; a client's message is that less one row, not a sum over all the others.
    generator = torch.Generator().manual_seed(0)
    uploads = [upload(client, generator, [1, 1, 1, 1]) for client in range(5)]
    server = FD().server_update(Task({}, 4), {}, uploads, None)
    wrong = server | {"means": torch.zeros_like(server["means"])}
    expected = sum(u.payload["means"].double() for u in uploads) / 4
    torch.testing.assert_close(FD().broadcast(wrong, 3, "any")["means"].double(), expected)
