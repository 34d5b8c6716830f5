"""The loop over synchronous rounds."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from fedkd.communication.aggregation import Aggregation
from fedkd.communication.channel import Channel
from fedkd.core import Algorithm, Client, Engine, Public, Task
from fedkd.engines.sequential import sequential
from fedkd.messages import Ledger, Upload
from fedkd.rounds.client_sampling import Sample, everyone
from fedkd.rounds.round import (
    WAVE,
    OpenRound,
    Round,
    check_federation,
    check_somebody,
    close_round,
    first_server,
    open_round,
    private_of_all,
    public_of,
    read_all,
    send_all,
)
from fedkd.storage.client_store import ClientStore, with_own_memory
from kdcore.rng import generator


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
    secret: int | None = None,
    after: Round | None = None,
    store: ClientStore | None = None,
    witness: bool = True,
    aggregation: Aggregation | None = None,
) -> Iterator[Round]:
    """Run a federation, one `Round` at a time; the caller logs, evaluates, and stops.

    The clients of a round work in waves of a thousand, and the server sees their uploads one by
    one: what an algorithm does not keep is gone before the next wave, unless `witness` holds it.

    Args:
        algorithm: what clients and server do.
        task: models, classes, public examples.
        clients: the parties; their numbers must differ.
        rounds: how many rounds.
        engine: who runs the clients' functions (`fedkd.engines`); a matter of speed alone.
        channel: what happens to messages on the way.
        sample: who takes part in a round.
        seed: of every random choice; two runs with the same seed are the same run.
        secret: in the place of the seed for what hides private data: noise, and which examples are
            in a mini-batch. Who has it can take the noise off; by default, who has the seed.
        after: go on from this round of an earlier call with the same arguments
            (`fedkd.rounds.checkpoint`), as if it had never stopped.
        store: where parameters are kept between rounds; by default in memory.
        witness: whether rounds hold what crossed the network (`Round.broadcasts`, `Round.uploads`).
        aggregation: what the server learns of a cohort where it is not told each upload; its noise
            is of a stream of its own for each round. Of a secure sum rounds hold no uploads, which
            crossed masked.

    Raises:
        ValueError: no clients, a number used twice, an unknown group, or public examples missing.
    """
    check_federation(algorithm, task, clients)
    algorithm = algorithm.learning(task.target)
    channel = channel.with_algorithm(algorithm)
    if aggregation is not None:
        aggregation.check(algorithm, task, channel, len(clients))
    if after is None:
        server = first_server(algorithm, task, seed)
        after = Round(0, server, tuple(clients), (), {}, Ledger())
    by_number = sorted(after.clients, key=lambda client: client.id)
    current = replace(after, clients=tuple(by_number))
    how = engine, channel, sample, seed, secret, store, witness, aggregation
    while current.index < rounds:
        current = next_round(algorithm, task, current, *how)
        check_somebody(current.cohort, current.failed)
        yield current


def next_round(
    algorithm: Algorithm,
    task: Task,
    before: Round,
    engine: Engine,
    channel: Channel,
    sample: Sample,
    seed: int,
    secret: int | None,
    store: ClientStore | None,
    witness: bool,
    aggregation: Aggregation | None,
) -> Round:
    """The round after another one; see `simulate`, which has checked all of it.

    `before` has its clients in the order of their numbers.
    """
    index, members = before.index + 1, {client.id: client for client in before.clients}
    groups = {client.id: client.group for client in before.clients}
    own_seed = seed if secret is None else secret
    opening = open_round(algorithm, before.server, groups, channel, sample, seed, index)
    public = public_of(algorithm, task, seed, index)
    seen: dict[int, Upload] = {}
    refused: dict[int, str] = {}
    failed: dict[int, str] = {}
    keep = store or (None if len(opening.cohort) == len(members) else _apart)
    uploads = _work(
        *(algorithm, task, engine, channel, opening, public),
        *(own_seed, index, members),
        *(refused, failed, keep),
    )
    if witness and (aggregation is None or aggregation.secure is None):
        uploads = _noted(uploads, seen)
    server, rejected, ledger = close_round(
        *(algorithm, task, before.server, groups, channel, opening, uploads, public),
        aggregation=aggregation,
        stream=generator(own_seed, "noise", index),
    )
    rejected = dict(sorted((refused | rejected).items()))
    everybody = tuple(members.values())
    crossed = (opening.broadcasts, seen) if witness else ({}, {})
    return Round(index, server, everybody, opening.cohort, rejected, ledger, failed, *crossed)


def _work(
    algorithm: Algorithm,
    task: Task,
    engine: Engine,
    channel: Channel,
    opening: OpenRound,
    public: Public | None,
    seed: int,
    index: int,
    members: dict[int, Client],
    refused: dict[int, str],
    failed: dict[int, str],
    keep: Callable[[Sequence[Client]], list[Client]] | None,
) -> Iterator[tuple[int, Upload]]:
    """The uploads of a cohort as they are sent, wave by wave.

    Fills in `members`, `refused` and `failed`.
    """
    received = dict(zip(opening.cohort, read_all(channel, opening, task.device), strict=True))
    numbers = sorted(received)
    for start in range(0, len(numbers), WAVE):
        wave = [members[number] for number in numbers[start : start + WAVE]]
        private = private_of_all(algorithm, wave, seed, index)
        inputs = [(received[c.id], own, public) for c, own in zip(wave, private, strict=True)]
        results = engine(algorithm.client_update, task, wave, inputs)
        params, sent, refusals, broken = send_all(channel, wave, inputs, results, seed, index)
        fresh = [members[number].with_params(new) for number, new in params.items()]
        members.update((client.id, client) for client in (keep(fresh) if keep else fresh))
        refused.update(refusals)
        failed.update(broken)
        yield from sent.items()


def _noted(
    uploads: Iterable[tuple[int, Upload]], seen: dict[int, Upload]
) -> Iterator[tuple[int, Upload]]:
    for number, upload in uploads:
        seen[number] = upload
        yield number, upload


def _apart(clients: Sequence[Client]) -> list[Client]:
    """Clients of whom some may not be seen again for long: none keeps another's memory alive."""
    return [with_own_memory(client) for client in clients]
