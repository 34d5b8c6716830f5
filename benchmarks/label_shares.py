"""Which labels clients hold, read off their uploads: a table of docs/privacy.md.

    python -m benchmarks.label_shares fedmd dsfl fd --seeds 3 --rounds 1 5

20 clients hold 1,000 digits, dealt by a Dirichlet distribution of concentration 0.1, and where
there are public examples, 400 of these.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import fmean

import torch

from fedkd import algorithms
from kdattacks import REGISTRY
from simulations.audits import federated
from simulations.config import experiments
from simulations.config.identity import folder_name
from simulations.config.resources import Resources
from simulations.execution import scheduler
from simulations.execution.scheduler import Job

SETTINGS = {
    "clients": 20,
    "alpha": 0.1,
    "models": ("mlp-64@32",),
    "private": 1000,
    "engine": "batched",
    "eval_every": 100,
}
SHOWN = ("kl", "kl_uniform", "kl_control", "majority", "auc", "exact")


def measure(method: str, seed: int, rounds: list[int], folder: Path) -> dict[int, dict[str, float]]:
    """What the attacks on labels and counts find, by round."""
    public = 0 if algorithms.get(method)().properties.public == "none" else 400
    given = {**SETTINGS, "public": public, "rounds": max(rounds), "seed": seed}
    experiment = experiments.build("fed", method, given)
    path = folder / folder_name(experiment)
    for _ in scheduler.attempt(Job(experiment, path, None, Resources())):
        pass
    found = {}
    for index in rounds:
        seen = federated.seen(path, None, 4, None, index)
        counts, labels = (seen.outcome(name, REGISTRY.get(name)) for name in ("counts", "labels"))
        found[index] = {**counts.measures, **labels.measures, "auc": labels.record["auc"]}
    return found


def main() -> None:
    """A line of the table for each algorithm and round: means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, nargs="+", default=[1, 5])
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| algorithm | round | {' | '.join(SHOWN)} |\n{'|---' * (len(SHOWN) + 2)}|")
    with tempfile.TemporaryDirectory() as folder:
        for method in given.methods:
            runs = [measure(method, s, given.rounds, Path(folder)) for s in range(given.seeds)]
            for index in given.rounds:
                cells = [f"{fmean(run[index][name] for run in runs):.3f}" for name in SHOWN]
                print(f"| {method} | {index} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
