"""More clients: an FD round of 100 to 10,000 of them, in time and in memory, each in a process.

Every client has some examples of the size of digits and a perceptron 64-32-10. The plain loop keeps
a module, a loader and an optimiser for each client, and is measured with the same examples. Seconds
of the CPU say on a busy machine what those of the clock say on one that does nothing else:

    python -m benchmarks.scale --counts 1000 10000 100000 --threads 1 --repeats 1 --alone
    python -m benchmarks.scale --counts 100000 --repeats 1 --shards 1 2    # clients in processes
"""

import argparse
import gc
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from benchmarks import plain
from benchmarks.harness import machine, seconds
from fedkd.algorithms.fd import FD
from fedkd.core import Client, Task
from fedkd.engines.batched import batched
from fedkd.engines.ray.residents import Residents
from fedkd.models import build
from fedkd.rounds.synchronous import simulate
from fedkd.sharding.rounds import dealt
from fedkd.sharding.rounds import simulate as simulate_shards
from fedkd.sharding.shard import Rules, Shard
from kdcore.rng import generator
from kdcore.training.loop import Examples, TrainingConfig

COUNTS = (100, 1_000, 10_000)


class Cost(NamedTuple):
    """What rounds took, medians: seconds by the clock and of the CPU; and the peak memory, in MB.

    `start` is the CPU's seconds for making the clients, `engine` those of a round in the engine:
    what is left is what the process that runs the rounds does for each client.
    """

    clock: float
    cpu: float
    peak: float
    start: float
    engine: float


def clients(count: int, each: int) -> list[Client]:
    """So many clients of one architecture with so many examples, over one tensor of noise."""
    x = torch.rand(count * each, 1, 8, 8, generator=generator(0, "noise"))
    y = torch.arange(len(x)) % 10
    model = build("mlp-32", (1, 8, 8), 10)
    parts = torch.arange(len(x)).view(count, each)
    return [
        Client(k, "mlp-32", model.init(generator(0, "init", k)), Examples(x, y, part))
        for k, part in enumerate(parts)
    ]


def some(each: int, numbers: Sequence[int]) -> list[Client]:
    """The same for some numbers, over a tensor of their own."""
    x = torch.rand(len(numbers) * each, 1, 8, 8, generator=generator(0, "noise", numbers[0]))
    y = torch.arange(len(x)) % 10
    model = build("mlp-32", (1, 8, 8), 10)
    parts = torch.arange(len(x)).view(len(numbers), each)
    return [
        Client(k, "mlp-32", model.init(generator(0, "init", k)), Examples(x, y, part))
        for k, part in zip(numbers, parts, strict=True)
    ]


def spent(shard: Shard) -> tuple[float, float]:
    """Seconds of the CPU and the peak memory, in MB, of the process that a shard is in."""
    return time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_shards(count: int, each: int, repeats: int, shards: int) -> None:
    """Print what a round takes with clients in so many processes of one thread each."""
    task = Task({"mlp-32": build("mlp-32", (1, 8, 8), 10)}, 10)
    rules = Rules(FD(TrainingConfig(), leave_one_out=False), task)
    given = dealt(rules, partial(some, each), count, shards)
    with Residents(Shard, given) as residents:
        before = residents.map(spent)
        gc.freeze()
        rounds = simulate_shards(rules, residents, count, rounds=repeats + 2)
        next(rounds)
        start, own = residents.map(spent), time.process_time()
        for _ in range(repeats):
            next(rounds)
        end, own = residents.map(spent), time.process_time() - own
    each_cpu = [(b[0] - a[0]) / repeats for a, b in zip(start, end, strict=True)]
    peaks = [peak for _, peak in end]
    print(
        f"  {count:6d} clients in {shards} processes: {max(each_cpu):.3f} s of the CPU in the one "
        f"with most ({sum(each_cpu):.3f} s in all), {own / repeats:.3f} s where the sums meet; "
        f"{max(peaks):.0f} MB each at most, {sum(peaks):.0f} MB in all; "
        f"{max(cpu for cpu, _ in before):.1f} s to start and make the clients"
    )


