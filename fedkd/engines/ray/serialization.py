"""Trees of tensors made ready to travel: each tensor once, as an array, large ones by reference.

A tensor that stands in several places of a tree travels once and is one tensor again on arrival, so
that the batched engine still sees what its clients share. A view travels without the rest of the
storage that it looks into.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from kdcore.devices import Joined, joined, together


class TensorRef(NamedTuple):
    """The place of a tensor in a tree; of its own kind, so that no other is taken for it.

    `place` counts the tensors of the contents, one after the other.
    """

    place: int


class Together(NamedTuple):
    """Tensors of one type that travel as one (`kdcore.devices.Joined`), and the shape of each."""

    flat: np.ndarray
    shapes: tuple[tuple[int, ...], ...]


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
    leaves = {id(leaf): leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}
    apart = [v for v in leaves.values() if large is not None and v.nbytes >= limit]
    rest = [value for value in leaves.values() if large is None or value.nbytes < limit]
    contents: list[Any] = [large(value) for value in apart if large is not None]
    order = list(map(id, apart))
    for group in together(rest):
        values = [rest[place] for place in group]
        flat, shapes = joined(values)
        contents.append(Together(array(flat), tuple(map(tuple, shapes))))
        order += map(id, values)
    places = {name: place for place, name in enumerate(order)}
    refer = partial(_reference, places)
    return SerializedTree(tree_map(refer, tree), contents)


def unpack(
    serialized: SerializedTree,
    fetch: Callable[[Any], Tensor] | None = None,
    device: torch.device | None = None,
) -> Any:
    """The tree again, on a device; `fetch` turns what `large` gave into a tensor.

    Tensors that travelled together are views of one.
    """
    found: list[Any] = []
    for content in serialized.contents:
        if isinstance(content, Together):
            shapes = tuple(map(torch.Size, content.shapes))
            found += Joined(tensor(content.flat).to(device), shapes).apart()
        else:
            found.append(fetch(content) if fetch else content)
    return tree_map(
        lambda leaf: found[leaf.place] if isinstance(leaf, TensorRef) else leaf,
        serialized.tree,
        is_leaf=lambda node: isinstance(node, TensorRef),
    )


def _reference(places: Mapping[int, int], leaf: Any) -> Any:
    return TensorRef(places[id(leaf)]) if isinstance(leaf, Tensor) else leaf


def array(value: Tensor) -> np.ndarray:
    """A tensor's numbers, and nothing else of its storage."""
    return value.detach().cpu().contiguous().numpy().copy()


def tensor(value: np.ndarray) -> Tensor:
    """The tensor again, writable, also where the array lies in a shared store that is not."""
    return torch.tensor(value)  # in memory of torch, which begins where it begins all tensors
