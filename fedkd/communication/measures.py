"""The numbers by which uploads are judged: those of a whole cohort in one read."""

import math
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kdcore.devices import moved, stacked

NEAR, FAR = 2**17, 2**24  # numbers measured at once: on a CPU what fits its cache, on a GPU more


class Asked(NamedTuple):
    """A tensor, and what is to be known of it beside its size."""

    value: Tensor
    simplex: bool = False
    ends: bool = False


class Measures(NamedTuple):
    """What was asked of a tensor; zeros for the rest, and where there are no numbers.

    Attributes:
        size: how many numbers there are.
        squares: the sum of their squares, in float64. Where it is finite, so are they all.
        low, high: the smallest and the largest.
        off: by how much the sum of a row misses one at the most.
    """

    size: int
    squares: float
    low: float = 0.0
    high: float = 0.0
    off: float = 0.0

    @property
    def largest(self) -> float:
        """The largest absolute value."""
        return max(-self.low, self.high)


def measured(asked: Sequence[Asked]) -> list[Measures]:
    """The measures of each tensor; a tensor that is asked about again is looked at once."""
    groups: dict[Hashable, dict[int, Asked]] = {}
    for one in asked:
        value = one.value
        if value.numel():
            kind = value.shape, value.dtype, value.device, one.simplex, one.ends
            groups.setdefault(kind, {})[id(value)] = one
    columns = [list(group.values()) for group in groups.values()]
    tables = tabled([([o.value for o in c], c[0].simplex, c[0].ends) for c in columns])
    lines = [line for table in tables for line in table.tolist()]
    order = [(id(one.value), one.simplex, one.ends) for column in columns for one in column]
    known = dict(zip(order, lines, strict=True))
    nothing = [0.0] * 4
    return [
        Measures(one.value.numel(), *known.get((id(one.value), one.simplex, one.ends), nothing))
        for one in asked
    ]


def tabled(columns: Sequence[tuple[Sequence[Tensor], bool, bool]]) -> list[Tensor]:
    """Squares, low, high, off, (K, 4) on the CPU, of columns of K tensors of one shape and type.

    What is to be known of a column stands beside it, as in `Asked`. All are read at once.
    """
    tables = []
    for values, simplex, ends in columns:
        pieces = [_table(piece, simplex, ends) for piece in _pieces(values)]
        none = torch.zeros(len(values), 4, dtype=torch.float64)
        tables.append(torch.cat(pieces) if pieces else none)
    return moved(tables, "cpu")


def root_mean_square(values: Sequence[Measures]) -> float:
    """Of all numbers of some tensors together; 0 where there are none."""
    count = sum(one.size for one in values)
    return math.sqrt(sum(one.squares for one in values) / count) if count else 0.0


def _pieces(values: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    """Some after some; none where there are no numbers."""
    if not values[0].numel():
        return
    size = max(1, (NEAR if values[0].device.type == "cpu" else FAR) // values[0].numel())
    for first in range(0, len(values), size):
        yield values[first : first + size]


def _table(values: Sequence[Tensor], simplex: bool, ends: bool) -> Tensor:
    """(K, 4): squares, low, high, off of each of K tensors of one shape and type."""
    wide = stacked(values).double().reshape(len(values), -1, *values[0].shape[-1:])
    flat = wide.flatten(1)
    zeros = flat.new_zeros(len(values))
    low = flat.amin(dim=1) if simplex or ends else zeros
    high = flat.amax(dim=1) if ends else zeros
    off = (wide.sum(dim=-1) - 1).abs().flatten(1).amax(dim=1) if simplex else zeros
    return torch.stack([flat.square().sum(dim=1), low, high, off], dim=1)
