"""DP-SGD of clients with whole graphs: a graph is an example, and is clipped as one."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from fedgraphkd import partition
from fedgraphkd.federated_collection import federate_graphs
from fedkd.algorithms.local import Local
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.models.private import check_private, coupled
from fedkd.rounds.synchronous import simulate
from kdcore.training.batches import Batches
from kdcore.training.loop import Clipping, TrainingConfig, fit, supervised
from kdcore.training.stacked import GRADIENTS
from tests.fedgraphkd.graphs import trees

NORM, RATE, EXPECTED = 0.05, 0.5, 3
TRAINING = TrainingConfig(
    learning_rate=RATE, epochs=1, batch_size=EXPECTED, privacy=Clipping(NORM, 0.0)
)


def holders(*models, count=40):
    deal = partial(partition.partition, "dirichlet")
    return federate_graphs(trees(count), 4, models, 0, deal)


def step(model, params, union, numbers, training=TRAINING, stack=False):
    """The parameters after a step of some graphs, alone or as the second of a stack."""
    order = torch.tensor([[*numbers, 0]])
    mask = torch.arange(len(numbers) + 1).unsqueeze(0) < len(numbers)
    seed, size = torch.tensor([7]), torch.tensor(99)
    batches = Batches(union.x, union.y, order, mask, size, seed, torch.tensor(numbers))
    if not stack:
        return fit(model.predict, params, batches, training, supervised)

    def one(scale, noise):
        own = {name: value * scale for name, value in params.items()}
        given = batches._replace(noise=noise)
        return fit(model.predict, own, given, training, supervised)

    both = torch.func.vmap(one)(
        params["head.bias"].new_tensor([0.5, 1.0]), seed + torch.tensor([[1], [0]])
    )
    return {name: value[1] for name, value in both.items()}


def slope(model, params, union, number):
    """The gradient of one graph, by autograd on that graph alone."""
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    logits = model.predict(leaves, union.x[[number]]).logits
    loss = F.cross_entropy(logits, union.y[[number]])
    return dict(zip(leaves, torch.autograd.grad(loss, leaves.values()), strict=True))


def length(tensors):
    return torch.cat([value.flatten() for value in tensors.values()]).norm()


@pytest.mark.parametrize("stack", [False, True], ids=["loop", "stack"])
@pytest.mark.parametrize("name", ["gin-4", "gcn-4"])
def test_each_graph_is_clipped_before_they_are_added_up(name, stack, double):
    federation = holders(name)
    model, union = federation.task.models[name], federation.test
    params = model.init(torch.Generator().manual_seed(0))
    numbers = [1, 5, 8, 20]  # four, where three are expected
    after = step(model, params, union, numbers, stack=stack)
    slopes = [slope(model, params, union, number) for number in numbers]
    assert min(map(length, slopes)) > NORM  # or nothing would be clipped
    for key, value in params.items():
        total = sum(one[key] * (NORM / length(one)) for one in slopes)
        torch.testing.assert_close(after[key], value - RATE * total / EXPECTED)


def test_a_graph_more_moves_a_step_by_the_norm_and_no_more(double):
    federation = holders("gin-4")
    model, union = federation.task.models["gin-4"], federation.test
    params = model.init(torch.Generator().manual_seed(0))
    before = step(model, params, union, [2, 3], stack=True)
    after = step(model, params, union, [2, 3, 9], stack=True)
    moved = length({name: after[name] - value for name, value in before.items()})
    assert moved == pytest.approx(RATE * NORM / EXPECTED)


def test_noise_is_of_the_norm_whatever_the_graphs(double):
    federation = holders("gin-16")
    model, union = federation.task.models["gin-16"], federation.test
    params = model.init(torch.Generator().manual_seed(0))
    noisy = replace(TRAINING, privacy=Clipping(NORM, 2.0))
    without = step(model, params, union, [2, 3], stack=True)
    found = step(model, params, union, [2, 3], noisy, stack=True)
    alone = step(model, params, union, [2, 3], noisy)
    noise = {name: found[name] - value for name, value in without.items()}
    count = sum(value.numel() for value in noise.values())
    expected = RATE * 2.0 * NORM / EXPECTED * count**0.5
    assert length(noise) == pytest.approx(expected, rel=0.1)  # of 900 numbers
    torch.testing.assert_close(found, alone)


@pytest.mark.parametrize("most", [GRADIENTS, 1], ids=["at once", "in turn"])
def test_a_stack_is_the_loop_whatever_fits_at_once(most, double, monkeypatch):
    monkeypatch.setattr("kdcore.training.stacked.GRADIENTS", most)
    federation = holders("gin-4", "gcn-4", "gin-4", "sage-4", count=20)
    private = Local(replace(TRAINING, optimizer="adam", privacy=Clipping(NORM, 1.0)))
    one, other = (
        list(simulate(private, federation.task, federation.clients, rounds=1, engine=engine))[-1]
        for engine in (sequential, batched())
    )
    assert one.failed == other.failed == {}
    for a, b in zip(one.clients, other.clients, strict=True):
        torch.testing.assert_close(b.params, a.params)


class Normalised(nn.Module):
    """A network that normalises over the graphs of a mini-batch."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.first, self.norm = nn.Linear(in_channels, 4), nn.BatchNorm1d(4)
        self.last = nn.Linear(4, out_channels)

    def forward(self, x, edge_index, batch):
        total = x.new_zeros(int(batch.max()) + 1, x.shape[1]).index_add(0, batch, x)
        return self.last(self.norm(self.first(total)))


def test_a_network_that_normalises_over_graphs_is_refused_and_others_are_not():
    federation = holders("gin-4", "sage-4", "mlp-4")
    check_private(federation.task)
    models, few = federation.task.models, federation.task.few
    assert [coupled(model, few) for model in models.values()] == [None] * 3
    with pytest.raises(ValueError, match=r"local\.privacy: .* normalises over its mini-batches"):
        check_private(holders(Normalised).task)
