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

from fedkd.communication.attempts import each
from fedkd.communication.channel import Channel, Read
from fedkd.communication.measures import Asked, Measures, measured, root_mean_square
from fedkd.messages import Message, PayloadSpec, Received, Transform, Upload, all_on
from kdcore.devices import moved

RATIO = 1e3
LEAST_SIZE = 0.1  # what broadcast parameters count as at the least: some are zeros at first
USUAL = 1.0  # what a cohort's median counts as at the least: some features are zeros
AT_ONCE = 2**24  # numbers of uploads that are read at once, where each is judged on its own
Numbers = dict[str, Measures]  # of the tensors of an upload
CEILING = 1e9  # of a root mean square: above, sums of squares get out of float32


@dataclass
class Border:
    """The border of one round.

    Attributes:
        channel: of the run.
        payload_spec: group -> what its uploads must look like.
        broadcasts: client number -> the broadcast that it answers, as it was read.
        device: on which the server reads uploads.
        compared: whether uploads are measured by each other's, where nothing else bounds them.
        rejected: client number -> why its upload was turned away; filled in as uploads come.
    """

    channel: Channel
    payload_spec: Mapping[str, Mapping[str, PayloadSpec]]
    broadcasts: Mapping[int, Message]
    device: torch.device = torch.device("cpu")
    compared: bool = True
    rejected: dict[int, str] = field(default_factory=dict)

    def admitted(
        self, sent: Iterable[tuple[int, str, Upload]], wave: int = 1000
    ) -> Iterator[Received]:
        """Those that are let in, of (client, group, upload), in their order.

        A wave of them is read at once, and no more than memory has room for where each is judged on
        its own; where uploads are measured by each other, what is usual is so among those so far.
        """
        specs = list(self.payload_spec.values())
        alone = not any(map(self._unbounded, specs))
        if alone and specs:
            wave = min(wave, max(1, AT_ONCE // max(map(_numbers, specs))))
        usual: dict[str, list[float]] = {}
        rest = iter(sent)
        while several := list(islice(rest, wave)):
            read = self._read(several)
            sizes = [self._sizes(received.group, measures) for received, measures in read]
            for key, size in (pair for own in sizes for pair in own.items()):
                usual.setdefault(key, []).append(size)
            most = {key: max(USUAL, _median(found)) for key, found in usual.items()}
            for (received, _), own in zip(read, sizes, strict=True):
                if reason := _unusual(own, most):
                    self.rejected[received.client] = reason
                else:
                    yield received
            del read

    def _read(self, sent: Sequence[tuple[int, str, Upload]]) -> list[tuple[Received, Numbers]]:
        """Those that are what they claim to be, taken on their own, and the measures of each."""
        broadcasts = [self.broadcasts[client] for client, _, _ in sent]
        specs = [self.payload_spec[group] for _, group, _ in sent]
        found = self.channel.read_all([upload for _, _, upload in sent], specs, broadcasts)
        fair = each(_check_sizes, found, specs, self._sizes_before(specs, broadcasts))
        self.rejected |= {
            client: str(reason)
            for (client, _, _), reason in zip(sent, fair, strict=True)
            if isinstance(reason, ValueError)
        }
        read = [
            (client, group, one)
            for (client, group, _), one in zip(sent, fair, strict=True)
            if isinstance(one, Read)
        ]
        payloads = all_on([one.upload.payload for _, _, one in read], self.device)
        rows = iter(
            moved([r for _, _, one in read if (r := one.upload.rows) is not None], self.device)
        )
        return [
            (
                Received(client, group, payload, one.weight)._replace(
                    rows=None if one.upload.rows is None else next(rows)
                ),
                one.measures,
            )
            for (client, group, one), payload in zip(read, payloads, strict=True)
        ]

    def _sizes_before(
        self, specs: Sequence[Mapping[str, PayloadSpec]], broadcasts: Sequence[Message]
    ) -> list[float]:
        """The root mean squares of the parameters from which each upload's training began."""
        before = [
            [Asked(message[key]) for key in _trained(spec) if key in message]
            for spec, message in zip(specs, broadcasts, strict=True)
        ]
        numbers = iter(measured([asked for one in before for asked in one]))
        return [root_mean_square([next(numbers) for _ in one]) for one in before]

    def _sizes(self, group: str, measures: Numbers) -> dict[str, float]:
        """The root mean squares of what is measured by other uploads, over the rows that came."""
        keys = self._unbounded(self.payload_spec[group])
        return {key: root_mean_square([measures[key]]) for key in keys if measures[key].size}

    def _unbounded(self, payload_spec: Mapping[str, PayloadSpec]) -> list[str]:
        """The keys whose numbers are bounded by nothing but what others send."""
        noisy = any(isinstance(s, Transform) and math.isinf(s.error) for s in self.channel.uplink)
        return [
            key
            for key, spec in payload_spec.items()
            if self.compared
            and spec.trained == "no"
            and spec.below is None
            and spec.most is None
            and (noisy or not spec.simplex)
        ]


def _unusual(sizes: Mapping[str, float], usual: Mapping[str, float]) -> str:
    """Why an upload is turned away that is nothing like the others; empty where it is."""
    for key, size in sizes.items():
        if size > RATIO * usual[key]:
            return (
                f"{key} has a root mean square of {size:.3g}, over {RATIO:g} times what is usual "
                f"in the cohort ({usual[key]:.3g})"
            )
    return ""


def _check_sizes(read: Read, payload_spec: Mapping[str, PayloadSpec], before: float) -> Read:
    """Raise ValueError for sizes that cannot be, whatever others send.

    `before` is the root mean square of the parameters from which training began.
    """
    whole = {
        key: numbers._replace(size=read.upload.payload[key].numel())  # zeros for rows not sent
        for key, numbers in read.measures.items()
    }
    for key, spec in payload_spec.items():
        numbers = whole[key]
        size = root_mean_square([numbers]) if spec.below is None else 0.0
        if size > CEILING:
            raise ValueError(f"{key} has a root mean square of {size:.3g}, over {CEILING:g}")
        if spec.most is not None and numbers.largest > 1.01 * spec.most:
            raise ValueError(
                f"{key} goes up to {numbers.largest:g}, and there are {spec.most:g} at most"
            )
        if spec.least is not None and numbers.size and numbers.low < spec.least - 0.01:
            raise ValueError(f"{key} goes down to {numbers.low:g}, below {spec.least:g}")
    after = root_mean_square([whole[key] for key in _trained(payload_spec)])
    most = RATIO * max(LEAST_SIZE, before)
    if after > most:
        raise ValueError(
            f"parameters have a root mean square of {after:.3g}, over {RATIO:g} times that of "
            f"those from which training began ({most / RATIO:.3g})"
        )
    return read


def _trained(payload_spec: Mapping[str, PayloadSpec]) -> list[str]:
    return [key for key, spec in payload_spec.items() if spec.trained != "no"]


def _numbers(payload_spec: Mapping[str, PayloadSpec]) -> int:
    """How many numbers an upload holds, by its claim; one row where it may have any number."""
    return max(1, sum(abs(math.prod(spec.shape)) for spec in payload_spec.values()))


def _median(values: Sequence[float]) -> float:
    """The lower one of two in the middle: of two uploads, the smaller is the measure."""
    return float(torch.tensor(values, dtype=torch.float64).median())
