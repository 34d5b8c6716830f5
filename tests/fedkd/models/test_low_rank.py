"""Adapters beside frozen layers: what they change, and what is sent."""

import pytest
import torch
from torch import nn

from fedkd.algorithms.fedavg import FedAvg
from fedkd.core import Client, Task
from fedkd.models import build, size
from fedkd.models.low_rank import LowRank, adapted
from fedkd.models.sequences import Transformer
from fedkd.rounds.synchronous import simulate
from kdcore.rng import generator
from kdcore.training.loop import Examples, TrainingConfig


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Sequential(nn.Linear(6, 3)))


def test_nothing_is_changed_before_training_and_little_is_trained():
    whole, x = network(), torch.randn(5, 4, generator=generator(0))
    few = adapted(whole, rank=2)
    assert torch.equal(few(x), whole(x))
    trained = [value.shape for value in few.parameters() if value.requires_grad]
    assert trained == [(2, 4), (6, 2), (2, 6), (3, 2)]
    assert all(value.requires_grad for value in whole.parameters())  # the module itself is left
    assert size(build(few, (4,), 3, x)) == 2 * (4 + 6) + 2 * (6 + 3)


def test_an_adapter_adds_a_product_of_low_rank():
    layer = LowRank(nn.Linear(5, 7), 2)
    layer.wide.data.normal_(generator=generator(1))
    x = torch.randn(9, 5, generator=generator(2))
    added = layer.wide @ layer.narrow
    assert torch.linalg.matrix_rank(added) == 2
    torch.testing.assert_close(layer(x) - layer.layer(x), x @ added.T)


def test_clients_send_adapters_alone_and_what_is_frozen_stays():
    x, y = torch.randn(20, 4, generator=generator(3)), torch.arange(20) % 3
    model = build(adapted(network(), rank=1), (4,), 3, x)
    clients = [
        Client(k, "net", model.init(generator(k)), Examples(x, y, torch.arange(k, 20, 2)))
        for k in range(2)
    ]
    algorithm = FedAvg(local=TrainingConfig("sgd", 0.5, epochs=3, batch_size=5))
    (last,) = simulate(algorithm, Task({"net": model}, 3), clients, rounds=1)
    numbers = (4 + 6) + (6 + 3)
    assert last.ledger.bytes_up == 2 * (4 * numbers + 8)  # and how many examples stand behind it
    after = model.restored(last.clients[0].params)
    assert torch.equal(after[0].layer.weight, network()[0].weight)
    assert after[0].wide.abs().max() > 0


def test_a_transformer_has_one_at_each_of_its_linear_layers():
    few = adapted(Transformer(classes=5, width=8, places=6), rank=1)
    adapters = [module for module in few.modules() if isinstance(module, LowRank)]
    assert len(adapters) == 2 * 4 + 1
    tokens = torch.randint(5, (2, 6), generator=generator(4))
    model = build(few, (6,), 5, tokens)
    assert model.predict(model.init(generator(5)), tokens).logits.shape == (2, 6, 5)


@pytest.mark.parametrize(
    ("module", "rank", "said"),
    [(network(), 0, "at least 1, got 0"), (nn.GRU(2, 2), 1, "GRU has no linear layer")],
    ids=["rank", "layers"],
)
def test_what_cannot_be_adapted_is_named(module, rank, said):
    with pytest.raises(ValueError, match=said):
        adapted(module, rank)
