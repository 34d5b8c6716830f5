"""Any torch module as a `Model`, tried out on real rows before anything is run with it.

What training changes is a client's own and lies in its parameters: weights under their names, and
before them, under `~` and their names, buffers that move as the module learns (statistics of
BatchNorm) and `~stream`, which governs dropout. What it does not change (frozen weights, constant
buffers) stays in the network, one copy for all: not stacked, sent or checkpointed.
"""

import copy
import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedkd.core import Model
from fedkd.models.module_forms import Parts, RefusedError, plain, seeded
from fedkd.models.module_trial import answering, looked_at, materialised, network_of
from kdcore.training.batches import leading, rows, shape_of
from kdcore.training.loop import STATE, Params

Local = str | type[nn.Module] | Iterable[str | type[nn.Module]] | Callable[[str], bool]
TRIED = 4  # rows


def from_module(
    build: Callable[..., nn.Module] | nn.Module,
    *,
    local: Local = (),
    examples: Any = None,
    num_classes: int | None = None,
) -> Model:
    """A model of any torch module.

    Its forward takes a batch (N, ...), or, where examples are tuples, several, and gives logits
    (N, C): a tensor, `Outputs`, something with `.logits` or `["logits"]`, or a tuple that begins
    with them; matrices (N, D) behind them (or under "hidden") are the hidden activations that it
    shows. A part that is in eval mode stays so while the rest learns. It learns where
    `requires_grad` says so.

    Args:
        build: makes the module: a class or a function, called for each client, under the client's
            own seed; it is given `shape` (of an example) and `num_classes` (or `classes`) where it
            asks for them by name or for two values. Or a module, whose values all begin with.
        local: what never leaves a client: names of parameters, buffers or parts (with everything
            below them; `*` stands for anything), types of parts, or a function of the name.
            `[nn.BatchNorm2d]` is FedBN (Xiaoxiao Li et al., ICLR 2021,
            https://arxiv.org/abs/2102.07623), the name of the last layers FedPer (Manoj Ghuhan
            Arivazhagan et al., 2019, https://arxiv.org/abs/1912.00818).
        examples: a few inputs, to try the module with; without them the model is no more than a
            description, which `fedkd.models.build` and `federate` try with theirs.
        num_classes: how many logits it must give; by default any.

    Raises:
        ValueError: the module cannot be run, or has nothing to train; in one line.
    """
    tried = partial(_named, build, local)  # its arguments say what it is the model of
    if examples is not None:
        return tried(examples, num_classes)
    return Model(_untried, _untried, name=name_of(build), tried=tried)


def name_of(build: Any) -> str:
    """What a module, its class or a function that makes it is called."""
    inner = getattr(build, "func", build)  # of a partial
    return type(inner).__name__ if isinstance(inner, nn.Module) else inner.__name__


def _named(build: Any, local: Local, examples: Any, num_classes: int | None = None) -> Model:
    """The model, tried; what is wrong with it is said of its name."""
    try:
        return _tried(build, local, examples, num_classes)
    except ValueError as reason:
        raise ValueError(f"{name_of(build)}: {reason}") from None


def _untried(*_: Any) -> Any:
    raise ValueError(
        "this model of a module has not been tried yet; give from_module(..., examples=x[:4]), or "
        "take fedkd.models.build(model, shape, num_classes, examples)"
    )


def _tried(build: Any, local: Local, examples: Any, num_classes: int | None) -> Model:
    count = len(leading(examples))
    if not count:
        raise ValueError("there are no examples to try it with")
    x = rows(examples, torch.arange(max(2, min(count, TRIED))) % count)
    given = isinstance(build, nn.Module)
    make = partial(copy.deepcopy, build) if given else asked(build, shape_of(x), num_classes)

    def made(seed: int) -> nn.Module:
        with seeded(seed, torch.device("cpu")), answering("be made", x):
            return materialised(make(), x)

    parts = looked_at(made(0), x)
    if not given:
        _check_again(parts, made(0))

    def init(generator: torch.Generator) -> Params:
        seed = int(torch.randint(2**62, (), generator=generator))
        return parts.drawn(parts.learner if given else made(seed), seed)

    first = parts.drawn(parts.learner, 0)
    with answering("predict", x):
        _check_logits(parts.one(first, x).logits, num_classes, x)
    with answering("be a client's model", x):
        network, notes = network_of(parts, [first, init(_stream(1))], x)
        constants = _hash(parts)
    return Model(
        init,
        network,
        local=_local(local, parts),
        restored=lambda params: _restored(parts, params),
        constants=constants,
        notes=notes,
        name=name_of(build),
    )


