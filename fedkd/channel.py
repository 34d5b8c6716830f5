"""What crosses the network: transformed, weighed, and checked at the border."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from fedkd.core import Claim, Message, Upload

# A label vector written down in float32 misses a sum of one by about 1e-7 a class.
ROUNDING = 1e-4


def _same(message: Message) -> Message:
    return message


class Transform(NamedTuple):
    """One stage of a channel: compression, clipping, noise.

    Attributes:
        encode: (message, generator) -> the message as it is sent.
        decode: the sent message -> the message as it is read.
        error: by how much an entry of a probability vector may change on the way;
            math.inf for noise, after which rows are no distributions any more.
    """

    encode: Callable[[Message, torch.Generator], Message]
    decode: Callable[[Message], Message] = _same
    error: float = 0.0


@dataclass
class Ledger:
    """Bytes that crossed the network, by direction and message key.

    Only tensors are weighed, in the form in which they are sent. What a transport adds (names,
    shapes, a client's weight, the list of its labels) is framing, and not counted here.
    """

    up: Counter[str] = field(default_factory=Counter)
    down: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: "Ledger") -> "Ledger":
        return Ledger(self.up + other.up, self.down + other.down)

    @property
    def bytes_up(self) -> int:
        """All bytes from clients to the server."""
        return self.up.total()

    @property
    def bytes_down(self) -> int:
        """All bytes from the server to clients."""
        return self.down.total()


def weigh(message: Message) -> Counter[str]:
    """Bytes of each tensor of a message."""
    return Counter({key: value.nbytes for key, value in message.items()})


@dataclass(frozen=True)
class Channel:
    """The way up and the way down: ordered transforms, and a border that checks every upload.

    Attributes:
        uplink, downlink: applied in this order on sending, undone in reverse on reading.
        max_weight: no client may claim to speak for more examples than this.
    """

    uplink: tuple[Transform, ...] = ()
    downlink: tuple[Transform, ...] = ()
    max_weight: float = 1e7

    def send_down(self, message: Message, generator: torch.Generator) -> Message:
        """A broadcast as it is sent."""
        return _encode(self.downlink, message, generator)

    def read_down(self, sent: Message) -> Message:
        """A broadcast as clients read it."""
        return _decode(self.downlink, sent)

    def send_up(self, upload: Upload, generator: torch.Generator) -> Upload:
        """An upload as it is sent: only the rows that the client has, transformed."""
        payload = upload.payload
        if upload.rows is not None:
            held = upload.rows.bool()
            payload = {key: value[held] for key, value in payload.items()}
        return upload._replace(payload=_encode(self.uplink, payload, generator))

    def read_up(self, sent: Upload, claims: Mapping[str, Claim]) -> Upload:
        """An upload as the server reads it.

        Raises:
            ValueError: it is not what it claims to be; the message says why.
        """
        try:
            weight, payload = float(sent.weight), _decode(self.uplink, sent.payload)
        except (TypeError, LookupError, RuntimeError) as reason:
            raise ValueError(f"it cannot be read: {reason}") from reason
        if not math.isfinite(weight) or not 0 <= weight <= self.max_weight:
            raise ValueError(f"weight {weight:g} is not between 0 and {self.max_weight:g}")
        if set(payload) != set(claims):
            raise ValueError(f"keys {sorted(payload)} instead of {sorted(claims)}")
        if any(claim.rows != (sent.rows is not None) for claim in claims.values()):
            raise ValueError("rows are named where all are due, or not named where some are")
        slack = ROUNDING + sum(stage.error for stage in self.uplink)
        for key, claim in claims.items():
            shape = claim.shape if sent.rows is None else _held_shape(claim, sent.rows)
            _check(key, payload[key], shape, slack if claim.simplex else math.inf)
        if sent.rows is not None:
            payload = {key: _spread(value, sent.rows) for key, value in payload.items()}
        return sent._replace(payload=payload)


def _encode(stages: tuple[Transform, ...], message: Message, generator: torch.Generator) -> Message:
    for stage in stages:
        message = stage.encode(message, generator)
    return message


def _decode(stages: tuple[Transform, ...], sent: Message) -> Message:
    for stage in reversed(stages):
        sent = stage.decode(sent)
    return sent


def _held_shape(claim: Claim, rows: Tensor) -> tuple[int, ...]:
    if rows.shape != claim.shape[:1] or not bool(((rows == 0) | (rows == 1)).all()):
        raise ValueError(f"a list of rows of shape {tuple(rows.shape)} that are not all 0 or 1")
    return (int(rows.sum()), *claim.shape[1:])


def _check(key: str, value: Tensor, shape: tuple[int, ...], slack: float) -> None:
    """Raise ValueError unless a payload tensor has shape and type, is finite, on the simplex."""
    if tuple(value.shape) != shape:
        raise ValueError(f"{key} has shape {tuple(value.shape)} instead of {shape}")
    if value.dtype != torch.get_default_dtype():
        raise ValueError(f"{key} has type {value.dtype} instead of {torch.get_default_dtype()}")
    if not bool(torch.isfinite(value).all()):
        count = int((~torch.isfinite(value)).sum())
        raise ValueError(f"{key} holds {count} entries that are not finite")
    if math.isfinite(slack) and value.numel():
        low, sums = float(value.min()), value.double().sum(dim=-1)
        off = float((sums - 1).abs().max())
        if low < -slack or off > slack * value.shape[-1]:
            raise ValueError(
                f"{key} has rows that are no distribution (smallest entry {low:.3g}, "
                f"a sum off by {off:.3g})"
            )


def _spread(value: Tensor, rows: Tensor) -> Tensor:
    full = value.new_zeros((len(rows), *value.shape[1:]))
    full[rows.bool()] = value
    return full
