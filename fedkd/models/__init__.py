"""Small networks without batch statistics, by name, and any torch module as one.

Batch normalisation keeps running statistics, which mean nothing in a stack of clients; the
networks here normalise by groups of channels instead (Yuxin Wu, Kaiming He, "Group
Normalization", ECCV 2018, https://arxiv.org/abs/1803.08494).

A model is named in one word: `mlp`, `mlp-128-64` (its hidden widths), `cnn`, `cnn-16-32` (its
channels), `mobile-16-32` (likewise), `lenet`, `resnet8`, `resnet8-32` (its width). A width after
an @ sign is that of the features on which its head is linear: `cnn@64` and `resnet8@64` have
features that can be compared.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from fedkd.core import Model
from fedkd.models.architectures import cnn, initialiser, lenet, mlp, mobile, resnet8, with_features
from kdcore.outputs import Outputs
from kdcore.registry import Registry, members, nearest
from kdcore.training.loop import Network, Params

__all__ = ["REGISTRY", "build", "cnn", "from_module", "lenet", "mlp", "mobile", "names", "resnet8"]
__all__ += ["size"]

FAMILIES: dict[str, Callable[..., Any]] = {
    "mlp": mlp,
    "cnn": cnn,
    "lenet": lenet,
    "mobile": mobile,
    "resnet8": resnet8,
}
REGISTRY: Registry[Callable[..., Any]] = Registry(
    "model",
    members(FAMILIES),
    "kdsim.models",
    expected="a torch.nn.Module class called with (shape, classes), or a function of these that "
    "gives a module or a fedkd.core.Model",
)
"""Architectures: of one's own a `torch.nn.Module` class called with (shape, classes).

Or a function called likewise, that gives a module or a `fedkd.core.Model`. shape is that of one
example, such as (1, 8, 8); classes is C. The module's forward takes a batch (B, *shape) and gives
logits (B, C), see `from_module`.
"""

FEW = {"lenet": 0, "resnet8": 1}  # how many numbers a name may have; any where none is given


def build(name: str, shape: Sequence[int], num_classes: int) -> Model:
    """The model of a name, for inputs of a shape: `build("mlp-128-64", (1, 8, 8), 10)`.

    The name may be a reference to a model of one's own, `net.py:Net` (`REGISTRY`).

    Inputs may be of any type; they are read in that of the parameters.

    Raises:
        ValueError: the name is none of a model; the message lists them.
    """
    body, at, width = name.partition("@")
    family, *numbers = body.split("-")
    if family not in FAMILIES and (":" in name or name.endswith(".py") or name in REGISTRY):
        return _own(name, tuple(shape), num_classes)
    fits = family in FAMILIES and len(numbers) <= FEW.get(family, len(numbers))
    if not fits or not all(map(_is_size, [*numbers, *([width] if at else [])])):
        raise ValueError(
            f"unknown model {name!r}; {nearest(family, names())}models are mlp, mlp-128-64 "
            "(hidden widths), cnn, cnn-16-32 (channels), mobile, mobile-16-32 (channels), lenet, "
            "and resnet8, resnet8-32 (width), each also with a width of its features, as in cnn@64"
        )
    if at:
        return with_features(build(body, shape, int(width)), int(width), num_classes)
    sizes = tuple(int(n) for n in numbers)
    few: dict[str, Callable[..., Model]] = {"lenet": lenet, "resnet8": resnet8}
    if family in few:
        return _of_any_inputs(few[family](shape, num_classes, *sizes))
    make = {"mlp": mlp, "cnn": cnn, "mobile": mobile}[family]
    return _of_any_inputs(make(shape, num_classes, sizes) if sizes else make(shape, num_classes))


def size(model: Model) -> int | None:
    """How many parameters a model has, without making them; None for more than can be counted."""
    try:
        with torch.device("meta"):
            made = model.init(None)  # type: ignore[arg-type]  # on "meta" nothing is drawn
            return sum([value.numel() for value in made.values()])
    except (RuntimeError, TypeError, OverflowError):
        return None


def names() -> tuple[str, ...]:
    """The architectures that a model's name may begin with."""
    return (*FAMILIES, *REGISTRY.added())


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

    return Model(initialiser(shapes), predict)


def _own(name: str, shape: tuple[int, ...], num_classes: int) -> Model:
    """The model that a class or function of the user's makes."""
    make = REGISTRY.get(name)
    try:
        made = make(shape, num_classes)
    except Exception as error:
        raise ValueError(
            f"model {name!r} cannot be made for examples of shape {shape} and {num_classes} "
            f"classes: {type(error).__name__}: {error}"
        ) from error
    if isinstance(made, Model):
        return made
    if not isinstance(made, nn.Module):
        raise ValueError(f"model {name!r} gives {made!r}; expected {REGISTRY.expected}")
    return from_module(functools.partial(make, shape, num_classes))


def _of_any_inputs(model: Model) -> Model:
    """The model, which reads its inputs in the type of its parameters."""
    network = model.predict
    assert isinstance(network, Network)

    def reading(form: Callable[..., Any]) -> Callable[..., Any]:
        def read(params: Params, x: Tensor, *more: Any) -> Any:
            return form(params, x.to(next(iter(params.values())).dtype), *more)

        return read

    backward = network.backward and reading(network.backward)
    return Model(model.init, Network(reading(network.one), reading(network.stack), backward))


def _is_size(number: str) -> bool:
    return number.isdecimal() and int(number) > 0
