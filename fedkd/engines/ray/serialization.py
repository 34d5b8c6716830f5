"""Trees of tensors made ready to travel: each tensor once, as an array, large ones by reference.

A tensor that stands in several places of a tree travels once and is one tensor again on arrival, so
that the batched engine still sees what its clients share. A view travels without the rest of the
storage that it looks into.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map


class TensorRef(NamedTuple):
    """The place of a tensor in a tree; of its own kind, so that no other is taken for it.

    `place` counts the contents.
    """

    place: int


class SerializedTree(NamedTuple):
    """A tree with slots in the place of tensors, and what goes into the slots."""

    tree: Any
    contents: list[Any]


def pack(
    tree: Any, large: Callable[[Tensor], Any] | None = None, limit: int = 2**18
) -> SerializedTree:
    """A tree with its tensors as arrays.

    Args:
        tree: tuples, lists and dictionaries of tensors and plain values.
        large: what to send in the place of a tensor of at least `limit` bytes; by default itself.
        limit: in bytes.
    """
    places: dict[int, int] = {}
    contents: list[Any] = []

    def slot(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) not in places:
            places[id(leaf)] = len(contents)
            by_reference = large is not None and leaf.nbytes >= limit
            contents.append(large(leaf) if by_reference and large else array(leaf))
        return TensorRef(places[id(leaf)])

    return SerializedTree(tree_map(slot, tree), contents)


def unpack(
    serialized: SerializedTree,
    fetch: Callable[[Any], Tensor] | None = None,
    device: torch.device | None = None,
) -> Any:
    """The tree again, on a device; `fetch` turns what `large` gave into a tensor."""
    found = [
        tensor(value).to(device)
        if isinstance(value, np.ndarray)
        else fetch(value)
        if fetch
        else value
        for value in serialized.contents
    ]
    return tree_map(
        lambda leaf: found[leaf.place] if isinstance(leaf, TensorRef) else leaf,
        serialized.tree,
        is_leaf=lambda node: isinstance(node, TensorRef),
    )


def array(value: Tensor) -> np.ndarray:
    """A tensor's numbers, and nothing else of its storage."""
    return value.detach().cpu().contiguous().numpy().copy()


def tensor(value: np.ndarray) -> Tensor:
    """The tensor again, writable, also where the array lies in a shared store that is not."""
    return torch.from_numpy(np.array(value))
