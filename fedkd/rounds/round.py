"""One federated round: what the loops over rounds, and Flower, have in common.

`open_round` and `close_round` are the server's two halves; between them an engine, or Flower,
lets the cohort work. They are the only places where messages meet the channel.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_map

from fedkd.communication.aggregation import Aggregation, randomised
from fedkd.communication.border import Border
from fedkd.communication.channel import Channel, weigh_broadcast, weigh_upload
from fedkd.communication.noisy_aggregation import Cohort
from fedkd.communication.secure_aggregation import tells_weights
from fedkd.core import Algorithm, Client, Engine, Failure, Public, Server, Task
from fedkd.data.checks import check_examples, check_finite
from fedkd.engines.sequential import sequential
from fedkd.messages import Ledger, Message, Received, Upload, on
from fedkd.models.private import check_private
from fedkd.rounds.client_sampling import Sample
from fedkd.targets import TARGETS
from kdcore.rng import generator, seed_of
from kdcore.training.batches import draw_all, leading
from kdcore.training.loop import Batches, Examples, Params, TrainingConfig, draw
from kdcore.training.stacked import least_batch

INSTEAD = "fedmd, feddf or fedavg"  # algorithms that learn any target
WAVE = 1000  # clients whose uploads are in memory at once, where the server needs only a sum


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
        broadcasts, uploads: client number -> what crossed the network to it and from it, in the
            form in which it crossed.
    """

    index: int
    server: Server
    clients: tuple[Client, ...]
    cohort: tuple[int, ...]
    rejected: dict[int, str]
    ledger: Ledger
    failed: dict[int, str] = field(default_factory=dict)
    broadcasts: Mapping[int, Message] = field(default_factory=dict)
    uploads: Mapping[int, Upload] = field(default_factory=dict)

    @property
    def uploaders(self) -> set[int]:
        """Those from whom an upload came in this round, whatever it was."""
        return set(self.cohort) - set(self.failed)


@dataclass
class OpenRound:
    """A round on its way out: who takes part, and the message that each was sent."""

    cohort: tuple[int, ...]
    broadcasts: dict[int, Message]
    ledger: Ledger = field(default_factory=Ledger)
    read: dict[int, Message] = field(default_factory=dict)  # id of a message -> as it is read


def send_all(
    channel: Channel,
    cohort: Sequence[Client],
    inputs: Sequence[tuple[Any, ...]],
    results: Sequence[Any],
    seed: int,
    index: int,
) -> tuple[dict[int, Params], dict[int, Upload], dict[int, str], dict[int, str]]:
    """What an engine gave back, client by client.

    New parameters; uploads as sent; why an upload could not be sent, which its sender's own end of
    the channel refuses; and why there is no result.
    """
    params: dict[int, Params] = {}
    sent: dict[int, Upload] = {}
    refused: dict[int, str] = {}
    failed: dict[int, str] = {}
    uploads: dict[int, Any] = {}
    broadcasts: list[Message] = []
    for client, (received, *_), result in zip(cohort, inputs, results, strict=True):
        if isinstance(result, Failure):
            failed[client.id] = result.reason
            continue
        if not isinstance(result, tuple) or len(result) != 2:
            failed[client.id] = f"it gave a {type(result).__name__}, not parameters and an upload"
            continue
        params[client.id], uploads[client.id] = result
        broadcasts.append(received)
    numbers = list(uploads)
    due = channel.send_all(
        list(uploads.values()),
        broadcasts,
        lambda place: generator(seed, "up", index, numbers[place]),
    )
    for number, one in zip(numbers, due, strict=True):
        if isinstance(one, ValueError):
            refused[number] = str(one)
        else:
            sent[number] = one
    return params, sent, refused, failed


def check_somebody(cohort: Sequence[int], failed: Mapping[int, str]) -> None:
    """Raise RuntimeError if a whole cohort failed, so that there is no round."""
    if cohort and len(failed) == len(cohort):
        raise RuntimeError(f"every client failed; client {cohort[0]}: {failed[cohort[0]]}")


