"""Flower's Grid served by an engine: an ordinary ServerApp at the speed of `fedkd.engines`."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from logging import WARNING, getLogger
from threading import Lock
from typing import NamedTuple

from flwr.app import Context, Message, UserConfig
from flwr.clientapp import ClientApp

from fedkd.core import Engine
from fedkd.engines.batched import batched
from fedkd.flower.client_app import DistillationApp
from fedkd.flower.grids.client_pool import ClientPool
from fedkd.flower.grids.job_queue import Job, JobQueue
from fedkd.flower.grids.local import RAISED, LocalGrid, failure, number, raised
from fedkd.flower.wire.copying import copy_message
from fedkd.flower.wire.serde import DISTIL, SCORE, WHO

LOGGER = getLogger("flwr")
TICK = 0.1  # seconds between two looks at the clock while waiting
EXPIRED = 3  # flwr.common.constant.ErrorCode.MESSAGE_UNAVAILABLE


class EngineGrid(LocalGrid):
    """Nodes that live in this process, all of whom an engine answers for at once.

    Messages for an app of `client_app` that come together are answered by one call of the engine.
    What a node keeps stays with the engine, and is written into its state when somebody looks at
    `contexts`. Any other ClientApp runs too, node by node. Answers are those of `LocalGrid`, and in
    addition time limits are kept, Flower's time to live as well as the timeout of a call: who is
    late gets no hearing, and keeps the state that he had.

    Attributes:
        fallbacks: why nodes were not answered for as one, and how often; empty if all is well. Each
            reason is logged once.
    """

    def __init__(
        self,
        app: ClientApp,
        nodes: int,
        engine: Engine | None = None,
        run_config: UserConfig | None = None,
        run_id: int = 1,
    ) -> None:
        """A grid of nodes with the partition numbers 0 .. nodes - 1.

        Args:
            app: what every node runs.
            nodes: how many there are.
            engine: of `fedkd.engines`; by default `batched()`.
            run_config: what every node is told of the run.
            run_id: the run's number.
        """
        super().__init__(app, nodes, run_config, run_id)
        self.fallbacks: Counter[str] = Counter()
        self._pool: ClientPool | None = None
        if type(app) is DistillationApp:
            self._pool = ClientPool(app.build, engine or batched(), self._note)
        self._queue = JobQueue()
        self._open: dict[str, _Open] = {}  # those that wait for their answer, by number
        self._engine_is_free = Lock()  # engines need not stand two calls at a time

    @property
    def calls(self) -> list[int]:
        """How many clients each call of the engine was for."""
        return self._pool.calls if self._pool else []

    @property
    def contexts(self) -> dict[int, Context]:
        """Node number -> its context, with the state that it keeps, as it is now."""
        with self._queue.changed:
            if self._pool:
                self._pool.write(self._contexts)
            return self._contexts

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Have messages delivered, and do not wait for the answers."""
        return self._push(messages, math.inf)

    def _push(self, messages: Iterable[Message], until: float) -> list[str]:
        sent = list(messages)
        for message in sent:
            number(message)
        copies = [copy_message(message) for message in sent]
        with self._queue.changed:
            self._open |= {message.metadata.message_id: _Open(message, until) for message in copies}
            self._queue.put(self._jobs(copies))
        return [message.metadata.message_id for message in sent]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The answers that are there, each once; in the order of node numbers."""
        with self._queue.changed:
            self._expire()
            self._queue.overtake(self._open, math.inf)
            return super().pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Deliver messages and return the answers that come in time; the others are dropped."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        numbers = self._push(messages, until)
        with self._queue.changed:
            try:
                self._wait(numbers, until)
            finally:
                for late in numbers:
                    self._open.pop(late, None)
            return self.pull_messages(numbers)

    def _wait(self, numbers: Sequence[str], until: float) -> None:
        while any(n in self._open for n in numbers) and time.monotonic() < until:
            self._queue.changed.wait(min(TICK, max(0.0, until - time.monotonic())))
            self._expire()
            self._queue.overtake(self._open, until)

    def _expire(self) -> None:
        """Answer the messages whose time to live has passed with an error."""
        for message in [m for m, _ in self._open.values() if _expired(m)]:
            self._settle(message, None)

    def _jobs(self, messages: Iterable[Message]) -> Iterator[Job]:
        """What is to be done: neighbours of one kind together, everybody else alone."""
        together: dict[int, Message] = {}
        kind = ""
        for message in messages:
            node, asked = message.metadata.dst_node_id, message.metadata.message_type
            if together and (asked != kind or node in together):
                yield self._job(list(together.values()), self._answer_as_one)
                together, kind = {}, ""
            if self._is_alone(message):
                yield self._job([message], self._answer_alone)
            else:
                together[node], kind = message, asked
        if together:
            yield self._job(list(together.values()), self._answer_as_one)

    def _is_alone(self, message: Message) -> bool:
        """Whether a node has to run its app for a message; why, is noted."""
        node, kind = message.metadata.dst_node_id, message.metadata.message_type
        if node not in self._contexts:
            return True
        reason = None
        if self._pool is None:
            reason = "this app is not one of fedkd.flower.client_app"
        elif not self._plain():
            reason = "the app has a lifespan, which is entered for one message at a time"
        elif kind not in (WHO, DISTIL, SCORE):
            reason = f"{kind} is a message of the app's own"
        if reason:
            self._note(f"nodes run their app one by one: {reason}")
        return reason is not None

    def _plain(self) -> bool:
        return isinstance(self._app, DistillationApp) and self._app.plain

    def _job(self, messages: Sequence[Message], answer: Callable[[Sequence[Message]], None]) -> Job:
        """A job that leaves no message without an answer, whatever happens."""

        def run() -> None:
            try:
                answer(messages)
            except BaseException as reason:  # SystemExit too: the thread would end without a word
                LOGGER.exception("EngineGrid: %d messages without an answer", len(messages))
                for message in messages:
                    self._settle(message, raised(message, reason))

        return Job(tuple(message.metadata.message_id for message in messages), run)

    def _wanted(self, messages: Sequence[Message]) -> list[Message]:
        """Those of the messages for which somebody still waits."""
        with self._queue.changed:
            return [m for m in messages if m.metadata.message_id in self._open]

    def _answer_as_one(self, messages: Sequence[Message]) -> None:
        assert self._pool is not None
        with self._engine_is_free:
            for message, reply, params in self._pool.answer(self._wanted(messages), self._contexts):
                node = message.metadata.dst_node_id
                keep = partial(self._pool.keep, node, params) if params is not None else None
                self._settle(message, reply, keep)

    def _answer_alone(self, messages: Sequence[Message]) -> None:
        for message in self._wanted(messages):
            node = message.metadata.dst_node_id
            with self._queue.changed:
                before = self._contexts.get(node)
                if self._pool and before:
                    self._pool.write({node: before})
            reply, context = self.run_app(message)
            with self._queue.changed:
                if before is not self._contexts.get(node):  # this one was overtaken
                    lost = "the node has answered a later message meanwhile"
                    reply, context = failure(message, RAISED, lost), None
                keep = partial(self._contexts.__setitem__, node, context) if context else None
                self._settle(message, reply, keep)

    def _settle(
        self, message: Message, reply: Message | None, keep: Callable[[], None] | None = None
    ) -> None:
        """File a reply, and let the node keep what it has; unless both come too late."""
        with self._queue.changed:
            asked = self._open.pop(message.metadata.message_id, None)
            if asked is None or time.monotonic() >= asked.until:
                return
            if reply is None or _expired(message):
                spent = f"no answer within the {message.metadata.ttl:g} s that the message had"
                reply = failure(message, EXPIRED, spent)
            elif keep:
                keep()
            number(reply)
            self._replies[message.metadata.message_id] = reply

    def _note(self, reason: str) -> None:
        if reason not in self.fallbacks:
            LOGGER.log(WARNING, "EngineGrid: %s", reason)
        self.fallbacks[reason] += 1


class _Open(NamedTuple):
    """A message that waits for its answer, and how long that is waited for, by `monotonic`."""

    message: Message
    until: float


def _expired(message: Message) -> bool:
    return message.metadata.created_at + message.metadata.ttl <= time.time()
