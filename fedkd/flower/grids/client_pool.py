"""The runtimes of many nodes: their requests are answered by one call of an engine."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flwr.app import ConfigRecord, Context, Message

from fedkd.core import Client, Engine, Failure, Task
from fedkd.engines.fault_tolerance import fault_tolerant
from fedkd.flower.client_app import introduction, kept
from fedkd.flower.grids.local import RAISED, failure, raised
from fedkd.flower.handlers import (
    KINDS,
    ClientRuntime,
    DeliveryCache,
    RequestKind,
    Work,
    present,
)
from fedkd.flower.wire.serde import pack
from kdcore.training.loop import Params


class Answer(NamedTuple):
    """A reply, to which message, and what the node keeps if it is heard."""

    message: Message
    reply: Message
    params: Params | None = None


class _Member(NamedTuple):
    runtime: ClientRuntime
    agreed: ConfigRecord


class _Asked(NamedTuple):
    message: Message
    work: Work


class ClientPool:
    """The runtimes of many nodes, with the parameters that they keep between rounds.

    These stay as the engine gave them: in tensors, or in the engine's actors. `write` puts them
    into a node's state, for whoever wants to see it there.

    Attributes:
        calls: how many clients each call of the engine was for.
    """

    def __init__(
        self, build: Callable[[Context], ClientRuntime], engine: Engine, note: Callable[[str], None]
    ) -> None:
        """Nobody yet: a runtime is built when its node is first asked.

        Args:
            build: from a node's context to what it plays; called once for each node.
            engine: runs the clients' functions.
            note: told when clients that should have been run as one were not.
        """
        self._build, self._engine, self._note = build, engine, note
        self._members: dict[int, _Member] = {}
        self._params: dict[int, Params] = {}
        self.calls: list[int] = []

    def answer(
        self, messages: Sequence[Message], contexts: Mapping[int, Context]
    ) -> Iterator[Answer]:
        """Answer messages of one kind, each for another node.

        The parameters that come with an answer count from the moment in which they are `keep`-ed.
        """
        asked, memo = [], DeliveryCache()
        for message in messages:
            kind = KINDS.get(message.metadata.message_type)
            context = contexts[message.metadata.dst_node_id]
            try:
                member = self._member(context)
                if kind is None:
                    who = introduction(member.runtime.client)
                    yield Answer(message, Message(who, reply_to=message))
                    continue
                params = self._params.get(context.node_id)
                if params is None:
                    params = kept(context)
                runtime = present(member.runtime, params, message.content)
                work = kind.open(runtime, member.agreed, message.content, memo)
                asked.append(_Asked(message, work))
            except Exception as reason:  # as a node's app does: whatever it is, the others go on
                yield Answer(message, raised(message, reason))
        for block in self._blocks(asked):
            yield from self._run(block)

    def keep(self, node: int, params: Params) -> None:
        """Let a node have new parameters."""
        self._params[node] = params

    def write(self, contexts: Mapping[int, Context]) -> None:
        """Put what these nodes keep into their state, from where it is read the next time."""
        for node, context in contexts.items():
            if node in self._params:
                context.state["params"] = pack(dict(self._params.pop(node)))

    def _member(self, context: Context) -> _Member:
        if context.node_id not in self._members:
            runtime = self._build(context)
            self._members[context.node_id] = _Member(runtime, runtime.terms())
        return self._members[context.node_id]

    def _blocks(self, asked: Sequence[_Asked]) -> list[list[_Asked]]:
        """Those who can be run as one: the same algorithm for the very same task."""
        blocks: list[list[_Asked]] = []
        for one in asked:
            for block in blocks:
                first, runtime = block[0].work.runtime, one.work.runtime
                if first.task is runtime.task and first.algorithm == runtime.algorithm:
                    block.append(one)
                    break
            else:
                blocks.append([one])
        if len(blocks) > 1:
            self._note(
                f"{len(asked)} clients in {len(blocks)} calls of the engine: their algorithms "
                "differ, or each has a task of its own"
            )
        return blocks

    def _run(self, block: Sequence[_Asked]) -> Iterator[Answer]:
        """One call of the engine, and the answers that come of it."""
        kind = KINDS[block[0].message.metadata.message_type]
        ready = _ready(kind, [work for _, work in block])
        for (message, _), work in zip(block, ready, strict=True):
            if isinstance(work, Exception):
                yield Answer(message, raised(message, work))
        block = [
            _Asked(message, work)
            for (message, _), work in zip(block, ready, strict=True)
            if isinstance(work, Work)
        ]
        if not block:
            return
        runtimes = [work.runtime for _, work in block]
        function, task = kind.function(runtimes[0].learner), runtimes[0].task
        clients, inputs = [p.client for p in runtimes], [work.inputs for _, work in block]
        self.calls.append(len(block))
        results = fault_tolerant(self._watched)(function, task, clients, inputs)
        for (message, work), result in zip(block, results, strict=True):
            try:
                if isinstance(result, Failure):
                    yield Answer(message, failure(message, RAISED, result.reason))
                    continue
                content, params = kind.close(work, result)
                yield Answer(message, Message(content, reply_to=message), params)
            except Exception as reason:
                yield Answer(message, raised(message, reason))

    def _watched(
        self,
        function: Callable[..., Any],
        task: Task,
        clients: Sequence[Client],
        inputs: Sequence[tuple[Any, ...]],
    ) -> list[Any]:
        """The engine; when it raises, `fault_tolerant` runs each client alone, which is noted."""
        try:
            return self._engine(function, task, clients, inputs)
        except Exception as reason:
            if len(clients) > 1:
                self._note(
                    f"{len(clients)} clients one by one: run as one they raised "
                    f"{type(reason).__name__}: {reason}"
                )
            raise


def _ready(kind: RequestKind, works: Sequence[Work]) -> list[Work | Exception]:
    """The works with what is drawn for each, at once; if that raises, each alone or its error."""
    try:
        return [*kind.ready(works)]
    except Exception as reason:
        if len(works) == 1:
            return [reason]
        return [one for work in works for one in _ready(kind, [work])]
