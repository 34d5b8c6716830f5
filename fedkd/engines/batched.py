"""Clients of one architecture stacked, and updated together under `torch.func.vmap`."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from fedkd.core import Client, Task
from knowledge.training import Batches, Predict

COPIES = 6  # of a client's parameters in a step: old, new, gradient, optimiser, temporaries
AT_ONCE = 500  # examples that a client predicts at once, see knowledge.training.logits_of


class BatchedEngine:
    """An engine that runs up to `chunk` clients of one architecture at once.

    Chunks are cut by position in the cohort, so they do not depend on the machine. What all
    clients of a chunk share (the very same tensor: the data, a consensus) is not copied. A chunk
    for which there is no memory is cut in halves and tried again.

    Attributes:
        notes: what was done otherwise than asked, in words.
    """

    def __init__(self, chunk: int = 25, budget: float | None = None) -> None:
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
        for positions in _alike(clients, inputs):
            first = positions[0]
            predict = task.models[clients[first].group].predict
            size = self._size(clients[first], inputs[first])
            for start in range(0, len(positions), size):
                block = positions[start : start + size]
                calls = [(clients[i].params, inputs[i]) for i in block]
                for position, result in zip(
                    block, self._run(function, predict, calls), strict=True
                ):
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

    def _size(self, client: Client, given: tuple[Any, ...]) -> int:
        """How many clients like this one are stacked."""
        example = sum(batches.x[:1].nbytes for batches in _batches(given))
        return min(self._chunk, self._room(client, example))

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


def batched(chunk: int = 25, budget: float | None = None) -> BatchedEngine:
    """The engine; see `BatchedEngine`."""
    return BatchedEngine(chunk, budget)


def _alike(clients: Sequence[Client], inputs: Sequence[tuple[Any, ...]]) -> Iterable[list[int]]:
    """Positions of clients that can be stacked: all is the same but the numbers in tensors.

    Those with many steps come first, so that a chunk holds clients of much the same length, and
    those that are done first are at its end.
    """
    kinds: dict[Any, list[int]] = {}
    for position, (client, given) in enumerate(zip(clients, inputs, strict=True)):
        leaves, spec = tree_flatten((client.params, _with_steps(given, 0)))
        kinds.setdefault((client.group, str(spec), *map(_kind, leaves)), []).append(position)
    for positions in kinds.values():
        positions.sort(
            key=lambda position: [b.steps for b in _batches(inputs[position])], reverse=True
        )
    return kinds.values()


def _kind(leaf: Any) -> Any:
    return (tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else leaf


def _stacked(function: Callable[..., Any], predict: Predict, calls: list[Any]) -> list[Any]:
    """One vmapped call in place of many; each call is (params, inputs)."""
    steps = [batches.steps for call in calls for batches in _batches(call)]
    if len(set(steps)) > 1:
        calls = [(params, _padded(given, max(steps))) for params, given in calls]
    flat = [tree_flatten(call) for call in calls]
    spec = flat[0][1]
    columns = list(zip(*(leaves for leaves, _ in flat), strict=True))
    own = [_differs(column) for column in columns]
    own[0] = True  # at least the first parameter is stacked, so that vmap has an axis
    values = [torch.stack(c) if mine else c[0] for c, mine in zip(columns, own, strict=True)]
    varying = [value for value, mine in zip(values, own, strict=True) if mine]
    shape: list[TreeSpec] = []

    def one(*mine: Tensor) -> tuple[Tensor, ...]:
        given = iter(mine)
        leaves = [next(given) if o else v for v, o in zip(values, own, strict=True)]
        params, inputs = tree_unflatten(leaves, spec)
        results, result_spec = tree_flatten(function(predict, params, *inputs))
        shape.append(result_spec)
        kept.append([isinstance(result, Tensor) for result in results])
        return tuple(result for result in results if isinstance(result, Tensor))

    kept: list[list[bool]] = []
    outputs = torch.func.vmap(one)(*varying)
    return [_unstack(outputs, kept[0], shape[0], position) for position in range(len(calls))]


def _unstack(outputs: Sequence[Tensor], kept: Sequence[bool], spec: TreeSpec, position: int) -> Any:
    tensors = iter(outputs)
    return tree_unflatten([next(tensors)[position] if k else None for k in kept], spec)


def _differs(column: tuple[Any, ...]) -> bool:
    first = column[0]
    return isinstance(first, Tensor) and any(value is not first for value in column)


def _is_batches(value: Any) -> bool:
    return isinstance(value, Batches)


def _batches(tree: Any) -> list[Batches]:
    return [leaf for leaf in tree_flatten(tree, is_leaf=_is_batches)[0] if _is_batches(leaf)]


def _padded(tree: Any, steps: int) -> Any:
    return tree_map(lambda v: v.padded(steps) if _is_batches(v) else v, tree, is_leaf=_is_batches)


def _with_steps(tree: Any, steps: int) -> Any:
    """The tree with its batches cut to a number of steps, to compare all else."""

    def cut(value: Any) -> Any:
        if not _is_batches(value):
            return value
        return value._replace(order=value.order[:steps], mask=value.mask[:steps])

    return tree_map(cut, tree, is_leaf=_is_batches)
