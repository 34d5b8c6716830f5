"""Clients that send what they should not: to test that the border turns it away."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fedkd.core import Client, Engine, Task
from fedkd.messages import Upload
from kdcore.registry import Registry, members


def corrupt(engine: Engine, client: int, fault: str) -> Engine:
    """The engine, but for the uploads of one client, which are tampered with before they are sent.

    Args:
        engine: runs the clients, the corrupt one included; what stays with it is left alone.
        client: whose uploads.
        fault: one of `FAULTS`, or a reference to one's own (`REGISTRY`).

    Raises:
        ValueError: there is no such fault; the message names the nearest and lists all.
    """
    tamper = REGISTRY.get(fault)

    def tampered(
        function: Callable[..., Any],
        task: Task,
        clients: Sequence[Client],
        inputs: Sequence[tuple[Any, ...]],
    ) -> list[Any]:
        results = engine(function, task, clients, inputs)
        return [
            _with_upload(result, tamper) if sender.id == client else result
            for sender, result in zip(clients, results, strict=True)
        ]

    return tampered


def _with_upload(result: Any, fault: Callable[[Upload], Upload]) -> Any:
    """(Params, Upload) with the upload changed; results of other functions are left alone."""
    if isinstance(result, tuple) and isinstance(result[-1], Upload):
        return (*result[:-1], fault(result[-1]))
    return result


def _each(change: Callable[[Tensor], Tensor]) -> Callable[[Upload], Upload]:
    def fault(upload: Upload) -> Upload:
        payload = {key: change(value) for key, value in upload.payload.items()}
        return upload._replace(payload=payload)

    return fault


def _full(value: float) -> Callable[[Upload], Upload]:
    """All numbers the same; whole ones, which cannot be, are left as they are."""
    return _each(lambda v: torch.full_like(v, value) if v.is_floating_point() else v)


def _weight(value: float) -> Callable[[Upload], Upload]:
    return lambda upload: upload._replace(weight=torch.tensor(value, dtype=torch.float64))


FAULTS: dict[str, Callable[[Upload], Upload]] = {
    "nan": _full(torch.nan),
    "inf": _full(torch.inf),
    "huge-values": _full(1e30),
    "scaled": _each(lambda value: 1_000_000 * value),
    "shape": _each(lambda value: value.unsqueeze(-1)),
    "simplex": _each(lambda value: value + 1),
    "negative-weight": _weight(-1.0),
    "huge-weight": _weight(1e15),
}

REGISTRY: Registry[Callable[[Upload], Upload]] = Registry(
    "fault",
    members(FAULTS),
    "kdsim.faults",
    expected="a function of an Upload that gives the one that is sent",
)
"""Faults: functions of an `Upload` that give what is sent in its place, such as

    def loud(upload):
        return upload._replace(weight=100 * upload.weight)
"""
