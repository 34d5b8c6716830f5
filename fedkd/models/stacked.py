"""The networks of `fedkd.models` for a stack of K models: fewer and larger operations.

Dense layers are batched matrix products; over an input that all models share they are one wide
product. On a GPU, convolutions are one grouped convolution, with the channels of all models side by
side. On a CPU the convolution is the work, and grouping it (and its norm) takes longer than one
model after another with channels innermost in memory: there the models take turns.

Shapes: each parameter is (K, ...); x is (K, B, ...), or (1, B, ...) where all models see the same.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from kdcore.outputs import Outputs
from kdcore.training.loop import Params, Predict
from kdcore.training.optimizers import ByExample, Gradient, Product


def by_device(grouped: Predict, one: Predict) -> Predict:
    """The form of a stack of convolutional networks that is quicker where the images are."""

    def stack(params: Params, x: Tensor) -> Outputs:
        return grouped(params, x) if x.device.type != "cpu" else in_turn(one, params, x)

    return stack


def in_turn(one: Predict, params: Params, x: Tensor) -> Outputs:
    """One model after another."""
    models = zip(*(value.unbind() for value in params.values()), strict=True)
    images = x.unbind() if len(x) > 1 else itertools.repeat(x[0])
    each = [
        one(dict(zip(params, model, strict=True)), i)
        for model, i in zip(models, images, strict=False)
    ]
    hidden = zip(*(outputs.hidden for outputs in each), strict=True)
    logits = torch.stack([outputs.logits for outputs in each])
    return Outputs(logits, tuple(torch.stack(layer) for layer in hidden))


def mlp(params: Params, x: Tensor, layers: Sequence[str]) -> Outputs:
    """A perceptron with ReLU between its layers."""
    value, hidden = x.flatten(2), []
    for name in layers[:-1]:
        value = linear(params, name, value).relu_()
        hidden.append(value)
    return Outputs(linear(params, layers[-1], value), tuple(hidden))


def mlp_backward(
    params: Params, x: Tensor, outputs: Outputs, upstream: Outputs, layers: Sequence[str]
) -> dict[str, Gradient]:
    """The gradients of a perceptron's parameters; None upstream stands for zero."""
    inputs = (x.flatten(2), *outputs.hidden)
    gradients: dict[str, Gradient] = {}
    delta = upstream.logits
    if delta is None:
        delta = torch.zeros_like(outputs.logits)
    for depth in range(len(layers) - 1, -1, -1):
        weight = params[f"{layers[depth]}.weight"]
        gradients[f"{layers[depth]}.weight"] = Product(delta, inputs[depth])
        gradients[f"{layers[depth]}.bias"] = ByExample(delta)
        if depth:
            delta = delta @ weight
            if upstream.hidden[depth - 1] is not None:
                delta += upstream.hidden[depth - 1]
            delta = torch.ops.aten.threshold_backward(delta, inputs[depth], 0)  # of the ReLU
    return gradients


def cnn(params: Params, x: Tensor, convolutions: Sequence[str]) -> Outputs:
    """Convolutions, each followed by max-pooling and ReLU."""
    count, value = len(params["head.weight"]), side_by_side(x)
    for name in convolutions:
        value = F.max_pool2d(conv_norm(params, name, value), 2).relu()
    features = value.unflatten(1, (count, -1)).transpose(0, 1).flatten(2)
    return Outputs(linear(params, "head", features), (features,))


def resnet8(params: Params, x: Tensor, blocks: Sequence[str]) -> Outputs:
    """Residual blocks of two convolutions; those with a skip halve the image."""
    count = len(params["head.weight"])
    value = conv_norm(params, "stem", side_by_side(x)).relu()
    for name in blocks:
        halves = f"{name}.skip.weight" in params
        inner = conv_norm(params, f"{name}.a", value, 2 if halves else 1).relu()
        around = conv_norm(params, f"{name}.skip", value, 2) if halves else value
        value = (conv_norm(params, f"{name}.b", inner) + around).relu()
    features = value.mean(dim=(-2, -1)).unflatten(1, (count, -1)).transpose(0, 1)
    return Outputs(linear(params, "head", features), (features,))


def lenet(params: Params, x: Tensor) -> Outputs:
    """Two convolutions, then three dense layers."""
    count, value = len(params["head.weight"]), side_by_side(x)
    for name in ("conv0", "conv1"):
        value = F.max_pool2d(conv_norm(params, name, value), 2).relu()
    value = value.unflatten(1, (count, -1)).transpose(0, 1).flatten(2)
    first = linear(params, "layer0", value).relu()
    second = linear(params, "layer1", first).relu()
    return Outputs(linear(params, "head", second), (first, second))


def mobile(params: Params, x: Tensor, pairs: Sequence[str]) -> Outputs:
    """Pairs of convolutions, by channel and by pixel."""
    count = len(params["head.weight"])
    value = conv_norm(params, "stem", side_by_side(x)).relu()
    for name in pairs:
        value = conv_norm(params, f"{name}.deep", value, 2).relu()
        value = conv_norm(params, f"{name}.wide", value).relu()
    features = value.mean(dim=(-2, -1)).unflatten(1, (count, -1)).transpose(0, 1)
    return Outputs(linear(params, "head", features), (features,))


def linear(params: Params, name: str, x: Tensor) -> Tensor:
    """(1 or K, B, D) -> (K, B, O)."""
    weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]  # (K, O, D), (K, O)
    if len(x) == len(weight):
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
    wide = F.linear(x[0], weight.flatten(0, 1), bias.flatten())  # (B, K O)
    apart: Tensor = wide.unflatten(1, bias.shape)
    return apart.transpose(0, 1)


def side_by_side(x: Tensor) -> Tensor:
    """(1 or K, B, c, height, width) -> (B, c or K c, height, width)."""
    return x.transpose(0, 1).flatten(1, 2)


def conv_norm(params: Params, name: str, x: Tensor, stride: int = 1) -> Tensor:
    """A convolution and its norm, (B, c or K c, ...) -> (B, K o, ...)."""
    kernel = params[f"{name}.weight"]  # (K, o, c, k, k)
    count, channels = kernel.shape[:2]
    groups = x.shape[1] // kernel.shape[2]  # 1 where all models see the same image
    padding = kernel.shape[-1] // 2
    value = F.conv2d(x, kernel.flatten(0, 1), stride=stride, padding=padding, groups=groups)
    norms = params[f"{name}.norm.weight"].flatten(), params[f"{name}.norm.bias"].flatten()
    return F.group_norm(value, count * math.gcd(4, channels), *norms)
