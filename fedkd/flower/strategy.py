"""The server's side: the rounds of `fedkd.rounds.round` as a Flower Strategy."""

from collections.abc import Container, Iterable, Mapping
from logging import INFO, WARNING, getLogger

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedkd.communication.channel import Channel
from fedkd.core import ELSEWHERE, Algorithm, Client, Public, Server, Task
from fedkd.flower.discovery import NodeRegistry, meet
from fedkd.flower.history import RoundMetrics
from fedkd.flower.wire.serde import (
    DISTIL,
    SCORE,
    brief,
    pack,
    pack_order,
    serialised,
    terms,
    unpack,
    unpack_upload,
)
from fedkd.messages import Upload
from fedkd.rounds.client_sampling import Sample, everyone
from fedkd.rounds.round import (
    OpenRound,
    check_federation,
    close_round,
    nothing_learnt,
    open_deployment,
    open_round,
    public_of,
)
from kdcore.rng import generator

LOGGER = getLogger("flwr")


class DistillationStrategy(Strategy):
    """An algorithm of `fedkd` behind Flower's interface.

    What Flower calls `arrays` is the server's knowledge: `start(grid, ArrayRecord())` begins
    afresh. The cohort is drawn by `sample`, from client numbers and the run's seed, never from
    Flower's random node numbers. A client that fails, stays silent or sends something else than it
    claims is named in the record of the round, which goes on without it.

    Attributes:
        records: one `RoundMetrics` for each round so far.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        task: Task,
        clients: int,
        *,
        channel: Channel = Channel(),  # noqa: B008  (frozen)
        sample: Sample = everyone,
        seed: int = 0,
        score: Container[int] = (),
        patience: float = 60.0,
        weigh: bool = True,
    ) -> None:
        """A strategy for one run.

        Args:
            algorithm: what clients and server do.
            task: models, classes, public examples.
            clients: how many there are; the first round waits until all have come.
            channel: what happens to messages on the way, the same as the clients'.
            sample: who takes part in a round.
            seed: of every random choice of the run.
            score: the rounds after which clients measure their models.
            patience: seconds to wait for clients to come, and again for them to say who they are.
            weigh: whether to weigh each message as Flower serialises it, which takes about half a
                millisecond; the ledger of tensors is kept in any case.
        """
        self.algorithm = algorithm.learning(task.target)
        self.task = task
        self.clients = clients
        self.channel = channel.with_algorithm(algorithm)
        self.sample = sample
        self.seed = seed
        self.score = score
        self.patience = patience
        self.weigh = weigh
        self.records: list[RoundMetrics] = []
        self._terms = terms(algorithm, task, channel)
        self._roster: NodeRegistry | None = None
        self._asked: dict[int, Message] = {}  # client number -> the newest request to it
        self._last: dict[int, int] = {}  # client number -> the last round in which it answered
        self._round: tuple[OpenRound, Server, Public | None]

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Open a round: a request for each client of the cohort."""
        if self._roster is None:
            self._roster = self._meet(grid)
        server = unpack(arrays) or self.algorithm.init(self.task, generator(self.seed, "server"))
        opening = open_round(
            *(self.algorithm, server, self._groups, self.channel),
            *(self.sample, self.seed, server_round),
        )
        public = public_of(self.algorithm, self.task, self.seed, server_round)
        self._round = opening, server, public
        requests = self._requests(DISTIL, opening, server_round)
        self.records.append(
            RoundMetrics(server_round, opening.cohort, wire_down=self._wire(requests))
        )
        return requests

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord, MetricRecord]:
        """Close a round: check the uploads, update the server, say what happened."""
        opening, server, public = self._round
        record = self.records[-1]
        replied, record.failed = self._replied(replies)
        self._last |= dict.fromkeys(replied, server_round)
        record.wire_up = self._wire(replied.values())
        sent, refused = self._uploads(replied)
        arrived = sorted(sent.items())
        server, rejected, record.ledger = close_round(
            self.algorithm, self.task, server, self._groups, self.channel, opening, arrived, public
        )
        record.rejected = dict(sorted((refused | rejected).items()))
        for client, reason in sorted((record.rejected | record.failed).items()):
            LOGGER.log(WARNING, "round %d is without client %d: %s", server_round, client, reason)
        if note := nothing_learnt(server_round, replied, record.rejected):
            record.notes.append(note)
            LOGGER.log(WARNING, "%s", note)
        return pack(server), record.as_metrics()

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Ask all clients for their scores, in the rounds where this is wanted."""
        self._asked = {}
        if server_round not in self.score:
            return []
        opening = open_deployment(
            *(self.algorithm, unpack(arrays), self._groups, self.channel, self.seed, server_round)
        )
        self.records[-1].deployment = opening.ledger
        return self._requests(SCORE, opening, server_round)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """The mean of each score over the clients that sent it."""
        if not self._asked:
            return None
        record = self.records[-1]
        replied, failed = self._replied(replies)
        for client, reason in failed.items():
            record.failed[client] = f"no score: {reason}"
        for client, reply in replied.items():
            scores: Mapping[str, object] = reply.content.metric_records.get("scores") or {}
            record.scores[client] = {n: v for n, v in scores.items() if isinstance(v, float)}
        return MetricRecord(dict(record.means()))

    def summary(self) -> None:
        """Log what both sides have to agree on."""
        for key, value in self._terms.items():
            LOGGER.log(INFO, "\t├── %s: %s", key, value)

    @property
    def _groups(self) -> dict[int, str]:
        return self._roster.groups if self._roster else {}

    def _meet(self, grid: Grid) -> NodeRegistry:
        """Find out who is there, and whether they can run this algorithm."""
        roster = meet(grid, self.clients, self.patience)
        nobody = [Client(number, group, {}, ELSEWHERE) for number, group in roster.groups.items()]
        check_federation(self.algorithm, self.task, nobody)
        return roster

    def _wire(self, messages: Iterable[Message]) -> int:
        return sum(map(serialised, messages)) if self.weigh else 0

    def _requests(self, kind: str, opening: OpenRound, index: int) -> list[Message]:
        """One message for each client of an opened round; the same tensors are packed once."""
        assert self._roster is not None
        packed: dict[int, ArrayRecord] = {}
        order = pack_order(index, self.seed, self._terms)
        self._asked = {}
        for client, message in opening.broadcasts.items():
            if id(message) not in packed:
                packed[id(message)] = pack(message)
            own = order.copy()
            own["last"] = self._last.get(client, 0)
            content = RecordDict({"order": own, "broadcast": packed[id(message)].copy()})
            node = self._roster.nodes[client]
            self._asked[client] = Message(content, node, kind, group_id=str(index))
        return list(self._asked.values())

    def _replied(self, replies: Iterable[Message]) -> tuple[dict[int, Message], dict[int, str]]:
        """Answers by client, in the order of their numbers, and why the others gave none.

        A reply is known by the request that it answers: an error may come from Flower's server in
        the place of a node that is gone.
        """
        asked = {request.metadata.message_id: c for c, request in self._asked.items()}
        replied: dict[int, Message] = {}
        failed = dict.fromkeys(sorted(self._asked), "no answer in time")
        for reply in replies:
            client = asked.get(reply.metadata.reply_to_message_id)
            if client is None:
                continue
            if reply.has_error():
                failed[client] = brief(reply.error.reason)
            else:
                replied[client] = reply
                failed.pop(client, None)
        return dict(sorted(replied.items())), failed

    def _uploads(self, replied: dict[int, Message]) -> tuple[dict[int, Upload], dict[int, str]]:
        """The uploads that can be read, and why the others cannot."""
        sent, refused = {}, {}
        for client, reply in replied.items():
            try:
                sent[client] = unpack_upload(reply.content, self._terms)
            except ValueError as reason:
                refused[client] = str(reason)
        return sent, refused
