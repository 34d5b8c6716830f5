"""Losses in the place of a target's: ours by hand, what is none refused, and when clients stack."""

import math
import re

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from fedkd import losses
from fedkd.algorithms.fedmd import FedMD
from fedkd.algorithms.local import Local
from fedkd.engines.batched import batched
from fedkd.losses import with_losses
from fedkd.rounds.synchronous import simulate
from fedkd.targets import CLASSES
from kdcore.outputs import Outputs


def params(algorithm, task, clients, **how):
    """Every client's parameters after two rounds."""
    last = list(simulate(algorithm, task, clients, rounds=2, **how))[-1]
    return {client.id: client.params for client in last.clients}


def each(outputs, y):
    return F.cross_entropy(outputs, y, reduction="none")


class Weighted(nn.Module):
    """Cross-entropy of which the first class counts twice; a module with a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("first", torch.tensor(0))

    def forward(self, outputs, y):
        return each(outputs, y) * (1 + (y == self.first))


def branching(outputs, y):
    """Cross-entropy that asks a tensor for a number, which vmap refuses."""
    return outputs.sum(-1) if outputs.sum().item() > 1e9 else each(outputs, y)


def in_place(outputs, y):
    """Cross-entropy that writes into a buffer of its own, which vmap refuses as well."""
    values = torch.zeros(len(y))
    for place in range(len(y)):
        values[place] = each(outputs[place : place + 1], y[place : place + 1])[0]
    return values


def test_losses_of_real_numbers_by_hand():
    outputs, y = torch.tensor([[0.5, 3.0], [0.0, 0.0]]), torch.zeros(2, 2)
    torch.testing.assert_close(losses.absolute(outputs, y), torch.tensor([1.75, 0.0]))
    torch.testing.assert_close(losses.squared(outputs, y), torch.tensor([4.625, 0.0]))


def test_the_focal_loss_by_hand():
    outputs = torch.tensor([[math.log(3.0), 0.0]])  # 3/4 and 1/4
    found = torch.cat([losses.focal(outputs, torch.tensor([label])) for label in (0, 1)])
    expected = [-(0.25**2) * math.log(0.75), -(0.75**2) * math.log(0.25)]
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda outputs: outputs, "fails with outputs (8, 5) and y (8,): TypeError: "),
        (lambda outputs, y: F.cross_entropy(outputs, y), "gives shape () for 8 examples; expected"),
        (lambda outputs, y: outputs, "gives shape (8, 5) for 8 examples; expected one value per"),
        (lambda outputs, y: 1.0, "gives a float; expected a tensor (B,)"),
        (lambda outputs, y: y / outputs.detach()[:, 0], "has no gradient"),
        (lambda outputs, y: (outputs[:, 0] - 9).log(), "gives values that are no finite numbers"),
        (
            lambda outputs, y: (outputs - outputs).sqrt().sum(-1),
            "gives gradients that are no finite",
        ),
        (lambda outputs, y: each(F.dropout(outputs), y), "gives other values the second time"),
        (lambda outputs, y: each(outputs - outputs.mean(0), y), "depends on the other examples"),
        (nn.CrossEntropyLoss, "the loss CrossEntropyLoss gives shape ()"),
        (nn.Linear, "the loss Linear cannot be made: TypeError: "),
        (losses.squared, "the loss squared is for the target real, and each example has one class"),
    ],
)
def test_what_is_no_loss_is_refused_in_a_line(tiny, loss, said):
    federation = tiny()
    with pytest.raises(ValueError, match=re.escape(said)) as refused:
        with_losses(federation.task, federation.clients, loss)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("loss", [each, Weighted, nn.CrossEntropyLoss(reduction="none")])
def test_a_loss_that_vmap_maps_is_stacked_and_engines_agree(tiny, loss):
    federation = tiny()
    task = with_losses(federation.task, federation.clients, loss)
    assert all(getattr(model.predict, "alone", None) is None for model in task.models.values())
    one = params(Local(), task, federation.clients)
    stacked = params(Local(), task, federation.clients, engine=batched())
    torch.testing.assert_close(stacked, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", [branching, in_place])
def test_one_that_vmap_refuses_has_clients_run_in_turn_and_bits_are_the_same(tiny, loss):
    federation, engine = tiny(), batched()
    task = with_losses(federation.task, federation.clients, loss)
    one = params(Local(), task, federation.clients)
    torch.testing.assert_close(
        params(Local(), task, federation.clients, engine=engine), one, rtol=0, atol=0
    )
    assert engine.notes
    assert all(f"the loss {loss.__name__} cannot be stacked (" in note for note in engine.notes)
    usual = params(Local(), federation.task, federation.clients)  # it is cross-entropy, too
    torch.testing.assert_close(one, usual, rtol=1e-4, atol=1e-5)


def test_a_class_is_made_and_what_it_keeps_counts(tiny):
    federation = tiny()
    found = with_losses(federation.task, federation.clients, Weighted).target
    values = found.loss(Outputs(torch.zeros(2, 3)), torch.tensor([0, 1]))
    torch.testing.assert_close(values, torch.tensor([2 * math.log(3), math.log(3)]))


def test_numbers_of_16_bits_are_worked_out_in_more(tiny):
    federation, seen = tiny(), []

    def noting(outputs, y):
        seen.append(outputs.dtype)
        return each(outputs, y)

    target = with_losses(federation.task, federation.clients, noting).target
    values = target.loss(Outputs(torch.zeros(2, 3, dtype=torch.bfloat16)), torch.tensor([0, 1]))
    assert (values.dtype, seen[-1]) == (torch.bfloat16, torch.float32)


def test_a_peer_gets_no_gradient_from_a_distillation_loss(tiny):
    federation = tiny()

    def squared(outputs, q):
        return (outputs.softmax(-1) - q).square().sum(-1)

    target = with_losses(federation.task, federation.clients, distillation=squared).target
    student = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    peer = torch.tensor([[0.0, 2.0, 0.0]], requires_grad=True)
    value = target.divergence(student, peer)
    torch.testing.assert_close(value, (student.softmax(-1) - peer.softmax(-1)).square().sum(-1))
    assert torch.autograd.grad(value.sum(), [student, peer], allow_unused=True)[1] is None


def each_towards(outputs, q):
    return -(q * outputs.log_softmax(-1)).sum(-1)


def test_the_target_is_of_the_task_alone(tiny):
    federation = tiny()
    task = with_losses(federation.task, federation.clients, each, each_towards)
    assert task.target.name == CLASSES.name
    assert federation.task.target == CLASSES
    assert with_losses(federation.task, federation.clients) == federation.task


def test_fedmd_by_logits_fits_them_as_the_paper_does():
    assert FedMD().properties.distils
    assert not FedMD(exchange="logits").properties.distils
