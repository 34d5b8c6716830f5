"""Who runs the clients: engines, which map a pure function over them.

All engines give the same within rounding; they differ in speed, memory and machines.
"""

import inspect
from collections.abc import Callable
from typing import Any

from fedkd.core import Engine
from kdcore.registry import Registry, places

__all__ = ["CALL", "REGISTRY", "made", "names"]

REGISTRY: Registry[Callable[..., Any]] = Registry(
    "engine",
    places(
        {
            "sequential": "fedkd.engines.sequential:sequential",
            "batched": "fedkd.engines.batched:batched",
            "auto": "fedkd.engines.auto:AutoEngine",
            "ray": "fedkd.engines.ray.engine:RayEngine",
        }
    ),
    "kdsim.engines",
    expected="a function (function, task, clients, inputs), or what makes one",
)
"""Engines (`fedkd.core.Engine`): functions (function, task, clients, inputs) that give a list with
`function(task.models[client.group].predict, client.params, *inputs)` for each client, in order.

Or what makes one: a class or a function with no other parameters than `chunk`, the most clients at
once, `budget`, megabytes for these or None, and `workers`, cores for those that are not stacked,
each of which it may leave out. An engine must give what `sequential` gives.
"""

CALL = 4  # how many arguments an engine is called with


def names() -> list[str]:
    """The engines there are."""
    return REGISTRY.names()


def made(name: str, chunk: int, budget: float | None, workers: int | None = None) -> Engine:
    """The engine of a name, or at `module:Name` or `path/file.py:Name`, with what it takes.

    The engine `ray` is none of these: it needs workers, see `fedkd.engines.ray.engine`.

    Args:
        name: of the engine.
        chunk: the most clients at once.
        budget: megabytes for these, or None for any number.
        workers: clients at once of those that are not stacked; None for as many as torch has
            threads.

    Raises:
        ValueError: there is no such engine, or it is none.
    """
    found: Any = REGISTRY.get(name)
    parameters = inspect.signature(found).parameters
    if not inspect.isclass(found) and len(parameters) == CALL:
        engine: Engine = found
        return engine
    known = {"chunk": chunk, "budget": budget, "workers": workers}
    given = {k: v for k, v in known.items() if k in parameters}
    try:
        engine = found(**given)
    except TypeError as error:
        raise ValueError(f"engine {name!r} cannot be made: {error}") from error
    if not callable(engine):
        raise ValueError(f"engine {name!r} makes {engine!r}; expected {REGISTRY.expected}")
    return engine
