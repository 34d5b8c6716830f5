"""Clients of one architecture stacked, and updated together under `torch.func.vmap`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from fedkd.core import Client, Task
from kdcore.devices import stacked
from kdcore.training.batches import NOBODY
from kdcore.training.loop import Batches, Network, Predict
from kdcore.training.stacked import evenly

CACHED = 10e6  # bytes of parameters of a chunk: more are no faster, as they leave the cache
FEWEST = 10  # clients of a chunk where the chunk's limit allows it: fewer do not pay
COPIES = 6  # of a client's parameters in a step: old, new, gradient, optimiser, temporaries
AT_ONCE = 500  # examples that a client predicts at once, see kdcore.training.loop.logits_of

Call = tuple[Any, ...]  # what a client's function is given: its parameters, then its inputs


class BatchedEngine:
    """An engine that runs up to `chunk` clients of one architecture at once; fewer of large ones.

    Chunks are cut by steps and position in the cohort, so they do not depend on the machine. What
    all clients of a chunk share (the very same tensor: the data, a consensus) is not copied. A
    chunk for which there is no memory is cut in halves and tried again. Clients whose network
    cannot be stacked, or is no quicker for it (`in_turn`), run in turn, bit for bit as in the
    sequential engine.

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
        self._said: set[str] = set()

    def __call__(
        self,
        function: Callable[..., Any],
        task: Task,
        clients: Sequence[Client],
        inputs: Sequence[tuple[Any, ...]],
    ) -> list[Any]:
        """`function(predict, params, *inputs)` for each client."""
        results: list[Any] = [None] * len(clients)
        calls = [(dict(c.params), *given) for c, given in zip(clients, inputs, strict=True)]
        for positions in _alike(clients, calls):
            first = positions[0]
            predict = task.models[clients[first].group].predict
            alone = predict.alone if isinstance(predict, Network) else None
            if alone is not None:
                self._note(f"{clients[first].group}: clients run in turn: {alone}")
            if alone is not None or quicker_in_turn(predict, clients[first].params, inputs[first]):
                for position in positions:
                    results[position] = function(predict, *calls[position])
                continue
            size = self._size(clients[first], calls[first])
            for part in evenly(len(positions), size):
                block = positions[part]
                found = self._run(function, predict, [calls[i] for i in block])
                for position, result in zip(block, found, strict=True):
                    results[position] = result
        return results

    def _note(self, said: str) -> None:
        if said not in self._said:
            self._said.add(said)
            self.notes.append(said)

    def check(self, client: Client, x: Any) -> None:
        """Raise ValueError if the budget has no room for one client and its examples x."""
        self._room(client, sum(table[:1].nbytes for table in tree_leaves(x)))

    def _run(self, function: Callable[..., Any], predict: Predict, calls: list[Call]) -> list[Any]:
        try:
            return _stacked(function, predict, calls)
        except torch.OutOfMemoryError:
            if len(calls) == 1:
                raise
        half = len(calls) // 2
        self.notes.append(f"no memory for {len(calls)} clients at once: tried again with {half}")
        first = self._run(function, predict, calls[:half])
        return first + self._run(function, predict, calls[half:])

    def _size(self, client: Client, call: Call) -> int:
        """How many clients like this one are stacked."""
        tables = [table for batches in _batches(call) for table in tree_leaves(batches.x)]
        example = sum(table[:1].nbytes for table in tables)
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


def quicker_in_turn(predict: Predict, params: Mapping[str, Tensor], given: Call) -> bool:
    """Whether a client is better run by itself than stacked: nothing is padded then.

    With privacy of each example it is not: one alone is trained by the reference, example after
    example.
    """
    if not isinstance(predict, Network) or not predict.in_turn:
        return False
    on_cpu = next(iter(params.values())).device.type == "cpu"
    return on_cpu and not any(len(batches.own) for batches in _batches(given))


def steps_of(given: Call) -> int:
    """How many mini-batches there are in the inputs of a client."""
    return sum(batches.steps for batches in _batches(given))


