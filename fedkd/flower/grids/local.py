"""Flower's Grid in one process: no server, no sockets, no waiting."""

import hashlib
from collections.abc import Iterable
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run  # not public, but the type that `Grid.run` has to return
from flwr.supercore.task_identity import TaskIdentity  # not public: see `_identify`

from fedkd.flower.wire.copying import copy_context, copy_message

RAISED = 2  # flwr.common.constant.ErrorCode.CLIENT_APP_RAISED_EXCEPTION
UNAVAILABLE = 5  # NODE_UNAVAILABLE


class LocalGrid(Grid):
    """Nodes that live in this process and answer at once, one after another.

    It does what Flower's simulation does to an app: node numbers are large and in no order,
    messages are copied, so that no two nodes share a record, and what a node writes into its state
    is kept only if its handler returns. Time limits are not kept: a handler cannot be cut off.
    `EngineGrid` is compared with this.
    """

    def __init__(
        self, app: ClientApp, nodes: int, run_config: UserConfig | None = None, run_id: int = 1
    ) -> None:
        """A grid of nodes with the partition numbers 0 .. nodes - 1.

        Args:
            app: what every node runs.
            nodes: how many there are.
            run_config: what every node is told of the run.
            run_id: the run's number.
        """
        _identify(run_id)
        self._app = app
        self._run = Run.create_empty(run_id)
        self._replies: dict[str, Message] = {}
        self._contexts: dict[int, Context] = {}
        for partition in range(nodes):
            digest = hashlib.blake2b(f"{run_id}/{partition}".encode(), digest_size=8).digest()
            node = int.from_bytes(digest, "big") >> 1
            place: UserConfig = {"partition-id": partition, "num-partitions": nodes}
            self._contexts[node] = Context(
                run_id, node, place, RecordDict(), dict(run_config or {})
            )

    @property
    def contexts(self) -> dict[int, Context]:
        """Node number -> its context, with the state that it keeps."""
        return self._contexts

    def set_run(self, run: Run) -> None:
        """Set the run that this grid serves."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that this grid serves."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message, as Flower's older apps make it."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """The numbers of all nodes."""
        return sorted(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Deliver messages; the answers are there when this returns."""
        sent = list(messages)
        for message in sent:
            number(message)
        for reply in self.deliver([copy_message(message) for message in sent]):
            number(reply)
            self._replies[reply.metadata.reply_to_message_id] = reply
        return [message.metadata.message_id for message in sent]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The answers to messages, each once; in the order of node numbers."""
        there = [self._replies.pop(i) for i in list(message_ids) if i in self._replies]
        return sorted(there, key=lambda reply: reply.metadata.src_node_id)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Deliver messages and return the answers."""
        return self.pull_messages(self.push_messages(messages))

    def deliver(self, messages: list[Message]) -> list[Message]:
        """Have each message answered; a grid with a faster way of doing so overrides this."""
        return [self.answer(message) for message in messages]

    def answer(self, message: Message) -> Message:
        """Run one node's app; if it raises, it keeps its old state and the reply is an error."""
        reply, context = self.run_app(message)
        if context is not None:
            self._contexts[message.metadata.dst_node_id] = context
        return reply

    def run_app(self, message: Message) -> tuple[Message, Context | None]:
        """The node's answer, and its context afterwards; None where that stays as it was."""
        node = message.metadata.dst_node_id
        if node not in self._contexts:
            return failure(message, UNAVAILABLE, f"there is no node {node}"), None
        context = copy_context(self._contexts[node])
        try:
            reply = copy_message(self._app(message, context))
        except Exception as reason:  # as Flower does: whatever it is, the other nodes go on
            return raised(message, reason), None
        return reply, context


def failure(message: Message, code: int, reason: str) -> Message:
    """The reply that says why there is no answer."""
    return Message(Error(code, reason), reply_to=message)


def raised(message: Message, reason: BaseException) -> Message:
    """The reply of a node whose app has raised."""
    return failure(message, RAISED, f"{type(reason).__name__}: {reason}")


def number(message: Message) -> None:
    """Give a message its number; Flower's own grids reach into the metadata as well."""
    message.metadata.__dict__["_message_id"] = str(uuid4())


def _identify(run_id: int) -> None:
    """Let messages be made in this process: Flower asks for the identity of its current task."""
    try:
        _ = TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id
    except RuntimeError:  # nobody has set it: this is no process of Flower's
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, 1, 1
