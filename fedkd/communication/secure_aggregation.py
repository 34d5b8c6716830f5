"""A cohort's uploads added up by secure sums: one for all whose summands are of one form.

Clients of groups whose parameters are averaged apart have a sum of their own each. A client's
weight is told relative to the number of private examples in the federation (`Task.private`), of
which no sum of weights can be more.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import torch

from fedkd.communication.channel import Channel
from fedkd.consensus import NEARNESS
from fedkd.core import Algorithm
from fedkd.messages import WEIGHT, Message, PayloadSpec, Received, summed
from fedkd.privacy.secure_sum import (
    NUMBER,
    Ring,
    Secrets,
    SecureSum,
    agree,
    masked,
    overhead,
    unmasked,
)

LEAST_STEPS = 4  # of the ring, that the weight of one example is told with
Form = tuple[tuple[str, torch.Size], ...]  # keys and shapes of a summand


class Learnt(NamedTuple):
    """What the server learns, and what it took.

    Attributes:
        total: the sum of summands.
        clients: of how many it is, or is taken to be.
        up, down: bytes beside the vectors.
        lost: client number -> why there is no sum that it is in.
    """

    total: Message
    clients: float
    up: Mapping[str, int] = MappingProxyType({})
    down: Mapping[str, int] = MappingProxyType({})
    lost: Mapping[int, str] = MappingProxyType({})


@dataclass
class _Sum:
    """A sum under way: of masked vectors, as the server sees them."""

    form: Form
    members: list[int]
    secrets: Secrets
    masked: Ring | int = 0
    answered: list[int] = field(default_factory=list)


def vector_bytes(algorithm: Algorithm, payload_spec: Mapping[str, PayloadSpec]) -> Counter[str]:
    """Bytes of a masked vector: four for each number of a payload, and of what is beside it."""
    size = Counter({k: NUMBER * torch.Size(s.shape).numel() for k, s in payload_spec.items()})
    if algorithm.properties.summand == "weighted payload":
        size["weight"] = NUMBER
    if algorithm.properties.summand == "weighted rows":
        del size[NEARNESS]  # is these weights, where they are not taken from predictions
        shapes = [torch.Size(s.shape[:-1]) for key, s in payload_spec.items() if key != NEARNESS]
        size["row weights"] = NUMBER * sum(shape.numel() for shape in shapes)
    rows = [spec.shape[0] for spec in payload_spec.values() if spec.rows]
    return size + Counter({"rows": NUMBER * rows[0]} if rows else {})


def unseen(payload_spec: Mapping[str, PayloadSpec]) -> dict[str, PayloadSpec]:
    """What a client's own end still holds an upload to: of a masked one no range can be checked."""
    return {key: PayloadSpec(spec.shape, rows=spec.rows) for key, spec in payload_spec.items()}


def check_secure(
    secure: SecureSum, algorithm: Algorithm, channel: Channel, clients: int, private: int
) -> None:
    """Raise ValueError for uploads that such a sum is not of.

    Args:
        secure: how.
        algorithm: whose summands.
        channel: with the algorithm's own coding.
        clients: how many there are.
        private: how many private examples there are.
    """
    if len(channel.uplink) > len(algorithm.uplink):
        raise ValueError(
            "a secure sum is of vectors of a ring, four bytes a number, which no compression "
            "shortens and no other noise is in; take compression none"
        )
    if tells_weights(algorithm, channel):
        steps = 2.0 ** secure.digits(clients) / private
        if steps < LEAST_STEPS:
            raise ValueError(
                f"{private:,} private examples are too many for the weights of {clients} clients "
                f"in a ring of 2^32 with numbers up to {secure.limit:g}; say how many there are "
                "(Task.private), or hide sizes (private_size hidden)"
            )


def tells_weights(algorithm: Algorithm, channel: Channel) -> bool:
    """Whether weights are numbers of examples, and not all 1."""
    weighted = algorithm.properties.summand == "weighted payload"
    return weighted and channel.private_size.disclosure != "hidden"


def secure_total(
    secure: SecureSum,
    algorithm: Algorithm,
    uploads: Iterable[Received],
    members: Mapping[int, str],
    nothing: Mapping[str, Received],
    private: int,
    stream: torch.Generator,
) -> Learnt:
    """The sum of summands, of which the server sees masked vectors and unmasked sums alone.

    Args:
        secure: how.
        algorithm: whose summands.
        uploads: of those who answer.
        members: client number -> group, of the whole cohort.
        nothing: group -> an upload of zeros.
        private: how many private examples there are; 1 where weights are not told.
        stream: of all keys, seeds and shares.
    """
    forms = {group: _form(algorithm.summand(upload)) for group, upload in nothing.items()}
    sums: dict[Form, _Sum] = {}
    for form in dict.fromkeys(forms[group] for group in members.values()):
        own = sorted(client for client, group in members.items() if forms[group] == form)
        sums[form] = _Sum(form, own, agree(own, secure.needed(len(own)), stream))
    for upload in uploads:
        part = sums[forms[upload.group]]
        term = algorithm.summand(upload._replace(weight=upload.weight / private))
        flat = torch.cat([term[key].flatten().cpu() for key, _ in part.form])
        vector = secure.fixed(flat, len(part.members))
        part.masked = part.masked + masked(vector, upload.client, part.secrets)
        part.answered.append(upload.client)
    found = Learnt({}, 0)
    for part in sums.values():
        found = _with(found, part, secure, private)
    return found


def _with(found: Learnt, part: _Sum, secure: SecureSum, private: int) -> Learnt:
    """What is found, and one sum more, or why there is none."""
    up, down = overhead(len(part.members), len(part.answered))
    found = found._replace(up=Counter(found.up) + up, down=Counter(found.down) + down)
    if not part.answered:
        return found
    assert not isinstance(part.masked, int)
    try:
        whole = unmasked(part.masked, part.answered, part.secrets)
    except ValueError as reason:
        return found._replace(lost={**found.lost, **dict.fromkeys(part.answered, str(reason))})
    numbers = secure.read(whole, len(part.members))
    weighted = any(key.endswith(WEIGHT) for key, _ in part.form)
    parts = (numbers * private if weighted else numbers).split([s.numel() for _, s in part.form])
    message = {key: one.reshape(s) for (key, s), one in zip(part.form, parts, strict=True)}
    total, _ = summed([found.total, message])
    return found._replace(total=total, clients=found.clients + len(part.answered))


def _form(summand: Message) -> Form:
    return tuple((key, value.shape) for key, value in sorted(summand.items()))
