"""FedTGP: the server's half against torch's own modules, and its margin by hand."""

import math

import pytest
import torch
from torch import nn

from fedkd.algorithms.fedproto import FedProto
from fedkd.algorithms.fedtgp import FedTGP, adaptive_margin, apart, distances, maker
from fedkd.core import Task
from fedkd.messages import Received
from fedkd.models import mlp
from fedkd.rounds.round import private_of
from fedkd.rounds.synchronous import simulate
from kdcore.outputs import Outputs
from kdcore.training.loop import TrainingConfig

pytestmark = pytest.mark.usefixtures("double")


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def task(classes=3, width=2):
    """A task whose models have features of a width."""
    return Task({"mlp": mlp((4,), classes, (width,))}, classes)


def sent(number, *prototypes):
    """An upload of prototypes, None for a label that is not held."""
    rows = torch.tensor([0.0 if p is None else 1.0 for p in prototypes])
    values = torch.tensor([[0.0, 0.0] if p is None else p for p in prototypes])
    return Received(number, "mlp", {"prototypes": values}, 1.0, rows)


def test_the_margin_by_hand():
    # Means: label 0 (0, 0), of (-1, 0) and (1, 0); label 1 (3, 4); label 2 (3, 8). The nearest
    # neighbours are at 5, 4 and 4: the margin is 5, or less where less is allowed.
    x = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [3.0, 4.0], [3.0, 8.0]])
    y = torch.tensor([0, 0, 1, 2])
    assert float(adaptive_margin(x, y, 5, 100.0)) == 5.0
    assert float(adaptive_margin(x, y, 5, 2.0)) == 2.0
    assert float(adaptive_margin(x[:2], y[:2], 5, 100.0)) == 100.0  # one label has no neighbour


def test_the_loss_by_hand():
    # At distances 3 and 4, with a margin of 1 both are as far: log 2, whichever is right.
    outputs = Outputs(-torch.tensor([[3.0, 4.0], [4.0, 3.0]]))
    value = apart(outputs, torch.tensor([0, 1]), torch.tensor(1.0))
    torch.testing.assert_close(value, torch.full((2,), math.log(2)))
    plain = apart(outputs, torch.tensor([0, 1]), torch.tensor(0.0))
    torch.testing.assert_close(plain, torch.full((2,), math.log(1 + math.exp(-1))))


def test_distances_are_euclidean_and_have_a_gradient_at_zero():
    params = mlp((2,), 2, (2,)).init(stream()) | {"labels": torch.ones(3, 2)}
    made = maker(2)(params, params["labels"]).logits
    x = made[:1].clone().requires_grad_()
    outputs = distances(maker(2))(params, x)
    torch.testing.assert_close(outputs.logits, torch.zeros(1, 3))
    assert torch.autograd.grad(outputs.logits.sum(), x)[0].isfinite().all()


class Prototypes(nn.Module):
    """The paper's network: an embedding, a layer with ReLU, a layer."""

    def __init__(self, server):
        super().__init__()
        self.labels = nn.Parameter(server["tgp.labels"].clone())
        self.first, self.last = nn.Linear(2, 2), nn.Linear(2, 2)
        with torch.no_grad():
            for name, layer in (("layer0", self.first), ("layer1", self.last)):
                layer.weight.copy_(server[f"tgp.{name}.weight"])
                layer.bias.copy_(server[f"tgp.{name}.bias"])

    def forward(self):
        return self.last(self.first(self.labels).relu())


def test_two_rounds_against_modules_of_torch():
    # All prototypes in one batch, so that their order does not matter.
    algorithm = FedTGP(server=TrainingConfig(learning_rate=0.1, epochs=7, batch_size=50))
    server = algorithm.init(task(), stream())
    module = Prototypes(server)
    optimiser = torch.optim.SGD(module.parameters(), 0.1)
    rounds = [
        [sent(0, [1.0, 0.0], [0.0, 3.0], None), sent(1, [2.0, 1.0], None, None)],
        [sent(1, [2.0, 1.0], None, [5.0, -1.0])],
    ]
    margins = [math.dist((1.5, 0.5), (0.0, 3.0)), math.dist((2.0, 1.0), (5.0, -1.0))]
    seen = torch.zeros(3)
    for uploads, margin in zip(rounds, margins, strict=True):
        server = algorithm.server_update(task(), server, uploads, None)
        x = torch.cat([u.payload["prototypes"][u.rows.bool()] for u in uploads])
        y = torch.cat([u.rows.nonzero().flatten() for u in uploads])
        for _ in range(7):
            optimiser.zero_grad()
            gaps = torch.stack([torch.stack([(p - q).norm() for q in module()]) for p in x])
            gaps = gaps + margin * nn.functional.one_hot(y, 3)
            nn.functional.cross_entropy(-gaps, y).backward()
            optimiser.step()
        seen[y] = 1
        torch.testing.assert_close(server["prototypes"], (module() * seen.unsqueeze(1)).detach())
    assert seen.tolist() == [1, 1, 1]


