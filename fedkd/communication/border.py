"""The border between clients and server: what is let in, and what is turned away, and why.

An upload has to be what it claims to be (`Channel.read_up`), and of a size that can be:

- its weight is no larger than the number of private examples in the federation (`Task.private`), so
  that no client counts for more than all others together;
- trained parameters, or updates of them, have a root mean square no larger than `RATIO` times that
  of the parameters that their sender received (norm thresholding: Ziteng Sun, Peter Kairouz, Ananda
  Theertha Suresh, H. Brendan McMahan. "Can You Really Backdoor Federated Learning?". 2019.
  https://arxiv.org/abs/1911.07963, with a threshold that no training reaches unless it diverges);
- counts are no larger than the claim says;
- other numbers that are not bounded by nature (features, logits) have a root mean square no larger
  than `RATIO` times the median over the clients of the cohort, each tensor on its own, and no more
  than `CEILING` in any case. Clients work in waves: the median is over those heard so far in the
  round, the present wave included.

Nothing is clipped. What is within the bounds may still be a lie.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from fedkd.communication.channel import Channel
from fedkd.messages import Message, PayloadSpec, Received, Transform, Upload, on

RATIO = 1e3
LEAST_SIZE = 0.1  # what broadcast parameters count as at the least: some are zeros at first
USUAL = 1.0  # what a cohort's median counts as at the least: some features are zeros
CEILING = 1e9  # of a root mean square: above, sums of squares get out of float32


@dataclass
class Border:
    """The border of one round.

    Attributes:
        channel: of the run.
        payload_spec: group -> what its uploads must look like.
        broadcasts: client number -> the broadcast that it answers, as it was read.
        device: on which the server reads uploads.
        rejected: client number -> why its upload was turned away; filled in as uploads come.
    """

    channel: Channel
    payload_spec: Mapping[str, Mapping[str, PayloadSpec]]
    broadcasts: Mapping[int, Message]
    device: torch.device = torch.device("cpu")
    rejected: dict[int, str] = field(default_factory=dict)

    def admitted(
        self, sent: Iterable[tuple[int, str, Upload]], wave: int = 1000
    ) -> Iterator[Received]:
        """Those that are let in, of (client, group, upload), in their order.

        Where uploads are measured by each other, a wave of them is read at once; else one by one.
        """
        if not any(
            _unbounded(self.channel, payload_spec) for payload_spec in self.payload_spec.values()
        ):
            for one in sent:
                yield from self._read([one])
            return
        usual: dict[str, list[float]] = {}
        rest = iter(sent)
        while several := list(islice(rest, wave)):
            read = list(self._read(several))
            sizes = [self._sizes(one) for one in read]
            for key, size in (pair for each in sizes for pair in each.items()):
                usual.setdefault(key, []).append(size)
            most = {key: max(USUAL, _median(found)) for key, found in usual.items()}
            for received, own in zip(read, sizes, strict=True):
                if reason := _unusual(own, most):
                    self.rejected[received.client] = reason
                else:
                    yield received
            del read

    def _read(self, sent: Iterable[tuple[int, str, Upload]]) -> Iterator[Received]:
        """Those that are what they claim to be, taken on their own."""
        for client, group, upload in sent:
            broadcast, payload_spec = self.broadcasts[client], self.payload_spec[group]
            try:
                read = self.channel.given_broadcast(broadcast).read_up(upload, payload_spec)
                _check_sizes(read.payload, payload_spec, broadcast)
            except ValueError as reason:
                self.rejected[client] = str(reason)
                continue
            rows = None if read.rows is None else read.rows.to(self.device)
            payload = on(read.payload, self.device)
            yield Received(client, group, payload, float(read.weight), rows)

    def _sizes(self, one: Received) -> dict[str, float]:
        """The root mean squares of what is measured by other uploads, over the rows that came."""
        values = {
            key: one.payload[key] for key in _unbounded(self.channel, self.payload_spec[one.group])
        }
        if one.rows is not None:
            values = {key: value[one.rows.bool()] for key, value in values.items()}
        return {key: _rms([value]) for key, value in values.items() if value.numel()}


def _unusual(sizes: Mapping[str, float], usual: Mapping[str, float]) -> str:
    """Why an upload is turned away that is nothing like the others; empty where it is."""
    for key, size in sizes.items():
        if size > RATIO * usual[key]:
            return (
                f"{key} has a root mean square of {size:.3g}, over {RATIO:g} times what is usual "
                f"in the cohort ({usual[key]:.3g})"
            )
    return ""


def _check_sizes(
    payload: Message, payload_spec: Mapping[str, PayloadSpec], broadcast: Message
) -> None:
    """Raise ValueError for sizes that cannot be, whatever others send."""
    for key, spec in payload_spec.items():
        value = payload[key]
        size = _rms([value]) if value.is_floating_point() else 0.0
        if size > CEILING:
            raise ValueError(f"{key} has a root mean square of {size:.3g}, over {CEILING:g}")
        largest = float(value.abs().max()) if spec.most is not None and value.numel() else 0.0
        if spec.most is not None and largest > 1.01 * spec.most:
            raise ValueError(f"{key} goes up to {largest:g}, and there are {spec.most:g} at most")
        if spec.least is not None and value.numel() and float(value.min()) < spec.least - 0.01:
            raise ValueError(f"{key} goes down to {float(value.min()):g}, below {spec.least:g}")
    trained = [key for key, spec in payload_spec.items() if spec.trained != "no"]
    before = _rms([broadcast[key] for key in trained if key in broadcast])
    after, most = _rms([payload[key] for key in trained]), RATIO * max(LEAST_SIZE, before)
    if after > most:
        raise ValueError(
            f"parameters have a root mean square of {after:.3g}, over {RATIO:g} times that of "
            f"those from which training began ({most / RATIO:.3g})"
        )


def _unbounded(channel: Channel, payload_spec: Mapping[str, PayloadSpec]) -> list[str]:
    """The keys whose numbers are bounded by nothing but what others send."""
    noisy = any(isinstance(s, Transform) and math.isinf(s.error) for s in channel.uplink)
    return [
        key
        for key, spec in payload_spec.items()
        if spec.trained == "no"
        and spec.below is None
        and spec.most is None
        and (noisy or not spec.simplex)
    ]


def _rms(values: Sequence[Tensor]) -> float:
    """The root of the mean square over all entries; 0 where there are none."""
    count = sum(value.numel() for value in values)
    total = sum(float(value.double().square().sum()) for value in values)
    return math.sqrt(total / count) if count else 0.0


def _median(values: Sequence[float]) -> float:
    """The lower one of two in the middle: of two uploads, the smaller is the measure."""
    return float(torch.tensor(values, dtype=torch.float64).median())
