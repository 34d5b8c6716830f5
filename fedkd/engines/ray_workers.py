"""The actors of an engine: waited for until they are ready, and replaced when they are lost.

Ray lets an actor that finds no room wait for ever, and does not say so. Here the wait is bounded,
and the work of those that do not come goes to those that are there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fedkd.engines.ray_actor import actor
from fedkd.engines.ray_cluster import Share, nodes, ray, said
from fedkd.engines.tolerant import EngineError


@dataclass(frozen=True, eq=False)
class Worker:
    """An actor that is ready, the node it is on, and its calls that nobody has collected yet."""

    actor: Any
    node: str
    calls: list[Any] = field(default_factory=list)


class Workers:
    """The actors of one share of a machine.

    Attributes:
        places: a worker for each; where too few were to be had, one stands in several places.
        notes: what is otherwise than asked, in words.
    """

    def __init__(self, count: int, share: Share, patience: float) -> None:
        """Start them, and wait until they are ready.

        Args:
            count: how many places there are.
            share: what each takes.
            patience: seconds to wait for the next one to be ready.

        Raises:
            EngineError: none of them came.
        """
        self._share, self._patience = share, patience
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
        ray.kill(lost.actor)
        gone: set[Worker] = set()
        ready: list[Worker] = []
        while new := self._gone(lost) - gone:  # while one waits, more may turn out to be lost
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
            ray.kill(worker.actor)

    def _gone(self, lost: Worker) -> set[Worker]:
        alive = {node.name for node in nodes()}
        return {w for w in self.places if w is lost or w.node not in alive}

    def _started(self, count: int) -> tuple[list[Worker], str]:
        """As many new actors as become ready, and why the others did not."""
        fresh = [actor(self._share) for _ in range(count)]
        calls = {one.ready.remote(): one for one in fresh}
        waiting, ready, reason = list(calls), [], ""
        while waiting:
            done, waiting = ray.wait(waiting, timeout=self._patience)
            if not done:
                reason = f"no more found room and started within {self._patience:g} s"
                break
            try:
                ready.append(Worker(calls[done[0]], ray.get(done[0])))
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[-1].strip()
        for call in waiting:
            ray.kill(calls[call])
        return ready, reason

    def _dealt(self, count: int, workers: Sequence[Worker], reason: str) -> list[Worker]:
        """A worker for each of so many places."""
        if not workers:
            raise EngineError(
                f"no worker of {self._share} is there: {reason}; {said(nodes())}, part of which "
                "others may hold; take smaller shares, or mend the cluster and resume"
            )
        return [workers[place % len(workers)] for place in range(count)]