def _check_again(parts: Parts, again: nn.Module) -> None:
    """Raise ValueError for a module that is made otherwise with the same seed."""
    one, other = parts.drawn(parts.untouched or parts.learner, 0), parts.drawn(again, 0)
    if odd := [n for n in one if not torch.equal(one[n].nan_to_num(), other[n].nan_to_num())]:
        raise RefusedError(
            f"with the same seed {odd[0].removeprefix(STATE)} begins with other values the second "
            "time; draw them from torch's own stream"
        )


def _check_logits(logits: Tensor, num_classes: int | None, x: Any) -> None:
    """Raise ValueError for what are no logits of examples."""
    count = len(leading(x))
    if logits.ndim not in (2, 3) or len(logits) != count:
        raise RefusedError(
            f"its logits have shape {tuple(logits.shape)} for {count} examples; expected "
            f"({count}, {num_classes or 'C'}), or of sequences (N, T, C)"
        )
    if num_classes is not None and logits.shape[-1] != num_classes:
        raise RefusedError(
            f"it gives {logits.shape[-1]} logits for each example, and there are {num_classes} "
            "classes; build it for as many"
        )
    if not logits.is_floating_point():
        raise RefusedError(f"its logits are {str(logits.dtype)[6:]}; expected real numbers")
    if logits.isnan().any():
        raise RefusedError(
            "its logits are no numbers (NaN) before anything is trained, for the first examples"
        )


def asked(
    make: Callable[..., Any], shape: tuple[Any, ...], num_classes: int | None
) -> Callable[[], Any]:
    """What makes the module, given what it asks for: the shape of an example, how many classes."""
    known: dict[str, Any] = {"shape": shape, "num_classes": num_classes, "classes": num_classes}
    wanted = list(inspect.signature(make).parameters.values())
    found = {one.name: known[one.name] for one in wanted if one.name in known}
    if found:
        return partial(make, **found)
    several = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    needed = [o for o in wanted if o.default is inspect.Parameter.empty and o.kind not in several]
    if not needed:
        return make
    if len(needed) == 2:
        return partial(make, shape, num_classes)
    names = ", ".join(one.name for one in needed)
    raise ValueError(
        f"it has to be given {names}; expected a class or function of nothing, of shape and "
        "num_classes, or of either by these names"
    )


def _stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _local(local: Local, parts: Parts) -> frozenset[str]:
    """The parameters, by their names in `Params`, that never leave."""
    known = {name: name for name in parts.trained} | {n: f"{STATE}{n}" for n in parts.moving}
    if callable(local) and not isinstance(local, type):
        return frozenset(key for name, key in known.items() if local(name))
    wanted = [local] if isinstance(local, str | type) else list(local)
    found: set[str] = set()
    for one in wanted:
        meant = {key for name, key in known.items() if _means(one, name, parts.learner)}
        if not meant:
            said = one if isinstance(one, str) else one.__name__
            raise ValueError(
                f"local: nothing that it trains is called {said!r}, or a part of that; there are "
                f"{', '.join(known)}"
            )
        found |= meant
    return frozenset(found)


def _means(what: str | type[nn.Module], name: str, module: nn.Module) -> bool:
    """Whether a parameter, or a part that it is in, has a name or is of a type."""
    path = name.split(".")
    holders = [".".join(path[:depth]) for depth in range(1, len(path) + 1)]
    if isinstance(what, str):
        return any(fnmatchcase(holder, what) for holder in holders)
    return any(isinstance(module.get_submodule(holder), what) for holder in ["", *holders[:-1]])


def _restored(parts: Parts, params: Mapping[str, Tensor]) -> nn.Module:
    """A module of its own with a client's values, in eval mode."""
    device = next(iter(params.values())).device
    module = copy.deepcopy(parts.untouched or parts.learner).to(device)
    values = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with torch.no_grad():
        for name, value in plain(dict(params)).items():
            values[name].copy_(value)
    return module.eval()


def _hash(parts: Parts) -> str:
    """A hash of what is the same for all clients, and in no client's parameters; "" for nothing."""
    changes = {*parts.trained, *parts.moving}
    named = {**dict(parts.learner.named_parameters()), **dict(parts.learner.named_buffers())}
    constant = {name: value for name, value in sorted(named.items()) if name not in changes}
    if not constant:
        return ""
    found = hashlib.sha256()
    for name, value in constant.items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
