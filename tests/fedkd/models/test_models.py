"""The networks: how many parameters, which shapes, and the same numbers as torch's own modules."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from fedkd.models import build, cnn, lenet, mlp, mobile, names, resnet8
from fedkd.models import stacked as stacks
from fedkd.models.architectures import _conv_norm
from kdcore.outputs import Outputs
from kdcore.rng import generator

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]
FAMILIES = ["mlp", "mlp-128-64", "cnn", "cnn-8-16", "resnet8", "resnet8-4"]
FAMILIES += ["lenet", "mobile", "mobile-4-8", "cnn-8-16@24", "resnet8-4@24"]


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count, shape, seed=0):
    return torch.rand(count, *shape, generator=stream(seed))


def size(model):
    return sum(value.numel() for value in model.init(stream()).values())


# Parameters and shapes


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        ("mlp", (1, 8, 8), 64 * 64 + 64 + 64 * 10 + 10),
        ("mlp-128-64", (1, 28, 28), 784 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10),
        # 3x3 kernels without bias, a scale and a shift for each channel, the head on 2 x 2 pixels
        ("cnn", (1, 8, 8), 16 * 9 + 32 + 32 * 16 * 9 + 64 + (32 * 4) * 10 + 10),
        ("cnn-8-16", (1, 28, 28), 8 * 9 + 16 + 16 * 8 * 9 + 32 + (16 * 49) * 10 + 10),
        # 5x5 kernels, then 16 x 2 x 2 features
        (
            "lenet",
            (1, 8, 8),
            6 * 25 + 12 + 16 * 6 * 25 + 32 + 64 * 120 + 120 + 120 * 84 + 84 + 84 * 10 + 10,
        ),
        # the stem, then twice a 3x3 kernel for each channel and a 1x1 kernel across them
        (
            "mobile-6-8",
            (1, 8, 8),
            (6 * 9 + 12) + (6 * 9 + 12 + 36 + 12) + (6 * 9 + 12 + 48 + 16) + 80 + 10,
        ),
        ("mlp-9@8", (1, 8, 8), 64 * 9 + 9 + 9 * 8 + 8 + 8 * 10 + 10),
        (
            "resnet8",
            (3, 32, 32),
            (16 * 3 * 9 + 32)  # stem
            + 2 * (16 * 16 * 9 + 32)  # block 0
            + (32 * 16 * 9 + 64)
            + (32 * 32 * 9 + 64)
            + (32 * 16 + 64)  # block 1 and its skip
            + (64 * 32 * 9 + 128)
            + (64 * 64 * 9 + 128)
            + (64 * 32 + 128)  # block 2
            + 64 * 10
            + 10,
        ),
    ],
)
def test_parameters_are_counted_by_hand(name, shape, count):
    assert size(build(name, shape, 10)) == count


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_and_hidden_activations_have_their_shapes(name, shape):
    model = build(name, shape, 7)
    outputs = model.predict(model.init(stream()), images(3, shape))
    assert outputs.logits.shape == (3, 7)
    widths = [hidden.shape for hidden in outputs.hidden]
    expected = {
        "mlp": [(3, 64)],
        "mlp-128-64": [(3, 128), (3, 64)],
        "cnn": [(3, 32 * (shape[1] // 4) ** 2)],
        "cnn-8-16": [(3, 16 * (shape[1] // 4) ** 2)],
        "resnet8": [(3, 64)],
        "resnet8-4": [(3, 16)],
        "lenet": [(3, 120), (3, 84)],
        "mobile": [(3, 32)],
        "mobile-4-8": [(3, 8)],
        "cnn-8-16@24": [(3, 16 * (shape[1] // 4) ** 2), (3, 24)],
        "resnet8-4@24": [(3, 16), (3, 24)],
    }
    assert widths == expected[name]
    assert model.predict(model.init(stream()), images(0, shape)).logits.shape == (0, 7)


@pytest.mark.parametrize("name", FAMILIES)
def test_initial_parameters_come_from_the_generator_alone(name):
    model = build(name, (1, 8, 8), 10)
    before = torch.get_rng_state()
    one, again, other = model.init(stream(1)), model.init(stream(1)), model.init(stream(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", FAMILIES)
def test_initial_parameters_are_spread_as_torchs_are(name):
    for key, value in build(name, (1, 8, 8), 10).init(stream()).items():
        layer, _, kind = key.rpartition(".")
        if layer.endswith("norm"):
            assert (value == (1.0 if kind == "weight" else 0.0)).all()
        elif kind == "weight":
            bound = 1 / math.sqrt(value[0].numel())
            assert value.abs().max() <= bound
            if value.numel() > 500:
                assert value.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
                assert value.mean().abs() < 0.1 * bound


def test_an_mlp_starts_as_a_linear_layer_of_torch_does():
    params = mlp((100,), 50, ()).init(stream())
    assert params["layer0.bias"].abs().max() <= 0.1  # of the fan in, as for the weight
    assert params["layer0.bias"].abs().max() > 0.08


# Against torch


def test_an_mlp_is_a_sequence_of_torchs_layers():
    model = mlp((1, 4, 4), 5, (12, 7))
    params = model.init(stream())
    module = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 5)
    )
    with torch.no_grad():
        for layer, place in (("layer0", 1), ("layer1", 3), ("layer2", 5)):
            module[place].weight.copy_(params[f"{layer}.weight"])
            module[place].bias.copy_(params[f"{layer}.bias"])
    x = images(6, (1, 4, 4))
    outputs = model.predict(params, x)
    torch.testing.assert_close(outputs.logits, module(x).detach())
    torch.testing.assert_close(outputs.hidden[0], module[:3](x).detach())
    torch.testing.assert_close(outputs.hidden[1], module[:5](x).detach())


def test_a_cnn_is_a_sequence_of_torchs_layers():
    model = cnn((3, 9, 9), 5, (8, 6))
    params = model.init(stream())
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.GroupNorm(4, 8), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.GroupNorm(2, 6), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 2 * 2, 5),
    )  # fmt: skip
    keys = ["conv0.weight", "conv0.norm.weight", "conv0.norm.bias", "conv1.weight"]
    keys += ["conv1.norm.weight", "conv1.norm.bias", "head.weight", "head.bias"]
    params = {k: v + 0.1 * torch.rand(v.shape, generator=stream(1)) for k, v in params.items()}
    with torch.no_grad():
        for parameter, key in zip(module.parameters(), keys, strict=True):
            parameter.copy_(params[key])
    x = images(6, (3, 9, 9))
    outputs = model.predict(params, x)
    torch.testing.assert_close(outputs.logits, module(x).detach())
    torch.testing.assert_close(outputs.hidden[0], module[:9](x).detach())


def moved(model):
    """Parameters away from their start, where norms are 1 and 0."""
    drawn = model.init(stream())
    return {k: v + 0.1 * torch.rand(v.shape, generator=stream(1)) for k, v in drawn.items()}


def filled(module, params, names):
    """The module with parameters in the order in which it names its own."""
    with torch.no_grad():
        for parameter, name in zip(module.parameters(), names, strict=True):
            parameter.copy_(params[name])
    return module


def normed(name):
    return [f"{name}.weight", f"{name}.norm.weight", f"{name}.norm.bias"]


def test_a_lenet_is_a_sequence_of_torchs_layers():
    model = lenet((3, 9, 9), 5)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 5, padding=2, bias=False), nn.GroupNorm(2, 6), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(6, 16, 5, padding=2, bias=False), nn.GroupNorm(4, 16), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(64, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, 5),
    )  # fmt: skip
    names = [*normed("conv0"), *normed("conv1")]
    names += [
        f"{name}.{kind}" for name in ("layer0", "layer1", "head") for kind in ("weight", "bias")
    ]
    params, x = moved(model), images(6, (3, 9, 9))
    expected = filled(module, params, names)(x).detach()
    torch.testing.assert_close(model.predict(params, x).logits, expected)


def test_a_mobile_network_is_a_sequence_of_torchs_layers():
    model = mobile((3, 9, 9), 5, (6, 8))
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.GroupNorm(2, 6), nn.ReLU(),
        nn.Conv2d(6, 6, 3, 2, padding=1, groups=6, bias=False), nn.GroupNorm(2, 6), nn.ReLU(),
        nn.Conv2d(6, 6, 1, bias=False), nn.GroupNorm(2, 6), nn.ReLU(),
        nn.Conv2d(6, 6, 3, 2, padding=1, groups=6, bias=False), nn.GroupNorm(2, 6), nn.ReLU(),
        nn.Conv2d(6, 8, 1, bias=False), nn.GroupNorm(4, 8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    layers = ["stem", "pair0.deep", "pair0.wide", "pair1.deep", "pair1.wide"]
    names = [key for layer in layers for key in normed(layer)] + ["head.weight", "head.bias"]
    params, x = moved(model), images(6, (3, 9, 9))
    expected = filled(module, params, names)(x).detach()
    torch.testing.assert_close(model.predict(params, x).logits, expected)


def test_features_of_a_width_are_a_layer_more():
    model, plain = build("mlp-9@8", (4,), 3), mlp((4,), 3, (9, 8))
    params, x = moved(model), images(6, (4,))
    same = dict(zip(plain.init(stream()), params.values(), strict=True))
    one, other = model.predict(params, x), plain.predict(same, x)
    torch.testing.assert_close(one.logits, other.logits)
    torch.testing.assert_close(one.hidden, other.hidden)


def test_a_residual_block_by_torch():
    model = resnet8((1, 8, 8), 3, 4)
    params = model.init(stream())
    p = {k: v + 0.1 * torch.rand(v.shape, generator=stream(1)) for k, v in params.items()}

    def convolve(name, x, stride=1):
        kernel = p[f"{name}.weight"]
        padding = {3: 1, 1: 0}[kernel.shape[-1]]
        x = F.conv2d(x, kernel, stride=stride, padding=padding)
        return F.group_norm(x, 4, p[f"{name}.norm.weight"], p[f"{name}.norm.bias"])

    x = images(5, (1, 8, 8))
    value = F.relu(convolve("stem", x))
    value = F.relu(value + convolve("block0.b", F.relu(convolve("block0.a", value))))
    for block in ("block1", "block2"):
        through = convolve(f"{block}.b", F.relu(convolve(f"{block}.a", value, 2)))
        value = F.relu(through + convolve(f"{block}.skip", value, 2))
    assert value.shape == (5, 16, 2, 2)
    pooled = value.mean(dim=(2, 3))
    outputs = model.predict(p, x)
    torch.testing.assert_close(outputs.hidden[0], pooled)
    torch.testing.assert_close(outputs.logits, F.linear(pooled, p["head.weight"], p["head.bias"]))


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_lie_innermost_and_change_nothing(channels, double):
    params = cnn((channels, 8, 8), 10, (4, 8)).init(stream())
    x = images(5, (channels, 8, 8)).double()
    found = _conv_norm(params, "conv0", x)
    assert found.is_contiguous(memory_format=torch.channels_last)
    kernel = params["conv0.weight"]
    norm = params["conv0.norm.weight"], params["conv0.norm.bias"]
    expected = F.group_norm(F.conv2d(x, kernel, padding=1), 4, *norm)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FAMILIES)
def test_vmap_over_models_is_a_loop(name, double):
    model, x = build(name, (1, 8, 8), 10), images(4, (1, 8, 8)).double()
    drawn = [model.init(stream(seed)) for seed in range(3)]

    def gradient(params):
        def loss(p):
            return model.predict(p, x).logits.logsumexp(-1).sum()

        return torch.func.grad(loss)(params)

    stacked = {key: torch.stack([p[key] for p in drawn]) for key in drawn[0]}
    logits = torch.func.vmap(lambda p: model.predict(p, x).logits)(stacked)
    gradients = torch.func.vmap(gradient)(stacked)
    for place, params in enumerate(drawn):
        close = {"rtol": 1e-11, "atol": 1e-11}
        torch.testing.assert_close(logits[place], model.predict(params, x).logits, **close)
        for key, value in gradient(params).items():
            torch.testing.assert_close(gradients[key][place], value, **close)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_example_does_not_depend_on_its_neighbours(name, double):
    # No batch statistics: padding, and who is in a batch, change nothing.
    model = build(name, (1, 8, 8), 10)
    params, x = model.init(stream()), images(6, (1, 8, 8)).double()
    together = model.predict(params, x).logits
    alone = torch.cat([model.predict(params, one.unsqueeze(0)).logits for one in x])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


# Names


def test_a_name_is_the_family_and_its_sizes():
    of_tokens = ("gru", "lstm", "transformer", "ngram")
    assert names() == ("mlp", "cnn", "lenet", "mobile", "resnet8", *of_tokens)
    assert size(build("mobile-6-8", (1, 8, 8), 3)) == size(mobile((1, 8, 8), 3, (6, 8)))
    assert size(build("mlp-9@8", (4,), 3)) == size(mlp((4,), 3, (9, 8)))
    assert size(build("mlp-9-8", (4,), 3)) == size(mlp((4,), 3, (9, 8)))
    assert size(build("cnn-8", (1, 8, 8), 3)) == size(cnn((1, 8, 8), 3, (8,)))
    assert size(build("resnet8-4", (1, 8, 8), 3)) == size(resnet8((1, 8, 8), 3, 4))


@pytest.mark.parametrize(
    "name",
    ["", "mlpp", "resnet", "mlp-", "mlp-0", "mlp-x", "cnn--8", "resnet8-8-8", "mlp-²", "lenet-6"]
    + ["cnn@", "cnn@x", "cnn@0", "@8", "cnn@8@8"],
)
def test_a_name_that_is_none_is_an_error_that_lists_the_models(name):
    with pytest.raises(ValueError, match=f"unknown model '{name}'; .*mlp-128-64 .*resnet8-32"):
        build(name, (1, 8, 8), 10)


def test_a_name_that_is_nearly_one_is_guessed():
    with pytest.raises(ValueError, match="did you mean 'resnet8'?"):
        build("resnet", (1, 8, 8), 10)


@pytest.mark.parametrize(
    ("name", "shape", "least"),
    [
        ("cnn", (64,), 4),
        ("cnn", (1, 3, 8), 4),
        ("cnn-4-4-4", (1, 8, 7), 8),
        ("resnet8", (3, 3, 3), 4),
    ],
)
def test_images_too_small_or_none_at_all_are_an_error(name, shape, least):
    with pytest.raises(ValueError, match=f"needs images of at least {least} x {least}.*mlp takes"):
        build(name, shape, 10)


# Stacks


def stacked_forms(name):
    """Every form of a network for a stack: its own, and those for other devices."""
    model = build(name, (1, 8, 8), 5)
    forms = {"own": model.predict.stack}
    if name == "cnn-4-6":
        forms["grouped"] = partial(stacks.cnn, convolutions=["conv0", "conv1"])
    if name == "lenet":
        forms["grouped"] = stacks.lenet
    if name.startswith("mobile"):
        forms["grouped"] = partial(stacks.mobile, pairs=["pair0", "pair1"])
    if name.startswith("resnet8"):
        forms["grouped"] = partial(stacks.resnet8, blocks=["block0", "block1", "block2"])
    return model, forms


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "name", ["mlp-6", "mlp-7-6", "cnn-4-6", "resnet8-4", "lenet", "mobile-4-6", "cnn-4-6@7"]
)
def test_every_form_for_a_stack_is_the_form_for_one(name, shared, double):
    model, forms = stacked_forms(name)
    each = [model.init(generator(seed, "stack")) for seed in range(3)]
    params = {k: torch.stack([p[k] for p in each]).requires_grad_() for k in each[0]}
    x = torch.rand(1 if shared else 3, 4, 1, 8, 8, generator=generator(0, "x"))
    weights = torch.rand(3, 4, 5, generator=generator(0, "w"))
    expected = [
        model.predict.one({k: v[i] for k, v in params.items()}, x[0 if shared else i])
        for i in range(3)
    ]
    logits = torch.stack([outputs.logits for outputs in expected])
    wanted = torch.autograd.grad((weights * logits.square()).sum(), list(params.values()))
    for form in forms.values():
        outputs = form(params, x)
        torch.testing.assert_close(outputs.logits, logits, rtol=1e-10, atol=1e-10)
        for layer, hidden in enumerate(outputs.hidden):
            other = torch.stack([alone.hidden[layer] for alone in expected])
            torch.testing.assert_close(hidden, other, rtol=1e-10, atol=1e-10)
        found = torch.autograd.grad(
            (weights * outputs.logits.square()).sum(), list(params.values())
        )
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shared", [False, True])
def test_a_backward_pass_by_hand_is_that_of_autograd(shared, double):
    model = build("mlp-7-6", (1, 8, 8), 5)
    each = [model.init(generator(seed, "stack")) for seed in range(3)]
    params = {k: torch.stack([p[k] for p in each]).requires_grad_() for k in each[0]}
    x = torch.rand(1 if shared else 3, 4, 1, 8, 8, generator=generator(0, "x"))
    outputs = model.predict.stack(params, x)
    shown = [outputs.logits, *outputs.hidden]
    for used in ([0], [1], [0, 1, 2]):  # which outputs the loss looks at
        total = sum(shown[i].square().sum() for i in used)
        upstream = [2 * shown[i].detach() if i in used else None for i in range(3)]
        wanted = torch.autograd.grad(
            total, list(params.values()), retain_graph=True, materialize_grads=True
        )
        with torch.no_grad():
            found = model.predict.backward(
                params, x, outputs, Outputs(upstream[0], tuple(upstream[1:]))
            )
        for name, other in zip(params, wanted, strict=True):
            torch.testing.assert_close(found[name].formed(), other, rtol=1e-10, atol=1e-10)
