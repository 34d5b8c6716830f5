"""Steps of clients that hold a part of a graph, or whole graphs: stacked, and one after another."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.harness import compare, machine, profile
from fedgraphkd import partition
from fedgraphkd.federated_collection import federate_graphs
from fedgraphkd.federated_graph import federate
from fedgraphkd.shares import NodeShares
from fedkd.algorithms.local import Local
from fedkd.core import Engine
from fedkd.data.federated_data import FederatedData
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.rounds.synchronous import simulate
from graphkd.data import registry
from graphkd.data.graph_collection import Graphs
from kdcore.training.loop import TrainingConfig


@dataclass(frozen=True)
class Workload:
    """Clients who train on nodes, or graphs, of their own for so many passes."""

    name: str
    data: str
    clients: int
    model: str
    steps: int
    batch: int = 0  # whole graphs in a step


WORKLOADS = {
    "small": Workload("50 clients of some 32 nodes, 64 features", "digits-knn", 50, "gcn-64", 20),
    "sage": Workload("the same, GraphSAGE", "digits-knn", 50, "sage-64", 20),
    "cora": Workload("10 clients of some 220 nodes, 1,433 features", "cora", 10, "gcn-64", 20),
    "large": Workload("10 clients of some 15,300 nodes", "sbm-170k", 10, "gcn-64", 3),
    "trees": Workload("20 clients of 12 trees, 8 a step", "coloured-trees", 20, "gin-64", 5, 8),
    "all trees": Workload("the same, all in a step", "coloured-trees", 20, "gin-64", 20),
    "nci1": Workload("10 clients of some 160 molecules, 32 a step", "nci1", 10, "gin-64", 1, 32),
    "all nci1": Workload("the same, all in a step", "nci1", 10, "gin-64", 4),
}


def prepare(work: Workload) -> FederatedData:
    """The clients of a workload."""
    graph = registry.load(work.data)
    if isinstance(graph, Graphs):
        random = partial(partition.partition, "random")
        return federate_graphs(graph, work.clients, [work.model], 0, random)
    deal = partial(partition.partition, "greedy")
    shares = NodeShares(train=0.4, validation=0.1, public=0.1)
    return federate(graph, work.clients, [work.model], 0, deal, shares).federated


def rounds(work: Workload, found: FederatedData, engine: Engine) -> Callable[[], object]:
    """Two rounds of training alone."""
    algorithm = Local(TrainingConfig("adam", 0.01, epochs=work.steps, batch_size=work.batch))
    task, clients = found.task, found.clients

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
        print(f"\n{work.name}: {2 * work.steps} passes")
        print(f"  sequential / batched {measured}; {each:.2f} ms a client's pass")
        print(profile(fast), flush=True)


if __name__ == "__main__":
    main()
