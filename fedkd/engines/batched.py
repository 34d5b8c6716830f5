"""Clients of one architecture stacked, and updated together under `torch.func.vmap`."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from fedkd.core import Client, Task
from knowledge.training import Batches, Predict

CACHED = 10e6  # bytes of parameters of a chunk: more are no faster, as they leave the cache
FEWEST = 10  # clients of a chunk where the chunk's limit allows it: fewer do not pay
COPIES = 6  # of a client's parameters in a step: old, new, gradient, optimiser, temporaries
AT_ONCE = 500  # examples that a client predicts at once, see knowledge.training.logits_of


class BatchedEngine:
    """An engine that runs up to `chunk` clients of one architecture at once; fewer of large ones.

    Chunks are cut by steps and position in the cohort, so they do not depend on the machine. What
    all clients of a chunk share (the very same tensor: the data, a consensus) is not copied. A
    chunk for which there is no memory is cut in halves and tried again.

    Attributes:
        notes: what was done otherwise than asked, in words.
    """

    def __init__(self, chunk: int = 500, budget: float | None = None) -> None:
        """An engine.

        Args:
            chunk: clients at once, at the most.
            budget: megabytes that a chunk may take, by an estimate from above of its parameters
                and examples; by default any.

        Raises:
            ValueError: a chunk below 1, or a budget that is not positive.
        """
        if chunk < 1:
            raise ValueError(f"a chunk holds at least one client, got {chunk}")
        if budget is not None and not budget > 0:
            raise ValueError(f"a memory budget is a positive number of megabytes, got {budget}")
        self._chunk, self._budget = chunk, budget
        self.notes: list[str] = []

    def __call__(
        self,
        function: Callable[..., Any],
        task: Task,
        clients: Sequence[Client],
        inputs: Sequence[tuple[Any, ...]],
    ) -> list[Any]:
        """`function(predict, params, *inputs)` for each client."""
        results: list[Any] = [None] * len(clients)
        calls = [_call(c, given) for c, given in zip(clients, inputs, strict=True)]
        for positions in _alike(clients, calls):
            first = positions[0]
            predict = task.models[clients[first].group].predict
            size = self._size(clients[first], calls[first])
            for start in range(0, len(positions), size):
                block = positions[start : start + size]
                found = self._run(function, predict, [calls[i] for i in block])
                for position, result in zip(block, found, strict=True):
                    results[position] = result
        return results

    def check(self, client: Client, example: Tensor) -> None:
        """Raise ValueError if the budget has no room for one client and its examples."""
        self._room(client, example[:1].nbytes)

    def _run(self, function: Callable[..., Any], predict: Predict, calls: list[Any]) -> list[Any]:
        try:
            return _stacked(function, predict, calls)
        except torch.OutOfMemoryError:
            if len(calls) == 1:
                raise
        half = len(calls) // 2
        self.notes.append(f"no memory for {len(calls)} clients at once: tried again with {half}")
        first = self._run(function, predict, calls[:half])
        return first + self._run(function, predict, calls[half:])

    def _size(self, client: Client, call: "_Call") -> int:
        """How many clients like this one are stacked."""
        example = sum(leaf.x[:1].nbytes for leaf in call.leaves if isinstance(leaf, Batches))
        parameters = sum(value.nbytes for value in client.params.values())
        cached = max(FEWEST, int(CACHED / max(parameters, 1)))
        return min(self._chunk, cached, self._room(client, example))

    def _room(self, client: Client, example: int) -> int:
        """How many clients like this one the budget has room for; `example` is in bytes."""
        if self._budget is None:
            return self._chunk
        parameters = sum(value.nbytes for value in client.params.values())
        need = (COPIES * parameters + AT_ONCE * example) / 1e6
        if need > self._budget:
            raise ValueError(
                f"one client of {client.group} needs about {need:.3g} MB, and the memory budget is "
                f"{self._budget:g} MB; raise it, or take a smaller model"
            )
        return int(self._budget / need)


def batched(chunk: int = 500, budget: float | None = None) -> BatchedEngine:
    """The engine; see `BatchedEngine`."""
    return BatchedEngine(chunk, budget)


class _Call(NamedTuple):
    """The arguments of one client, (params, inputs), as a flat list with batches in one piece."""

    leaves: list[Any]
    spec: TreeSpec

    @property
    def steps(self) -> list[int]:
        return [leaf.steps for leaf in self.leaves if isinstance(leaf, Batches)]


def _call(client: Client, given: tuple[Any, ...]) -> _Call:
    pieces = tree_flatten((dict(client.params), given), is_leaf=lambda v: isinstance(v, Batches))
    return _Call(*pieces)


def _alike(clients: Sequence[Client], calls: Sequence[_Call]) -> Iterable[list[int]]:
    """Positions of clients that can be stacked: all is the same but the numbers in tensors.

    Those with many steps come first, so that a chunk holds clients of much the same length, and
    those that are done first are at its end.
    """
    kinds: dict[Any, list[int]] = {}
    for position, (client, call) in enumerate(zip(clients, calls, strict=True)):
        kind = client.group, call.spec, *map(_kind, call.leaves)
        kinds.setdefault(kind, []).append(position)
    for positions in kinds.values():
        positions.sort(key=lambda position: calls[position].steps, reverse=True)
    return kinds.values()


def _kind(leaf: Any) -> Any:
    """What must agree: everything but numbers in tensors, and the steps of batches."""
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), leaf.dtype
    if isinstance(leaf, Batches):
        tables = tree_leaves((leaf.x, leaf.y, leaf.size))
        return *map(_kind, tables), leaf.order.shape[1:], leaf.mask.dtype
    return leaf


def _stacked(function: Callable[..., Any], predict: Predict, calls: list[_Call]) -> list[Any]:
    """One vmapped call in place of many."""
    tree: list[Any] = []  # like the leaves of one call, with places in `columns` for tensors
    columns: list[tuple[Any, ...]] = []
    for leaf in zip(*(call.leaves for call in calls), strict=True):
        each = [tree_flatten(value) for value in _as_long(leaf)]
        places = [len(columns) + i for i in range(len(each[0][0]))]
        columns += zip(*(values for values, _ in each), strict=True)
        tree.append((places, each[0][1]))
    own = [_differs(column) for column in columns]
    own[0] = True  # at least the first parameter is stacked, so that vmap has an axis
    values = [_stack(c) if mine else c[0] for c, mine in zip(columns, own, strict=True)]
    varying = [value for value, mine in zip(values, own, strict=True) if mine]
    shape: list[TreeSpec] = []
    kept: list[list[bool]] = []

    def one(*mine: Tensor) -> tuple[Tensor, ...]:
        given = iter(mine)
        flat = [next(given) if o else v for v, o in zip(values, own, strict=True)]
        leaves = [tree_unflatten([flat[i] for i in places], spec) for places, spec in tree]
        params, inputs = tree_unflatten(leaves, calls[0].spec)
        results, result_spec = tree_flatten(function(predict, params, *inputs))
        shape.append(result_spec)
        kept.append([isinstance(result, Tensor) for result in results])
        return tuple(result for result in results if isinstance(result, Tensor))

    outputs = torch.func.vmap(one)(*varying)
    return [_unstack(outputs, kept[0], shape[0], position) for position in range(len(calls))]


def _as_long(column: Sequence[Any]) -> Sequence[Any]:
    """Batches with as many steps as the longest; all else as it is."""
    if not isinstance(column[0], Batches):
        return column
    longest = max(batches.steps for batches in column)
    return [b if b.steps == longest else b.padded(longest) for b in column]


def _stack(column: Sequence[Tensor]) -> Tensor:
    """The tensors as one; without a copy where they are the rows of one, as after a round."""
    first = column[0]
    place, size = first.storage_offset(), first.numel()
    for row, value in enumerate(column):
        same = value.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not (same and value.is_contiguous() and value.storage_offset() == place + row * size):
            return torch.stack(list(column))
    return first.as_strided((len(column), *first.shape), (size, *first.stride()))


def _unstack(outputs: Sequence[Tensor], kept: Sequence[bool], spec: TreeSpec, position: int) -> Any:
    tensors = iter(outputs)
    return tree_unflatten([next(tensors)[position] if k else None for k in kept], spec)


def _differs(column: tuple[Any, ...]) -> bool:
    first = column[0]
    return isinstance(first, Tensor) and any(value is not first for value in column)
