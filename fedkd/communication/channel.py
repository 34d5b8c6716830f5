"""What crosses the network: transformed, weighed, and checked at the border."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedkd.core import Algorithm
from fedkd.messages import ANY, Message, PayloadSpec, Stage, Transform, Upload, weigh

# A label vector written down in float32 misses a sum of one by about 1e-7 a class.
ROUNDING = 1e-4


WEIGHT = "weight"  # what a ledger calls the weights of uploads


def weigh_broadcast(algorithm: Algorithm, sent: Message) -> Counter[str]:
    """Bytes of a broadcast; none where a party tells itself."""
    return weigh(sent) if algorithm.central else Counter()


def weigh_upload(algorithm: Algorithm, client: int, sent: Upload) -> Counter[str]:
    """Bytes of a client's upload, as often as it is sent, with the weight where that is used."""
    size = weigh(sent.payload)
    if "weight" in algorithm.properties.beyond_training:
        size[WEIGHT] += 8
    copies = algorithm.copies(client)
    return Counter({key: copies * value for key, value in size.items()})


@dataclass(frozen=True)
class Channel:
    """The way up and the way down: ordered transforms, and a border that checks every upload.

    Attributes:
        uplink, downlink: applied in this order on sending, undone in reverse on reading.
        max_weight: no client may claim to speak for more examples than this.
    """

    uplink: tuple[Stage, ...] = ()
    downlink: tuple[Stage, ...] = ()
    max_weight: float = 1e7

    def with_algorithm(self, algorithm: Algorithm) -> "Channel":
        """The channel, ended by the algorithm's own coding of messages where it has one.

        Raises:
            ValueError: there is no server, and uploads would be coded by what their sender was
                told, which nobody else knows.
        """
        up, down = (*self.uplink, *algorithm.uplink), (*self.downlink, *algorithm.downlink)
        if not algorithm.central and not all(isinstance(stage, Transform) for stage in up):
            raise ValueError(
                "uploads are coded by what their sender was told, which without a server its "
                "neighbours do not know; take another compression or algorithm, or the topology "
                "server"
            )
        if not (algorithm.uplink or algorithm.downlink):
            return self
        return replace(self, uplink=up, downlink=down)

    def given_broadcast(self, broadcast: Message) -> "Channel":
        """The channel for the answer to a broadcast, given as it was read."""
        if all(isinstance(stage, Transform) for stage in self.uplink):
            return self
        known = (s if isinstance(s, Transform) else s(broadcast) for s in self.uplink)
        return replace(self, uplink=tuple(known))

    def check(self, payload_spec: Mapping[str, PayloadSpec]) -> None:
        """Raise ValueError, before anything runs, if such uploads cannot be sent."""
        sample = {key: _sample(spec) for key, spec in payload_spec.items()}
        seeded = torch.Generator().manual_seed(0)
        self.given_broadcast({}).send_up(Upload(sample, torch.tensor(1.0)), seeded)

    def send_down(self, message: Message, generator: torch.Generator) -> Message:
        """A broadcast as it is sent."""
        return _encode(self.downlink, message, generator)

    def read_down(self, sent: Message) -> Message:
        """A broadcast as clients read it."""
        return _decode(self.downlink, sent)

    def send_up(self, upload: Upload, generator: torch.Generator) -> Upload:
        """An upload as it is sent: only the rows that the client has, transformed.

        Raises:
            ValueError: it is none, or a stage cannot be applied to it; the message says why.
        """
        check_form(upload)
        _ready(self.uplink)
        try:
            payload = upload.payload
            if upload.rows is not None:
                held = upload.rows.bool()
                payload = {key: value[held] for key, value in payload.items()}
            return upload._replace(payload=_encode(self.uplink, payload, generator))
        except ValueError:
            raise
        except Exception as reason:  # what a client's function gave back may be anything
            raise ValueError(f"it cannot be sent: {reason}") from reason

    def read_up(self, sent: Upload, payload_spec: Mapping[str, PayloadSpec]) -> Upload:
        """An upload as the server reads it.

        Raises:
            ValueError: it is not what it claims to be; the message says why.
        """
        check_form(sent)
        try:
            weight, payload = float(sent.weight), _decode(self.uplink, sent.payload)
        except Exception as reason:  # an upload may hold anything, and the round goes on without it
            raise ValueError(f"it cannot be read: {reason}") from reason
        if not math.isfinite(weight) or not 0 <= weight <= self.max_weight:
            raise ValueError(f"weight {weight:g} is not between 0 and {self.max_weight:g}")
        if set(payload) != set(payload_spec):
            raise ValueError(f"keys {sorted(payload)} instead of {sorted(payload_spec)}")
        if any(spec.rows != (sent.rows is not None) for spec in payload_spec.values()):
            raise ValueError("rows are named where all are due, or not named where some are")
        slack = ROUNDING + sum(stage.error for stage in _ready(self.uplink))
        for key, spec in payload_spec.items():
            shape = spec.shape if sent.rows is None else _held_shape(spec, sent.rows)
            _check(key, payload[key], spec._replace(shape=shape), slack)
        if sent.rows is not None:
            payload = {key: _spread(value, sent.rows) for key, value in payload.items()}
        return sent._replace(payload=payload)


