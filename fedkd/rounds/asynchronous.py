"""A federation on a virtual clock; `fedkd.rounds.clock` says what takes how long."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedkd.communication.channel import Channel, weigh_broadcast, weigh_upload
from fedkd.core import MEMORY, Algorithm, Client, Engine, Server, Task
from fedkd.engines.sequential import sequential
from fedkd.messages import Message, Received, Upload
from fedkd.rounds.client_sampling import Sample, everyone
from fedkd.rounds.clock import Arrival, Clock, Device, closing, seconds
from fedkd.rounds.round import (
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
from fedkd.rounds.staleness import moved, sends_parameters, with_newest
from kdcore.rng import generator
from kdcore.training.loop import Params

STATE = "clock/"  # where `pack` keeps what is under way
BROADCAST = "told/"  # and the broadcast that an upload under way answers


class Pending(NamedTuple):
    """A client that is not done yet, and what it will have when it is.

    Attributes:
        arrival: of its upload.
        params, upload: its new parameters, and its upload as sent.
        broadcast: that it answers, as sent.
    """

    arrival: Arrival
    params: Params
    upload: Upload
    broadcast: Message


@dataclass(frozen=True)
class TimedRound(Round):
    """A round, and where the clock stands after it.

    Attributes:
        now: seconds since the start.
        pending: client number -> what it is still at; it has its old parameters until then.
        stale: client number -> how many rounds late its upload was that counted in this one.
        late: clients whose upload arrived in this round and was too old to count.
        answered: client number -> the broadcast, perhaps an earlier one, that its upload answers.
        newest: client number -> its newest upload that was let in; only where there are no rounds,
            of algorithms that send no parameters.
    """

    now: float = 0.0
    pending: Mapping[int, Pending] = field(default_factory=dict)
    stale: Mapping[int, int] = field(default_factory=dict)
    late: tuple[int, ...] = ()
    answered: Mapping[int, Message] = field(default_factory=dict)
    newest: Mapping[int, Received] = field(default_factory=dict)

    @property
    def uploaders(self) -> set[int]:
        """Those from whom an upload came in this round that was not too late."""
        return set(self.uploads) - set(self.late) | set(self.rejected)


def simulate_timed(
    algorithm: Algorithm,
    task: Task,
    clients: Sequence[Client],
    clock: Clock,
    *,
    rounds: int,
    engine: Engine = sequential,
    channel: Channel = Channel(),  # noqa: B008  (frozen)
    sample: Sample = everyone,
    seed: int = 0,
    secret: int | None = None,
    after: TimedRound | None = None,
) -> Iterator[TimedRound]:
    """`simulate` on a virtual clock; the same run where nobody is late or lost.

    What a slow client computes is computed when it is told, and held back until it would be done:
    engines need to know nothing of time. What it counts for is said in `fedkd.rounds.staleness`.

    Only clients that have nothing to do are sampled; `after` is a round of an earlier call. The
    other arguments are those of `simulate`.

    Raises:
        ValueError: a federation that cannot run, or late predictions that would be about other
            public examples than those of the round in which they arrive.
    """
    check_federation(algorithm, task, clients)
    algorithm = algorithm.learning(task.target)
    check_clock(algorithm, task, clock)
    channel = channel.with_algorithm(algorithm)
    known = clients if after is None else after.clients
    members = {client.id: client for client in sorted(known, key=lambda client: client.id)}
    groups = {client.id: client.group for client in members.values()}
    speed = devices(clock, list(members), seed)
    own_seed = seed if secret is None else secret
    server = after.server if after else first_server(algorithm, task, seed)
    now, pending = (after.now, after.pending) if after else (0.0, {})
    newest = dict(after.newest) if after else {}
    for index in range(after.index + 1 if after else 1, rounds + 1):
        idle = {number: group for number, group in groups.items() if number not in pending}
        opening = (
            open_round(algorithm, server, idle, channel, sample, seed, index)
            if idle
            else OpenRound((), {})
        )
        public = public_of(algorithm, task, seed, index)
        failed = dict.fromkeys(lost(clock, opening.cohort, seed, index), "dropped out")
        there = [members[number] for number in opening.cohort if number not in failed]
        read = dict(zip(opening.cohort, read_all(channel, opening, task.device), strict=True))
        private = private_of_all(algorithm, there, own_seed, index)
        inputs = [(read[c.id], own, public) for c, own in zip(there, private, strict=True)]
        results = engine(algorithm.client_update, task, there, inputs) if there else []
        params, sent, refused, broken = send_all(channel, there, inputs, results, own_seed, index)
        check_somebody([client.id for client in there], broken)
        pending = dict(pending)
        for client, given in zip(there, inputs, strict=True):
            if client.id in sent:
                message, upload = opening.broadcasts[client.id], sent[client.id]
                down = weigh_broadcast(algorithm, message)
                size = (down + weigh_upload(algorithm, task, client.id, upload, channel)).total()
                time = seconds(speed[client.id], size, algorithm.mini_batches(*given))
                arrival = Arrival(now + time, index)
                pending[client.id] = Pending(arrival, params[client.id], upload, message)
        now = closing(clock, [one.arrival for one in pending.values()], now, index)
        arrived = {k: one for k, one in sorted(pending.items()) if one.arrival.time <= now}
        pending = {k: one for k, one in pending.items() if k not in arrived}
        members |= {k: members[k].with_params(params[k]) for k in refused}
        members |= {k: members[k].with_params(one.params) for k, one in arrived.items()}
        ages = {number: index - one.arrival.began for number, one in arrived.items()}
        late = tuple(n for n, age in ages.items() if age > clock.staleness and not clock.buffer)
        counting = {n: one.upload for n, one in arrived.items() if n not in late}
        answered = OpenRound(tuple(arrived), {n: one.broadcast for n, one in arrived.items()})
        answered.ledger = opening.ledger
        newest = dict(newest)  # those of the last round stay as they are
        received = dict(zip(arrived, read_all(channel, answered, task.device), strict=True))
        counted = partial(_counted, algorithm, task, clock, server, received, ages, newest)
        server, rejected, ledger = close_round(
            *(algorithm, task, server, groups, channel, answered),
            *(sorted(counting.items()), public, counted),
        )
        for number in late:  # too late to count, but sent all the same
            upload = arrived[number].upload
            ledger.up.update(weigh_upload(algorithm, task, number, upload, channel))
        yield TimedRound(
            index,
            server,
            tuple(members.values()),
            opening.cohort,
            dict(sorted((refused | rejected).items())),
            ledger,
            dict(sorted((failed | broken).items())),
            opening.broadcasts,
            {number: one.upload for number, one in arrived.items()},
            now,
            pending,
            {number: ages[number] for number in counting if ages[number]},
            late,
            answered.broadcasts,
            newest,
        )


def _counted(
    algorithm: Algorithm,
    task: Task,
    clock: Clock,
    server: Server,
    received: Mapping[int, Message],
    ages: Mapping[int, int],
    newest: dict[int, Received],
    uploads: Iterator[Received],
) -> Iterator[Received]:
    """What the server is updated with, of the uploads that were let in."""
    payload_spec = {group: algorithm.payload_spec(task, group) for group in task.models}
    if clock.buffer and not any(map(sends_parameters, payload_spec.values())):
        yield from with_newest(uploads, newest)
        return
    for one in uploads:
        present = algorithm.broadcast(server, one.client, one.group)
        age, rate = ages[one.client], clock.server_learning_rate
        yield moved(one, payload_spec[one.group], received[one.client], present, age, rate)


def devices(clock: Clock, clients: Sequence[int], seed: int) -> dict[int, Device]:
    """How fast each client is, drawn once for a run: round(share x K) of them are stragglers."""
    stream = generator(seed, "devices")
    slow = torch.randperm(len(clients), generator=stream)[: round(clock.stragglers * len(clients))]
    normal = torch.randn(len(clients), 2, generator=stream, dtype=torch.float64)
    factors = (clock.spread * normal).exp()
    factors[slow] *= clock.slowdown
    byte = 1 / clock.bandwidth if clock.bandwidth else 0.0
    return {
        client: Device(clock.step_seconds * step, byte * wire)
        for client, (step, wire) in zip(clients, factors.tolist(), strict=True)
    }


def lost(clock: Clock, cohort: Sequence[int], seed: int, index: int) -> list[int]:
    """Who of a cohort drops out in a round."""
    draws = torch.rand(len(cohort), generator=generator(seed, "dropout", index))
    return [c for c, draw in zip(cohort, draws.tolist(), strict=True) if draw < clock.dropout]


def check_clock(algorithm: Algorithm, task: Task, clock: Clock) -> None:
    """Raise ValueError for late predictions about other examples than the round's.

    So it is for a server's learning rate where there are no parameters to learn.
    """
    payload_spec = [algorithm.payload_spec(task, group) for group in task.models]
    if clock.server_learning_rate != 1 and not any(map(sends_parameters, payload_spec)):
        raise ValueError(
            f"server_learning_rate {clock.server_learning_rate:g} moves parameters, and "
            f"{type(algorithm).__name__} sends none; leave it at 1"
        )
    late, asks = clock.staleness or clock.buffer, algorithm.asks
    if late and asks is not None and task.public is not None and asks < len(task.public):
        raise ValueError(
            f"public_size {asks}: late predictions would be about other public examples than those "
            "of the round in which they arrive; ask about all, or discard them (staleness 0, "
            "buffer 0)"
        )


def pack(current: TimedRound) -> Round:
    """A timed round as a round, all of its state in tensors: for `fedkd.rounds.checkpoint`."""
    state = {"now": torch.tensor(current.now, dtype=torch.float64)}
    for number, one in current.pending.items():
        found: dict[str, Tensor] = {
            "arrival": torch.tensor(one.arrival.time, dtype=torch.float64),
            "began": torch.tensor(one.arrival.began),
        }
        found |= {f"params/{name}": value for name, value in one.params.items()}
        found |= {f"{BROADCAST}{key}": value for key, value in one.broadcast.items()}
        found |= _flat(one.upload)
        state |= {f"{number}/{name}": value for name, value in found.items()}
    for number, latest in current.newest.items():
        weight = torch.tensor(latest.weight, dtype=torch.float64)
        found = _flat(Upload(latest.payload, weight, latest.rows))
        state |= {f"newest/{number}/{name}": value for name, value in found.items()}
    kept = {name: getattr(current, name) for name in (f.name for f in fields(Round))}
    return Round(**kept | {"server": current.server | {STATE + k: v for k, v in state.items()}})


def unpack(saved: Round) -> TimedRound:
    """The timed round that was packed."""
    state = {k.removeprefix(STATE): v for k, v in saved.server.items() if k.startswith(STATE)}
    pending, newest = {}, {}
    for client in saved.clients:
        own, latest = _under(state, f"{client.id}/"), _under(state, f"newest/{client.id}/")
        if own:
            params = _under(own, "params/")
            memory = {name: value for name, value in params.items() if name.startswith(MEMORY)}
            params = memory | {name: params[name] for name in client.params}  # in their order
            arrival = Arrival(float(own["arrival"]), int(own["began"]))
            pending[client.id] = Pending(arrival, params, _upload(own), _under(own, BROADCAST))
        if latest:
            payload, weight, rows = _upload(latest)
            newest[client.id] = Received(client.id, client.group, payload, float(weight), rows)
    kept: dict[str, Any] = {f.name: getattr(saved, f.name) for f in fields(Round)}
    kept["server"] = {k: v for k, v in saved.server.items() if not k.startswith(STATE)}
    return TimedRound(**kept, now=float(state["now"]), pending=pending, newest=newest)


def _flat(upload: Upload) -> dict[str, Tensor]:
    """An upload under names of its own."""
    found = {"weight": upload.weight} | {f"payload/{k}": v for k, v in upload.payload.items()}
    return found if upload.rows is None else found | {"rows": upload.rows}


def _upload(state: Mapping[str, Tensor]) -> Upload:
    """The upload that was made flat."""
    return Upload(_under(state, "payload/"), state["weight"], state.get("rows"))


def _under(tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
