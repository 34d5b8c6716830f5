"""Whole federated rounds: our engines, plain research code, public libraries' loop, and the floor.

All of them in turn in one process, in seconds of the CPU and by the clock.
"""

import argparse
import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import peers, plain
from benchmarks.floor import Operations, convolution, floor, of_an_example, product, rates
from benchmarks.harness import comparison, interleaved, machine, profile
from fedkd.algorithms.fd import FD
from fedkd.algorithms.fedmd import FedMD
from fedkd.core import Algorithm, Engine
from fedkd.data import datasets, federated_data
from fedkd.data.partition import dirichlet
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.rounds.synchronous import simulate
from kdcore.rng import generator
from kdcore.training.loop import TrainingConfig

Round = Callable[[], object]
BATCH, CLASSES, MANY = 32, 10, 10**6


@dataclass(frozen=True)
class Workload:
    """A federation to time.

    Attributes:
        whole: whether clients hold whole mini-batches of examples, so that a loop that drops the
            last incomplete one makes the same steps.
    """

    name: str
    algorithm: str
    data: str
    model: str
    clients: int
    private: int
    public: int
    whole: bool = False


NOISE = 70_000  # examples, as many as MNIST has
WORKLOADS = {
    "fd-mlp": Workload("FD, MLP 784-64-10", "fd", "mnist", "mlp-64", 100, 20_000, 0),
    "fd-mlp-whole": Workload(
        "FD, MLP 784-64-10, whole mini-batches", "fd", "mnist", "mlp-64", 100, 20_000, 0, True
    ),
    "fd-mnist": Workload(
        "FD, MLP 784-64-10, all of MNIST", "fd", "mnist", "mlp-64", 100, 60_000, 0
    ),
    "fd-digits": Workload("FD, MLP 64-32-10", "fd", "digits", "mlp-32", 100, 1_500, 0),
    "fd-cnn": Workload(
        "FD, CNN of 104k parameters, whole mini-batches",
        "fd",
        "mnist",
        "cnn-48-112",
        6,
        530,
        0,
        True,
    ),
    "fedmd-mlp": Workload("FedMD, MLP 784-64-10", "fedmd", "mnist", "mlp-64", 100, 20_000, 500),
    "fedmd-cnn": Workload(
        "FedMD, CNN of 104k parameters", "fedmd", "fashion-mnist", "cnn-48-112", 20, 1_000, 96
    ),
}


def load(name: str) -> datasets.Dataset:
    """The data set, or noise of its shape where its files are missing: speed is the same."""
    try:
        return datasets.load(name)
    except FileNotFoundError:
        x = torch.rand(NOISE, 1, 28, 28, generator=generator(0, "noise"))
        return datasets.Dataset(x, torch.arange(len(x)) % 10, 10)


def prepare(work: Workload) -> federated_data.FederatedData:
    """The clients of a workload."""
    data = load(work.data)
    chosen = federated_data.pools(data, work.private, work.public, 0, 0, seed=0)
    labels = data.y[chosen.private]
    parts = dirichlet(labels, work.clients, generator(0, "partition"), alpha=0.5)
    if work.whole:
        parts = [part[: len(part) - len(part) % BATCH] for part in parts if len(part) >= BATCH]
    return federated_data.federate(data, chosen, parts, [work.model], seed=0)


def ours(work: Workload, fed: federated_data.FederatedData, engine: Engine) -> Round:
    """A round of ours, as often as it is asked for; the first has no consensus yet."""
    kinds: dict[str, Algorithm] = {
        "fd": FD(local=TrainingConfig()),
        "fedmd": FedMD(TrainingConfig(), TrainingConfig()),
    }
    rounds = simulate(kinds[work.algorithm], fed.task, fed.clients, rounds=MANY, engine=engine)
    return lambda: next(rounds)


def theirs(work: Workload, fed: federated_data.FederatedData) -> Round:
    """The same by the plain loop."""
    clients = clients_of(plain.PlainClient, work, fed)
    means = iterated(lambda received: plain.fd_round(clients, CLASSES, received), None)
    if work.algorithm == "fd":
        return means
    public = fed.task.public
    assert public is not None
    even = torch.full((len(public), CLASSES), 1 / CLASSES)
    return iterated(lambda received: plain.fedmd_round(clients, public, received, BATCH), even)


def of_libraries(work: Workload, fed: federated_data.FederatedData) -> Round:
    """A round of FD by the loop of public libraries."""
    clients = clients_of(peers.PeerClient, work, fed)
    return iterated(lambda received: peers.fd_round(clients, received), {})


def clients_of(
    kind: Callable[..., Any], work: Workload, fed: federated_data.FederatedData
) -> list[Any]:
    """The clients of a loop."""
    examples = [client.private for client in fed.clients]
    build = partial(module, work, examples[0].x)
    return [kind(build, e.x[e.rows], e.y[e.rows], BATCH) for e in examples]


def iterated(work: Callable[[Any], Any], first: Any) -> Round:
    """A round that is given what the last one gave."""
    last = [first]

    def again() -> None:
        last.append(work(last.pop()))

    return again


def needed(work: Workload, fed: federated_data.FederatedData) -> Operations:
    """The operations of a round but the first."""
    private = sum(len(client.private) for client in fed.clients)
    x = fed.clients[0].private.x[:BATCH]
    predicting, training = of_an_example(module(work, x), x)
    if work.algorithm == "fd":
        return training.times(private).plus(predicting.times(private))
    assert fed.task.public is not None
    public = len(fed.task.public) * len(fed.clients)
    return training.times(private + public).plus(predicting.times(public))


def module(work: Workload, x: Tensor) -> torch.nn.Module:
    """The architecture of a workload as a torch module."""
    size = x.shape[-1]
    width = [int(number) for number in work.model.split("-")[1:]]
    if work.model.startswith("mlp"):
        return plain.mlp(size * size, width[0], CLASSES)
    return plain.cnn(CLASSES, (width[0], width[1]), size)


def measure(work: Workload, repeats: int) -> None:
    """Print the ratios of a round, and where the time of ours goes."""
    fed = prepare(work)
    fast = ours(work, fed, batched())
    works: dict[str, Round] = {"batched": fast}
    works["sequential"] = ours(work, fed, sequential)
    works["plain"] = theirs(work, fed)
    if work.whole:
        works["libraries"] = of_libraries(work, fed)
    works |= {"product": product(), "convolution": convolution()}
    gc.freeze()  # on all sides, as `kdsim` does
    times = interleaved(works, repeats, uncounted=2)
    print(f"\n{work.name}, {len(fed.clients)} clients, a round")
    for slow in ("sequential", "plain", "libraries"):
        if slow in times:
            ratio = comparison(times[slow], times["batched"])
            print(f"  {slow:>10} / batched {ratio}", flush=True)
    rate = rates(times["product"], times["convolution"])
    least = floor(needed(work, fed), rate)
    own = statistics.median(one.cpu for one in times["batched"])
    print(
        f"       floor / batched {100 * least / own:6.0f}%, {1e3 * least:.1f} ms of the CPU at "
        f"{rate.products / 1e9:.0f} GF/s in products, {rate.convolutions / 1e9:.0f} in convolutions"
    )
    print(profile(fast), flush=True)


def main() -> None:
    """Time the workloads and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS), help=", ".join(WORKLOADS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    for name in options.workloads:
        measure(WORKLOADS[name], options.repeats)


if __name__ == "__main__":
    main()
