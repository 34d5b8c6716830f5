"""What a round takes outside of the engine, of every algorithm, for each client.

Drawing, sending, checking and what the server does, its training too: 1,000 clients with 20 digits
each and a perceptron of six tensors, 50 public examples, 50 labelled ones at the server. Servers
train as they do by default.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Sequence

import torch

from benchmarks.harness import machine
from benchmarks.scale import Timed
from fedkd import algorithms
from fedkd.data import datasets, federated_data
from fedkd.engines.batched import batched
from fedkd.rounds.synchronous import simulate
from kdcore.rng import generator
from kdcore.training.loop import TrainingConfig

CLIENTS, EACH, FEW, POOL = 1_000, 20, 50, 1_200


def federation() -> federated_data.FederatedData:
    """The clients: each has some of a pool of digits, at random."""
    digits = datasets.load("digits")
    pools = federated_data.pools(digits, POOL, FEW, FEW, 0, seed=0)
    stream = generator(0, "parts")
    parts = [torch.randperm(POOL, generator=stream)[:EACH] for _ in range(CLIENTS)]
    return federated_data.federate(digits, pools, parts, ["mlp-32@16"], seed=0)


def measure(name: str, fed: federated_data.FederatedData, repeats: int) -> None:
    """One line: microseconds a client outside of the engine and in it, of later rounds."""
    algorithm = algorithms.get(name)(local=TrainingConfig())
    engine = Timed(batched())
    rounds = simulate(algorithm, fed.task, fed.clients, rounds=repeats + 2, engine=engine)
    next(rounds)
    next(rounds)
    engine.taken()
    outside, inside = [], []
    for _ in range(repeats):
        before = time.process_time()
        next(rounds)
        inside.append(engine.taken())
        outside.append(time.process_time() - before - inside[-1])
    own, rest = (1e6 * statistics.median(column) / CLIENTS for column in (inside, outside))
    print(f"  {name:12s} {rest:7.0f} us outside the engine, {own:7.0f} us in it", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("algorithms", nargs="*", help="by default all")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine()}\n{CLIENTS} clients, a round")
    names: Sequence[str] = options.algorithms or algorithms.names()
    fed = federation()
    gc.freeze()  # as `kdsim` does
    for name in names:
        measure(name, fed, options.repeats)


if __name__ == "__main__":
    main()
