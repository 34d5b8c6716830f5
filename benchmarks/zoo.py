"""The federated tables of docs/results.md, from the folders that the zoo was run into.

    kdsim run digits-zoo-settings --out runs/settings
    python -m benchmarks.zoo runs/settings --choose        # six settings of each algorithm
    kdsim run digits-zoo --out runs/zoo                    # with those that were chosen
    python -m benchmarks.zoo runs/zoo --page docs/results.md
    python -m benchmarks.zoo --holders                     # of each label, how many clients hold it

A setting is chosen by the mean accuracy on validation examples over seeds and Dirichlet parameters.
Differences to `local` are paired by seed, with 95 % t intervals; bold is what excludes 0.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean

from benchmarks.tables import points, put, spread
from simulations.config import files, grid, library
from simulations.results import run_folder
from simulations.results.run_results import Result, results
from simulations.runners import federated

Scores = Mapping[int, Mapping[str, float]]  # by seed and metric
Runs = Mapping[tuple[str, str], Scores]  # by Dirichlet parameter and algorithm
CHOSEN_BY = "accuracy_validation"
TITLES = {
    "accuracy": "global test",
    "accuracy_median": "median client",
    "accuracy_min": "least client",
    "accuracy_local": "own distribution",
}
HEAD = ("", "n", "global test", "minus local", "median client", "least client")
HEAD += ("own distribution", "minus local", "consensus", "up", "down")


def read(folder: Path) -> Runs:
    """The metrics of all finished runs."""
    found: dict[tuple[str, str], dict[int, Mapping[str, float]]] = defaultdict(dict)
    for result in results(run_folder.load(folder)):
        found[f"{float(result.settings['alpha']):g}", result.method][result.seed] = result.metrics
    return found


def table(runs: Runs, alpha: str) -> list[str]:
    """The lines of the table of a Dirichlet parameter."""
    lines = [f"| {' | '.join(HEAD)} |", "|" + " --- |" * len(HEAD)]
    return lines + [row(runs, *key) for key in runs if key[0] == alpha]


def row(runs: Runs, alpha: str, method: str) -> str:
    """An algorithm's line: per cent, points above `local`, and bytes of all clients and rounds."""
    mine, local = runs[alpha, method], runs[alpha, "local"]
    values = {name: [100 * run[name] for run in mine.values()] for name in TITLES}
    cells = [f"`{method}`", str(len(mine)), spread(values["accuracy"], "+-")]
    cells += [gap(mine, local, "accuracy")]
    cells += [f"{fmean(values[name]):.1f}" for name in ("accuracy_median", "accuracy_min")]
    cells += [spread(values["accuracy_local"], "+-"), gap(mine, local, "accuracy_local")]
    agreed = [run["accuracy_consensus"] for run in mine.values() if "accuracy_consensus" in run]
    cells.append(f"{100 * fmean(agreed):.1f}" if len(agreed) == len(mine) else "")
    cells += [size(fmean(run[way] for run in mine.values())) for way in ("bytes_up", "bytes_down")]
    return f"| {' | '.join(cells)} |"


def gap(mine: Scores, local: Scores, metric: str) -> str:
    """Points above `local`, and the interval of that; of `local` and of one seed nothing."""
    seeds = sorted(mine.keys() & local.keys())
    if mine is local or len(seeds) < 2:
        return ""
    return points(*([run[seed][metric] for seed in seeds] for run in (mine, local)))


def size(count: float) -> str:
    """A number of bytes in words."""
    if count >= 1e6:
        return f"{count / 1e6:.1f} MB"
    digits = 1 if count < 1e5 else 0
    return f"{count / 1e3:.{digits}f} kB" if count else "0 B"


def scores(found: Iterable[Result]) -> dict[str, dict[str, float]]:
    """Of each algorithm and setting what it is chosen by, the best first."""
    by_method: dict[str, list[Result]] = defaultdict(list)
    for result in found:
        by_method[result.method].append(result)
    return {method: _ranked(same) for method, same in by_method.items()}


def _ranked(same: list[Result]) -> dict[str, float]:
    """The settings in which an algorithm's runs differ, by their mean; NaN counts as 0."""
    keys = {key for result in same for key in result.settings} - {"alpha", "seed"}
    searched = sorted(key for key in keys if len({r.settings.get(key) for r in same}) > 1)
    means: dict[str, list[float]] = defaultdict(list)
    for result in same:
        name = ", ".join(f"{key} = {result.settings[key]}" for key in searched)
        means[name].append(result.metrics.get(CHOSEN_BY, 0.0))
    assert len({len(values) for values in means.values()}) == 1, "some runs are missing"
    return dict(sorted(((n, fmean(v)) for n, v in means.items()), key=lambda pair: -pair[1]))


def holders() -> list[str]:
    """Of each Dirichlet parameter how many of the clients hold a label, in a line."""
    found: dict[float, list[float]] = defaultdict(list)
    experiments = grid.expand(
        files.read(library.find(Path("digits-zoo"))), "digits-zoo"
    ).experiments
    for experiment in experiments:
        if experiment.name == "local":
            counts = federated.prepare(experiment).label_counts
            found[experiment.alpha] += (counts > 0).sum(dim=0).tolist()
    return [
        f"Dirichlet {alpha:g}: a label is held by {fmean(held):.1f} clients, {min(held)} to "
        f"{max(held)}"
        for alpha, held in found.items()
    ]


def rewritten(text: str, runs: Runs) -> str:
    """The page with the tables that the runs give, each between its mark and the next `end`."""
    for alpha in dict.fromkeys(alpha for alpha, _ in runs):
        text = put(text, f"zoo: {alpha}", table(runs, alpha))
    return text


def main() -> None:
    """Print what is asked for, or put it on the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--holders", action="store_true")
    given = parser.parse_args()
    if given.holders:
        print("\n".join(holders()))
    elif given.choose:
        for method, own in scores(results(run_folder.load(given.folder))).items():
            for setting, value in own.items():
                print(f"{method}: {100 * value:.2f} {setting}")
    elif given.page:
        text = given.page.read_text(encoding="utf-8")
        given.page.write_text(rewritten(text, read(given.folder)), "utf-8")
    else:
        runs = read(given.folder)
        for alpha in dict.fromkeys(alpha for alpha, _ in runs):
            print(f"\nDirichlet {alpha}\n", *table(runs, alpha), sep="\n")


if __name__ == "__main__":
    main()