def one(side: str, count: int, each: int, repeats: int, threads: int) -> None:
    """Print what a round takes, see `Cost`."""
    torch.set_num_threads(threads)
    before = time.process_time()
    members = clients(count, each)
    start = time.process_time() - before
    gc.freeze()  # on both sides, as `kdsim` does: a quarter of our time at 10,000 clients is saved
    if side == "ours":
        task = Task({"mlp-32": build("mlp-32", (1, 8, 8), 10)}, 10)
        engine = Timed(batched())
        rounds = simulate(FD(TrainingConfig()), task, members, rounds=repeats + 2, engine=engine)
        times = [(*both(lambda: next(rounds)), engine.taken()) for _ in range(repeats + 1)]
    else:
        examples = [member.private for member in members]
        parts = [
            plain.PlainClient(lambda: plain.mlp(64, 32, 10), e.x[e.rows], e.y[e.rows], 32)
            for e in examples
        ]
        means = plain.fd_round(parts, 10, None)
        times = [(*both(lambda: plain.fd_round(parts, 10, means)), 0.0) for _ in range(repeats + 1)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    clock, cpu, inside = (statistics.median(column) for column in zip(*times[1:], strict=True))
    print(clock, cpu, peak, start, inside)


class Timed:
    """An engine, and the CPU's seconds in it."""

    def __init__(self, engine: Callable[..., list[Any]]) -> None:
        self._engine, self._spent = engine, 0.0

    def __call__(self, *given: Any) -> list[Any]:
        """See `fedkd/engines/README.md`."""
        before = time.process_time()
        try:
            return self._engine(*given)
        finally:
            self._spent += time.process_time() - before

    def taken(self) -> float:
        """The seconds since this was asked last."""
        spent, self._spent = self._spent, 0.0
        return spent


def both(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of a call, by the clock and of the CPU."""
    before = time.process_time()
    clock = seconds(work)
    return clock, time.process_time() - before


def measured(side: str, count: int, each: int, repeats: int, threads: int) -> Cost:
    """`one` in a process of its own."""
    code = f"from benchmarks.scale import one; one({side!r}, {count}, {each}, {repeats}, {threads})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return Cost(*map(float, done.stdout.split()))


def main() -> None:
    """Time the rounds and print how they grow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=20, help="examples of a client")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="of clients")
    parser.add_argument("--alone", action="store_true", help="without the plain loop")
    parser.add_argument("--shards", type=int, nargs="*", default=(), help="clients in processes")
    options = parser.parse_args()
    print(machine())
    print(f"\nFD, MLP 64-32-10, {options.each} examples a client, a round")
    for count in options.counts if options.shards else ():
        for shards in options.shards:
            in_shards(count, options.each, options.repeats, shards)
    if options.shards:
        return
    first, given = None, (options.each, options.repeats, options.threads)
    for count in options.counts:
        ours = measured("ours", count, *given)
        share = ours.clock / count
        first = first or share
        said = (
            f"  {count:6d} clients  {ours.clock:7.3f} s, {1e3 * share:6.3f} ms each "
            f"({share / first:.2f} of that at {options.counts[0]}), {ours.cpu:7.3f} s of the CPU "
            f"({1e6 * ours.engine / count:.0f} us a client in the engine, "
            f"{1e6 * (ours.cpu - ours.engine) / count:.0f} us outside it), "
            f"{ours.peak:5.0f} MB, {ours.start:6.2f} s to make them"
        )
        if not options.alone:
            slow = measured("plain", count, options.each, 1, options.threads)
            ratio = slow.cpu / ours.cpu
            said += f";  plain loop {slow.cpu:7.2f} s of it ({ratio:.1f}x), {slow.peak:5.0f} MB"
        print(said, flush=True)


if __name__ == "__main__":
    main()
