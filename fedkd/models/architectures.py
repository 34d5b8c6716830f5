"""The architectures of `fedkd.models`: pure functions of their parameters.

Each network is written twice: for one model here, for a stack of them in `fedkd.models.stacked`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fedkd.core import Model
from fedkd.models import stacked
from kdcore.outputs import Outputs
from kdcore.training import stacked as training_stacked
from kdcore.training.loop import Network, Params

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

    stack = partial(stacked.mlp, layers=layers)
    backward = partial(stacked.mlp_backward, layers=layers)
    return Model(initialiser(shapes), Network(predict, stack, backward))


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

    stack = stacked.by_device(partial(stacked.cnn, convolutions=convolutions), predict)
    return Model(initialiser(shapes), Network(predict, stack, in_turn=True))


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

    stack = stacked.by_device(partial(stacked.resnet8, blocks=blocks), predict)
    return Model(initialiser(shapes), Network(predict, stack, in_turn=True))


def lenet(shape: Sequence[int], num_classes: int) -> Model:
    """LeNet-5 with ReLU, max-pooling and group normalisation: two 5x5 convolutions, three layers.

    Yann LeCun, Leon Bottou, Yoshua Bengio, Patrick Haffner. "Gradient-Based Learning Applied to
    Document Recognition". Proceedings of the IEEE 1998. https://doi.org/10.1109/5.726791

    Shapes: x (N, channels, height, width) -> logits (N, C), hidden ((N, 120), (N, 84)).

    Raises:
        ValueError: inputs that are no images, or smaller than 4 x 4.
    """
    planes, height, width = _image(shape, 4, "lenet")
    shapes = _conv_shapes("conv0", planes, 6, kernel=5) | _conv_shapes("conv1", 6, 16, kernel=5)
    sizes = {"layer0": 16 * (height // 4) * (width // 4), "layer1": 120, "head": 84}
    for (name, fan_in), fan_out in zip(sizes.items(), (120, 84, num_classes), strict=True):
        shapes |= {f"{name}.weight": (fan_out, fan_in), f"{name}.bias": (fan_out,)}

    def predict(params: Params, x: Tensor) -> Outputs:
        value = x
        for name in ("conv0", "conv1"):
            value = F.relu(F.max_pool2d(_conv_norm(params, name, value), 2))
        first = F.relu(_linear(params, "layer0", value.flatten(1)))
        second = F.relu(_linear(params, "layer1", first))
        return Outputs(_linear(params, "head", second), (first, second))

    stack = stacked.by_device(stacked.lenet, predict)
    return Model(initialiser(shapes), Network(predict, stack, in_turn=True))


def mobile(shape: Sequence[int], num_classes: int, channels: Sequence[int] = (16, 32)) -> Model:
    """Depthwise separable convolutions: 3x3 by channel, then 1x1; each pair halves the image.

    Andrew Howard, Menglong Zhu, Bo Chen, Dmitry Kalenichenko, Weijun Wang, Tobias Weyand, Marco
    Andreetto, Hartwig Adam. "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
    Applications". 2017. https://arxiv.org/abs/1704.04861

    Shapes: x (N, channels, height, width) -> logits (N, C), hidden ((N, channels[-1]),), the
    pooled features. The stem has as many channels as the first pair.

    Raises:
        ValueError: inputs that are no images, or too small to be halved so often.
    """
    planes, _, _ = _image(shape, 2 ** len(channels), "mobile")
    shapes = _conv_shapes("stem", planes, channels[0])
    pairs = [f"pair{i}" for i in range(len(channels))]
    for name, fan_in, fan_out in zip(pairs, [channels[0], *channels], channels, strict=False):
        shapes |= _conv_shapes(f"{name}.deep", 1, fan_in)
        shapes |= _conv_shapes(f"{name}.wide", fan_in, fan_out, kernel=1)
    shapes |= {"head.weight": (num_classes, channels[-1]), "head.bias": (num_classes,)}

    def predict(params: Params, x: Tensor) -> Outputs:
        value = F.relu(_conv_norm(params, "stem", x))
        for name in pairs:
            value = F.relu(_conv_norm(params, f"{name}.deep", value, 2))
            value = F.relu(_conv_norm(params, f"{name}.wide", value))
        value = value.mean(dim=(-2, -1))
        return Outputs(_linear(params, "head", value), (value,))

    stack = stacked.by_device(partial(stacked.mobile, pairs=pairs), predict)
    return Model(initialiser(shapes), Network(predict, stack, in_turn=True))


def with_features(body: Model, width: int, num_classes: int) -> Model:
    """A network whose outputs, (N, width), become features by a ReLU, and a linear head on them.

    Shapes: x as of the body -> logits (N, C), hidden those of the body, then (N, width).
    """
    head: Shapes = {"head.weight": (num_classes, width), "head.bias": (num_classes,)}

    def init(generator: torch.Generator) -> Params:
        inner = {f"body.{name}": value for name, value in body.init(generator).items()}
        return inner | initialiser(head)(generator)

    def inside(params: Params) -> Params:
        return {k.removeprefix("body."): v for k, v in params.items() if k.startswith("body.")}

    def predict(params: Params, x: Tensor) -> Outputs:
        outputs = body.predict(inside(params), x)
        value = outputs.logits.relu()
        return Outputs(_linear(params, "head", value), (*outputs.hidden, value))

    def stack(params: Params, x: Tensor) -> Outputs:
        outputs = training_stacked.stack_of(body.predict)(inside(params), x)
        value = outputs.logits.relu()
        return Outputs(stacked.linear(params, "head", value), (*outputs.hidden, value))

    in_turn = isinstance(body.predict, Network) and body.predict.in_turn
    return Model(init, Network(predict, stack, in_turn=in_turn))


def initialiser(shapes: Shapes) -> Callable[[torch.Generator], Params]:
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
                drawn = torch.rand(shape, generator=generator)
                params[name] = drawn.mul_(2).sub_(1).mul_(bound)
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
    """A convolution that keeps the image's size (but for the stride), normalised in groups.

    A kernel (o, 1, k, k) for more channels than one is applied to each channel apart.
    """
    kernel = params[f"{name}.weight"]
    apart = x.shape[1] // kernel.shape[1]
    value = F.conv2d(
        _channels_innermost(x), kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=apart
    )
    groups, scale = math.gcd(4, kernel.shape[0]), params[f"{name}.norm.weight"]
    value = value.to(scale.dtype)  # where products are in bfloat16, norms are not: quicker so
    return F.group_norm(value, groups, scale, params[f"{name}.norm.bias"])


def _channels_innermost(x: Tensor) -> Tensor:
    """The same images (N, c, height, width) as CPUs convolve, norm and pool them faster.

    A single channel lies so already, but its strides have to say so, or else torch takes it to lie
    outermost. Norms of such images have no form for some of `torch.func`'s transforms, in which
    they are left as they are.
    """
    if x.shape[1] > 1:
        return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    if torch._C._are_functorch_transforms_active():
        return x
    return x[:, 0].unsqueeze(-1).permute(0, 3, 1, 2)


def _block(params: Params, name: str, x: Tensor) -> Tensor:
    """Two convolutions and a way around them; the first halves the image where channels grow."""
    stride = 2 if f"{name}.skip.weight" in params else 1
    value = F.relu(_conv_norm(params, f"{name}.a", x, stride))
    value = _conv_norm(params, f"{name}.b", value)
    around = _conv_norm(params, f"{name}.skip", x, stride) if stride == 2 else x
    return F.relu(value + around)
