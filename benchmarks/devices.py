"""Ray workers against one another on a CNN, and a GPU where there is one.

Two workers of one core each against one; on a GPU, batched clients against the plain loop on the
same GPU, the fraction of the floor, and two Ray actors of half a GPU each.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.utils._pytree import tree_map

from benchmarks import plain
from benchmarks.engines import WORKLOADS, Workload, arithmetic, module, prepare
from benchmarks.harness import compare, machine, seconds
from fedkd.algorithms.fedmd import FedMD
from fedkd.core import Client, Engine, Task
from fedkd.data.federated_data import FederatedData
from fedkd.engines.batched import batched
from fedkd.engines.ray.engine import RayEngine, Share
from fedkd.rounds.round import private_of, public_of
from fedkd.rounds.synchronous import simulate
from kdcore.training.loop import Examples, TrainingConfig

ALGORITHM = FedMD(TrainingConfig(), TrainingConfig())


def ray_rounds(fed: FederatedData, workers: int, share: Share, rounds: int) -> list[float]:
    """Seconds of each round but the first, which sends the clients to their actors."""
    with RayEngine(workers, share=share) as engine:
        running = simulate(ALGORITHM, fed.task, fed.clients, rounds=rounds + 1, engine=engine)
        return [seconds(lambda: next(running)) for _ in range(rounds + 1)][1:]


def workers(fed: FederatedData, work: Workload, repeats: int) -> None:
    """Two workers against one, and against the plain loop on all cores, in turn."""
    share, shown = Share(1, 0.0), loop(fed, work, torch.device("cpu"))
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


def moved(client: Client, x: torch.Tensor, y: torch.Tensor) -> Client:
    """A client on the device of x."""
    params = {name: value.to(x.device) for name, value in client.params.items()}
    private = Examples(x, y, client.private.rows.to(x.device))
    return replace(client, params=params, private=private)


def updates(fed: FederatedData, engine: Engine, device: torch.device) -> Callable[[], object]:
    """What all clients do in a round, on a device."""
    assert fed.task.public is not None
    task = Task(fed.task.models, fed.task.num_classes, fed.task.public.to(device))
    x, y = (value.to(device) for value in (fed.clients[0].private.x, fed.clients[0].private.y))
    members = [moved(client, x, y) for client in fed.clients]
    public = tree_map(
        lambda v: v.to(device) if isinstance(v, torch.Tensor) else v,
        public_of(ALGORITHM, fed.task, 0, 1),
    )
    consensus = {"consensus": torch.full((len(fed.task.public), 10), 0.1, device=device)}
    inputs = [(consensus, private_of(ALGORITHM, member, 0, 1), public) for member in members]

    def work() -> None:
        engine(ALGORITHM.client_update, task, members, inputs)
        torch.cuda.synchronize()

    return work


def loop(fed: FederatedData, work: Workload, device: torch.device) -> Callable[[], object]:
    """The same by the plain loop."""
    assert fed.task.public is not None
    public = fed.task.public.to(device)
    consensus = torch.full((len(public), 10), 0.1, device=device)
    clients = [
        plain.PlainClient(
            lambda: module(work, public).to(device),
            client.private.x[client.private.rows].to(device),
            client.private.y[client.private.rows].to(device),
            32,
        )
        for client in fed.clients
    ]

    def run() -> None:
        plain.fedmd_round(clients, public, consensus, 32)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def gpu(repeats: int) -> None:
    """A hundred clients with a CNN on one GPU."""
    if not torch.cuda.is_available():
        print("  no GPU: batched against the plain loop on a GPU was not measured")
        return
    work = replace(WORKLOADS["fedmd-cnn"], clients=100, private=20_000, public=2_000)
    fed, device = prepare(work), torch.device("cuda")
    fast = updates(fed, batched(), device)
    print("  GPU: plain loop / batched ", compare(loop(fed, work, device), fast, repeats))
    floor = compare(arithmetic(work, fed, 1, "cuda"), fast, repeats)
    print(f"  GPU: floor / batched       {100 * floor.median:.0f}% of the time is the arithmetic")
    halves = ray_rounds(fed, 2, Share(1, 0.5), 3)
    print(f"  GPU: two Ray actors of half a GPU each, a round in {statistics.median(halves):.2f} s")


def main() -> None:
    """Measure what this machine has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(machine())
    print("\nFedMD, CNN of 104k parameters, 20 clients, a round")
    work = WORKLOADS["fedmd-cnn"]
    workers(prepare(work), work, options.repeats)
    gpu(options.repeats)


if __name__ == "__main__":
    main()
