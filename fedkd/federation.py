"""One federated round, and the loop over rounds.

`open_round` and `close_round` are the server's two halves; between them an engine, or Flower,
lets the cohort work. They are the only places where messages meet the channel.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from fedkd.channel import Channel, Ledger, weigh
from fedkd.core import (
    Algorithm,
    Client,
    Failure,
    Message,
    Public,
    Received,
    Server,
    Task,
    Upload,
)
from fedkd.engines.sequential import sequential
from fedkd.sampling import Sample, everyone
from knowledge.randomness import generator
from knowledge.training import Batches, Examples, draw

Engine = Callable[
    [Callable[..., Any], Task, Sequence[Client], Sequence[tuple[Any, ...]]], list[Any]
]


@dataclass(frozen=True)
class Round:
    """What stands after a round.

    Attributes:
        index: 1 for the first round.
        server: the server's knowledge.
        clients: all clients, whether or not they took part.
        cohort: the numbers of those who did.
        rejected: client number -> why its upload was turned away.
        ledger: bytes of this round.
        failed: client number -> why it gave no result; it keeps the parameters that it had.
    """

    index: int
    server: Server
    clients: tuple[Client, ...]
    cohort: tuple[int, ...]
    rejected: dict[int, str]
    ledger: Ledger
    failed: dict[int, str] = field(default_factory=dict)


@dataclass
class Opening:
    """A round on its way out: who takes part, and the message that each was sent."""

    cohort: tuple[int, ...]
    sent: dict[int, Message]
    ledger: Ledger = field(default_factory=Ledger)


def simulate(
    algorithm: Algorithm,
    task: Task,
    clients: Sequence[Client],
    *,
    rounds: int,
    engine: Engine = sequential,
    channel: Channel = Channel(),  # noqa: B008  (frozen)
    sample: Sample = everyone,
    seed: int = 0,
    after: Round | None = None,
) -> Iterator[Round]:
    """Run a federation, one `Round` at a time; the caller logs, evaluates, and stops.

    Args:
        algorithm: what clients and server do.
        task: models, classes, public examples.
        clients: the parties; their numbers must differ.
        rounds: how many rounds.
        engine: who runs the clients' functions (`fedkd.engines`); a matter of speed alone.
        channel: what happens to messages on the way.
        sample: who takes part in a round.
        seed: of every random choice; two runs with the same seed are the same run.
        after: go on from this round of an earlier call with the same arguments
            (`fedkd.checkpoint`), as if it had never stopped.

    Raises:
        ValueError: no clients, a number used twice, an unknown group, or public examples missing.
    """
    check_federation(algorithm, task, clients)
    known = clients if after is None else after.clients
    party = {client.id: client for client in sorted(known, key=lambda client: client.id)}
    groups = {client.id: client.group for client in party.values()}
    server = after.server if after else algorithm.init(task, generator(seed, "server"))
    for index in range(after.index + 1 if after else 1, rounds + 1):
        opening = open_round(algorithm, server, groups, channel, sample, seed, index)
        public = public_of(algorithm, task, seed, index)
        cohort = [party[number] for number in opening.cohort]
        inputs = [
            (received, private_of(algorithm, client, seed, index), public)
            for client, received in zip(cohort, read_all(channel, opening), strict=True)
        ]
        results = engine(algorithm.client_update, task, cohort, inputs)
        sent, failed = {}, _failures(cohort, results)
        for client, result in zip(cohort, results, strict=True):
            if client.id in failed:
                continue
            params, upload = result
            party[client.id] = replace(client, params=params)
            sent[client.id] = channel.send_up(upload, generator(seed, "up", index, client.id))
        server, rejected, ledger = close_round(
            algorithm, task, server, groups, channel, opening, sent, public
        )
        everybody = tuple(party.values())
        yield Round(index, server, everybody, opening.cohort, rejected, ledger, failed)


def _failures(cohort: Sequence[Client], results: Sequence[Any]) -> dict[int, str]:
    """Who gave no result, and why; if that is everybody, there is no round."""
    failed = {
        client.id: result.reason
        for client, result in zip(cohort, results, strict=True)
        if isinstance(result, Failure)
    }
    if failed and len(failed) == len(cohort):
        raise RuntimeError(f"every client failed; client {cohort[0].id}: {failed[cohort[0].id]}")
    return failed


def open_round(
    algorithm: Algorithm,
    server: Server,
    groups: Mapping[int, str],
    channel: Channel,
    sample: Sample,
    seed: int,
    index: int,
) -> Opening:
    """Draw the cohort and send each member its broadcast.

    Clients who are told the same (the very same tensors) are sent one and the same encoding.
    """
    opening = Opening(tuple(sample(list(groups), generator(seed, "sample", index))), {})
    encoded: dict[tuple[tuple[str, int], ...], tuple[Message, Message]] = {}
    for client in opening.cohort:
        message = algorithm.broadcast(server, client, groups[client])
        identity = tuple((key, id(value)) for key, value in message.items())
        if identity not in encoded:
            sent = channel.send_down(message, generator(seed, "down", index, len(encoded)))
            encoded[identity] = message, sent  # the message is kept, so that its ids stay taken
        opening.sent[client] = encoded[identity][1]
        opening.ledger.down.update(weigh(opening.sent[client]))
    return opening


def read_all(channel: Channel, opening: Opening) -> list[Message]:
    """The broadcasts as the cohort reads them; one reading for each message sent."""
    read: dict[int, Message] = {}
    for message in opening.sent.values():
        if id(message) not in read:
            read[id(message)] = channel.read_down(message)
    return [read[id(opening.sent[client])] for client in opening.cohort]


def close_round(
    algorithm: Algorithm,
    task: Task,
    server: Server,
    groups: Mapping[int, str],
    channel: Channel,
    opening: Opening,
    sent: Mapping[int, Upload],
    public: Public | None,
) -> tuple[Server, dict[int, str], Ledger]:
    """Weigh and check the uploads, in the order of client numbers, and update the server.

    Uploads that are not what they claim to be are left out, as if their senders had not taken
    part; so is a client that sent nothing.
    """
    uploads, rejected = [], {}
    ledger = Ledger(down=opening.ledger.down)
    claims = {g: algorithm.claims(task, g) for g in sorted({groups[client] for client in sent})}
    for client in sorted(sent):
        upload, group = sent[client], groups[client]
        ledger.up.update(weigh(upload.payload))
        try:
            read = channel.read_up(upload, claims[group])
        except ValueError as reason:
            rejected[client] = str(reason)
            continue
        uploads.append(Received(client, group, read.payload, float(read.weight), read.rows))
    if uploads:
        server = algorithm.server_update(task, server, uploads, public)
    return server, rejected, ledger


def deployed(
    algorithm: Algorithm,
    task: Task,
    current: Round,
    *,
    engine: Engine = sequential,
    channel: Channel = Channel(),  # noqa: B008  (frozen)
    seed: int = 0,
) -> list[Client]:
    """The clients with the models that they would use now, after the newest broadcast.

    For FedAvg this is the averaged model, for DS-FL the student that has digested the newest
    consensus, for Local simply the client's own.
    """
    groups = {client.id: client.group for client in current.clients}
    opening = open_round(algorithm, current.server, groups, channel, everyone, seed, current.index)
    public = public_of(algorithm, task, seed, current.index + 1)
    inputs = [(received, public) for received in read_all(channel, opening)]
    params = engine(algorithm.deploy, task, current.clients, inputs)
    return [
        client if isinstance(found, Failure) else replace(client, params=found)
        for client, found in zip(current.clients, params, strict=True)
    ]


def private_of(algorithm: Algorithm, client: Client, seed: int, index: int) -> Batches:
    """A client's own mini-batches of one round."""
    return draw(client.private, algorithm.local, generator(seed, "private", index, client.id))