def _batches(value: Any) -> Iterator[Batches]:
    """All batches among the inputs of a client."""
    if isinstance(value, Batches):
        yield value
    elif isinstance(value, dict | tuple | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _batches(part)


def _alike(clients: Sequence[Client], calls: Sequence[Call]) -> Iterable[list[int]]:
    """Positions of clients that can be stacked: all is the same but the numbers in tensors.

    Those with many steps come first, so that a chunk holds clients of much the same length, and
    those that are done first are at its end.
    """
    kinds: dict[Any, list[int]] = {}
    known: dict[int, Any] = {}  # id of an input, which many clients may share -> its kind
    steps: dict[int, list[int]] = {}  # id of an input -> of the batches in it
    for position, (client, (params, *given)) in enumerate(zip(clients, calls, strict=True)):
        for value in given:
            if id(value) not in steps:
                steps[id(value)] = [batches.steps for batches in _batches(value)]
        kind = client.group, _kind(params, known), *(_known(value, known) for value in given)
        kinds.setdefault(kind, []).append(position)
    for positions in kinds.values():
        positions.sort(key=lambda p: [steps[id(value)] for value in calls[p][1:]], reverse=True)
    return kinds.values()


def _known(value: Any, known: dict[int, Any]) -> Any:
    """The kind of what many clients may share, found once."""
    if id(value) not in known:
        known[id(value)] = _kind(value, known)
    return known[id(value)]


def _kind(value: Any, known: dict[int, Any]) -> Any:
    """What must agree: all but numbers in tensors, and how many and how wide batches are."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype
    if isinstance(value, Batches):
        tables = _known(value.x, known), _known(value.y, known), _kind(value.size, known)
        return Batches, tables, value.mask.dtype
    if isinstance(value, dict):
        return dict, tuple(value), *(_kind(part, known) for part in value.values())
    if isinstance(value, tuple | list):
        return type(value), *(_kind(part, known) for part in value)
    return value


def _stacked(function: Callable[..., Any], predict: Predict, calls: list[Call]) -> list[Any]:
    """One vmapped call in place of many."""
    pairs = [_joined(column) for column in zip(*calls, strict=True)]
    (params, dims), *_ = pairs
    if dims is None or not any(dim == 0 for dim in dims.values()):
        first = next(iter(params))  # is stacked in any case, so that vmap has an axis
        stacked = params[first].expand(len(calls), *params[first].shape)
        pairs[0] = params | {first: stacked}, dict.fromkeys(params) | {first: 0}
    shape: list[TreeSpec] = []
    kept: list[list[bool]] = []

    def one(*call: Any) -> tuple[Tensor, ...]:
        results, result_spec = tree_flatten(function(predict, *call))
        shape.append(result_spec)
        kept.append([isinstance(result, Tensor) for result in results])
        return tuple(result for result in results if isinstance(result, Tensor))

    values, places = zip(*pairs, strict=True)
    tensors = iter(torch.func.vmap(one, in_dims=places)(*values))
    together = tree_unflatten([next(tensors) if k else None for k in kept[0]], shape[0])
    return _apart(together, len(calls))


def _joined(column: Sequence[Any]) -> tuple[Any, Any]:
    """One argument of many clients as one, and where its axis of clients is, as vmap wants it.

    What is the very same for all has no such axis. Batches get as many steps as the longest.
    """
    first = column[0]
    if all(value is first for value in column):
        return first, None
    if isinstance(first, Tensor):
        return stacked(column), 0
    if isinstance(first, Batches):
        return _joined_batches(column)
    if isinstance(first, dict):
        pairs = {key: _joined([value[key] for value in column]) for key in first}
        return {k: v for k, (v, _) in pairs.items()}, {k: dim for k, (_, dim) in pairs.items()}
    if isinstance(first, tuple | list):
        parts, dims = zip(*(_joined(part) for part in zip(*column, strict=True)), strict=True)
        return _like(first, parts), _like(first, dims)
    return first, None


def _joined_batches(column: Sequence[Batches]) -> tuple[Batches, Batches]:
    """As many steps as the longest has, as wide as the widest is, as many records as the most."""
    x, y, orders, masks, size, noise, own = zip(*column, strict=True)
    (x, y, size), dims = _joined(list(zip(x, y, size, strict=True)))
    widest = max(order.shape[1] for order in orders)
    order, mask = (
        pad_sequence([_widened(one, widest) for one in tables], batch_first=True)
        for tables in (orders, masks)
    )
    (seeds, of_seeds), (records, of_records) = map(_joined_lists, (noise, own))
    joined = Batches(x, y, order, mask, size, seeds, records)
    return joined, Batches._make((dims[0], dims[1], 0, 0, dims[2], of_seeds, of_records))


def _joined_lists(column: Sequence[Tensor]) -> tuple[Tensor, int | None]:
    """Lists of seeds or of records, as long as the longest; what is nobody's stays one."""
    if all(value is column[0] for value in column):
        return column[0], None
    return pad_sequence(list(column), batch_first=True, padding_value=NOBODY), 0


def _widened(table: Tensor, width: int) -> Tensor:
    """(S, B) -> (S, width)."""
    missing = width - table.shape[1]
    return torch.nn.functional.pad(table, (0, missing)) if missing else table


def _apart(value: Any, count: int) -> list[Any]:
    """The inverse: what is stacked, as a list with a member for each client."""
    if isinstance(value, Tensor):
        return list(value.unbind())
    if isinstance(value, dict):
        rows = zip(*(_apart(part, count) for part in value.values()), strict=True)
        return [dict(zip(value, row, strict=True)) for row in rows] or [{} for _ in range(count)]
    if isinstance(value, tuple | list):
        rows = zip(*(_apart(part, count) for part in value), strict=True)
        return [_like(value, row) for row in rows] or [value] * count
    return [value] * count


def _like(value: Any, parts: Iterable[Any]) -> Any:
    """A tuple, named tuple or list of the same type with other parts."""
    return value._make(parts) if hasattr(value, "_make") else type(value)(parts)
