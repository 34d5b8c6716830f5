"""Clients of one architecture stacked, and updated together under `torch.func.vmap`."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from fedkd.core import Client, Task
from knowledge.training import Batches, Predict


def batched(chunk: int = 50) -> Callable[..., list[Any]]:
    """An engine that runs up to `chunk` clients of one architecture at once.

    Chunks are cut by position in the cohort, so they do not depend on the machine. What all
    clients of a chunk share (the very same tensor: the data, a consensus) is not copied.

    Raises:
        ValueError: a chunk below 1.
    """
    if chunk < 1:
        raise ValueError(f"a chunk holds at least one client, got {chunk}")

    def engine(
        function: Callable[..., Any],
        task: Task,
        clients: Sequence[Client],
        inputs: Sequence[tuple[Any, ...]],
    ) -> list[Any]:
        results: list[Any] = [None] * len(clients)
        for positions in _alike(clients, inputs):
            for start in range(0, len(positions), chunk):
                block = positions[start : start + chunk]
                predict = task.models[clients[block[0]].group].predict
                done = _stacked(function, predict, [(clients[i].params, inputs[i]) for i in block])
                for position, result in zip(block, done, strict=True):
                    results[position] = result
        return results

    return engine


def _alike(clients: Sequence[Client], inputs: Sequence[tuple[Any, ...]]) -> Iterable[list[int]]:
    """Positions of clients that can be stacked: all is the same but the numbers in tensors.

    Those with few steps come first, so that a chunk holds clients of much the same length.
    """
    kinds: dict[Any, list[int]] = {}
    for position, (client, given) in enumerate(zip(clients, inputs, strict=True)):
        leaves, spec = tree_flatten((client.params, _with_steps(given, 0)))
        kinds.setdefault((client.group, str(spec), *map(_kind, leaves)), []).append(position)
    for positions in kinds.values():
        positions.sort(key=lambda position: [b.steps for b in _batches(inputs[position])])
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
