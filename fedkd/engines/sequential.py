"""The reference engine: one client after another."""

from collections.abc import Callable, Sequence
from typing import Any

from fedkd.core import Client, Task


def sequential(
    function: Callable[..., Any],
    task: Task,
    clients: Sequence[Client],
    inputs: Sequence[tuple[Any, ...]],
) -> list[Any]:
    """`function(predict, params, *inputs)` for each client, in turn.

    Args:
        function: pure; `Algorithm.client_update`, `Algorithm.deploy`, or the like.
        task: holds the model of each group.
        clients: whose parameters are used.
        inputs: the further arguments, a tuple for each client.
    """
    return [
        function(task.models[client.group].predict, dict(client.params), *given)
        for client, given in zip(clients, inputs, strict=True)
    ]