def nothing_learnt(
    index: int, uploaders: Collection[int], rejected: Mapping[int, str]
) -> str | None:
    """That all uploads of a round were turned away, in a line; None where they were not.

    Args:
        index: of the round.
        uploaders: those from whom an upload came (`Round.uploaders`).
        rejected: client number -> why its upload was turned away.
    """
    if not uploaders or not set(uploaders) <= set(rejected):
        return None
    first = min(uploaders)
    return (
        f"round {index}: every upload was turned away ({len(uploaders)} in all), and the server "
        f"learnt nothing; client {first}: {rejected[first]}"
    )


def open_round(
    algorithm: Algorithm,
    server: Server,
    groups: Mapping[int, str],
    channel: Channel,
    sample: Sample,
    seed: int,
    index: int,
) -> OpenRound:
    """Draw the cohort and send each member its broadcast."""
    cohort = tuple(sample(list(groups), generator(seed, "sample", index)))
    messages = algorithm.broadcasts(server, {client: groups[client] for client in cohort})
    return _tell(algorithm, cohort, messages, channel, seed, index)


def open_deployment(
    algorithm: Algorithm,
    server: Server,
    groups: Mapping[int, str],
    channel: Channel,
    seed: int,
    index: int,
) -> OpenRound:
    """Send all clients what the models in use need of the server's knowledge after a round.

    Its ledger is no part of a round's. Where a run ends here, these bytes are its last ones; where
    it goes on, the next round's broadcast brings the same.
    """
    cohort = tuple(groups)
    messages = {client: algorithm.deployment(server, client, groups[client]) for client in cohort}
    return _tell(algorithm, cohort, messages, channel, seed, index)


def _tell(
    algorithm: Algorithm,
    cohort: tuple[int, ...],
    messages: Mapping[int, Message],
    channel: Channel,
    seed: int,
    index: int,
) -> OpenRound:
    """Send each of some clients its message down.

    Clients who are told the same (the very same tensors) are sent one and the same encoding.
    """
    opening = OpenRound(cohort, {})
    encoded: dict[tuple[tuple[str, int], ...], tuple[Message, Counter[str]]] = {}
    for client in cohort:
        message = messages[client]
        identity = tuple((key, id(value)) for key, value in message.items())
        if identity not in encoded:
            sent = message
            if channel.downlink:
                sent = channel.send_down(message, generator(seed, "down", index, len(encoded)))
            encoded[identity] = sent, weigh_broadcast(algorithm, sent)
        opening.broadcasts[client], size = encoded[identity]
        opening.ledger.down.update(size)
    return opening


def first_server(algorithm: Algorithm, task: Task, seed: int) -> Server:
    """What the server knows before the first round."""
    return on(algorithm.init(task, generator(seed, "server")), task.device)


def read_all(channel: Channel, opening: OpenRound, device: torch.device) -> list[Message]:
    """The broadcasts as the cohort reads them; one reading in a round for each message sent."""
    for message in opening.broadcasts.values():
        if id(message) not in opening.read:
            opening.read[id(message)] = on(channel.read_down(message), device)
    return [opening.read[id(opening.broadcasts[client])] for client in opening.cohort]


def close_round(
    algorithm: Algorithm,
    task: Task,
    server: Server,
    groups: Mapping[int, str],
    channel: Channel,
    opening: OpenRound,
    sent: Iterable[tuple[int, Upload]],
    public: Public | None,
    counted: Callable[[Iterator[Received]], Iterable[Received]] = iter,
    aggregation: Aggregation | None = None,
    stream: torch.Generator | None = None,
) -> tuple[Server, dict[int, str], Ledger]:
    """Weigh and check the uploads as they come, and update the server with them.

    Uploads that are not what they claim to be are left out, as if their senders had not taken
    part; so is a client that sent nothing. `sent` are client numbers and uploads, in the order of
    the numbers; it is gone through once. `counted` makes of the uploads that are let in those that
    the server is updated with (`fedkd.rounds.staleness`). With an `aggregation` the server learns
    from a sum alone, whose noise is drawn from `stream`.
    """
    ledger = Ledger(down=opening.ledger.down)
    payload_spec = {
        g: algorithm.payload_spec(task, g) for g in sorted({groups[c] for c in opening.cohort})
    }
    received = dict(zip(opening.cohort, read_all(channel, opening, task.device), strict=True))
    channel = replace(channel, max_weight=min(channel.max_weight, task.private))
    if aggregation is None and randomised(channel, algorithm, payload_spec.values()):
        aggregation = Aggregation(projected=True)
    how = aggregation or Aggregation()
    seen = {group: how.seen(spec) for group, spec in payload_spec.items()}
    border = Border(channel, seen, received, task.device, how.compares)

    def arriving() -> Iterator[tuple[int, str, Upload]]:
        for client, upload in sent:
            size = how.bytes_of(algorithm, payload_spec[groups[client]])
            ledger.up.update(size or weigh_upload(algorithm, task, client, upload, channel))
            yield client, groups[client], upload

    uploads = iter(counted(border.admitted(arriving(), WAVE)))
    if aggregation is not None:
        cohort = _public_of(algorithm, task, server, groups, received, channel, aggregation)
        learnt = aggregation.total(algorithm, uploads, cohort, stream)
        ledger += Ledger(Counter(learnt.up), Counter(learnt.down))
        border.rejected |= learnt.lost
        if learnt.clients:
            server = algorithm.server_from_sum(task, server, learnt.total, learnt.clients, public)
            server = on(server, task.device)
    elif (first := next(uploads, None)) is not None:
        server = algorithm.server_update(task, server, itertools.chain([first], uploads), public)
        server = on(server, task.device)
    for _ in uploads:  # those that an algorithm does not look at are weighed all the same
        pass
    return server, dict(sorted(border.rejected.items())), ledger


