"""An engine that outlives clients whose functions raise."""

from collections.abc import Callable, Sequence
from typing import Any

from fedkd.core import Client, Engine, Failure, Task
from fedkd.engines.sequential import sequential


class EngineError(RuntimeError):
    """The engine itself cannot go on; no client is to blame, and to try each alone is no use."""


def fault_tolerant(engine: Engine = sequential) -> Engine:
    """The engine, but a client whose function raises gives a `Failure`, and the others go on.

    When a stack of clients raises, each of them is run alone, to find out which it was.
    """

    def guarded(
        function: Callable[..., Any],
        task: Task,
        clients: Sequence[Client],
        inputs: Sequence[tuple[Any, ...]],
    ) -> list[Any]:
        try:
            return engine(function, task, clients, inputs)
        except EngineError:
            raise
        except Exception as reason:
            if len(clients) == 1:
                return [Failure(f"{type(reason).__name__}: {reason}")]
        alone = [
            guarded(function, task, [client], [given])
            for client, given in zip(clients, inputs, strict=True)
        ]
        return [result for results in alone for result in results]

    return guarded
