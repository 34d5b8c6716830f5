"""Work done in order beside the caller, who waits no longer than he wants."""

import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterable
from typing import NamedTuple


class Job(NamedTuple):
    """Some work, and the numbers of the messages that it answers."""

    numbers: tuple[str, ...]
    run: Callable[[], None]


class JobQueue:
    """Jobs done one after another, in a thread that ends when there are none.

    Python cannot end a thread. A job that hangs is therefore left to itself: it is *overtaken* by a
    new thread that goes on with the jobs behind it, and its own thread ends whenever it is done.
    All threads are daemons, so that none of them keeps the process alive.

    Attributes:
        changed: guards all that is said here, and tells when there is nothing left to do.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._todo: deque[Job] = deque()
        self._turn: object | None = None  # whose turn it is to take jobs; None: nobody is there
        self._doing: Job | None = None
        self._since = 0.0

    def put(self, jobs: Iterable[Job]) -> None:
        """Have jobs done after all others."""
        with self.changed:
            self._todo.extend(jobs)
            self._go_on()

    def overtake(self, wanted: Container[str], until: float) -> None:
        """Leave the present job to itself if it hangs.

        It does if nobody wants its answers any more, or if it has had half of the time that was
        left when it began: the rest is for those behind it.

        Args:
            wanted: the numbers of the messages that still want an answer.
            until: when the caller ceases to wait, on the clock of `time.monotonic`.
        """
        with self.changed:
            if self._doing is None:
                return
            late = time.monotonic() - self._since > (until - self._since) / 2
            if late or not any(number in wanted for number in self._doing.numbers):
                self._turn = self._doing = None
                self._go_on()

    def _go_on(self) -> None:
        if self._turn is None and self._todo:
            self._turn = object()
            worker = threading.Thread(
                target=self._work, args=(self._turn,), name="kdsim-jobs", daemon=True
            )
            worker.start()

    def _work(self, turn: object) -> None:
        while (job := self._next(turn)) is not None:
            job.run()

    def _next(self, turn: object) -> Job | None:
        """The next job for the thread whose turn it is; None for any other, and at the end."""
        with self.changed:
            if self._turn is turn and self._todo:
                self._doing, self._since = self._todo.popleft(), time.monotonic()
                return self._doing
            if self._turn is turn:
                self._turn = self._doing = None
            self.changed.notify_all()
            return None
