"""A ServerApp that runs a strategy and writes down what happened."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flwr
import torch
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from safetensors.torch import save_file

from fedkd.flower.strategy import DistillationStrategy
from fedkd.flower.wire.serde import unpack
from fedkd.messages import Ledger
from fedkd.storage import atomic_files


class Plan(NamedTuple):
    """One run.

    Attributes:
        strategy: what to run.
        rounds: how many rounds.
        results: an absolute path of a folder to write to; it must hold no results yet.
        timeout: seconds to wait for the answers of a round.
    """

    strategy: DistillationStrategy
    rounds: int
    results: Path
    timeout: float = 3600.0


def server_app(build: Callable[[Context], Plan]) -> ServerApp:
    """A ServerApp around `fedkd`.

    Args:
        build: from the server's context (`run_config`) to what to run.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        carry_out(build(context), grid)

    return app


def carry_out(plan: Plan, grid: Grid) -> None:
    """Run a plan, and leave its results.

    The folder then holds `metrics.jsonl` (one `RoundMetrics` a round, written as the round ends),
    `server.safetensors` (what the server knows, where it knows anything) and `result.json` (the
    last to be written: where it is missing, the run did not end well).

    Raises:
        ValueError: a relative path, which would lie wherever Flower's server was started.
        FileExistsError: the folder already holds the results of a run.
    """
    if not plan.results.is_absolute():
        raise ValueError(f"the results need an absolute path, got {str(plan.results)!r}")
    metrics = plan.results / "metrics.jsonl"
    if metrics.exists():
        raise FileExistsError(f"{plan.results} holds the results of a run; name another folder")
    plan.results.mkdir(parents=True, exist_ok=True)
    with open(metrics, "x") as file:

        def note(index: int, arrays: ArrayRecord) -> None:
            if index:
                file.write(json.dumps(plan.strategy.records[-1].as_json()) + "\n")
                file.flush()

        result = plan.strategy.start(
            grid, ArrayRecord(), plan.rounds, timeout=plan.timeout, evaluate_fn=note
        )
    server = {key: value.contiguous() for key, value in unpack(result.arrays).items()}
    if server:
        with atomic_files.replacing(plan.results / "server.safetensors") as draft:
            save_file(server, draft)
    atomic_files.write(plan.results / "result.json", json.dumps(_summary(plan), indent=1) + "\n")


def _summary(plan: Plan) -> dict[str, Any]:
    """The whole run; scores are those of the last round, and bytes all that led to them."""
    strategy, records = plan.strategy, plan.strategy.records
    last = records[-1].deployment if records else Ledger()
    ledger = sum((record.ledger for record in records), last)
    means = records[-1].means() if records else {}
    return {
        "record": "run",
        "kind": "flower",
        "method": type(strategy.algorithm).__module__.rpartition(".")[2],
        "algorithm": repr(strategy.algorithm),
        "clients": strategy.clients,
        "rounds": len(records),
        "seed": strategy.seed,
        "metrics": means | {"bytes_up": ledger.bytes_up, "bytes_down": ledger.bytes_down},
        "scores": records[-1].as_json()["scores"] if records else {},
        "wire": {
            "up": sum(record.wire_up for record in records),
            "down": sum(record.wire_down for record in records),
        },
        "rejected": sum(len(record.rejected) for record in records),
        "failed": sum(len(record.failed) for record in records),
        "versions": {"flwr": flwr.__version__, "torch": torch.__version__},
        "threads": torch.get_num_threads(),
    }
