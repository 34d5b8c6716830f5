"""Whole federated rounds: our engines against each other, plain research code, and the floor."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.floor import floor
from benchmarks.harness import compare, machine, profile
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


@dataclass(frozen=True)
class Workload:
    """A federation to time."""

    name: str
    algorithm: str
    data: str
    model: str
    clients: int
    private: int
    public: int


WORKLOADS = {
    "fd-mlp": Workload("FD, MLP 784-64-10", "fd", "mnist", "mlp-64", 100, 20_000, 0),
    "fd-mnist": Workload(
        "FD, MLP 784-64-10, all of MNIST", "fd", "mnist", "mlp-64", 100, 60_000, 0
    ),
    "fedmd-mlp": Workload("FedMD, MLP 784-64-10", "fedmd", "mnist", "mlp-64", 100, 20_000, 2_000),
    "fedmd-cnn": Workload(
        "FedMD, CNN of 104k parameters", "fedmd", "fashion-mnist", "cnn-48-112", 20, 1_000, 96
    ),
    "fd-digits": Workload("FD, MLP 64-32-10", "fd", "digits", "mlp-32", 100, 1_500, 0),
}


def load(name: str) -> datasets.Dataset:
    """The data set, or noise of its shape where its files are missing: speed is the same."""
    try:
        return datasets.load(name)
    except FileNotFoundError:
        x = torch.rand(30_000, 1, 28, 28, generator=generator(0, "noise"))
        return datasets.Dataset(x, torch.arange(len(x)) % 10, 10)


def prepare(work: Workload) -> federated_data.FederatedData:
    """The clients of a workload."""
    data = load(work.data)
    chosen = federated_data.pools(data, work.private, work.public, 0, 0, seed=0)
    labels = data.y[chosen.private]
    parts = dirichlet(labels, work.clients, generator(0, "partition"), alpha=0.5)
    return federated_data.federate(data, chosen, parts, [work.model], seed=0)


def ours(work: Workload, fed: federated_data.FederatedData, engine: Engine) -> Callable[[], object]:
    """Two rounds of which the second is like all later ones; the first is the warm-up's."""
    kinds: dict[str, Algorithm] = {
        "fd": FD(local=TrainingConfig()),
        "fedmd": FedMD(TrainingConfig(), TrainingConfig()),
    }
    algorithm = kinds[work.algorithm]

    def rounds() -> object:
        return list(simulate(algorithm, fed.task, fed.clients, rounds=2, engine=engine))

    return rounds


def theirs(work: Workload, fed: federated_data.FederatedData) -> Callable[[], object]:
    """The same two rounds by the plain loop."""
    examples = [client.private for client in fed.clients]

    def build() -> torch.nn.Module:
        return module(work, examples[0].x)

    def rounds() -> object:
        clients = [plain.PlainClient(build, e.x[e.rows], e.y[e.rows], 32) for e in examples]
        if work.algorithm == "fd":
            return plain.fd_round(clients, 10, plain.fd_round(clients, 10, None))
        public = fed.task.public
        assert public is not None
        for client in clients:
            client.train()
        consensus = torch.stack([client.predict(public) for client in clients]).mean(dim=0)
        return plain.fedmd_round(clients, public, consensus, 32)

    return rounds


def arithmetic(
    work: Workload, fed: federated_data.FederatedData, rounds: int = 2, device: str = "cpu"
) -> Callable[[], object]:
    """The examples of so many rounds in one model's large batches; see `benchmarks.floor`.

    A consensus is digested in every round but the first, or in one that is alone.
    """
    private = rounds * sum(len(client.private) for client in fed.clients)
    x = fed.clients[0].private.x.to(device)
    model = module(work, x).to(device)
    if work.algorithm == "fd":
        return floor(model, x, 10, private, private, 32 * 50)
    assert fed.task.public is not None
    public = len(fed.task.public) * work.clients
    return floor(model, x, 10, private + max(rounds - 1, 1) * public, rounds * public, 32 * 50)


def module(work: Workload, x: Tensor) -> torch.nn.Module:
    """The architecture of a workload as a torch module."""
    size = x.shape[-1]
    width = [int(number) for number in work.model.split("-")[1:]]
    if work.model.startswith("mlp"):
        return plain.mlp(size * size, width[0], 10)
    return plain.cnn(10, (width[0], width[1]), size)


def main() -> None:
    """Time the workloads and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS), help=", ".join(WORKLOADS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    for name in options.workloads:
        work = WORKLOADS[name]
        fed = prepare(work)
        fast, slow = ours(work, fed, batched()), ours(work, fed, sequential)
        print(f"\n{work.name}, {work.clients} clients, two rounds")
        print("  sequential / batched ", compare(slow, fast, options.repeats), flush=True)
        print("  plain loop / batched ", compare(theirs(work, fed), fast, options.repeats))
        share = compare(arithmetic(work, fed), fast, options.repeats)
        print(f"  floor      / batched  {100 * share.median:5.0f}% of the time is the arithmetic")
        print(profile(fast), flush=True)


if __name__ == "__main__":
    main()
