"""Small networks by name, and any torch module as one (`fedkd.models.modules`).

The networks by name normalise by groups of channels (Yuxin Wu, Kaiming He, "Group Normalization",
ECCV 2018, https://arxiv.org/abs/1803.08494): batch normalisation keeps running statistics, with
which clients cannot be stacked and have to be run in turn.

A model is named in one word: `mlp`, `mlp-128-64` (its hidden widths), `cnn`, `cnn-16-32` (its
channels), `mobile-16-32` (likewise), `lenet`, `resnet8`, `resnet8-32` (its width). A width after
an @ sign is that of the features on which its head is linear: `cnn@64` and `resnet8@64` have
features that can be compared. Tokens (N, T) are read by `gru`, `lstm`, `transformer`, `ngram`, each
also with its width, such as `gru-64`.
"""

import functools
import inspect
import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import nn

from fedkd.core import Model
from fedkd.models.architectures import cnn, lenet, mlp, mobile, resnet8, with_features
from fedkd.models.modules import TRIED, asked, from_module, name_of
from fedkd.models.sequences import gru, lstm, ngram, transformer
from kdcore.registry import Registry, members, nearest
from kdcore.training.batches import side_by_side, widths
from kdcore.training.loop import Network, Params

__all__ = [
    "REGISTRY",
    "TRIED",
    "build",
    "cnn",
    "from_module",
    "group_names",
    "lenet",
    "made_up",
    "mlp",
    "mobile",
]
__all__ += ["names", "resnet8", "size"]

FAMILIES: dict[str, Callable[..., Any]] = {
    "mlp": mlp,
    "cnn": cnn,
    "lenet": lenet,
    "mobile": mobile,
    "resnet8": resnet8,
}
OF_TOKENS: dict[str, Callable[..., nn.Module]] = {
    "gru": gru,
    "lstm": lstm,
    "transformer": transformer,
    "ngram": ngram,
}
SPELLING = (
    "models are mlp, mlp-128-64 (hidden widths), cnn, cnn-16-32 (channels), mobile, mobile-16-32 "
    "(channels), lenet, and resnet8, resnet8-32 (width), each also with a width of its features, "
    "as in cnn@64; of tokens gru, lstm, transformer and ngram, each also with a width, as in gru-64"
)

