"""Cross-entropies without autograd against the same loss with it, and against their definition."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from kdcore.losses.response import cross_entropy, soft_cross_entropy
from kdcore.outputs import Outputs
from kdcore.training import by_hand, stacked
from kdcore.training.batches import Examples, draw
from kdcore.training.by_hand import CrossEntropy, of_labels, of_probabilities
from kdcore.training.loop import OPTIMIZERS, TrainingConfig, fit
from kdcore.training.optimizers import ByExample, Product
from kdcore.training.stacked import Network

CLASSES, WIDTH, TOTAL = 3, 4, 20


def one(params, x):
    return Outputs(F.linear(x, params["weight"], params["bias"]))


def stack(params, x):
    return Outputs(x @ params["weight"].mT + params["bias"].unsqueeze(1))


def backward(params, x, outputs, upstream):
    slope = upstream.logits
    return {"weight": Product(slope, x), "bias": ByExample(slope)}


LINEAR = Network(one, stack, backward)


def labels(outputs, y):
    return cross_entropy(outputs.logits, y)


def others(outputs, q):
    return soft_cross_entropy(outputs.logits, q)


def received(outputs, y, table):
    return labels(outputs, y) + 0.7 * soft_cross_entropy(outputs.logits, table[y])


def targets_received(classes, y, table):
    rows = [own[y[min(k, len(y) - 1)]] for k, own in enumerate(table)]
    return of_labels(classes, y) + 0.7 * torch.stack(rows)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_labels(*shape):
    return torch.randint(CLASSES, shape, generator=torch.Generator().manual_seed(1))


def trained(loss, starts, drawn, training, context=None):
    """By vmap over `fit`, as the batched engine does it, of models with unlike many steps."""
    most = max(b.steps for b in drawn)
    padded = [b.padded(most) for b in drawn]
    order, mask = (torch.stack([getattr(b, key) for b in padded]) for key in ("order", "mask"))
    params = {k: torch.stack([p[k] for p in starts]) for k in starts[0]}

    def alone(params, order, mask, context):
        batches = padded[0]._replace(order=order, mask=mask)
        return fit(LINEAR, params, batches, training, loss, *context)

    context = () if context is None else (context,)
    return torch.func.vmap(alone)(params, order, mask, context)


def a_stack(y, training):
    x = numbers(TOTAL, WIDTH)
    starts = [
        {"weight": numbers(CLASSES, WIDTH, seed=k), "bias": numbers(CLASSES, seed=9 + k)}
        for k in range(4)
    ]
    drawn = [
        draw(Examples(x, y, torch.arange(n)), training, torch.Generator().manual_seed(n))
        for n in (3, 17, 1, 9)
    ]
    return starts, drawn


@pytest.mark.parametrize("ahead", [1, by_hand.AHEAD])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_by_hand_is_training_with_autograd(monkeypatch, double, optimizer, ahead):
    monkeypatch.setattr(by_hand, "AHEAD", ahead)
    training = TrainingConfig(optimizer, 0.05, weight_decay=0.01, epochs=2, batch_size=4)
    y, q = some_labels(TOTAL), numbers(TOTAL, CLASSES).softmax(dim=-1)
    y[2] = -100  # no label
    q[5] = 0  # nobody says anything
    for loss, known in (
        (CrossEntropy(labels, of_labels), y),
        (CrossEntropy(others, of_probabilities), q),
    ):
        starts, drawn = a_stack(known, training)
        found = trained(loss, starts, drawn, training)
        wanted = trained(loss.one, starts, drawn, training)
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12)


def test_targets_may_come_from_what_each_model_is_told(double):
    training = TrainingConfig(epochs=2, batch_size=4)
    starts, drawn = a_stack(some_labels(TOTAL), training)
    table = numbers(4, CLASSES, CLASSES).softmax(dim=-1)
    found = trained(CrossEntropy(received, targets_received), starts, drawn, training, table)
    wanted = trained(received, starts, drawn, training, table)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12)


def test_the_targets_of_labels_are_ones():
    found = of_labels(3, torch.tensor([[2, -100, 0]]))
    assert found.tolist() == [[[False, False, True], [False] * 3, [True, False, False]]]


def test_labels_that_are_none_are_refused_as_the_loss_refuses_them():
    for wrong, said in ((torch.rand(1, 2), "expected integers"), (torch.tensor([[7]]), "bounds")):
        with pytest.raises((ValueError, RuntimeError), match=said):
            of_labels(3, wrong)
    with pytest.raises(ValueError, match="both have to be"):
        of_probabilities(3, torch.rand(1, 5, 4))


@pytest.mark.parametrize(
    ("count", "most", "sizes"), [(100, 49, [34, 33, 33]), (4, 4, [4]), (5, 1, [1] * 5), (0, 3, [0])]
)
def test_parts_are_even(count, most, sizes):
    parts = stacked.evenly(count, most)
    assert [len(range(count)[part]) for part in parts] == sizes
    assert [i for part in parts for i in range(count)[part]] == list(range(count))
