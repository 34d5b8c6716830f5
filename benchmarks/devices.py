"""One device, such as a GPU, in one table: a hundred clients, two Ray actors, a large graph.

Batched clients against the plain loop on the same device, FedMD and FedAvg, a CNN and ResNet-8; two
Ray actors with half a GPU each; GLNN on a graph of 170,000 nodes. Under five minutes on a GPU; on a
CPU everything is smaller, and takes one. The table is Markdown, to be pasted.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import nn

from benchmarks import plain
from benchmarks.harness import machine, seconds
from fedkd.algorithms.fedavg import FedAvg
from fedkd.algorithms.fedmd import FedMD
from fedkd.core import Algorithm, Engine
from fedkd.data import federated_data, partition
from fedkd.data.datasets import Dataset
from fedkd.data.federated_data import FederatedData
from fedkd.engines.batched import batched
from fedkd.engines.ray.engine import RayEngine, Share
from fedkd.rounds.synchronous import simulate
from graphkd import methods, splits
from graphkd.core import Epoch
from graphkd.data import synthetic
from graphkd.distill import distill
from kdcore.devices import device_of
from kdcore.rng import generator
from kdcore.training.loop import TrainingConfig

BATCH = 32
ALGORITHMS: dict[str, Algorithm] = {
    "FedMD": FedMD(TrainingConfig(), TrainingConfig()),
    "FedAvg": FedAvg(TrainingConfig()),
}


class Size(NamedTuple):
    """How large the workloads are."""

    clients: int
    private: int
    public: int
    models: dict[str, str]
    nodes: int
    epochs: int


LARGE = Size(100, 10_000, 320, {"CNN": "cnn-48-112", "ResNet-8": "resnet8"}, 170_000, 20)
SMALL = Size(6, 120, 32, {"CNN": "cnn-4-8", "ResNet-8": "resnet8-4"}, 8_000, 3)


class Row(NamedTuple):
    """A line of the table: what was measured, and seconds of it and of what it is compared with."""

    what: str
    ours: float
    other: str = ""
    theirs: float = 0.0

    def __str__(self) -> str:
        if not self.other:
            return f"| {self.what} | {self.ours:.3f} s | | |"
        ratio = f"{self.theirs / self.ours:.2f}x"
        return f"| {self.what} | {self.ours:.3f} s | {self.other} {self.theirs:.3f} s | {ratio} |"


def federation(size: Size, model: str) -> FederatedData:
    """Clients of even sizes on noise with the shape of Fashion-MNIST: speed is the same."""
    total = size.private + size.public + 10  # some are left to test on
    x = torch.rand(total, 1, 28, 28, generator=generator(0, "noise"))
    data = Dataset(x, torch.arange(total) % 10, 10)
    chosen = federated_data.pools(data, size.private, size.public, 0, 0, seed=0)
    parts = partition.iid(data.y[chosen.private], size.clients, generator(0, "partition"))
    return federated_data.federate(data, chosen, parts, [model], seed=0)


def waited(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def median(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median seconds of some calls, after one that does not count."""

    def whole() -> None:
        work()
        waited(device)

    whole()
    return statistics.median(seconds(whole) for _ in range(repeats))


def rounds_of(fed: FederatedData, name: str, engine: Engine, repeats: int) -> Callable[[], object]:
    """A round of ours, as often as it is asked for."""
    rounds = simulate(
        ALGORITHMS[name], fed.task, fed.clients, rounds=repeats + 1, engine=engine, witness=False
    )
    return lambda: next(rounds)


def plain_rounds(fed: FederatedData, name: str, group: str) -> Callable[[], object]:
    """The same by the plain loop, with the very same networks as torch modules."""
    model, public = fed.task.models[group], fed.task.public
    assert public is not None

    def build() -> nn.Module:
        params = {k: v.to(public.device) for k, v in model.init(generator(0, "init")).items()}
        return model.module(params).train()

    clients = [
        plain.PlainClient(build, e.x[e.rows], e.y[e.rows], BATCH)
        for e in (client.private for client in fed.clients)
    ]
    if name == "FedAvg":
        return lambda: plain.fedavg_round(clients)
    consensus = torch.full((len(public), 10), 0.1, device=public.device)
    return lambda: plain.fedmd_round(clients, public, consensus, BATCH)


def federated(size: Size, device: torch.device, repeats: int) -> Iterator[Row]:
    """Batched clients against the plain loop."""
    for title, model in size.models.items():
        fed = federation(size, model).to(device)
        for name in ALGORITHMS:
            fast = median(rounds_of(fed, name, batched(), repeats), device, repeats)
            slow = median(plain_rounds(fed, name, model), device, repeats)
            what = f"{name}, {title}, {size.clients} clients, a round, batched"
            yield Row(what, fast, "plain loop", slow)


def actors(size: Size, device: torch.device, repeats: int) -> Iterator[Row]:
    """Two Ray actors with half of the device each against one with all of it."""
    gpus = 1.0 if device.type == "cuda" else 0.0
    fed = federation(size, size.models["CNN"])
    times = []
    for count in (2, 1):
        with RayEngine(count, share=Share(1, gpus / count)) as engine:
            times.append(median(rounds_of(fed, "FedMD", engine, repeats), device, repeats))
    share = "half a GPU" if gpus else "a core"
    yield Row(f"FedMD, CNN, two Ray actors of {share} each, a round", times[0], "one", times[1])


def graph(size: Size, device: torch.device) -> Iterator[Row]:
    """An epoch of GLNN's teacher and of its student, with the validation that it ends with."""
    drawn = synthetic.blocks(size.nodes, 7 * size.nodes)
    split = splits.transductive(drawn, seed=0).to(device)
    method = methods.get("glnn")(epochs=size.epochs, teacher_epochs=size.epochs)
    times: dict[str, list[float]] = {}
    start = time.perf_counter()
    for record in distill(method, split, seed=0):
        waited(device)
        now = time.perf_counter()
        if isinstance(record, Epoch):
            times.setdefault(record.phase, []).append(now - start)
        start = now
    for phase, each in times.items():
        yield Row(f"GLNN, {size.nodes:,} nodes, {phase}, an epoch", statistics.median(each))


def main() -> None:
    """Measure the device and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", help="cuda, cuda:1, mps or cpu; by default a GPU, if any")
    parser.add_argument("--small", action="store_true", help="a minute on a CPU, and its default")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    found = "cuda" if torch.cuda.is_available() else "cpu"
    report(device_of(options.device or found), options.small, options.repeats)


def report(device: torch.device, small: bool, repeats: int) -> None:
    """Print a line of the table as soon as it is measured."""
    size = SMALL if small or device.type == "cpu" else LARGE
    print(f"{machine()}, device {device}, batches of {BATCH}\n")
    print("| what | ours | compared with | ratio |\n|---|---|---|---|", flush=True)
    for row in federated(size, device, repeats):
        print(row, flush=True)
    if device.type in ("cpu", "cuda"):  # where Ray has something to share out
        for row in actors(size, device, repeats):
            print(row, flush=True)
    for row in graph(size, device):
        print(row, flush=True)
    if device.type == "cuda":
        print(f"\npeak memory {torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
