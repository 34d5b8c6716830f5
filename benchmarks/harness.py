"""Measure two things in turn and compare them pair by pair."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch


class Spent(NamedTuple):
    """Seconds of one call: of this process on all its cores, and by the clock."""

    cpu: float
    clock: float


class Ratio(NamedTuple):
    """How many times longer the first of two things takes than the second.

    Attributes:
        median, low, high: of the ratios of pairs measured one after the other.
        slow, fast: median seconds of each.
    """

    median: float
    low: float
    high: float
    slow: float
    fast: float

    def __str__(self) -> str:
        return (
            f"{self.median:6.2f}x [{self.low:.2f} to {self.high:.2f}]  "
            f"{self.slow * 1e3:8.1f} ms against {self.fast * 1e3:8.1f} ms"
        )


class Comparison(NamedTuple):
    """The ratio in seconds of the CPU, and that by the clock.

    What another process does is in the second alone. On a machine that does something else beside,
    the first says what the second would be without that.
    """

    cpu: Ratio
    clock: Ratio

    def __str__(self) -> str:
        low, high = self.clock.low, self.clock.high
        return f"{self.cpu} of the CPU; {self.clock.median:.2f}x [{low:.2f} to {high:.2f}] by clock"


def compare(slow: Callable[[], object], fast: Callable[[], object], repeats: int = 5) -> Comparison:
    """Run both in turn, A B A B ..., after one uncounted run of each."""
    times = interleaved({"slow": slow, "fast": fast}, repeats)
    return comparison(times["slow"], times["fast"])


def interleaved(
    works: Mapping[str, Callable[[], object]], repeats: int, uncounted: int = 1
) -> dict[str, list[Spent]]:
    """Run all of them in turn, A B C A B C ..., after so many uncounted runs of each."""
    for _ in range(uncounted):
        for work in works.values():
            work()
    times: dict[str, list[Spent]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            times[name].append(spent(work))
    return times


def comparison(slow: Sequence[Spent], fast: Sequence[Spent]) -> Comparison:
    """Of calls in turn, the n-th of one with the n-th of the other."""
    return Comparison(
        _ratio([one.cpu for one in slow], [one.cpu for one in fast]),
        _ratio([one.clock for one in slow], [one.clock for one in fast]),
    )


def _ratio(slow: Sequence[float], fast: Sequence[float]) -> Ratio:
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    middle = statistics.median
    return Ratio(middle(ratios), min(ratios), max(ratios), middle(slow), middle(fast))


def spent(work: Callable[[], object]) -> Spent:
    """What one call takes."""
    cpu, clock = time.process_time(), time.perf_counter()
    work()
    return Spent(time.process_time() - cpu, time.perf_counter() - clock)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    return spent(work).clock


KINDS = {
    "sparse products": ("embedding_bag", "_Product"),
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "linear"),
    "convolutions": ("conv",),
    "norms and pooling": ("norm", "pool"),
    "gathering mini-batches": ("index", "embedding", "gather"),
    "updates": ("_foreach", "adam", "add_", "mul_"),
    "random numbers": ("random_",),
    "losses": ("softmax", "nll", "cross_entropy"),
    "copies": ("copy", "stack", "cat", "clone", "fill", "zero"),
}


def profile(work: Callable[[], object]) -> str:
    """Where the time of a call goes, as shares of it: by kind of operation, and all the rest."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as measured:
        start = time.perf_counter()
        work()
        whole = time.perf_counter() - start
    spent = dict.fromkeys([*KINDS, "other operations"], 0.0)
    for event in measured.key_averages():
        name = event.key.removeprefix("aten::")
        kinds = (kind for kind, marks in KINDS.items() if any(mark in name for mark in marks))
        spent[next(kinds, "other operations")] += event.self_cpu_time_total / 1e6
    spent["Python"] = max(whole - sum(spent.values()), 0.0)
    shares = sorted(spent.items(), key=lambda item: -item[1])
    return "  profile: " + ", ".join(f"{k} {v / whole:.0%}" for k, v in shares if v / whole >= 0.01)


def machine() -> str:
    """One line about where the figures come from."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {device}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
