"""Small networks as pure functions of their parameters, without batch statistics.

Batch normalisation keeps running statistics, which mean nothing in a stack of clients; the
networks here normalise by groups of channels instead (Yuxin Wu, Kaiming He, "Group
Normalization", ECCV 2018, https://arxiv.org/abs/1803.08494).

A model is named in one word: `mlp`, `mlp-128-64` (its hidden widths), `cnn`, `cnn-16-32` (its
channels), `resnet8`.
"""

import math
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from fedkd import stacks
from fedkd.core import Model
from knowledge.outputs import Outputs
from knowledge.training import Network, Params

Shapes = dict[str, tuple[int, ...]]


def mlp(shape: Sequence[int], num_classes: int, widths: Sequence[int] = (64,)) -> Model:
    """A multi-layer perceptron with ReLU; each hidden layer is shown.

    Shapes: x (N, *shape) -> logits (N, C), hidden ((N, w) for each width w).
    """
    sizes = [math.prod(shape), *widths, num_classes]
    layers = [f"layer{i}" for i in range(len(sizes) - 1)]
    shapes: Shapes = {}
    for name, fan_in, fan_out in zip(layers, sizes[:-1], sizes[1:], strict=True):
        shapes |= {f"{name}.weight": (fan_out, fan_in), f"{name}.bias": (fan_out,)}

    def predict(params: Params, x: Tensor) -> Outputs:
        value, hidden = x.flatten(1), []
        for name in layers[:-1]:
            value = F.relu(_linear(params, name, value))
            hidden.append(value)
        return Outputs(_linear(params, layers[-1], value), tuple(hidden))

    stack = partial(stacks.mlp, layers=layers)
    backward = partial(stacks.mlp_backward, layers=layers)
    return Model(_initialiser(shapes), Network(predict, stack, backward))


