"""Two Ray workers of one core each against one, and the engine auto, on a CNN; by the clock."""

import argparse
import statistics

import torch

from benchmarks.engines import WORKLOADS, Workload, ours, prepare, theirs
from benchmarks.harness import comparison, interleaved, machine, seconds
from fedkd.algorithms.fedmd import FedMD
from fedkd.data.federated_data import FederatedData
from fedkd.engines.auto import AutoEngine
from fedkd.engines.ray.engine import RayEngine, Share
from fedkd.engines.sequential import sequential
from fedkd.rounds.synchronous import simulate
from kdcore.training.loop import TrainingConfig

ALGORITHM = FedMD(TrainingConfig(), TrainingConfig())


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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(machine())
    print("\nFedMD, CNN of 104k parameters, 20 clients, a round")
    work = WORKLOADS["fedmd-cnn"]
    fed = prepare(work)
    threads(fed, work, options.repeats)
    workers(fed, work, options.repeats)


if __name__ == "__main__":
    main()
