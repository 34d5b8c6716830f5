"""Dense networks stacked; convolutional ones, on a CPU, in turn, as many at once as it has cores.

Which of the two is quicker is a matter of the architecture (`docs/performance.md`), so no clock is
asked, and an experiment is always computed the same way.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from fedkd.core import Client, Engine, Task
from fedkd.engines.batched import BatchedEngine, quicker_in_turn, steps_of
from fedkd.engines.sequential import sequential
from kdcore.outputs import Outputs
from kdcore.training.loop import Network, Params, Predict

STACKED, ON_CORES, ALONE = "stacked", "in turn, one on each core", "one after another"
WHY = {  # why the others are alone their networks say
    STACKED: "many small products become few large ones",
    ON_CORES: "stacked convolutions are no quicker on a CPU",
}


class AutoEngine:
    """Stacks clients of dense networks, and runs those of convolutional ones on one core each.

    The latter are networks of which `Network.in_turn` says so, on a CPU. One thread computes one
    client, however many there are, so results do not depend on their number. Clients whose network
    cannot be stacked (`Network.alone`), as modules that keep statistics, run one after another.

    Attributes:
        chosen: group -> how its clients run, and why, in words; both ways where they train in one
            and predict in another.
        notes: what was done otherwise than asked.
    """

    def __init__(
        self, chunk: int = 500, budget: float | None = None, workers: int | None = None
    ) -> None:
        """An engine.

        Args:
            chunk: clients in a stack, at the most.
            budget: megabytes that a stack may take, see `BatchedEngine`; by default any.
            workers: threads, each with one client, for those who run in turn; by default as many as
                torch has.

        Raises:
            ValueError: fewer than one worker, or as `BatchedEngine`.
        """
        if workers is not None and workers < 1:
            raise ValueError(f"there is at least one worker, got {workers}")
        self._stacks, self._workers = BatchedEngine(chunk, budget), workers
        self.chosen: dict[str, str] = {}
        self.notes = self._stacks.notes

    def __call__(
        self,
        function: Callable[..., Any],
        task: Task,
        clients: Sequence[Client],
        inputs: Sequence[tuple[Any, ...]],
    ) -> list[Any]:
        """`function(predict, params, *inputs)` for each client."""
        apart: dict[str, list[int]] = {STACKED: [], ON_CORES: [], ALONE: []}
        for place, (client, given) in enumerate(zip(clients, inputs, strict=True)):
            way, why = _way(task.models[client.group].predict, client, given)
            apart[way].append(place)
            self._note(client.group, f"{way} ({why})")
        results: list[Any] = [None] * len(clients)
        engines: dict[str, Engine] = {
            STACKED: self._stacks,
            ON_CORES: self._on_cores,
            ALONE: sequential,
        }
        for way, places in apart.items():
            own = [clients[place] for place in places], [inputs[place] for place in places]
            found = engines[way](function, task, *own) if places else []
            for place, result in zip(places, found, strict=True):
                results[place] = result
        return results

    def _note(self, group: str, way: str) -> None:
        known = self.chosen.get(group)
        if known is None:
            self.chosen[group] = way
        elif way not in known:
            self.chosen[group] = f"{known}; {way}"

    def _on_cores(
        self,
        function: Callable[..., Any],
        task: Task,
        clients: Sequence[Client],
        inputs: Sequence[tuple[Any, ...]],
    ) -> list[Any]:
        """Each client by one thread; those with most steps first, as no core is to wait for them.

        Where one raises, or this thread is interrupted, the others end with their mini-batch.
        """
        stop = threading.Event()

        def one(place: int) -> Any:
            client = clients[place]
            predict = _until(stop, task.models[client.group].predict)
            return function(predict, dict(client.params), *inputs[place])

        order = sorted(range(len(clients)), key=lambda place: -steps_of(inputs[place]))
        workers = self._workers or torch.get_num_threads()
        with _one_thread_each(), ThreadPoolExecutor(workers) as pool:
            running = {place: pool.submit(one, place) for place in order}
            try:
                return [running[place].result() for place in range(len(clients))]
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise


class _StoppedError(Exception):
    """Nobody waits for this client any more."""


def _way(predict: Predict, client: Client, given: tuple[Any, ...]) -> tuple[str, str]:
    """How a client of a network runs, and why."""
    if isinstance(predict, Network) and predict.alone is not None:
        return ALONE, predict.alone
    way = ON_CORES if quicker_in_turn(predict, client.params, given) else STACKED
    return way, WHY[way]


def _until(stop: threading.Event, predict: Predict) -> Predict:
    """The network, as long as somebody waits for what it answers."""
    assert isinstance(predict, Network)
    network = predict

    def one(params: Params, x: Any) -> Outputs:
        if stop.is_set():
            raise _StoppedError
        return network.one(params, x)

    return replace(network, one=one)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Threads that are started in here have no further threads of torch's own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
