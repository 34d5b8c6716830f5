"""More clients: an FD round of 100 to 10,000 of them, in time and in memory, each in a process.

Every client has some examples of the size of digits and a perceptron 64-32-10. The plain loop keeps
a module, a loader and an optimiser for each client, and is measured with the same examples.
"""

import argparse
import gc
import resource
import statistics
import subprocess
import sys

import torch

from benchmarks import plain
from benchmarks.harness import machine, seconds
from fedkd.algorithms.fd import FD
from fedkd.core import Client, Task
from fedkd.engines.batched import batched
from fedkd.models import build
from fedkd.rounds.synchronous import simulate
from kdcore.rng import generator
from kdcore.training.loop import Examples, TrainingConfig

COUNTS = (100, 1_000, 10_000)


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


def one(side: str, count: int, each: int, repeats: int, threads: int) -> None:
    """Print the median seconds of a round, and the most memory that this process took, in MB."""
    torch.set_num_threads(threads)
    members = clients(count, each)
    gc.freeze()  # on both sides, as `kdsim` does: a quarter of our time at 10,000 clients is saved
    if side == "ours":
        task = Task({"mlp-32": build("mlp-32", (1, 8, 8), 10)}, 10)
        rounds = simulate(FD(TrainingConfig()), task, members, rounds=repeats + 2, engine=batched())
        times = [seconds(lambda: next(rounds)) for _ in range(repeats + 1)]
    else:
        examples = [member.private for member in members]
        parts = [
            plain.PlainClient(lambda: plain.mlp(64, 32, 10), e.x[e.rows], e.y[e.rows], 32)
            for e in examples
        ]
        means = plain.fd_round(parts, 10, None)
        times = [seconds(lambda: plain.fd_round(parts, 10, means)) for _ in range(repeats + 1)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(statistics.median(times[1:]), peak)


def measured(side: str, count: int, each: int, repeats: int, threads: int) -> tuple[float, float]:
    """`one` in a process of its own."""
    code = f"from benchmarks.scale import one; one({side!r}, {count}, {each}, {repeats}, {threads})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    time, peak = done.stdout.split()
    return float(time), float(peak)


def main() -> None:
    """Time the rounds and print how they grow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=20, help="examples of a client")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    print(machine())
    print(f"\nFD, MLP 64-32-10, {options.each} examples a client, a round")
    first, given = None, (options.each, options.repeats, options.threads)
    for count in COUNTS:
        time, peak = measured("ours", count, *given)
        slow, much = measured("plain", count, options.each, 1, options.threads)
        share = time / count
        first = first or share
        print(
            f"  {count:6d} clients  {time:7.3f} s, {1e3 * share:6.3f} ms each "
            f"({share / first:.2f} of that at {COUNTS[0]}), {peak:5.0f} MB;  "
            f"plain loop {slow:7.2f} s ({slow / time:.1f}x), {much:5.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
