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
from typing import Any, NamedTuple

import ray
import torch

from benchmarks.engines import load
from benchmarks.harness import compare, machine
from fedkd.algorithms.fedmd import FedMD
from fedkd.algorithms.local import Local
from fedkd.core import Algorithm, Engine
from fedkd.data import federated_data
from fedkd.engines.batched import batched
from fedkd.engines.ray.engine import RayEngine, Share
from kdcore.rng import generator
from kdcore.training.loop import TrainingConfig

with warnings.catch_warnings():  # flwr imports typer, which imports names that click will drop
    warnings.filterwarnings("ignore", ".*click", DeprecationWarning)
    from flwr.app import ArrayRecord, Context, Message, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp

    from fedkd.flower import ClientRuntime, DistillationStrategy, EngineGrid, client_app, unpack

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 600.0  # seconds for a round


class Workload(NamedTuple):
    """A federation; each of its steps, local or of distillation, is of 32 examples."""

    title: str
    algorithm: Algorithm
    data: str = "digits"
    model: str = "mlp-32"
    pool: int = 1200  # examples, of which each client has some at random
    private: int = 32  # examples of a client
    public: int = 160


FEDMD = FedMD(local=TrainingConfig(), distill=TrainingConfig())
WORKLOADS = {
    "local": Workload(
        "Local with no epochs, MLP 64-32-10: parameters are kept, and nothing else is done",
        Local(local=TrainingConfig(epochs=0)),
    ),
    "fedmd": Workload("FedMD on digits, MLP 64-32-10", FEDMD),
    "cnn": Workload(
        "FedMD on Fashion-MNIST, CNN of 104k parameters",
        FEDMD,
        "fashion-mnist",
        "cnn-48-112",
        pool=1000,
        private=50,
        public=96,
    ),
}
NOTHING = "an app that returns an empty message"

empty = ClientApp()


@empty.train("nothing")
def nothing(message: Message, context: Context) -> Message:
    return Message(RecordDict(), reply_to=message)


@functools.lru_cache(maxsize=1)
def federation(name: str, clients: int) -> federated_data.FederatedData:
    work = WORKLOADS[name]
    data = load(work.data)
    chosen = federated_data.pools(data, work.pool, work.public, 0, 0, seed=0)
    draw = generator(0, "parts")
    parts = [torch.randperm(work.pool, generator=draw)[: work.private] for _ in range(clients)]
    return federated_data.federate(data, chosen, parts, [work.model], seed=0)


def runtime(name: str, context: Context) -> ClientRuntime:
    fed = federation(name, int(context.node_config["num-partitions"]))
    client = fed.clients[int(context.node_config["partition-id"])]
    return ClientRuntime(WORKLOADS[name].algorithm, fed.task, client)


apps = {name: client_app(functools.partial(runtime, name)) for name in WORKLOADS} | {
    "nothing": empty
}


class Rounds:
    """A federation on a grid; each call is a round."""

    def __init__(self, name: str, grid: Grid, clients: int) -> None:
        self.grid, self.arrays = grid, ArrayRecord()
        task, algorithm = federation(name, clients).task, WORKLOADS[name].algorithm
        self.strategy = DistillationStrategy(
            algorithm, task, clients, patience=PATIENCE, weigh=False
        )

    def __call__(self) -> None:
        """One round of Flower's own loop."""
        self.arrays = self.strategy.start(self.grid, self.arrays, 1, timeout=PATIENCE).arrays
        record = self.strategy.records[-1]
        assert not record.failed, record.failed
        assert not record.rejected, record.rejected


def title(name: str) -> str:
    """A workload in words."""
    if name not in WORKLOADS:
        return NOTHING
    work = WORKLOADS[name]
    return f"{work.title}, {work.private} examples each, {work.public} public ones"


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


def measure(name: str, clients: int, repeats: int, engine: Engine, grid: Grid) -> None:
    """Compare both grids, as the main function of a ServerApp on Flower's."""
    gc.freeze()  # both sides are driven from this process; see docs/flower.md
    ours = EngineGrid(apps[name], clients, engine)
    if name == "nothing":
        slow, fast = silence(grid, clients), silence(ours, clients)
    else:
        slow, fast = Rounds(name, grid, clients), Rounds(name, ours, clients)
    ratio = compare(slow, fast, repeats).clock  # the clients are in other processes
    print(f"\n{title(name)}, {clients} clients, a round")
    print("  Flower's Ray backend / EngineGrid ", ratio, flush=True)
    if isinstance(slow, Rounds) and isinstance(fast, Rounds):
        assert not ours.fallbacks, ours.fallbacks
        theirs, own = unpack(slow.arrays), unpack(fast.arrays)
        far = max((float((theirs[k] - own[k]).abs().max()) for k in own), default=0.0)
        print(f"  what the servers know afterwards differs by {far:.1g} at the most", flush=True)


def inside(name: str, clients: int, repeats: int, chunk: int, threads: int, workers: int) -> None:
    """Start Flower's simulation, and measure from within its ServerApp."""
    import logging

    from flwr.simulation import run_simulation

    torch.set_num_threads(threads)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        gather(grid, clients)
        if not workers:
            measure(name, clients, repeats, batched(chunk), grid)
            return
        while not ray.is_initialized():  # by the backend, whose Ray our actors join
            time.sleep(0.1)
        free = Share(cpus=0)  # the cores are Flower's actors', which are idle while ours work
        with RayEngine(workers, chunk=chunk, share=free) as engine:
            measure(name, clients, repeats, engine, grid)

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
        "RAY_worker_niceness": "0",  # else its clients, not ours, wait for what else runs here
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "PYTHONWARNINGS": "ignore",
    }
    numbers = given.clients, given.repeats, given.chunk, given.threads, given.workers
    call = f"inside({name!r}, *{numbers})"
    code = f"from benchmarks.flower_grid import inside; {call}"  # actors cannot import __main__
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, env=os.environ | quiet, start_new_session=True)
    try:
        return process.wait(given.timeout) == 0
    except subprocess.TimeoutExpired:
        print(f"\n{title(name)}: not done within {given.timeout:g} s; given up", flush=True)
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> None:
    """Time the workloads and print the ratios; exit with 1 if one of them was not done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=[*apps], help=", ".join(apps))
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=100, help="clients that are run as one")
    parser.add_argument(
        "--workers", type=int, default=0, help="Ray actors under EngineGrid; 0: batched, none"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--timeout", type=float, default=1200.0, help="seconds for each workload")
    given = parser.parse_args()
    if unknown := set(given.workloads) - set(apps):
        parser.error(f"unknown workload {min(unknown)}; choose from {', '.join(apps)}")
    torch.set_num_threads(given.threads)
    print(f"{machine()}, chunks of {given.chunk}, {given.workers} workers", flush=True)
    start = time.monotonic()
    done = [bounded(name, given) for name in given.workloads]
    print(f"\n{time.monotonic() - start:.0f} s in all")
    sys.exit(0 if all(done) else 1)


if __name__ == "__main__":
    main()
