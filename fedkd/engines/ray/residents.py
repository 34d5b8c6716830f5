"""Objects that live in Ray actors, one in each, with their own threads: what they do is asked for.

Only arguments and answers cross, as trees of tensors. An actor that is lost is lost with what it
had; nobody makes it again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from fedkd.engines.fault_tolerance import EngineError
from fedkd.engines.ray.cluster import connect, ray, send_users_code
from fedkd.engines.ray.placement import Share
from fedkd.engines.ray.serialization import SerializedTree, pack, unpack


class _Home:
    """An actor, and the object in it."""

    def __init__(self, threads: int, dtype: torch.dtype) -> None:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)

    def make(self, function: Callable[..., Any], given: SerializedTree) -> None:
        """Make the object."""
        self._object = function(*unpack(given))

    def call(self, function: Callable[..., Any], given: SerializedTree) -> SerializedTree:
        """What a function answers of the object."""
        return pack(function(self._object, *unpack(given)))


class Residents:
    """Objects in actors; use it in a `with` statement, or close it."""

    def __init__(
        self,
        make: Callable[..., Any],
        given: Sequence[tuple[Any, ...]],
        share: Share = Share(),  # noqa: B008  (a tuple)
        address: str | None = None,
    ) -> None:
        """Start an actor for each of some arguments of `make`, on a cluster or on this machine.

        Raises:
            ValueError: there is no such cluster, or no room in it.
        """
        self._own = connect(address, [share] * len(given))
        send_users_code()
        home = ray.remote(_Home).options(num_cpus=share.cpus, num_gpus=share.gpus)
        threads = max(1, int(share.cpus))
        kind = torch.get_default_dtype()
        self._homes: list[Any] = [home.remote(threads, kind) for _ in given]
        self._wait([h.make.remote(make, pack(g)) for h, g in zip(self._homes, given, strict=True)])

    def __enter__(self) -> "Residents":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def map(self, function: Callable[..., Any], *given: Any) -> list[Any]:
        """function(object, *given) of each object, all at once.

        Raises:
            EngineError: an actor was lost.
        """
        sent = ray.put(pack(given))
        calls = [home.call.remote(function, sent) for home in self._homes]
        return [unpack(answer) for answer in self._wait(calls)]

    def close(self) -> None:
        """End the actors."""
        for home in self._homes:
            ray.kill(home)
        if self._own:
            ray.shutdown()

    @staticmethod
    def _wait(calls: list[Any]) -> list[Any]:
        try:
            return list(ray.get(calls))
        except ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except ray.exceptions.RayError as error:
            said = str(error).strip().splitlines()[0]
            raise EngineError(f"a process with clients was lost: {said}; start again") from None
