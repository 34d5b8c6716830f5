"""Rounds of a Flower app: Flower's own simulation backend against `EngineGrid`, in one run.

The same ServerApp code, the same strategy and the same ClientApp are timed on both. Flower's
backend (Ray actors, one for each core) stays up while ours is measured, idle but for its polling.
It is run in a process of its own, with a time limit, since it can hang where it cannot start.
"""

import argparse
import functools
import gc
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import compare, machine
from fedkd.algorithms.fedmd import FedMD
from fedkd.algorithms.local import Local
from fedkd.core import Algorithm
from fedkd.data import datasets, federate
from fedkd.engines.batched import batched
from knowledge.randomness import generator
from knowledge.training import Training

with warnings.catch_warnings():  # flwr imports typer, which imports names that click will drop
    warnings.filterwarnings("ignore", ".*click", DeprecationWarning)
    from flwr.app import ArrayRecord, Context, Message, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp

    from fedkd.flower import DistillationStrategy, EngineGrid, Party, client_app, unpack

ROOT = Path(__file__).resolve().parents[1]
PRIVATE, PUBLIC = 32, 160  # one local step and five of distillation, each of 32 examples
PATIENCE = 600.0  # seconds for a round
ALGORITHMS: dict[str, Algorithm] = {
    "fedmd": FedMD(local=Training(), distill=Training()),
    "local": Local(local=Training(epochs=0)),
}
TITLES = {
    "nothing": "an app that returns an empty message",
    "local": "Local with no epochs, MLP 64-32-10: parameters are kept, and nothing else is done",
    "fedmd": f"FedMD on digits, MLP 64-32-10, {PRIVATE} examples each, {PUBLIC} public ones",
}

empty = ClientApp()


@empty.train("nothing")
def nothing(message: Message, context: Context) -> Message:
    return Message(RecordDict(), reply_to=message)


@functools.lru_cache(maxsize=1)
def federation(clients: int) -> federate.Federation:
    data = datasets.load("digits")
    chosen = federate.pools(data, 1200, PUBLIC, 0, 0, seed=0)
    draw = generator(0, "parts")
    parts = [torch.randperm(1200, generator=draw)[:PRIVATE] for _ in range(clients)]
    return federate.federate(data, chosen, parts, ["mlp-32"], seed=0)


def party(name: str, context: Context) -> Party:
    fed = federation(int(context.node_config["num-partitions"]))
    client = fed.clients[int(context.node_config["partition-id"])]
    return Party(ALGORITHMS[name], fed.task, client)


apps = {name: client_app(functools.partial(party, name)) for name in ALGORITHMS} | {
    "nothing": empty
}


class Rounds:
    """A federation on a grid; each call is a round."""

    def __init__(self, name: str, grid: Grid, clients: int) -> None:
        self.grid, self.arrays = grid, ArrayRecord()
        task = federation(clients).task
        self.strategy = DistillationStrategy(
            ALGORITHMS[name], task, clients, patience=PATIENCE, weigh=False
        )

    def __call__(self) -> None:
        """One round of Flower's own loop."""
        self.arrays = self.strategy.start(self.grid, self.arrays, 1, timeout=PATIENCE).arrays
        record = self.strategy.records[-1]
        assert not record.failed, record.failed
        assert not record.rejected, record.rejected


def silence(grid: Grid, clients: int) -> Callable[[], None]:
    """A round in which clients do nothing."""

    def call() -> None:
        sent = [Message(RecordDict(), node, "train.nothing") for node in grid.get_node_ids()]
        replies = list(grid.send_and_receive(sent, timeout=PATIENCE))
        assert len(replies) == clients
        assert not any(reply.has_error() for reply in replies)

    return call


def gather(grid: Grid, clients: int) -> None:
    """Wait for the nodes: a ServerApp starts before they do."""
    until = time.monotonic() + PATIENCE
    while len(list(grid.get_node_ids())) < clients and time.monotonic() < until:
        time.sleep(0.1)


def measure(name: str, clients: int, repeats: int, chunk: int, grid: Grid) -> None:
    """Compare both grids, as the main function of a ServerApp on Flower's."""
    gather(grid, clients)
    gc.freeze()  # both sides are driven from this process; see docs/flower.md
    ours = EngineGrid(apps[name], clients, batched(chunk))
    if name == "nothing":
        slow, fast = silence(grid, clients), silence(ours, clients)
    else:
        slow, fast = Rounds(name, grid, clients), Rounds(name, ours, clients)
    ratio = compare(slow, fast, repeats)
    print(f"\n{TITLES[name]}, {clients} clients, a round")
    print("  Flower's Ray backend / EngineGrid ", ratio, flush=True)
    if isinstance(slow, Rounds) and isinstance(fast, Rounds):
        assert not ours.fallbacks, ours.fallbacks
        theirs, own = unpack(slow.arrays), unpack(fast.arrays)
        far = max((float((theirs[k] - own[k]).abs().max()) for k in own), default=0.0)
        print(f"  what the servers know afterwards differs by {far:.1g} at the most", flush=True)


def inside(name: str, clients: int, repeats: int, chunk: int, threads: int) -> None:
    """Start Flower's simulation, and measure from within its ServerApp."""
    import logging

    from flwr.simulation import run_simulation

    torch.set_num_threads(threads)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        measure(name, clients, repeats, chunk, grid)

    backend: dict[str, Any] = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server, apps[name], clients, backend_config=backend)


def bounded(name: str, given: argparse.Namespace) -> bool:
    """`inside` in a process group of its own, which ends after some seconds at the latest."""
    quiet = {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray listens on loopback only
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "PYTHONWARNINGS": "ignore",
    }
    call = f"inside({name!r}, {given.clients}, {given.repeats}, {given.chunk}, {given.threads})"
    code = f"from benchmarks.flower_grid import inside; {call}"  # actors cannot import __main__
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, env=os.environ | quiet, start_new_session=True)
    try:
        return process.wait(given.timeout) == 0
    except subprocess.TimeoutExpired:
        print(f"\n{TITLES[name]}: not done within {given.timeout:g} s; given up", flush=True)
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> None:
    """Time the workloads and print the ratios; exit with 1 if one of them was not done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=list(TITLES), help=", ".join(TITLES))
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=100, help="clients that are run as one")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--timeout", type=float, default=1200.0, help="seconds for each workload")
    given = parser.parse_args()
    if unknown := set(given.workloads) - set(TITLES):
        parser.error(f"unknown workload {min(unknown)}; choose from {', '.join(TITLES)}")
    torch.set_num_threads(given.threads)
    print(f"{machine()}, chunks of {given.chunk}", flush=True)
    start = time.monotonic()
    done = [bounded(name, given) for name in given.workloads]
    print(f"\n{time.monotonic() - start:.0f} s in all")
    sys.exit(0 if all(done) else 1)


if __name__ == "__main__":
    main()
