"""What clients of a graph give away, and to whom: tables of docs/privacy.md.

    python -m benchmarks.graph_client_leaks fedmd dsfl fd fedproto fedavg --out leaks.jsonl
    python -m benchmarks.graph_client_leaks --table --out leaks.jsonl

Cora dealt out to five clients by Louvain's communities, GCN of 16, five rounds. A line for each
attack of each method and seed; what is in the file already is not measured again. The table has
mean areas with 95 % t intervals over seeds, those minus what the features alone tell of the same
pairs, and the true-positive rate at 1 % of the decisions of all seeds together.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from kdattacks import scoring
from kdattacks.attacks.links import FEATURES
from kdattacks.scoring import Decisions
from kdcore.statistics import paired_comparison
from simulations.audits import federated
from simulations.audits.run import of_clients
from simulations.config import experiments
from simulations.config.identity import folder_name
from simulations.config.resources import Resources
from simulations.execution import scheduler
from simulations.execution.scheduler import Job

SETTINGS = {
    "data": "cora",
    "clients": 5,
    "partition": "louvain",
    "models": ("gcn-16",),
    "rounds": 5,
    "engine": "batched",
    "eval_every": 100,
}
ATTACKS = (
    *("labels", "yeom", "lira", "public", "public-nearest"),
    *("links", "links-sent", "links-influence"),
)
SHADOWS = 16
Line = dict[str, Any]


def measure(method: str, seed: int, root: Path | None) -> Iterator[Line]:
    """What comes of each attack that can be made."""
    experiment = experiments.build("fed", method, {**SETTINGS, "seed": seed})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / folder_name(experiment)
        for _ in scheduler.attempt(Job(experiment, path, root, Resources())):
            pass
        seen = federated.seen(path, root, SHADOWS, None, None)
        for name in ATTACKS:
            try:
                found = of_clients(seen, name)
            except ValueError as reason:
                yield {"method": method, "seed": seed, "attack": name, "refused": str(reason)}
                continue
            for outcome in found:
                values, truth, control = (column.tolist() for column in outcome.decisions)
                yield {**outcome.record, "values": values, "truth": truth, "control": control}


def lines(path: Path) -> list[Line]:
    """What a file has."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def table(found: Sequence[Line]) -> str:
    """As Markdown."""
    head = "| method | attack | who | pairs | AUC | minus features | TPR at 1 % | control AUC |"
    rows = [head, "|---" * 8 + "|"]
    groups: dict[tuple[str, ...], list[Line]] = {}
    for line in found:
        if "refused" not in line:
            key = (line["attack"], line["method"], line.get("target", ""), line.get("pairs", ""))
            groups.setdefault(key, []).append(line)
    for (attack, method, who, pairs), mine in groups.items():
        features = groups.get((attack, method, FEATURES, pairs), [])
        less = {line["seed"]: line["auc"] for line in features if who != FEATURES}
        ahead = [line["auc"] - less[line["seed"]] for line in mine if line["seed"] in less]
        all_ = Decisions(*(torch.tensor(_column(mine, n)) for n in ("values", "truth", "control")))
        rate = scoring.tpr_at(0.01, all_.values, all_.truth)
        cells = [method, attack, who, pairs, _cell([line["auc"] for line in mine]), _cell(ahead)]
        cells += [_cell([rate]), _cell([scoring.auc(all_.values, all_.control)])]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _column(group: Sequence[Line], name: str) -> list[Any]:
    return [value for line in group for value in line[name]]


def _cell(values: Sequence[float | None]) -> str:
    """Mean and interval; of nothing, or of no area, a dash."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    found = paired_comparison(known, [0.0] * len(known))
    return f"{found.mean:.3f}" + (f" ({found.low:.3f} to {found.high:.3f})" if found.n > 1 else "")


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, default=Path("leaks.jsonl"))
    parser.add_argument("--table", action="store_true", help="no more than print what there is")
    given = parser.parse_args()
    torch.set_num_threads(1)
    known = {(line["method"], line["seed"]) for line in lines(given.out)}
    for seed in range(0 if given.table else given.seeds):
        for method in given.methods:
            if (method, seed) not in known:
                found = [json.dumps(line) for line in measure(method, seed, given.data_root)]
                with given.out.open("a") as file:
                    file.write("".join(f"{line}\n" for line in found))
    print(table(lines(given.out)))


if __name__ == "__main__":
    main()
