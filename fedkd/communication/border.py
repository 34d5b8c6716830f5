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
from typing import NamedTuple

import torch
from torch import Tensor

from fedkd.communication.attempts import each
from fedkd.communication.channel import Channel, Read
from fedkd.communication.checks import Alike, alike, fine_numbers
from fedkd.communication.measures import Asked, measured, root_mean_square, tabled
from fedkd.communication.rows import with_zeros
from fedkd.messages import Message, PayloadSpec, Received, Transform, Upload, all_on
from kdcore.devices import moved

RATIO = 1e3
LEAST_SIZE = 0.1  # what broadcast parameters count as at the least: some are zeros at first
USUAL = 1.0  # what a cohort's median counts as at the least: some features are zeros
AT_ONCE = 2**24  # numbers of uploads that are read at once, where each is judged on its own
CEILING = 1e9  # of a root mean square: above, sums of squares get out of float32
Sizes = Mapping[str, float]  # of the tensors of an upload: root mean squares of what came
# An upload, what it must look like, what it answers, and the size of what its training began with.
Given = tuple[Upload, Mapping[str, PayloadSpec], Message, float]


class Fair(NamedTuple):
    """An upload as it is read, with which nothing is wrong whatever others send.

    Attributes:
        upload: with zeros for the rows that were not sent.
        weight: its weight.
        sizes: of what is measured by other uploads.
    """

    upload: Upload
    weight: float
    sizes: Sizes


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
            for key, size in (pair for _, own in read for pair in own.items()):
                usual.setdefault(key, []).append(size)
            most = {key: max(USUAL, _median(found)) for key, found in usual.items()}
            for received, own in read:
                if reason := _unusual(own, most):
                    self.rejected[received.client] = reason
                else:
                    yield received
            del read

    def _read(self, sent: Sequence[tuple[int, str, Upload]]) -> list[tuple[Received, Sizes]]:
        """Those that are what they claim to be, taken on their own, and their sizes.

        A look at all of a form at once finds nearly all of them; the others are looked at alone.
        """
        specs = [self.payload_spec[group] for _, group, _ in sent]
        broadcasts = [self.broadcasts[client] for client, _, _ in sent]
        before = self._sizes_before(specs, broadcasts)
        given = [*zip([upload for _, _, upload in sent], specs, broadcasts, before, strict=True)]
        found = self._together(given)
        odd = [place for place, one in enumerate(found) if one is None]
        alone = dict(zip(odd, self._alone([given[place] for place in odd]), strict=True))
        fair = []
        for place, ((client, group, _), one) in enumerate(zip(sent, found, strict=True)):
            read = one or alone[place]
            if isinstance(read, ValueError):
                self.rejected[client] = str(read)
            else:
                fair.append((client, group, read))
        return self._received(fair)

    def _alone(self, given: Sequence[Given]) -> list[Fair | ValueError]:
        """Each of some uploads as it is read, or what is wrong with it."""
        if not given:
            return []
        sent, specs, broadcasts, before = zip(*given, strict=True)
        read = self.channel.read_all(sent, specs, broadcasts)
        return each(self._sized, each(_check_sizes, read, specs, before), specs)

    def _sized(self, read: Read, payload_spec: Mapping[str, PayloadSpec]) -> Fair:
        measures = read.measures
        keys = [key for key in self._unbounded(payload_spec) if key in measures]
        sizes = {key: root_mean_square([measures[key]]) for key in keys if measures[key].size}
        return Fair(read.upload, read.weight, sizes)

    def _together(self, given: Sequence[Given]) -> list[Fair | None]:
        """What `_alone` makes of those with which nothing is wrong; None for all others."""
        sent, specs, broadcasts, before = zip(*given, strict=True)
        channels, opened = self.channel.opened(sent, broadcasts)
        slacks = [one.slack if isinstance(one, Channel) else 0.0 for one in channels]
        stacks = alike(opened, specs, slacks)
        tables = iter(tabled([column for stack in stacks for column in stack.asked]))
        fair: dict[int, Sizes] = {}
        for stack in stacks:
            numbers = [next(tables) for _ in stack.fields]
            began = torch.tensor([before[place] for place in stack.places], dtype=torch.float64)
            fine = fine_numbers(stack, numbers) & _fine_sizes(stack, numbers, began)
            sizes = self._sizes(stack, numbers)
            several = zip(stack.places, fine.tolist(), sizes, strict=True)
            fair |= {place: own for place, passes, own in several if passes}
        uploads = [one for place in fair if isinstance(one := opened[place], Upload)]
        found: list[Fair | None] = [None] * len(given)
        for (place, own), upload in zip(fair.items(), with_zeros(uploads), strict=True):
            found[place] = Fair(upload, float(upload.weight), own)
        return found

    def _received(self, fair: Sequence[tuple[int, str, Fair]]) -> list[tuple[Received, Sizes]]:
        """Those that are let in on their own, on the server's device."""
        payloads = all_on([one.upload.payload for _, _, one in fair], self.device)
        listed = [r for _, _, one in fair if (r := one.upload.rows) is not None]
        rows = iter(moved(listed, self.device))
        return [
            (
                Received(
                    *(client, group, payload, one.weight),
                    None if one.upload.rows is None else next(rows),
                ),
                one.sizes,
            )
            for (client, group, one), payload in zip(fair, payloads, strict=True)
        ]

    def _sizes_before(
        self, specs: Sequence[Mapping[str, PayloadSpec]], broadcasts: Sequence[Message]
    ) -> list[float]:
        """The root mean squares of the parameters from which each upload's training began."""
        if not any(map(_trained, self.payload_spec.values())):
            return [0.0] * len(specs)
        pairs = [*zip(specs, broadcasts, strict=True)]
        known = {(id(spec), id(message)): (spec, message) for spec, message in pairs}
        asked = [
            [Asked(message[key]) for key in _trained(spec) if key in message]
            for spec, message in known.values()
        ]
        numbers = iter(measured([one for own in asked for one in own]))
        found = [root_mean_square([next(numbers) for _ in own]) for own in asked]
        sizes = dict(zip(known, found, strict=True))
        return [sizes[id(spec), id(message)] for spec, message in pairs]

    def _sizes(self, stack: Alike, numbers: Sequence[Tensor]) -> list[Sizes]:
        """The root mean squares of what is measured by other uploads, over the rows that came."""
        keys = self._unbounded({field.key: field.spec for field in stack.fields})
        columns = {
            field.key: (table[:, 0] / field.value.numel()).sqrt().tolist()
            for field, table in zip(stack.fields, numbers, strict=True)
            if field.key in keys and field.value.numel()
        }
        if not columns:
            return [{}] * len(stack.places)
        return [dict(zip(columns, own, strict=True)) for own in zip(*columns.values(), strict=True)]

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
    for key, numbers in whole.items():
        spec = payload_spec[key]
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