def public_of(algorithm: Algorithm, task: Task, seed: int, index: int) -> Public | None:
    """The public examples of one round; the order is common knowledge, and costs no bytes."""
    training = algorithm.public_training
    if training is None or task.public is None:
        return None
    stream = generator(seed, "public", index)
    total = len(task.public)
    count = min(algorithm.asks or total, total)
    rows = torch.arange(total)
    if count < total:
        rows = torch.randperm(total, generator=stream)[:count]
    places = Examples(task.public, rows, torch.arange(count))
    batches = draw(places, training, stream)
    return Public(task.public, rows, batches.order, batches.mask)


def check_federation(algorithm: Algorithm, task: Task, clients: Sequence[Client]) -> None:
    """Raise ValueError, in one line, for a federation that cannot run."""
    if not clients:
        raise ValueError("a federation needs at least one client, got none")
    numbers = [client.id for client in clients]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"client numbers must differ, got {sorted(numbers)}")
    unknown = sorted({client.group for client in clients} - set(task.models))
    if unknown:
        raise ValueError(
            f"no model for the group {unknown[0]!r}; the task has {', '.join(sorted(task.models))}"
        )
    if algorithm.properties.public != "none" and (task.public is None or not len(task.public)):
        name = type(algorithm).__name__
        raise ValueError(
            f"{name} needs public examples ({algorithm.properties.public}) and the task has none; "
            "set aside some, or take an algorithm that works without"
        )
