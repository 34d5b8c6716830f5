"""Stealing links from distilled networks: the table of docs/privacy.md.

    python -m benchmarks.links glnn krd nosmog --data cora --seeds 5 --out links.jsonl

For each method and seed a line for each network (teacher, student, the student alone) and for the
raw features, among pairs of any two nodes and of nodes of one label; lines that are in the file
already are not measured again. With `--table` no more than the table of a file is printed.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from tempfile import gettempdir

import torch

from kdattacks import REGISTRY
from simulations.audits import graphs
from simulations.config import experiments
from simulations.results.tables import summary
from simulations.runners import teacher_cache

SHOWN = ("auc", "tpr_01", "tpr_001", "control_auc")


def measure(method: str, data: str, seed: int, root: Path | None) -> list[dict[str, object]]:
    """The records of one run."""
    experiment = experiments.build("graph", method, {"data": data, "seed": seed})
    shared = Path(gettempdir()) / "kdsim-benchmark-teachers"
    shared.mkdir(exist_ok=True)
    audit, result = graphs.trained(experiment, root, partial(teacher_cache.fit, shared))
    found = [outcome.record for outcome in audit.outcomes("links", REGISTRY.get("links"))]
    accuracy = dict(result.metrics)
    return [{**record, "accuracy": accuracy.get(_metric(record))} for record in found]


def _metric(record: dict[str, object]) -> str:
    who = record["target"]
    return "accuracy" if who == "student" else f"accuracy_{who}"


def table(path: Path) -> str:
    """Means and standard deviations over seeds, as Markdown."""
    records = read(path)
    groups: dict[tuple[str, str], list[dict[str, object]]] = {}
    for record in records:
        who = str(record["target"])
        name = f"{record['method']} student" if who == "student" else who
        groups.setdefault((name, str(record["pairs"])), []).append(record)
    lines = [
        "| who | pairs | runs | AUC | TPR at 1 % | TPR at 0.1 % | control AUC |",
        "|---" * 7 + "|",
    ]
    for (name, pairs), mine in groups.items():
        once = {(r["seed"], round(float(str(r["auc"])), 9)): r for r in mine}.values()
        cells = [cell([r[key] for r in once]) for key in SHOWN]
        lines.append(f"| {name} | {pairs} | {len(once)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(values: list[object]) -> str:
    """Mean and standard deviation."""
    found = summary(float(str(value)) for value in values if value is not None)
    if found is None:
        return "–"
    return f"{found.mean:.3f}" + ("" if found.std is None else f" ± {found.std:.3f}")


def read(path: Path) -> list[dict[str, object]]:
    """The records of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*")
    parser.add_argument("--data", default="cora")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, default=Path("links.jsonl"))
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    known = {(r["method"], r["seed"]) for r in read(given.out)}
    for seed in range(given.seeds if not given.table else 0):
        for method in given.methods:
            if (method, seed) not in known:
                lines = [json.dumps(r) for r in measure(method, given.data, seed, given.data_root)]
                with given.out.open("a") as file:
                    file.write("".join(f"{line}\n" for line in lines))
    print(table(given.out))


if __name__ == "__main__":
    main()
