"""Encoders: what each shows, and that an autoencoder learns to draw its inputs."""

import pytest
import torch

from fedkd import encoders
from fedkd.core import Task
from fedkd.encoders.autoencoder import Autoencoder
from fedkd.encoders.pixels import Pixels
from fedkd.encoders.untrained import Untrained
from fedkd.models import build
from kdcore.outputs import Outputs
from kdcore.training.loop import TrainingConfig

pytestmark = pytest.mark.usefixtures("double")
SHAPE = (1, 3, 4)


@pytest.fixture
def model():
    return build("mlp-6", SHAPE, 5)


def dice(seed=0):
    return torch.Generator().manual_seed(seed)


def test_pixels_are_the_inputs(model):
    x = torch.rand(7, *SHAPE)
    params = model.init(dice())
    assert torch.equal(Pixels().shown(model.predict)(params, x).logits, x.flatten(1))
    assert Pixels().pretrained(model, params, x, TrainingConfig(), dice()) is params


def test_a_network_shows_its_features_whatever_its_head(model):
    x, params = torch.rand(7, *SHAPE), model.init(dice())
    for encoder in (Untrained(), Autoencoder()):
        seen = encoder.shown(model.predict)(params, x).logits
        assert torch.equal(seen, model.predict(params, x).hidden[-1])
        assert encoders.width(encoder, model, Task({"m": model}, 5, shape=SHAPE)) == 6


def test_the_first_step_of_a_decoder_by_hand(model):
    # The decoder A begins with zeros, so nothing pulls at the features; with one full batch, the
    # gradient of mean_d (A h + b - x)_d^2 by b_d is -2 mean x_d / D, and by A_dj the same of
    # x_d h_j. Two steps: in the second, features move by what the first has made of A.
    x, params = torch.rand(8, *SHAPE, generator=dice(1)), model.init(dice())
    step = TrainingConfig(learning_rate=0.5, batch_size=0)
    once = Autoencoder().pretrained(model, params, x, step, dice())
    assert all(torch.equal(once[name], params[name]) for name in params)
    twice = Autoencoder().pretrained(model, params, x, TrainingConfig("sgd", 0.5, 0, 2, 0), dice())
    weight, bias = params["layer0.weight"], params["layer0.bias"]
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    flat = x.flatten(1)
    hidden = torch.relu(flat @ weight.T + bias)
    factor = 2 * 0.5 / 12 / 8
    decoder, shift = factor * flat.T @ hidden.detach(), factor * flat.sum(dim=0)
    loss = (hidden @ decoder.T + shift - flat).square().mean()
    slopes = torch.autograd.grad(loss, [weight, bias])
    torch.testing.assert_close(twice["layer0.weight"], weight - 0.5 * slopes[0])
    torch.testing.assert_close(twice["layer0.bias"], bias - 0.5 * slopes[1])
    assert torch.equal(twice["layer1.weight"], params["layer1.weight"])


def test_trained_features_hold_more_of_the_inputs_than_untrained_ones():
    # Inputs on a plane of two dimensions in 12: the best linear map back from trained features
    # leaves less than that from features as they were drawn.
    model = build("mlp-4", SHAPE, 5)
    x = (torch.randn(60, 2, generator=dice(1)) @ torch.randn(2, 12, generator=dice(2))).sigmoid()
    params = model.init(dice())
    training = TrainingConfig("adam", 0.01, epochs=60, batch_size=10)
    learnt = Autoencoder().pretrained(model, params, x.view(-1, *SHAPE), training, dice())

    def left(params):
        hidden = model.predict(params, x.view(-1, *SHAPE)).hidden[-1]
        full = torch.cat([hidden, torch.ones(60, 1)], dim=1)
        return float((full @ torch.linalg.lstsq(full, x).solution - x).square().mean())

    assert left(learnt) < 0.5 * left(params)


def test_several_inputs_are_drawn_side_by_side():
    model = build("mlp-6", ((3,), (2,)), 5)
    x = torch.rand(9, 3), torch.rand(9, 2)
    params = model.init(dice())
    assert Pixels().shown(model.predict)(params, x).logits.shape == (9, 5)
    learnt = Autoencoder().pretrained(
        model, params, x, TrainingConfig("adam", 0.01, epochs=2), dice()
    )
    assert not torch.equal(learnt["layer0.weight"], params["layer0.weight"])


def test_an_encoder_that_shows_nothing_says_so(model):
    with pytest.raises(NotImplementedError, match="Encoder does not say what it shows"):
        encoders.Encoder().shown(model.predict)


@pytest.mark.parametrize(
    ("look", "said"),
    [
        (lambda x: x.flatten(1) @ torch.ones(3, 2), r"of shape \(1, 3, 4\): RuntimeError: mat1 "),
        (lambda x: x, r"shows float64 \(\d+, 1, 3, 4\) of \d+ inputs; expected a row of real"),
        (lambda x: x.flatten(1).sum(dim=0, keepdim=True), r"shows float64 \(1, 12\) of \d+ inputs"),
        (lambda x: x.flatten(1) > 0, r"shows bool \(\d+, 12\) of"),
        (lambda x: x.flatten(1) / 0 * 0, "numbers that are not finite"),
    ],
    ids=["other-shape", "no-rows", "one-row", "no-numbers", "not-finite"],
)
def test_an_encoder_of_ones_own_that_cannot_be_used_is_said(look, said, model):
    class Mine(encoders.Encoder):
        def shown(self, predict):
            return lambda params, x: Outputs(look(x))

    with pytest.raises(ValueError, match=f"^encoder Mine .*{said}"):
        encoders.width(Mine(), model, Task({"m": model}, 5, shape=SHAPE))