def _public_of(
    algorithm: Algorithm,
    task: Task,
    server: Server,
    groups: Mapping[int, str],
    received: Mapping[int, Message],
    channel: Channel,
    aggregation: Aggregation,
) -> Cohort:
    """What an aggregation may know of a cohort beside its uploads."""
    rate = 1.0 if aggregation.noise is None else aggregation.noise.rate
    counted = Counter(groups[client] for client in (received if rate == 1 else groups))
    first = {group: client for client, group in sorted(groups.items(), reverse=True)}
    return Cohort(
        {group: algorithm.payload_spec(task, group) for group in sorted(first)},
        {group: rate * counted[group] for group in sorted(first)},
        {group: algorithm.broadcast(server, client, group) for group, client in first.items()},
        received,
        {client: groups[client] for client in received},
        task.private if tells_weights(algorithm, channel) else 1,
        task.device,
    )


class Deployment(NamedTuple):
    """The clients with the models that they would use now, and the bytes that brought these."""

    clients: list[Client]
    ledger: Ledger


def deployed(algorithm: Algorithm, task: Task, current: Round, **how: Any) -> list[Client]:
    """The clients of `deploy_all`, which see."""
    return deploy_all(algorithm, task, current, **how).clients


def deploy_all(
    algorithm: Algorithm,
    task: Task,
    current: Round,
    *,
    engine: Engine = sequential,
    channel: Channel = Channel(),  # noqa: B008  (frozen)
    seed: int = 0,
) -> Deployment:
    """The clients with the models that they would use now, if what these need went down once more.

    For FedAvg this is the averaged model, for DS-FL the student that has digested the newest
    consensus, for Local simply the client's own, for which nothing goes down.
    """
    algorithm = algorithm.learning(task.target)
    channel = channel.with_algorithm(algorithm)
    groups = {client.id: client.group for client in current.clients}
    opening = open_deployment(algorithm, current.server, groups, channel, seed, current.index)
    public = public_of(algorithm, task, seed, current.index + 1)
    inputs = [(received, public) for received in read_all(channel, opening, task.device)]
    params = engine(algorithm.deploy, task, current.clients, inputs)
    clients = [
        client if isinstance(found, Failure) else client.with_params(found)
        for client, found in zip(current.clients, params, strict=True)
    ]
    return Deployment(clients, opening.ledger)


def private_of(algorithm: Algorithm, client: Client, seed: int, index: int) -> Batches:
    """A client's own mini-batches of one round."""
    return private_of_all(algorithm, [client], seed, index)[0]


def private_of_all(
    algorithm: Algorithm, clients: Sequence[Client], seed: int, index: int
) -> list[Batches]:
    """The own mini-batches of each of some clients in one round."""
    seeds = [seed_of(seed, "private", index, client.id) for client in clients]
    return draw_all([client.private for client in clients], algorithm.local, seeds)


