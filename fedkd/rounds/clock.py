"""A virtual clock: what takes how long, who is slow or lost, and how long the server waits.

No wall clock is read. A client's round takes (bytes down) / bandwidth + steps x seconds a step +
(bytes up) / bandwidth, with the bytes that really cross and the mini-batches that it really trains
on, so a run is the same run on any machine. Forward passes, and the server, cost nothing.

Synchronous rounds end with the last upload, or at the deadline. With `buffer` there are no rounds
to wait for: the server updates itself after so many uploads, whoever they are from. What a late
upload counts for is said in `fedkd.rounds.staleness`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from kdcore.settings import Setting, check_ranges

LONGEST = 1e12  # virtual seconds; some thirty thousand years


@dataclass(frozen=True)
class Clock:
    """What takes how long, and how long the server waits."""

    step_seconds: Annotated[
        float,
        Setting("virtual seconds of a mini-batch, on an ordinary client", ge=0, le=LONGEST),
    ] = 0.0
    bandwidth: Annotated[
        float,
        Setting("bytes a virtual second of a client, each way; 0 is no limit", ge=0),
    ] = 0.0
    spread: Annotated[
        float,
        Setting(
            "sigma of the log-normal factors by which clients differ; 0 makes them equal",
            ge=0,
            le=10,
        ),
    ] = 0.0
    stragglers: Annotated[
        float,
        Setting(
            "share of clients that are slow all along, in training and network",
            ge=0,
            lt=1,
        ),
    ] = 0.0
    slowdown: Annotated[float, Setting("how many times slower stragglers are", ge=1, le=1e9)] = 10.0
    dropout: Annotated[
        float,
        Setting(
            "chance of a client to be lost in a round; it is not waited for",
            ge=0,
            lt=1,
        ),
    ] = 0.0
    deadline: Annotated[
        float,
        Setting(
            "virtual seconds after which a round ends, with one upload; 0 waits for all",
            ge=0,
            le=LONGEST,
        ),
    ] = 0.0
    staleness: Annotated[
        int,
        Setting("rounds that an upload may be late and still count; 0 for none", ge=0),
    ] = 0
    buffer: Annotated[
        int,
        Setting("update the server after so many uploads, not by rounds; 0: rounds", ge=0),
    ] = 0
    server_learning_rate: Annotated[
        float, Setting("eta, times the updates of parameters in a buffer", gt=0)
    ] = 1.0

    def __post_init__(self) -> None:
        """Refuse what makes no clock."""
        check_ranges(self)
        if 0 < self.bandwidth < 1 / LONGEST:
            raise ValueError(
                f"bandwidth must be 0, or >= {1 / LONGEST:g}, got {self.bandwidth!r}: a byte would "
                "take for ever"
            )
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
