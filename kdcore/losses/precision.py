"""Numbers of 16 bits: what a loss is worked out with, and what it gives."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

HALF = frozenset({torch.float16, torch.bfloat16})

P = ParamSpec("P")
R = TypeVar("R")


def in_float32(loss: Callable[P, R]) -> Callable[P, R]:
    """The loss, worked out in float32 at least; of inputs of one 16-bit type, it gives that type.

    bfloat16 has three digits: the terms of a sum over classes, differences of logarithms times T^2,
    are rounded by more than the sum is large, so that a divergence comes out negative. Inputs of
    float32 and float64 are left as they are.
    """

    @wraps(loss)
    def widened(*args: P.args, **kwargs: P.kwargs) -> R:
        types = _types([*args, *kwargs.values()])
        if types.isdisjoint(HALF):
            return loss(*args, **kwargs)
        wide: Any = loss
        result = wide(*map(_wide, args), **{name: _wide(value) for name, value in kwargs.items()})
        if len(types) > 1:
            return cast(R, result)
        (narrow,) = types
        return cast(R, _each(result, lambda tensor: tensor.to(narrow)))

    return widened


def _types(values: list[Any]) -> set[torch.dtype]:
    """The floating types among some tensors, or sequences of tensors."""
    found: set[torch.dtype] = set()
    for value in values:
        if isinstance(value, Tensor) and value.is_floating_point():
            found.add(value.dtype)
        elif isinstance(value, list | tuple):
            found |= _types(list(value))
    return found


def _wide(value: Any) -> Any:
    return _each(value, lambda tensor: tensor.float() if tensor.dtype in HALF else tensor)


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, list | tuple):
        make = getattr(value, "_make", type(value))  # named tuples take their values one by one
        return make(_each(one, change) for one in value)
    return change(value) if isinstance(value, Tensor) else value
