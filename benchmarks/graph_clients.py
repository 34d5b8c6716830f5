"""Steps of clients that hold graphs: as one block-diagonal problem, and one after another."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.harness import compare, machine, profile
from fedgraphkd import partition
from fedgraphkd.federated_graph import GraphFederation, federate
from fedgraphkd.shares import NodeShares
from fedkd.algorithms.local import Local
from fedkd.core import Engine
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.rounds.synchronous import simulate
from graphkd.data import registry
from kdcore.training.loop import TrainingConfig


@dataclass(frozen=True)
class Workload:
    """Clients of a graph, who train on their own nodes for so many steps."""

    name: str
    data: str
    clients: int
    model: str
    steps: int
    public: float = 0.1


WORKLOADS = {
    "small": Workload("50 clients of some 32 nodes, 64 features", "digits-knn", 50, "gcn-64", 20),
    "sage": Workload("the same, GraphSAGE", "digits-knn", 50, "sage-64", 20),
    "cora": Workload("10 clients of some 220 nodes, 1,433 features", "cora", 10, "gcn-64", 20),
    "large": Workload("10 clients of some 15,300 nodes", "sbm-170k", 10, "gcn-64", 3),
}


def prepare(work: Workload) -> GraphFederation:
    """The clients of a workload."""
    graph = registry.load(work.data)
    deal = partial(partition.partition, "greedy")
    shares = NodeShares(train=0.4, validation=0.1, public=work.public)
    return federate(graph, work.clients, [work.model], 0, deal, shares)


def rounds(work: Workload, found: GraphFederation, engine: Engine) -> Callable[[], object]:
    """Two rounds of training alone."""
    algorithm = Local(TrainingConfig("adam", 0.01, epochs=work.steps, batch_size=0))
    task, clients = found.federated.task, found.federated.clients

    def run() -> object:
        return list(simulate(algorithm, task, clients, rounds=2, engine=engine))

    return run


def main() -> None:
    """Time the workloads in CPU seconds and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS), help=", ".join(WORKLOADS))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    for name in options.workloads:
        work = WORKLOADS[name]
        try:
            found = prepare(work)
        except FileNotFoundError as missing:
            print(f"\n{work.name}: {missing}")
            continue
        fast = rounds(work, found, batched())
        slow = rounds(work, found, sequential)
        measured = compare(slow, fast, options.repeats)
        each = 1e3 * measured.cpu.fast / (2 * work.steps * work.clients)
        print(f"\n{work.name}: {2 * work.steps} steps")
        print(f"  sequential / batched {measured}; {each:.2f} ms a client's step")
        print(profile(fast), flush=True)


if __name__ == "__main__":
    main()
