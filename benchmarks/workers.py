"""Two Ray workers of one core each against one, and against the plain loop, on a CNN."""

import argparse
import statistics
from collections.abc import Callable

import torch

from benchmarks import plain
from benchmarks.engines import WORKLOADS, Workload, module, prepare
from benchmarks.harness import machine, seconds
from fedkd.algorithms.fedmd import FedMD
from fedkd.data.federated_data import FederatedData
from fedkd.engines.ray.engine import RayEngine, Share
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
    share, shown = Share(1, 0.0), loop(fed, work)
    triples = []
    for _ in range(repeats):
        one, two = (statistics.median(ray_rounds(fed, n, share, 3)) for n in (1, 2))
        triples.append((one, two, statistics.median(seconds(shown) for _ in range(3))))
    for name, ratios in (
        ("1 worker", [one / two for one, two, _ in triples]),
        ("plain loop", [loop_ / two for _, two, loop_ in triples]),
    ):
        print(
            f"  {name} / Ray, 2 workers of a core each   {statistics.median(ratios):.2f}x "
            f"[{min(ratios):.2f} to {max(ratios):.2f}]"
        )
    print("  last seconds: {:.2f} one, {:.2f} two, {:.2f} plain".format(*triples[-1]))


def loop(fed: FederatedData, work: Workload) -> Callable[[], object]:
    """The same by the plain loop."""
    public = fed.task.public
    assert public is not None
    consensus = torch.full((len(public), 10), 0.1)
    clients = [
        plain.PlainClient(
            lambda: module(work, public),
            client.private.x[client.private.rows],
            client.private.y[client.private.rows],
            32,
        )
        for client in fed.clients
    ]
    return lambda: plain.fedmd_round(clients, public, consensus, 32)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(machine())
    print("\nFedMD, CNN of 104k parameters, 20 clients, a round")
    work = WORKLOADS["fedmd-cnn"]
    workers(prepare(work), work, options.repeats)


if __name__ == "__main__":
    main()
