"""Whether two machines have the same data: a sketch of it, which is quick to make and to send.

Not a hash: what is computed from files, such as spectra, may differ in a last bit from one kind of
processor to another. So a sketch has sums over all numbers, and some of the numbers; those of other
files, or of the same in another order, are far apart.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

SOME = 1000  # numbers of a table that are in a sketch
CLOSE = 1e-4  # of their mean size, by which real numbers may differ


class Sketch(NamedTuple):
    """Of one table (N numbers): its shape and type, sums over it, and some of its numbers."""

    shape: tuple[int, ...]
    kind: str
    total: float
    size: float
    some: tuple[float, ...]


def sketches(tables: Any) -> list[Sketch]:
    """A sketch of each tensor of a tree."""
    return [_sketch(leaf) for leaf in tree_leaves(tables) if isinstance(leaf, Tensor)]


def same(one: Sequence[Sketch], other: Sequence[Sketch]) -> bool:
    """Whether they may well be of the same data; whole numbers are the very same."""
    return len(one) == len(other) and all(map(_same, one, other))


def _sketch(table: Tensor) -> Sketch:
    flat = table.detach().flatten()
    kind = torch.float64 if flat.is_floating_point() else torch.int64
    known = flat.nan_to_num() if flat.is_floating_point() else flat
    few = known[:: max(1, len(known) // SOME)].to(kind)
    total = known.sum(dtype=kind).item()
    size = torch.linalg.vector_norm(known, 1, dtype=kind).item() if kind.is_floating_point else 0.0
    return Sketch(tuple(table.shape), str(table.dtype), total, size, tuple(few.tolist()))


def _same(one: Sketch, other: Sketch) -> bool:
    if one[:2] != other[:2]:
        return False
    near = CLOSE * one.size
    each = near / max(1, math.prod(one.shape))
    apart = (abs(a - b) for a, b in zip(one.some, other.some, strict=True))
    return abs(one.total - other.total) <= near and all(gap <= each for gap in apart)
