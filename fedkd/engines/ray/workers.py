"""The actors of an engine: waited for until they are ready, and replaced when they are lost.

Ray lets an actor that finds no room wait for ever, and does not say so. Here room is reserved
first, which takes no time where there is some, and so the wait for it can be short, however long a
busy machine takes to start what goes there. The work of those that do not come goes to those that
are there.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fedkd.engines.fault_tolerance import EngineError
from fedkd.engines.ray.actor import actor
from fedkd.engines.ray.cluster import Room, nodes, ray, reserve
from fedkd.engines.ray.placement import Share, said

STARTING = 600.0  # seconds in which the next worker has started, on however busy a machine


@dataclass(frozen=True, eq=False)
class Worker:
    """An actor that is ready.

    Attributes:
        actor: itself.
        node: the one it is on.
        gpus: of that node, on which it has its share.
        room: what is reserved for it.
        calls: of it, which nobody has collected yet.
    """

    actor: Any
    node: str
    gpus: tuple[Any, ...]
    room: Room
    calls: list[Any] = field(default_factory=list)


class Workers:
    """The actors of one share of a machine.

    Attributes:
        places: a worker for each; where too few were to be had, one stands in several places.
        notes: what is otherwise than asked, in words.
        started: the workers that have started, for somebody to take out.
    """

    def __init__(self, count: int, share: Share, patience: float) -> None:
        """Start them, and wait until they are ready.

        Args:
            count: how many places there are.
            share: what each takes.
            patience: seconds to wait for room.

        Raises:
            EngineError: none of them came.
        """
        self._share, self._patience = share, patience
        self.started: list[Worker] = []
        ready, reason = self._started(count)
        self.places = self._dealt(count, ready, reason)
        self.notes = [f"{len(ready)} of {count} workers came; {reason}"] if reason else []

    def replace(self, lost: Worker) -> int:
        """Fill the places of an actor that died or hangs, and of all whose nodes are lost.

        Returns:
            How many actors were lost; 0 where this one has been replaced before.

        Raises:
            EngineError: none is left, and no other came.
        """
        if lost not in self.places:
            return 0
        gone: set[Worker] = set()
        ready: list[Worker] = []
        while new := self._gone(lost) - gone:  # while one waits, more may turn out to be lost
            for worker in new:
                _end(worker.actor, worker.room)
            found, reason = self._started(len(new))
            ready, gone = ready + found, gone | new
        others = [*ready, *(w for w in dict.fromkeys(self.places) if w not in gone)]
        fill = iter(self._dealt(len(self.places), others, reason))
        self.places = [next(fill) if worker in gone else worker for worker in self.places]
        came = f"and {len(ready)} came in their place" + (f"; {reason}" if reason else "")
        self.notes.append(f"{len(gone)} workers were lost, {came}; their clients were restored")
        return len(gone)

    def close(self) -> None:
        """End the actors."""
        for worker in set(self.places):
            _end(worker.actor, worker.room)

    def _gone(self, lost: Worker) -> set[Worker]:
        alive = {node.name for node in nodes()}
        return {w for w in self.places if w is lost or w.node not in alive}

    def _started(self, count: int) -> tuple[list[Worker], str]:
        """As many new actors as find room and start, and why the others did not."""
        rooms, reason = self._rooms(count)
        fresh = [(actor(self._share, room), room) for room in rooms]
        calls = {one.ready.remote(): (one, room) for one, room in fresh}
        waiting, ready = list(calls), list[Worker]()
        until = time.monotonic() + STARTING
        while waiting:
            done, waiting = ray.wait(waiting, timeout=self._patience)
            if done:
                until = time.monotonic() + STARTING
            elif time.monotonic() > until:
                reason = f"{len(waiting)} did not start within {STARTING:g} s"
                done, waiting = waiting, []
            else:  # a machine may be lost before that is known, and its room with it
                done = [call for call in waiting if not calls[call][1].there()]
                reason = _no_room(self._patience) if done else reason
                waiting = [call for call in waiting if call not in done]
            for call in done:
                one, room = calls[call]
                try:
                    node, gpus = ray.get(call, timeout=0)
                    ready.append(Worker(one, node, tuple(gpus), room))
                except ray.exceptions.RayError as error:
                    reason = reason or str(error).strip().splitlines()[-1].strip()
                    _end(one, room)
        self.started += ready
        return ready, reason

    def _rooms(self, count: int) -> tuple[list[Room], str]:
        """As many reservations as there is room for in time, and why there are no more."""
        rooms = [reserve(self._share) for _ in range(count)]
        until = time.monotonic() + self._patience
        found = [room for room in rooms if room.wait(max(0.0, until - time.monotonic()))]
        for room in rooms:
            if room not in found:
                room.release()
        return found, _no_room(self._patience) if len(found) < count else ""

    def _dealt(self, count: int, workers: Sequence[Worker], reason: str) -> list[Worker]:
        """A worker for each of so many places."""
        if not workers:
            raise EngineError(
                f"no worker of {self._share} is there: {reason}; {said(nodes())}, part of which "
                "others may hold; take smaller shares, or mend the cluster and resume"
            )
        return [workers[place % len(workers)] for place in range(count)]


def _no_room(patience: float) -> str:
    return f"no room for more within {patience:g} s"


def _end(one: Any, room: Room) -> None:
    ray.kill(one)
    room.release()