def test_prototypes_are_of_the_network_after_training_or_as_the_authors_code_has_it_before(tiny):
    federation = tiny(["mlp-8"], sizes=(6, 5))
    client, (predict,) = federation.clients[0], [m.predict for m in federation.task.models.values()]
    for which in ("after", "before"):
        algorithm = FedTGP(TrainingConfig(epochs=2, batch_size=2), prototypes=which)
        private = private_of(algorithm, client, 0, 1)
        trained, upload = algorithm.client_update(predict, client.params, {}, private, None)
        shown = trained if which == "after" else client.params
        rows = client.private.rows
        hidden = predict(shown, client.private.x[rows]).hidden[-1]
        for label in client.private.y[rows].unique():
            mean = hidden[client.private.y[rows] == label].mean(dim=0)
            torch.testing.assert_close(upload.payload["prototypes"][label], mean)
        assert not torch.equal(trained["layer0.weight"], client.params["layer0.weight"])


def test_labels_never_held_have_no_prototype():
    algorithm = FedTGP()
    server = algorithm.init(task(), stream())
    assert algorithm.broadcast(server, 0, "mlp") == {}
    server = algorithm.server_update(task(), server, [sent(0, [1.0, 0.0], None, None)], None)
    prototypes = algorithm.broadcast(server, 0, "mlp")["prototypes"]
    assert prototypes[0].any()
    assert not prototypes[1:].any()


def test_a_round_in_which_nobody_holds_anything_keeps_the_prototypes():
    algorithm = FedTGP()
    server = algorithm.init(task(), stream())
    server = algorithm.server_update(task(), server, [sent(0, [1.0, 0.0], [4.0, 0.0], None)], None)
    after = algorithm.server_update(task(), server, [sent(0, None, None, None)], None)
    assert torch.equal(after["prototypes"], server["prototypes"])
    assert (int(server["round"]), int(after["round"])) == (1, 2)  # the next shuffle is another


def test_trained_prototypes_keep_the_margin_where_means_do_not():
    # The paper's claim: two labels whose means are near are kept apart by the margin that comes
    # from the third, which is far away.
    means = torch.stack([torch.zeros(8), torch.eye(8)[0], torch.full((8,), 3.0)])
    uploads = []
    for number in range(4):
        noise = 0.1 * torch.randn(3, 8, generator=stream(number))
        uploads.append(Received(number, "mlp", {"prototypes": means + noise}, 1.0, torch.ones(3)))
    algorithm = FedTGP(server=TrainingConfig(learning_rate=0.05, epochs=300, batch_size=12))
    given = task(width=8)
    server = algorithm.server_update(given, algorithm.init(given, stream()), uploads, None)
    x, y = torch.cat([u.payload["prototypes"] for u in uploads]), torch.arange(12) % 3
    margin = adaptive_margin(x, y, 3, 100.0)
    assert nn.functional.pdist(server["prototypes"]).min() > margin
    averaged = FedProto().server_update(given, {}, uploads, None)["prototypes"]
    assert nn.functional.pdist(averaged).min() < margin / 5


def test_its_clients_are_those_of_fedproto(tiny):
    # Up to the first broadcast nothing differs.
    given, training = tiny(), TrainingConfig(learning_rate=0.05, epochs=2, batch_size=4)
    task, clients = given.task, given.clients
    (one,) = simulate(FedTGP(training), task, clients, rounds=1)
    (other,) = simulate(FedProto(training), task, clients, rounds=1)
    for a, b in zip(one.clients, other.clients, strict=True):
        assert all(torch.equal(a.params[key], b.params[key]) for key in a.params)
    assert one.ledger.bytes_up == other.ledger.bytes_up


def test_a_negative_margin_is_an_error():
    with pytest.raises(ValueError, match="margin must be >= 0 and finite, got -2"):
        FedTGP(margin=-2.0)
