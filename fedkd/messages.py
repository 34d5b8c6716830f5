"""What clients and server send each other, and what happens to it on the way: the nouns."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kdcore.devices import moved

Message = dict[str, Tensor]


class Upload(NamedTuple):
    """What a client sends up.

    Shapes:
        payload: the message; under each key one tensor.
        weight: (), how much it should count, in examples; >= 0. Where the server counts each client
            once it is one, and nobody is told how many examples there are.
        rows: (C,) of 0 and 1, or None. Where given, only these rows of each payload tensor cross
            the network (the labels that the client holds); the server sees zeros elsewhere.
    """

    payload: Message
    weight: Tensor = torch.tensor(1)
    rows: Tensor | None = None


class Received(NamedTuple):
    """An upload as the server has it: checked, decoded, and with its sender's name."""

    client: int
    group: str
    payload: Message
    weight: float
    rows: Tensor | None = None


# In a sum over clients: their weights together, and for each row how many of them named it.
WEIGHT, ROWS = "/weight", "/rows"


def weighted(upload: Received) -> Message:
    """Weight x payload, in float64, and the weight."""
    terms = {key: upload.weight * value.double() for key, value in upload.payload.items()}
    return terms | {WEIGHT: torch.tensor(upload.weight, dtype=torch.float64)}


def unweighted(upload: Received) -> Message:
    """The payload, in float64, and which rows are named where some are."""
    terms = {key: value.double() for key, value in upload.payload.items()}
    return terms if upload.rows is None else terms | {ROWS: upload.rows.double()}


def summed(messages: Iterable[Message]) -> tuple[Message, int]:
    """The sum of messages, key by key, and how many there are; gone through once.

    A message that lacks a key adds nothing to it.
    """
    total: Message = {}
    count = 0
    for message in messages:
        for key, value in message.items():
            total[key] = total[key] + value if key in total else value
        count += 1
    return total, count


ANY = -1


class PayloadSpec(NamedTuple):
    """What a payload tensor claims to be; anything else is turned away at the border.

    Attributes:
        shape: of the whole tensor; a first entry of ANY stands for any number of rows.
        simplex: whether each row is a distribution.
        rows: whether clients send only the rows that they hold, and say which (`Upload.rows`);
            it is the same for all tensors of a payload.
        below: where given, the tensor holds whole numbers (int32) from 0 to one below this.
        most: where given, no entry is larger than this in absolute value.
        least: where given, no entry is smaller than this.
        trained: whether this is the tensor of the same name in the broadcast, as training left it
            ("parameters"), or what training added to it ("update").
        tells_size: whether it tells how many examples its sender holds: it has a row for each, or
            counts them.
        once: whether an upload may lack it: a client sends it when it is asked to, and never again.
    """

    shape: tuple[int, ...]
    simplex: bool = False
    rows: bool = False
    below: int | None = None
    most: float | None = None
    trained: Literal["no", "parameters", "update"] = "no"
    least: float | None = None
    tells_size: bool = False
    once: bool = False


def _same(message: Message) -> Message:
    return message


class Transform(NamedTuple):
    """One stage of a channel: compression, clipping, noise.

    Attributes:
        encode: (message, generator) -> the message as it is sent.
        decode: the sent message -> the message as it is read.
        error: by how much an entry of what was a distribution may miss being part of one when it
            is read; math.inf for noise, after which rows are no distributions any more.
    """

    encode: Callable[[Message, torch.Generator], Message]
    decode: Callable[[Message], Message] = _same
    error: float = 0.0


# A stage may depend on the broadcast that is answered, which both ends know: see `given_broadcast`.
Stage = Transform | Callable[[Message], Transform]


def on(message: Message, device: torch.device) -> Message:
    """A message on a device; what is there already is not copied."""
    return {key: value.to(device) for key, value in message.items()}


def all_on(messages: Sequence[Message], device: torch.device) -> list[Message]:
    """Messages on a device, in few copies; a tensor that several hold is one there too."""
    values = iter(moved([value for message in messages for value in message.values()], device))
    return [{key: next(values) for key in message} for message in messages]


@dataclass
class Ledger:
    """Bytes that crossed the network, by direction and message key.

    Tensors are weighed in the form in which they are sent; "weight" is the number that each client
    sends beside them where the server uses it, 8 bytes. What a transport adds (names, shapes, the
    list of a client's labels) is framing, and not counted here.
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
