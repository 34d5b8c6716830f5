"""What crosses the network: transformed, weighed, and checked at the border."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedkd.communication.attempts import among, answer_of, each
from fedkd.communication.checks import (
    Shaped,
    check_form,
    check_numbers,
    shaped,
    stored_otherwise,
)
from fedkd.communication.measures import Measures, measured
from fedkd.communication.private_size import PrivateSize
from fedkd.communication.rows import only_held, with_zeros
from fedkd.core import Algorithm, Task
from fedkd.messages import ANY, Message, PayloadSpec, Stage, Transform, Upload, all_on, weigh
from kdcore.devices import moved

CPU = torch.device("cpu")  # where messages are coded

# A label vector written down in float32 misses a sum of one by about 1e-7 a class.
ROUNDING = 1e-4


WEIGHT = "weight"  # what a ledger calls the weights of uploads


def weigh_broadcast(algorithm: Algorithm, sent: Message) -> Counter[str]:
    """Bytes of a broadcast; none where a party tells itself."""
    return weigh(sent) if algorithm.central else Counter()


def weigh_upload(
    algorithm: Algorithm, task: Task, client: int, sent: Upload, channel: "Channel"
) -> Counter[str]:
    """Bytes of a client's upload, as often as it is sent, with the weight where that is told.

    Examples that are numbers of what a network knows are weighed as that.
    """
    size, copies = weigh(sent.payload), algorithm.copies(client)
    if task.contents is not None:
        for key in size.keys() & {*algorithm.properties.examples}:
            size[key] = task.contents(sent.payload[key])
    if (
        "weight" in algorithm.properties.beyond_training
        and channel.private_size.disclosure != "hidden"
    ):
        size[WEIGHT] += 8
    return size if copies == 1 else Counter({key: copies * n for key, n in size.items()})


@dataclass(frozen=True)
class Channel:
    """The way up and the way down: ordered transforms, and a border that checks every upload.

    Attributes:
        uplink, downlink: applied in this order on sending, undone in reverse on reading.
        max_weight: no client may claim to speak for more examples than this.
        private_size: what is told of how many examples a client holds.
    """

    uplink: tuple[Stage, ...] = ()
    downlink: tuple[Stage, ...] = ()
    max_weight: float = 1e7
    private_size: PrivateSize = PrivateSize()

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
        weighted = "weight" in algorithm.properties.beyond_training
        size = self.private_size if weighted else PrivateSize()
        if (up, down, size) == (self.uplink, self.downlink, self.private_size):
            return self
        return replace(self, uplink=up, downlink=down, private_size=size)

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

    def answering(self, broadcasts: Sequence[Message]) -> list["Channel | ValueError"]:
        """`given_broadcast` for each of a cohort, once for each broadcast; or why there is none."""
        if all(isinstance(stage, Transform) for stage in self.uplink):
            return [self] * len(broadcasts)
        messages = list({id(message): message for message in broadcasts}.values())
        channels = each(self.given_broadcast, all_on(messages, CPU))
        known = dict(zip(map(id, messages), channels, strict=True))
        return [known[id(message)] for message in broadcasts]

    def send_up(self, upload: Upload, generator: torch.Generator) -> Upload:
        """An upload as it is sent: only the rows that the client has, transformed.

        Raises:
            ValueError: it is none, or a stage cannot be applied to it; the message says why.
        """
        _ready(self.uplink)
        sent: Upload = answer_of(self.send_all([upload], [{}], lambda place: generator)[0])
        return sent

    def send_all(
        self,
        uploads: Sequence[Any],
        broadcasts: Sequence[Message],
        stream: Callable[[int], torch.Generator],
    ) -> list[Upload | ValueError]:
        """`send_up` for each of a cohort, in few copies: what is sent, or why it cannot be.

        Args:
            uploads: as the clients' functions gave them.
            broadcasts: what each answers, as it was read.
            stream: place in the cohort -> the generator of what is drawn on sending.
        """
        channels = self.answering(broadcasts)
        due = among(only_held, each(Channel._formed, channels, uploads))
        if not self.uplink and self.private_size.disclosure == "public":
            return due
        streams = [stream(place) for place in range(len(due))]
        due = each(self.private_size.sent, due, streams)
        if not self.uplink:
            return due
        return each(Channel._coded, channels, among(_on_cpu, due), streams)

    def read_up(self, sent: Upload, payload_spec: Mapping[str, PayloadSpec]) -> Upload:
        """An upload as the server reads it.

        Raises:
            ValueError: it is not what it claims to be; the message says why.
        """
        try:
            _ready(self.uplink)
        except RuntimeError as reason:
            raise ValueError(f"it cannot be read: {reason}") from reason
        read: Read = answer_of(self.read_all([sent], [payload_spec], [{}])[0])
        return read.upload

    def read_all(
        self,
        sent: Sequence[Any],
        payload_specs: Sequence[Mapping[str, PayloadSpec]],
        broadcasts: Sequence[Message],
    ) -> list["Read | ValueError"]:
        """`read_up` for each of a cohort, in few copies and with one wait for their numbers.

        Args:
            sent: as they came.
            payload_specs: what each must look like.
            broadcasts: what each answers, as it was read.
        """
        channels, opened = self.opened(sent, broadcasts)
        fields = each(lambda one, spec: shaped(one.payload, one.rows, spec), opened, payload_specs)
        read = each(Channel._checked, channels, opened, fields, among(_measured, fields))
        return among(_with_zeros, read)

    def opened(
        self, sent: Sequence[Any], broadcasts: Sequence[Message]
    ) -> tuple[list["Channel | ValueError"], list[Upload | ValueError]]:
        """The channel of each of a cohort, and its upload decoded; or why there is none."""
        channels = self.answering(broadcasts)
        formed = among(_at_hand, each(Channel._formed, channels, sent))
        return channels, each(Channel._decoded, channels, formed)

    @property
    def slack(self) -> float:
        """By how much an entry of what was a distribution may miss when it is read."""
        return ROUNDING + sum(stage.error for stage in _ready(self.uplink))

    def _formed(self, upload: Upload) -> Upload:
        check_form(upload)
        return upload

    def _coded(self, upload: Upload, generator: torch.Generator) -> Upload:
        try:
            return upload._replace(payload=_encode(self.uplink, upload.payload, generator))
        except ValueError:
            raise
        except Exception as reason:  # what a client's function gave back may be anything
            raise ValueError(f"it cannot be sent: {reason}") from reason

    def _decoded(self, sent: Upload) -> Upload:
        """An upload with its weight as a number, decoded."""
        try:
            weight, payload = float(sent.weight), _decode(self.uplink, sent.payload)
        except Exception as reason:  # an upload may hold anything, and the round goes on without it
            raise ValueError(f"it cannot be read: {reason}") from reason
        if not math.isfinite(weight) or not 0 <= weight <= self.max_weight:
            raise ValueError(f"weight {weight:g} is not between 0 and {self.max_weight:g}")
        return sent if payload is sent.payload else sent._replace(payload=payload)

    def _checked(self, sent: Upload, found: Shaped, measures: Sequence[Measures]) -> "Read":
        check_numbers(found, measures, self.slack)
        numbers = {field.key: one for field, one in zip(found.fields, measures, strict=True)}
        return Read(sent, float(sent.weight), numbers)


class Read(NamedTuple):
    """An upload as the server reads it.

    Attributes:
        upload: decoded, with zeros for the rows that were not sent.
        weight: its weight.
        measures: of the numbers that were sent, by key.
    """

    upload: Upload
    weight: float
    measures: dict[str, Measures]


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


def _at_hand(uploads: Sequence[Upload]) -> list[Upload]:
    """Uploads with their weights and lists of rows, which are looked into, on the CPU."""
    found = list(uploads)
    weights = [p for p, one in enumerate(uploads) if _is_number(one.weight)]
    listed = [place for place, one in enumerate(uploads) if one.rows is not None]
    values = [found[p].weight for p in weights]
    values += [rows for p in listed if (rows := found[p].rows) is not None]
    if all(value.is_cpu for value in values):
        return found
    here = iter(moved(values, CPU))
    for place in weights:
        found[place] = found[place]._replace(weight=next(here))
    for place in listed:
        found[place] = found[place]._replace(rows=next(here))
    return found


def _is_number(weight: object) -> bool:
    """Whether a weight is one plain number; what else is sent as one is looked at on its own."""
    return isinstance(weight, Tensor) and not stored_otherwise(weight) and weight.numel() == 1


def _on_cpu(uploads: Sequence[Upload]) -> list[Upload]:
    """Uploads with their payloads where messages are coded."""
    payloads = all_on([upload.payload for upload in uploads], CPU)
    return [one._replace(payload=p) for one, p in zip(uploads, payloads, strict=True)]


def _measured(found: Sequence[Shaped]) -> list[list[Measures]]:
    """The measures of the fields of each, all in one read."""
    numbers = iter(measured([field.asked for one in found for field in one.fields]))
    return [[next(numbers) for _ in one.fields] for one in found]


def _with_zeros(read: Sequence[Read]) -> list[Read]:
    whole = with_zeros([one.upload for one in read])
    return [one._replace(upload=upload) for one, upload in zip(read, whole, strict=True)]