def _fine_sizes(stack: Alike, numbers: Sequence[Tensor], before: Tensor) -> Tensor:
    """(K,) whether `_check_sizes` finds nothing wrong; `before` is (K,), `numbers` (K, 4) each."""
    found = torch.ones_like(before, dtype=torch.bool)
    after, trained = torch.zeros_like(before), 0
    for (_, value, spec), table in zip(stack.fields, numbers, strict=True):
        squares, low, high, _ = table.unbind(1)
        size = value.numel() if stack.named is None else stack.named * value.shape[1:].numel()
        if spec.below is None:
            found &= (squares / max(size, 1)).sqrt() <= CEILING
        if spec.most is not None:
            found &= torch.maximum(-low, high) <= 1.01 * spec.most
        if spec.least is not None and value.numel():
            found &= low >= spec.least - 0.01
        if spec.trained != "no":
            after, trained = after + squares, trained + size
    return found & ((after / max(trained, 1)).sqrt() <= RATIO * before.clamp(min=LEAST_SIZE))


def _trained(payload_spec: Mapping[str, PayloadSpec]) -> list[str]:
    return [key for key, spec in payload_spec.items() if spec.trained != "no"]


def _numbers(payload_spec: Mapping[str, PayloadSpec]) -> int:
    """How many numbers an upload holds, by its claim; one row where it may have any number."""
    return max(1, sum(abs(math.prod(spec.shape)) for spec in payload_spec.values()))


def _median(values: Sequence[float]) -> float:
    """The lower one of two in the middle: of two uploads, the smaller is the measure."""
    return float(torch.tensor(values, dtype=torch.float64).median())