REGISTRY: Registry[Callable[..., Any]] = Registry(
    "model",
    members({**FAMILIES, **OF_TOKENS}),
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


def build(what: Any, shape: Sequence[Any], num_classes: int, examples: Any = None) -> Model:
    """A model for inputs of a shape: `build("mlp-128-64", (1, 8, 8), 10)`, `build(Net, ...)`.

    Args:
        what: the name of a network, or a reference to one of the user's own, `net.py:Net`
            (`REGISTRY`); a torch module, whose values all clients begin with; its class,
            or a function that makes one, given `shape` and `num_classes` (or `classes`) where it
            asks for them by name or for two values, and else nothing; or a `Model`.
        shape: of one example; of several inputs, a tuple of shapes.
        num_classes: how many logits it gives.
        examples: a few inputs to try a module with, real ones; by default numbers in [0, 1).

    Inputs of a network by name may be of any type; they are read in that of the parameters. An mlp
    takes several, one beside the other.

    Raises:
        ValueError: the name is none of a model (the message lists them), or the module cannot be
            run (the message says why).
    """
    if isinstance(what, str):
        return _by_name(what, shape, num_classes, examples)
    if examples is None:
        examples = made_up(shape)
    if isinstance(what, Model):
        return what if what.tried is None else what.tried(examples, num_classes)
    if isinstance(what, nn.Module) or callable(what):
        return from_module(what, examples=examples, num_classes=num_classes)
    raise ValueError(
        f"a model is a name, a torch module, its class, a function that makes one, or a Model, and "
        f"this is a {type(what).__name__}"
    )


def group_names(models: Sequence[Any]) -> list[str]:
    """What each is called: its name, or that of its class; told apart by a number where needed."""
    found: list[str] = []
    known: dict[Any, str] = {}
    for what in models:
        key = what if isinstance(what, str) else id(what)
        if key not in known:
            known[key] = _another(_name(what), known.values())
        found.append(known[key])
    return found


def _name(what: Any) -> str:
    if isinstance(what, str):
        return what
    return what.name if isinstance(what, Model) else name_of(what)


def _another(name: str, taken: Collection[str]) -> str:
    """The name, with a number behind it if it is taken."""
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(one for one in itertools.chain([name], numbered) if one not in taken)


def made_up(shape: Sequence[Any]) -> Any:
    """A few examples of a shape, or of several."""
    dice = torch.Generator().manual_seed(0)
    if widths(shape):
        return tuple(torch.rand(TRIED, *one, generator=dice) for one in shape)
    return torch.rand(TRIED, *shape, generator=dice)


def _by_name(name: str, shape: Sequence[Any], num_classes: int, examples: Any = None) -> Model:
    body, at, width = name.partition("@")
    family, *numbers = body.split("-")
    if family in OF_TOKENS and not at and len(numbers) <= 1 and all(map(_is_size, numbers)):
        return _of_tokens(name, family, [int(n) for n in numbers], shape, num_classes, examples)
    if family not in FAMILIES and (":" in name or name.endswith(".py") or name in REGISTRY):
        return _own(name, tuple(shape), num_classes, examples)
    fits = family in FAMILIES and len(numbers) <= FEW.get(family, len(numbers))
    if not fits or not all(map(_is_size, [*numbers, *([width] if at else [])])):
        raise ValueError(f"unknown model {name!r}; {nearest(family, names())}{SPELLING}")
    if at:
        return with_features(_by_name(body, shape, int(width)), int(width), num_classes)
    sizes = tuple(int(n) for n in numbers)
    few: dict[str, Callable[..., Model]] = {"lenet": lenet, "resnet8": resnet8}
    if family in few:
        return _of_any_inputs(few[family](shape, num_classes, *sizes))
    if widths(shape) and family == "mlp":
        shape = (sum(widths(shape)),)
    make = {"mlp": mlp, "cnn": cnn, "mobile": mobile}[family]
    return _of_any_inputs(make(shape, num_classes, sizes) if sizes else make(shape, num_classes))


def _of_tokens(
    name: str, family: str, width: list[int], shape: Sequence[Any], classes: int, examples: Any
) -> Model:
    """A network that reads tokens, which are as many as there are classes."""
    if examples is None:
        examples = torch.zeros(TRIED, *shape, dtype=torch.long)
    if len(shape) != 1 or widths(shape) or examples.is_floating_point():
        raise ValueError(
            f"model {name} reads tokens, whole numbers (N, T), and examples have shape "
            f"{tuple(shape)}; take another, such as mlp"
        )
    build = functools.partial(OF_TOKENS[family], tuple(shape), classes, *width)
    return from_module(build, examples=examples, num_classes=classes)._replace(name=name)


def size(model: Model) -> int | None:
    """How many parameters a model has, without making them; None for more than can be counted."""
    if model.restored is not None:  # of a module, which has been made already to try it
        return sum(value.numel() for value in model.init(torch.Generator()).values())
    try:
        with torch.device("meta"):
            made = model.init(None)  # type: ignore[arg-type]  # on "meta" nothing is drawn
            return sum([value.numel() for value in made.values()])
    except (RuntimeError, TypeError, OverflowError):
        return None


def names() -> tuple[str, ...]:
    """The architectures that a model's name may begin with."""
    return (*FAMILIES, *OF_TOKENS, *REGISTRY.added())


def _own(name: str, shape: tuple[Any, ...], num_classes: int, examples: Any) -> Model:
    """The model that a class or function of the user's makes."""
    make = REGISTRY.get(name)
    try:
        module = inspect.isclass(make) or isinstance(make, nn.Module)
        made = make if module else asked(make, shape, num_classes)()
        return build(made if isinstance(made, Model) else make, shape, num_classes, examples)
    except (Exception, SystemExit) as error:
        said = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(
            f"model {name!r} cannot be made for examples of shape {shape} and {num_classes} "
            f"classes: {said}{error}"
        ) from error


def _of_any_inputs(model: Model) -> Model:
    """The model, which reads its inputs in the type of its parameters; several side by side."""
    network = model.predict
    assert isinstance(network, Network)

    def reading(form: Callable[..., Any], axes: int) -> Callable[..., Any]:
        def read(params: Params, x: Any, *more: Any) -> Any:
            kind = next(iter(params.values())).dtype
            whole = side_by_side(x, kind, axes) if isinstance(x, tuple) else x.to(kind)
            return form(params, whole, *more)

        return read

    backward = network.backward and reading(network.backward, 2)
    one, stack = reading(network.one, 1), reading(network.stack, 2)
    return Model(model.init, Network(one, stack, backward, in_turn=network.in_turn))


def _is_size(number: str) -> bool:
    return number.isdecimal() and int(number) > 0