def check_form(upload: object) -> None:
    """Raise ValueError unless this is an upload of plain tensors under names."""
    if not isinstance(upload, Upload):
        raise ValueError(f"it is a {type(upload).__name__}, and no upload")
    if not isinstance(upload.payload, Mapping):
        raise ValueError(f"its payload is a {type(upload.payload).__name__}, and no dictionary")
    rows = {} if upload.rows is None else {"its list of rows": upload.rows}
    for key, value in (dict(upload.payload) | rows).items():
        if not isinstance(key, str):
            raise ValueError(f"its payload has a key {key!r}, which is no name")
        if not isinstance(value, Tensor):
            raise ValueError(f"{key} is a {type(value).__name__}, and no tensor")
        if _stored_otherwise(value):
            raise ValueError(f"{key} is no plain tensor: {value.layout}, {value.device}")


def _stored_otherwise(value: Tensor) -> bool:
    """Whether its numbers do not lie one beside the other: sparse, nested, quantised, or none."""
    dense = value.layout is torch.strided and value.device.type != "meta"
    return not dense or value.is_nested or value.is_quantized


def _sample(spec: PayloadSpec) -> Tensor:
    """A tensor as claimed: even distributions, zeros for whole numbers, else -1 to 1."""
    shape = (1, *spec.shape[1:]) if spec.shape[:1] == (ANY,) else spec.shape
    if spec.below is not None:
        return torch.zeros(shape, dtype=torch.int32)
    if spec.simplex:
        return torch.full(shape, 1 / max(1, shape[-1]))
    return torch.linspace(-1, 1, math.prod(shape)).reshape(shape)


def _encode(stages: tuple[Stage, ...], message: Message, generator: torch.Generator) -> Message:
    for stage in _ready(stages):
        message = stage.encode(message, generator)
    return message


def _decode(stages: tuple[Stage, ...], sent: Message) -> Message:
    for stage in reversed(_ready(stages)):
        sent = stage.decode(sent)
    return sent


def _ready(stages: tuple[Stage, ...]) -> list[Transform]:
    """The stages; one that waits for a broadcast is never passed over in silence."""
    ready = [stage for stage in stages if isinstance(stage, Transform)]
    if len(ready) < len(stages):
        raise RuntimeError(
            "a stage depends on the broadcast: use channel.given_broadcast(broadcast)"
        )
    return ready


def _held_shape(spec: PayloadSpec, rows: Tensor) -> tuple[int, ...]:
    fits = rows.ndim == 1 if spec.shape[0] == ANY else rows.shape == spec.shape[:1]
    if not fits or not bool(((rows == 0) | (rows == 1)).all()):
        raise ValueError(f"a list of rows of shape {tuple(rows.shape)} that are not all 0 or 1")
    return (int(rows.sum()), *spec.shape[1:])


def _check(key: str, value: Tensor, spec: PayloadSpec, slack: float) -> None:
    """Raise ValueError unless a payload tensor has shape and type, is finite, on the simplex."""
    length = value.shape[:1] if spec.shape[:1] == (ANY,) else spec.shape[:1]
    shape = (*length, *spec.shape[1:])
    if tuple(value.shape) != shape:
        said = ", by its list of rows" if spec.rows else ""
        raise ValueError(f"{key} has shape {tuple(value.shape)} instead of {shape}{said}")
    kind = torch.get_default_dtype() if spec.below is None else torch.int32
    if value.dtype != kind:
        raise ValueError(f"{key} has type {value.dtype} instead of {kind}")
    if spec.below is not None and value.numel():
        first, last = int(value.min()), int(value.max())
        if first < 0 or last >= spec.below:
            raise ValueError(f"{key} goes from {first} to {last}, not 0 to {spec.below - 1}")
    if not bool(torch.isfinite(value).all()):
        count = int((~torch.isfinite(value)).sum())
        raise ValueError(f"{key} holds {count} entries that are not finite")
    if spec.simplex and math.isfinite(slack) and value.numel():
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