def public_of(algorithm: Algorithm, task: Task, seed: int, index: int) -> Public | None:
    """The public examples of one round; the order is common knowledge, and costs no bytes."""
    training = algorithm.public_training
    if training is None or task.public is None:
        return None
    stream = generator(seed, "public", index)
    total = len(leading(task.public))
    count = min(algorithm.asks or total, total)
    rows = torch.arange(total)
    if count < total:
        rows = torch.randperm(total, generator=stream)[:count]
    places = Examples(task.public, rows, torch.arange(count))
    batches = draw(places, training, stream)
    rows = rows.to(leading(task.public).device)
    return Public(task.public, rows, batches.order, batches.mask, task.labels)


def left_out(algorithm: Algorithm, task: Task, clients: Sequence[Client]) -> tuple[str, ...]:
    """Whose last mini-batch is too small for a network to learn from, and is left out: in words.

    A network that normalises over a mini-batch cannot learn from one example.
    """
    said = []
    for group, model in task.models.items():
        least = least_batch(model.predict)
        small = [
            f"client {client.id}"
            for client in clients
            if client.group == group and _last(len(client.private), algorithm.local) < least
        ]
        if algorithm.public_training is not None and task.public is not None:
            total = len(leading(task.public))
            asked = min(algorithm.asks or total, total)
            small += ["the public examples"] * (_last(asked, algorithm.public_training) < least)
        if small:
            more = f" and {len(small) - 5} more" if len(small) > 5 else ""
            said.append(
                f"{group} normalises over its mini-batches and cannot learn from a single example: "
                f"the last mini-batch of {', '.join(small[:5])}{more} has one, and is left out"
            )
    return tuple(said)


def _last(count: int, training: TrainingConfig) -> int:
    """How many examples the last mini-batch of a pass has, if training comes to it."""
    width = training.batch_size or count
    once = -(-count // max(width, 1))
    reached = training.epochs > 0 if training.steps is None else training.steps >= once
    return count - (once - 1) * width if count and reached else width


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
    _check_target(algorithm, task)
    there = 0 if task.public is None else len(leading(task.public))
    if algorithm.properties.public != "none" and not there:
        name = type(algorithm).__name__
        raise ValueError(
            f"{name} needs public examples ({algorithm.properties.public}) and the task has none; "
            "set aside some, or take an algorithm that works without"
        )
    private = [client.private for client in clients]
    check_examples(private, task.num_classes, task.target, task.places)
    if task.public is not None and algorithm.properties.public != "none":
        tree_map(partial(check_finite, name="public examples"), task.public)
    needs = algorithm.properties
    for what, missing in (
        ("labels of public examples", needs.public == "labelled" and task.labels is None),
        ("labelled validation examples", needs.validation != "none" and not task.validation),
    ):
        if missing:
            raise ValueError(
                f"{type(algorithm).__name__} with these settings needs {what} at the server, and "
                "the task has none; set aside some, or change the settings"
            )
    _check_batches(algorithm, task)
    algorithm.check(task)


def _check_target(algorithm: Algorithm, task: Task) -> None:
    """Raise ValueError for an algorithm that cannot learn what the task is about."""
    able = _learnt_by(algorithm)
    if task.target.name not in able:
        wanted = " or ".join(TARGETS[name].words for name in able)
        raise ValueError(
            f"{type(algorithm).__name__} needs {wanted} for each example, and each has "
            f"{task.target.words}; take an algorithm that learns these, such as {INSTEAD}"
        )


def _check_batches(algorithm: Algorithm, task: Task) -> None:
    """Raise ValueError for mini-batches that some network cannot learn from."""
    if algorithm.local.privacy is not None:
        check_private(task)
    used = [one for one in (algorithm.local, algorithm.public_training) if one is not None]
    for name, training in vars(algorithm).items():
        for group, model in task.models.items():
            if training in used and 0 < training.batch_size < least_batch(model.predict):
                raise ValueError(
                    f"{name}.batch_size {training.batch_size}: {group} normalises over its "
                    f"mini-batches and cannot learn from a single example; take 2 or more"
                )


def _learnt_by(algorithm: Algorithm) -> tuple[str, ...]:
    """The targets that an algorithm learns: a training of its own is for classes, if none are said.

    A class that is derived from another, and trains otherwise, inherits no declaration of targets.
    """
    ancestry = type(algorithm).__mro__
    trains, declares = (
        next(one for one in ancestry if name in vars(one))
        for name in ("client_update", "properties")
    )
    return algorithm.properties.targets if issubclass(declares, trains) else ("class",)