def cnn(shape: Sequence[int], num_classes: int, channels: Sequence[int] = (16, 32)) -> Model:
    """3x3 convolutions with group normalisation, each followed by 2x2 max-pooling and ReLU.

    Shapes: x (N, channels, height, width) -> logits (N, C), hidden ((N, D),) before the last layer.

    Raises:
        ValueError: inputs that are no images, or too small to be halved so often.
    """
    planes, height, width = _image(shape, 2 ** len(channels), "cnn")
    shrink = 2 ** len(channels)
    features = channels[-1] * (height // shrink) * (width // shrink)
    convolutions = [f"conv{i}" for i in range(len(channels))]
    shapes: Shapes = {}
    for name, fan_in, fan_out in zip(convolutions, [planes, *channels], channels, strict=False):
        shapes |= _conv_shapes(name, fan_in, fan_out)
    shapes |= {"head.weight": (num_classes, features), "head.bias": (num_classes,)}

    def predict(params: Params, x: Tensor) -> Outputs:
        value = x
        for name in convolutions:
            value = F.relu(F.max_pool2d(_conv_norm(params, name, value), 2))
        value = value.flatten(1)
        return Outputs(_linear(params, "head", value), (value,))

    stack = stacks.by_device(partial(stacks.cnn, convolutions=convolutions), predict)
    return Model(_initialiser(shapes), Network(predict, stack))


def resnet8(shape: Sequence[int], num_classes: int, width: int = 16) -> Model:
    """A residual network of eight layers: three blocks of two convolutions, group normalisation.

    Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun. "Deep Residual Learning for Image
    Recognition". CVPR 2016. https://arxiv.org/abs/1512.03385

    Shapes: x (N, channels, height, width) -> logits (N, C), hidden ((N, 4 width),), the pooled
    features.

    Raises:
        ValueError: inputs that are no images, or smaller than 4 x 4.
    """
    planes, _, _ = _image(shape, 4, "resnet8")
    shapes = _conv_shapes("stem", planes, width)
    blocks = ["block0", "block1", "block2"]
    for name, fan_in, fan_out in zip(blocks, (1, 1, 2), (1, 2, 4), strict=True):
        shapes |= _conv_shapes(f"{name}.a", fan_in * width, fan_out * width)
        shapes |= _conv_shapes(f"{name}.b", fan_out * width, fan_out * width)
        if fan_in != fan_out:
            shapes |= _conv_shapes(f"{name}.skip", fan_in * width, fan_out * width, kernel=1)
    shapes |= {"head.weight": (num_classes, 4 * width), "head.bias": (num_classes,)}

    def predict(params: Params, x: Tensor) -> Outputs:
        value = F.relu(_conv_norm(params, "stem", x))
        for name in blocks:
            value = _block(params, name, value)
        value = value.mean(dim=(-2, -1))
        return Outputs(_linear(params, "head", value), (value,))

    stack = stacks.by_device(partial(stacks.resnet8, blocks=blocks), predict)
    return Model(_initialiser(shapes), Network(predict, stack))


def from_module(build: Callable[[], nn.Module]) -> Model:
    """Any torch module as a `Model`; its forward returns logits, or `Outputs`.

    Args:
        build: makes the module; it is called once, and its own initial parameters are not used.

    Raises:
        ValueError: the module keeps buffers, which a stack of clients cannot share; normalises over
            a batch, which here holds padding too; or drops out at random, which no seed governs.
    """
    module = build()
    for name, part in module.named_modules():
        buffers = [key for key, _ in part.named_buffers(recurse=False)]
        drops = isinstance(part, _DropoutNd) and part.p > 0
        if buffers or drops or isinstance(part, _BatchNorm):
            raise ValueError(
                f"{name or 'the module'} is a {type(part).__name__}: modules with buffers "
                f"({', '.join(buffers) or 'here none'}), statistics over a batch, or dropout give "
                "clients no well-defined result here; normalise with GroupNorm or LayerNorm"
            )
    shapes = {name: tuple(value.shape) for name, value in module.named_parameters()}

    def predict(params: Params, x: Tensor) -> Outputs:
        result = torch.func.functional_call(module, params, (x,))
        return result if isinstance(result, Outputs) else Outputs(result)

    return Model(_initialiser(shapes), predict)


def names() -> tuple[str, ...]:
    """The architectures that a model's name may begin with."""
    return ("mlp", "cnn", "resnet8")


def build(name: str, shape: Sequence[int], num_classes: int) -> Model:
    """The model of a name, for inputs of a shape: `build("mlp-128-64", (1, 8, 8), 10)`.

    Raises:
        ValueError: the name is none of a model; the message lists them.
    """
    family, *numbers = name.split("-")
    fits = family in names() and (family != "resnet8" or len(numbers) < 2)
    if not fits or not all(n.isdecimal() and int(n) > 0 for n in numbers):
        close = get_close_matches(family, names(), n=1)
        hint = f"did you mean {close[0]!r}? " if close and close[0] != family else ""
        raise ValueError(
            f"unknown model {name!r}; {hint}models are mlp, mlp-128-64 (hidden widths), cnn, "
            "cnn-16-32 (channels) and resnet8, resnet8-32 (width)"
        )
    sizes = tuple(int(n) for n in numbers)
    if family == "resnet8":
        return resnet8(shape, num_classes, *sizes)
    make = mlp if family == "mlp" else cnn
    return make(shape, num_classes, sizes) if sizes else make(shape, num_classes)


def _initialiser(shapes: Shapes) -> Callable[[torch.Generator], Params]:
    """Torch's defaults, drawn from one generator: uniform in +-1/sqrt(fan_in); norms 1 and 0."""

    def init(generator: torch.Generator) -> Params:
        params: Params = {}
        for name, shape in shapes.items():
            layer, _, kind = name.rpartition(".")
            weight = shapes.get(f"{layer}.weight", shape) if layer else shape
            if len(weight) < 2:
                params[name] = torch.ones(shape) if kind == "weight" else torch.zeros(shape)
            else:
                bound = 1 / math.sqrt(math.prod(weight[1:]))
                params[name] = (2 * torch.rand(shape, generator=generator) - 1) * bound
        return params

    return init


def _image(shape: Sequence[int], multiple: int, name: str) -> tuple[int, int, int]:
    if len(shape) != 3 or min(shape[1:]) < multiple:
        raise ValueError(
            f"{name} needs images of at least {multiple} x {multiple} (channels, height, width), "
            f"got inputs of shape {tuple(shape)}; an mlp takes any"
        )
    return shape[0], shape[1], shape[2]


def _conv_shapes(name: str, fan_in: int, fan_out: int, kernel: int = 3) -> Shapes:
    return {
        f"{name}.weight": (fan_out, fan_in, kernel, kernel),
        f"{name}.norm.weight": (fan_out,),
        f"{name}.norm.bias": (fan_out,),
    }


def _linear(params: Params, name: str, x: Tensor) -> Tensor:
    return F.linear(x, params[f"{name}.weight"], params[f"{name}.bias"])


def _conv_norm(params: Params, name: str, x: Tensor, stride: int = 1) -> Tensor:
    """A convolution that keeps the image's size (but for the stride), normalised in groups."""
    kernel = params[f"{name}.weight"]
    x = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # channels innermost: faster on CPUs
    value = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
    groups = math.gcd(4, kernel.shape[0])
    return F.group_norm(value, groups, params[f"{name}.norm.weight"], params[f"{name}.norm.bias"])


def _block(params: Params, name: str, x: Tensor) -> Tensor:
    """Two convolutions and a way around them; the first halves the image where channels grow."""
    stride = 2 if f"{name}.skip.weight" in params else 1
    value = F.relu(_conv_norm(params, f"{name}.a", x, stride))
    value = _conv_norm(params, f"{name}.b", value)
    around = _conv_norm(params, f"{name}.skip", x, stride) if stride == 2 else x
    return F.relu(value + around)
