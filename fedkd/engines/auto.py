"""The faster of the sequential and the batched engine, found out by timing both."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from fedkd.core import Client, Engine, Task
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential


class AutoEngine:
    """Times both engines on the first chunk of each architecture, and keeps to the faster.

    Both compute the same, within rounding; which of them it is depends on the clock, so two runs
    may differ in the last digits. Name an engine where they must not.

    Attributes:
        chosen: group -> the engine's name, and how many times faster it was.
        notes: the same in words.
    """

    def __init__(self, chunk: int = 50) -> None:
        self._chunk = chunk
        self._engines: dict[str, Engine] = {"sequential": sequential, "batched": batched()}
        self.chosen: dict[str, tuple[str, float]] = {}
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
        for group in sorted({client.group for client in clients}):
            places = [i for i, client in enumerate(clients) if client.group == group]
            members, given = [clients[i] for i in places], [inputs[i] for i in places]
            if group not in self.chosen:
                first = slice(self._chunk)
                self.chosen[group] = self._race(function, task, members[first], given[first])
                name, ratio = self.chosen[group]
                self.notes.append(
                    f"{group}: {name}, {ratio:.1f} times faster than the other engine"
                )
            engine = self._engines[self.chosen[group][0]]
            for place, result in zip(places, engine(function, task, members, given), strict=True):
                results[place] = result
        return results

    def _race(
        self,
        function: Callable[..., Any],
        task: Task,
        clients: Sequence[Client],
        inputs: Sequence[tuple[Any, ...]],
    ) -> tuple[str, float]:
        seconds = {}
        for name, engine in self._engines.items():
            engine(function, task, clients[:2], inputs[:2])  # the first call of each is no measure
            start = time.perf_counter()
            engine(function, task, clients, inputs)
            seconds[name] = time.perf_counter() - start
        best = min(seconds, key=seconds.__getitem__)
        return best, max(seconds.values()) / seconds[best]
