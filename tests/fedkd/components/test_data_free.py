"""Models asked together, and inputs made from noise: against numbers that a person can derive."""

import math

import pytest
import torch
from torch import nn

from fedkd.components.data_free.ensemble import Ensemble, asked
from fedkd.components.data_free.inputs import Inputs, check_makeable, generated, initial, noise
from fedkd.core import Task
from fedkd.models import build
from kdcore.rng import generator
from kdcore.training.loop import TrainingConfig

CPU = torch.device("cpu")


def wanted(shape=(1, 6, 6), steps=3, count=4):
    return Inputs(shape, 5, CPU, TrainingConfig("adam", 0.01, epochs=steps, batch_size=count), 7, 3)


def test_statistics_of_a_batch_are_held_against_the_running_ones():
    # Columns (1, 3) and (1, 1): means 2 and 1, variances 1 and 0; the layer knows 0 and 1.
    layer = nn.BatchNorm1d(2, affine=False, eps=0.0).eval()
    x = torch.tensor([[1.0, 1.0], [3.0, 1.0]], requires_grad=True)
    logits, unlike = asked(layer, x)
    assert torch.equal(logits, x)
    assert unlike.item() == pytest.approx(math.sqrt(5) + 1)
    # Each mean moves by 1/2 for each entry: 2 / sqrt(5) / 2 and 1 / sqrt(5) / 2; the variance of
    # the first column is what is known, and where that of the second is 0 it has no slope.
    (slope,) = torch.autograd.grad(unlike, x)
    assert slope[0].tolist() == pytest.approx([1 / math.sqrt(5), 1 / math.sqrt(5) / 2])
    assert not layer._forward_pre_hooks


def test_statistics_of_images_are_by_channel_and_those_of_all_layers_add_up():
    one, other = nn.BatchNorm2d(3).eval(), nn.BatchNorm2d(3).eval()
    other.running_mean.fill_(2.0)
    other.running_var.fill_(3.0)
    x = torch.randn(4, 3, 2, 2, generator=generator(0))
    expected = 0.0
    for layer, given in ((one, x), (other, one(x))):
        channels = [given[:, c].flatten() for c in range(3)]
        means = torch.stack([c.mean() for c in channels])
        spreads = torch.stack([c.square().mean() - c.mean() ** 2 for c in channels])
        expected += (means - layer.running_mean).norm() + (spreads - layer.running_var).norm()
    _, unlike = asked(nn.Sequential(one, other, nn.Flatten(), nn.Linear(12, 2)), x)
    torch.testing.assert_close(unlike, expected)


@pytest.mark.parametrize("layer", [nn.Identity(), nn.BatchNorm1d(2, track_running_stats=False)])
def test_where_nothing_is_known_nothing_is_unlike(layer):
    assert float(asked(layer, torch.randn(3, 2))[1]) == 0


def test_an_ensemble_is_the_weighted_mean_of_logits():
    double, triple = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    double.weight.data.fill_(2.0)
    triple.weight.data.fill_(6.0)
    even = Ensemble.of([double, triple], CPU)
    assert even.logits(torch.ones(3, 1)).tolist() == [[4.0]] * 3
    assert even._replace(weights=torch.tensor([0.1, 0.3])).logits(torch.ones(1, 1)) == 5.0
    assert not any(p.requires_grad for member in even.members for p in member.parameters())
    many = torch.randn(1201, 1)
    torch.testing.assert_close(even.logits(many), 4 * many)


@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 8, 9), (1, 2, 2), (5,), (4, 6)], ids=str)
def test_inputs_have_the_shape_that_is_wanted_from_0_to_1(shape):
    for source in (generated, noise):
        x, y = source(
            wanted(shape),
            lambda x, y: x.square().sum(),
            lambda x: x.flatten(1).argmax(1),
            generator(0),
        )
        assert x.shape == (4, *shape)
        assert y.shape == (4,)
        assert 0 <= x.min() < x.max() <= 1
        assert not x.requires_grad


def test_weights_begin_small_and_scales_near_one():
    params = initial((3, 8, 8), 50, 20, generator(0))
    assert params["first.weight"].shape == (2 * 20 * 2 * 2, 50)
    assert params["conv2.weight"].shape == (20, 40, 3, 3)
    assert float(params["conv1.weight"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(params["norm1.weight"].mean()) == pytest.approx(1, abs=0.01)
    assert not params["last.bias"].any()


def test_the_best_of_the_steps_is_kept():
    seen, values = [], [3.0, 1.0, 2.0]

    def objective(x, y):
        seen.append(x.detach())
        return x.sum() - x.sum().detach() + values[len(seen) - 1]

    x, _ = generated(wanted(), objective, torch.Tensor.argmax, generator(0))
    assert len(seen) == 3
    assert torch.equal(x, seen[1])
    assert not torch.equal(seen[0], seen[1])


def test_noise_and_generator_learn_together():
    # Towards bright images: without z the brightness would have to come of the weights alone.
    def dark(x, y):
        return (1 - x).mean()

    def after(steps):
        return float(generated(wanted(steps=steps), dark, dark, generator(0))[0].mean())

    assert after(0) == pytest.approx(0.5, abs=0.05)
    assert after(40) > 0.8


def test_what_cannot_be_made_is_said():
    numbers = {"mlp-8": build("mlp-8", (4,), 3)}
    check_makeable("DENSE", Task(numbers, 3, shape=(4,)))
    for task, words in (
        (Task(numbers, 3), r"has shape \(\)"),
        (Task(numbers, 3, shape=((4,), (2,))), r"has shape \(\(4,\), \(2,\)\)"),
        (Task(numbers, 3, shape=(4,), few=torch.arange(8).view(2, 4)), "or other numbers"),
        (Task(numbers, 3, shape=(4,), build=lambda name: numbers[name]), "numbers of its nodes"),
    ):
        with pytest.raises(ValueError, match=words):
            check_makeable("DENSE", task)
