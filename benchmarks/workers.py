"""Two Ray workers of one core each against one, and the engine auto, on a CNN; by the clock.

And how long the threads of the engine auto compute and are kept from it by each other, which the
kernel counts apart from what other processes take (Linux alone).
"""

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.engines import WORKLOADS, Workload, ours, prepare, theirs
from benchmarks.harness import comparison, interleaved, machine, seconds
from fedkd.algorithms.fedmd import FedMD
from fedkd.core import Client, Engine, Task
from fedkd.data.federated_data import FederatedData
from fedkd.engines.auto import AutoEngine
from fedkd.engines.ray.engine import RayEngine, Share
from fedkd.engines.sequential import sequential
from fedkd.rounds.synchronous import simulate
from kdcore.training.loop import TrainingConfig

ALGORITHM = FedMD(TrainingConfig(), TrainingConfig())


class Thread(NamedTuple):
    """Seconds of a thread: those in which it computes, waits for a core, and all by the clock."""

    computes: float
    queues: float
    clock: float

    @classmethod
    def now(cls) -> "Thread":
        """Of the calling thread, since some moment."""
        about = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        computes, queues, _ = map(int, about.read_text().split())
        return cls(computes / 1e9, queues / 1e9, time.perf_counter())

    @property
    def blocked(self) -> float:
        """What is left: it waits for another thread, as for Python's lock."""
        return self.clock - self.computes - self.queues


class Watched:
    """An engine, and what each of the threads that run clients has spent with them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.threads: dict[int, Thread] = {}

    def __call__(
        self,
        function: Callable[..., Any],
        task: Task,
        clients: Sequence[Client],
        inputs: Sequence[tuple[Any, ...]],
    ) -> list[Any]:
        """See `fedkd/engines/README.md`."""

        def watched(*given: Any) -> Any:
            start = Thread.now()
            try:
                return function(*given)
            finally:
                self._add([b - a for a, b in zip(start, Thread.now(), strict=True)])

        return self._engine(watched, task, clients, inputs)

    def _add(self, spent: Sequence[float]) -> None:
        before = self.threads.get(threading.get_ident(), Thread(0.0, 0.0, 0.0))
        total = Thread(*(a + b for a, b in zip(before, spent, strict=True)))
        self.threads[threading.get_ident()] = total

    def slowest(self) -> Thread:
        """Of the threads so far, the one that would be the last without other processes."""
        last = max(self.threads.values(), key=lambda one: one.computes + one.blocked)
        self.threads = {}
        return last


def ray_rounds(fed: FederatedData, workers: int, share: Share, rounds: int) -> list[float]:
    """Seconds of each round but the first, which sends the clients to their actors."""
    with RayEngine(workers, share=share) as engine:
        running = simulate(ALGORITHM, fed.task, fed.clients, rounds=rounds + 1, engine=engine)
        return [seconds(lambda: next(running)) for _ in range(rounds + 1)][1:]


def workers(fed: FederatedData, work: Workload, repeats: int) -> None:
    """Two workers against one, and against the plain loop on all cores, in turn."""
    share, shown = Share(1, 0.0), theirs(work, fed)
    triples = []
    for _ in range(repeats):
        one, two = (statistics.median(ray_rounds(fed, n, share, 2)) for n in (1, 2))
        triples.append((one, two, statistics.median(seconds(shown) for _ in range(2))))
    for name, ratios in (
        ("1 worker", [one / two for one, two, _ in triples]),
        ("plain loop", [loop_ / two for _, two, loop_ in triples]),
    ):
        print(
            f"  {name} / Ray, 2 workers of a core each   {statistics.median(ratios):.2f}x "
            f"[{min(ratios):.2f} to {max(ratios):.2f}]"
        )
    print("  last seconds: {:.2f} one, {:.2f} two, {:.2f} plain".format(*triples[-1]))


def threads(fed: FederatedData, work: Workload, repeats: int) -> None:
    """The engine auto, a client on each core, against torch's threads and the plain loop."""
    cores = torch.get_num_threads()
    works = {
        f"auto, {cores} threads": ours(work, fed, AutoEngine(workers=cores)),
        "sequential": ours(work, fed, sequential),
        "plain loop": theirs(work, fed),
    }
    times = interleaved(works, repeats, uncounted=2)
    fast, *others = works
    for slow in others:
        print(f"  {slow} / {fast} {comparison(times[slow], times[fast])}", flush=True)


def waits(fed: FederatedData, work: Workload, repeats: int) -> None:
    """What keeps the threads of the engine auto from computing, two against one."""
    engines = {count: Watched(AutoEngine(workers=count)) for count in (1, 2)}
    works = {count: ours(work, fed, engine) for count, engine in engines.items()}
    ratios = []
    for repeat in range(repeats + 2):
        spent = {}
        for count, engine in engines.items():
            works[count]()
            spent[count] = engine.slowest()
        if repeat >= 2:
            one, two = (s.computes + s.blocked for s in spent.values())
            ratios.append(one / two)
            print(f"  of two threads one computes {spent[2].computes:.2f} s, and is blocked "
                  f"{spent[2].blocked:.3f} s; alone {one:.2f} s")  # fmt: skip
    print(f"  one thread / two, without other processes {statistics.median(ratios):.2f}x "
          f"[{min(ratios):.2f} to {max(ratios):.2f}]", flush=True)  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(machine())
    print("\nFedMD, CNN of 104k parameters, 20 clients, a round")
    work = WORKLOADS["fedmd-cnn"]
    fed = prepare(work)
    waits(fed, work, options.repeats)
    threads(fed, work, options.repeats)
    workers(fed, work, options.repeats)


if __name__ == "__main__":
    main()
