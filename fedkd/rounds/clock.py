"""A virtual clock: what takes how long, who is slow or lost, and how long the server waits.

No wall clock is read. A client's round takes (bytes down) / bandwidth + steps x seconds a step +
(bytes up) / bandwidth, with the bytes that really cross and the mini-batches that it really trains
on, so a run is the same run on any machine. Forward passes, and the server, cost nothing.

Synchronous rounds end with the last upload, or at the deadline. With `buffer` there are no rounds
to wait for: the server updates itself after so many uploads, whoever they are from. What a late
upload counts for is said in `fedkd.rounds.staleness`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Clock:
    """What takes how long, and how long the server waits.

    Attributes:
        step_seconds: of a mini-batch, on a client of ordinary speed.
        bandwidth: bytes a second of a client, each way; 0 is without limit.
        spread: sigma of the log-normal factors (median 1) by which clients differ in speed and in
            bandwidth; 0 makes them equal.
        stragglers: the share of clients that is `slowdown` times slower, both in training and on
            the network, for the whole run.
        slowdown: see there; >= 1.
        dropout: the chance that a client of the cohort is lost in a round: it was told, and gives
            nothing back. A lost connection is noticed, and not waited for.
        deadline: seconds after which a round ends; 0 waits for everybody. A round ends with at
            least one upload. Who is late goes on, and is not in a cohort until it is done.
        staleness: how many rounds late an upload may be and still count; 0 discards late ones.
        buffer: updates of the server after so many uploads, and no rounds; 0 for rounds.
        server_learning_rate: eta, by which updates of parameters are multiplied, with `buffer`.
    """

    step_seconds: float = 0.0
    bandwidth: float = 0.0
    spread: float = 0.0
    stragglers: float = 0.0
    slowdown: float = 10.0
    dropout: float = 0.0
    deadline: float = 0.0
    staleness: int = 0
    buffer: int = 0
    server_learning_rate: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what makes no clock."""
        for name in ("step_seconds", "bandwidth", "spread", "deadline", "staleness", "buffer"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be >= 0 and finite, got {getattr(self, name)}")
        if not 0 <= self.stragglers < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"stragglers and dropout are shares, >= 0 and < 1, got {self.stragglers:g} and "
                f"{self.dropout:g}"
            )
        if not 1 <= self.slowdown < math.inf:
            raise ValueError(f"slowdown must be >= 1 and finite, got {self.slowdown:g}")
        if not (self.step_seconds or self.bandwidth) and (
            self.spread or self.stragglers or self.deadline or self.staleness or self.buffer
        ):
            raise ValueError(
                "with step_seconds and bandwidth 0 nothing takes any time, and nobody is late; "
                "give one of them, such as step_seconds 0.01 or bandwidth 1e6"
            )
        if self.buffer and (self.deadline or self.staleness):
            raise ValueError(
                f"buffer {self.buffer} updates the server as uploads come, so that there is no "
                "round to be late for; leave out deadline and staleness, or buffer"
            )
        self._check_rate()

    def _check_rate(self) -> None:
        """Refuse a learning rate of the server that cannot be, or that nothing would use."""
        if not 0 < self.server_learning_rate < math.inf:
            raise ValueError(
                f"server_learning_rate must be > 0 and finite, got {self.server_learning_rate:g}"
            )
        if self.server_learning_rate != 1 and not self.buffer:
            raise ValueError(
                f"server_learning_rate {self.server_learning_rate:g} is for the updates of a "
                "buffer; give buffer, or leave it at 1"
            )

    @property
    def words(self) -> str:
        """What the clients are like, in words; how long the server waits is its own affair."""
        said = [f"{self.step_seconds:g} s a step"] if self.step_seconds else []
        said += [f"{self.bandwidth:g} bytes a second"] if self.bandwidth else []
        said += [f"spread {self.spread:g}"] if self.spread else []
        slow = f"{self.stragglers:.0%} of clients {self.slowdown:g} times slower"
        said += [slow] if self.stragglers else []
        said += [f"{self.dropout:.0%} of clients lost a round"] if self.dropout else []
        return ", ".join(said)


class Device(NamedTuple):
    """How fast a client is: seconds for a mini-batch, seconds for a byte."""

    step: float
    byte: float


class Arrival(NamedTuple):
    """When an upload arrives, in seconds, and the round in which its client was told."""

    time: float
    began: int


def seconds(device: Device, size: int, steps: int) -> float:
    """How long a client takes, from being told to when its upload is there; bytes both ways."""
    return size * device.byte + steps * device.step


def closing(clock: Clock, awaited: Iterable[Arrival], now: float, index: int) -> float:
    """When round `index`, which began `now`, ends; `awaited` are all uploads under way."""
    arrivals = sorted(awaited)
    if not arrivals:
        return now
    if clock.buffer:
        return arrivals[min(clock.buffer, len(arrivals)) - 1].time
    cohort = [one.time for one in arrivals if one.began == index]
    last = cohort[-1] if cohort else arrivals[0].time
    if not clock.deadline:
        return last
    usable = [one.time for one in arrivals if index - one.began <= clock.staleness]
    return max(min(last, now + clock.deadline), usable[0] if usable else arrivals[0].time)
