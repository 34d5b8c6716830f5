"""Measure two things in turn and compare them pair by pair."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch


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
            f"{self.median:6.1f}x [{self.low:.1f} to {self.high:.1f}]   "
            f"{self.slow * 1e3:9.1f} ms against {self.fast * 1e3:8.1f} ms"
        )


def compare(
    slow: Callable[[], object],
    fast: Callable[[], object],
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> Ratio:
    """Run both in turn, A B A B ..., after one uncounted run of each."""
    slow(), fast()
    pairs = [(seconds(slow, clock), seconds(fast, clock)) for _ in range(repeats)]
    ratios = [a / b for a, b in pairs]
    a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
    return Ratio(statistics.median(ratios), min(ratios), max(ratios), a, b)


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Wall time of one call, or what another clock says, such as `time.process_time`."""
    start = clock()
    work()
    return clock() - start


KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "linear"),
    "convolutions": ("conv",),
    "norms and pooling": ("norm", "pool"),
    "gathering mini-batches": ("index", "embedding", "gather"),
    "updates": ("_foreach", "add_", "mul_"),
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
