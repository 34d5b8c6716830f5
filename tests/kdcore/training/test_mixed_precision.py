"""Mixed precision: computed in bfloat16, and float32 in all that is kept or said."""

import pytest
import torch

from fedkd.core import Client, Task
from fedkd.engines.batched import batched
from fedkd.models import build
from kdcore.training.batches import Examples, draw
from kdcore.training.loop import TrainingConfig, fit, supervised
from kdcore.training.mixed_precision import in_precision
from tests.modules import Dropped, Net

GENERATOR = torch.Generator().manual_seed(0)
EXAMPLES = Examples(
    torch.rand(12, 1, 16, 16, generator=GENERATOR), torch.arange(12) % 3, torch.arange(12)
)
TRAINING = TrainingConfig("momentum", 0.05, epochs=1, batch_size=4)


def trained(predict, params):
    batches = draw(EXAMPLES, TRAINING, torch.Generator().manual_seed(1))
    return fit(predict, params, batches, TRAINING, supervised)


@pytest.mark.parametrize("name", ["cnn-8-8", "resnet8-8", "lenet", "mobile-8-8", "cnn-8-8@8"])
def test_products_are_of_bfloat16_and_the_rest_is_float32(name):
    model = build(name, (1, 16, 16), 3)
    params, x = model.init(torch.Generator().manual_seed(2)), EXAMPLES.x
    half = in_precision(model.predict, "bfloat16")
    logits, exact = half(params, x).logits, model.predict(params, x).logits
    assert {value.dtype for value in [logits, *half(params, x).hidden]} == {torch.float32}
    assert torch.equal(logits, logits.bfloat16().float())  # the last product has eight bits
    assert 0 < (logits - exact).abs().max() < 2**-4 * exact.abs().max()
    new, expected = trained(half, params), trained(model.predict, params)
    assert {value.dtype for value in new.values()} == {torch.float32}
    moved = sum(float((expected[k] - params[k]).square().sum()) for k in params)
    far = sum(float((expected[k] - new[k]).square().sum()) for k in params)
    assert 0 < far < moved / 4


@pytest.mark.parametrize("name", ["cnn-4-4", "resnet8-4"])
def test_a_stack_is_computed_as_one_model_is(name):
    model = build(name, (1, 16, 16), 3)
    half = in_precision(model.predict, "bfloat16")
    each = [model.init(torch.Generator().manual_seed(k)) for k in range(3)]
    together = {key: torch.stack([params[key] for params in each]) for key in each[0]}
    found = half.stack(together, EXAMPLES.x.unsqueeze(0)).logits
    for logits, params in zip(found, each, strict=True):
        torch.testing.assert_close(logits, half(params, EXAMPLES.x).logits, rtol=0, atol=2**-6)


@pytest.mark.parametrize("make", [Dropped, Net])
def test_modules_of_a_user_learn_in_it(make):
    model = build(make, (1, 16, 16), 3)
    params = model.init(torch.Generator().manual_seed(2))
    half = in_precision(model.predict, "bfloat16")
    far = half(params, EXAMPLES.x).logits - model.predict(params, EXAMPLES.x).logits
    assert 0 < far.abs().max() < 0.1
    new = trained(half, params)
    assert {k: v.dtype for k, v in new.items()} == {k: v.dtype for k, v in params.items()}
    clients = [Client(k, "own", params, EXAMPLES) for k in range(2)]
    task = Task({"own": model._replace(predict=half)}, 3)
    inputs = [(draw(EXAMPLES, TRAINING, torch.Generator().manual_seed(1)),)] * 2
    for found in batched()(_train, task, clients, inputs):
        assert all(torch.isfinite(value).all() for value in found.values())
        torch.testing.assert_close(found["head.weight"], new["head.weight"], rtol=0, atol=0.02)


def _train(predict, params, batches):
    return fit(predict, params, batches, TRAINING, supervised)


def test_what_is_not_for_it_is_left_as_it_is():
    perceptron, network = (build(n, (1, 16, 16), 3).predict for n in ("mlp-8", "cnn-4-4"))
    assert in_precision(perceptron, "bfloat16") is perceptron  # gradients by hand
    assert in_precision(network, "float32") is network


def test_parameters_of_many_digits_keep_them(double):
    model = build("cnn-4-4", (1, 16, 16), 3)
    params, x = model.init(torch.Generator().manual_seed(2)), EXAMPLES.x.double()
    half = in_precision(model.predict, "bfloat16")
    assert torch.equal(half(params, x).logits, model.predict(params, x).logits)
