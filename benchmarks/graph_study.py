"""The tables of docs/federated-graphs.md, from the folders that the study was run into.

    kdsim run fedgraph-settings --out runs/settings
    python -m benchmarks.graph_study runs/settings --choose       # four settings of each method
    kdsim run fedgraph-study --out runs/study                     # with those that were chosen
    python -m benchmarks.graph_study runs/study

Differences to `local` are paired by seed, with 95 % t intervals; bold is what excludes 0.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from benchmarks.tables import points, spread
from fedgraphkd.shares import NodeShares
from simulations.results import run_folder
from simulations.results.run_results import Result, results

OWN, ALL, WHOLE = "accuracy_local", "accuracy", "accuracy_whole"
CHOSEN_BY = ("accuracy_local_validation", "accuracy_validation")
USUAL = {"fedmd": "sa", "dsfl": "era"}  # aggregations that a method's name means
SEARCHED = ("local.learning_rate", "local.epochs", "distill.epochs", "gamma", "answer")
PARTITIONS = ("louvain", "greedy", "random")


class Cell(NamedTuple):
    """What is the same for all methods of a table."""

    clients: str
    models: str
    train: str


Scores = Mapping[int, Mapping[str, float]]  # by seed and metric
Runs = Mapping[tuple[Cell, str, str], Scores]  # by cell, partition and method


def method(result: Result) -> str:
    """The algorithm, and its way to a consensus where that is another than its paper's."""
    way = result.settings.get("aggregation", "")
    named = way in ("", USUAL.get(result.method))
    return f"`{result.method}`" if named else f"`{result.method}`, `{way}`"


def read(folders: Iterable[Path]) -> Runs:
    """The metrics of all finished runs."""
    found: dict[tuple[Cell, str, str], dict[int, Mapping[str, float]]] = defaultdict(dict)
    for folder in folders:
        for result in results(run_folder.load(folder)):
            s = result.settings
            train = s.get("nodes.train", str(NodeShares().train))
            cell = Cell(s["clients"], s["models"], train)
            found[cell, s["partition"], method(result)][result.seed] = result.metrics
    return found


def table(runs: Runs, cell: Cell, metrics: Sequence[str] = (OWN, ALL, WHOLE)) -> list[str]:
    """The lines of a table: of `local` what it reaches, of others how far they are from it."""
    parts = [p for p in PARTITIONS if (cell, p, "`local`") in runs]
    names = list(dict.fromkeys(m for c, _, m in runs if c == cell))
    titles = {OWN: "own", ALL: "everybody's", WHOLE: "whole graph"}
    head = [f"{part}, {titles[metric]}" for part in parts for metric in metrics]
    lines = [f"| | {' | '.join(head)} |", "| --- |" + " --- |" * len(head)]
    for name in names:
        cells = [entry(runs, cell, part, name, metric) for part in parts for metric in metrics]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def entry(runs: Runs, cell: Cell, part: str, name: str, metric: str) -> str:
    """Per cent of `local`, or points above it and the interval of that; of one seed nothing."""
    mine, local = runs.get((cell, part, name), {}), runs[cell, part, "`local`"]
    seeds = sorted(mine.keys() & local.keys())
    if len(seeds) < 2:
        return "–"
    fewer = "" if len(seeds) == max(map(len, runs.values())) else f", n = {len(seeds)}"
    if name == "`local`":
        values = [100 * mine[seed][metric] for seed in seeds]
        return f"{spread(values)}{fewer}"
    return points(*([scores[s][metric] for s in seeds] for scores in (mine, local)), fewer)


def scores(folder: Path) -> dict[str, dict[str, float]]:
    """Of each method and setting what it is chosen by: the mean of own and everybody's accuracy."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in results(run_folder.load(folder)):
        setting = ", ".join(f"{k} {v}" for k in SEARCHED if (v := result.settings.get(k)))
        value = fmean(result.metrics[name] for name in CHOSEN_BY)
        found[method(result)][setting].append(value)
    return {name: {s: fmean(v) for s, v in own.items()} for name, own in found.items()}


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--choose", action="store_true")
    given = parser.parse_args()
    if given.choose:
        for name, own in scores(given.folders[0]).items():
            for setting, value in sorted(own.items(), key=lambda pair: -pair[1]):
                print(f"{name}: {100 * value:.2f} {setting}")
        return
    runs = read(given.folders)
    for cell in dict.fromkeys(cell for cell, _, _ in runs):
        print(f"\n{cell.clients} clients, {cell.models}, {cell.train} of nodes to train on\n")
        print("\n".join(table(runs, cell)))


if __name__ == "__main__":
    main()
