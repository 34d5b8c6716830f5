"""The federated tables of docs/results.md, from the folder that digits-zoo.toml was run into.

    kdsim run simulations/experiments/digits-zoo.toml --out runs/zoo
    python -m benchmarks.zoo runs/zoo --page docs/results.md

Of each algorithm the setting with the best mean accuracy on validation examples is shown. Without
`--page` the rows are printed; with it they take the place of those on the page. Rows of which the
folder has fewer than two seeds stay as they are.
"""

import argparse
from pathlib import Path
from statistics import fmean

from simulations.results import run_folder
from simulations.results.model_selection import choices
from simulations.results.run_results import results
from simulations.results.tables import summary

Metrics = dict[int, dict[str, float]]  # of a method's chosen setting, by seed
Runs = dict[tuple[str, str], Metrics]  # by alpha and method
ALPHAS = ("0.3", "1")


def read(folder: Path) -> tuple[Runs, dict[tuple[str, str], str]]:
    """The metrics of all finished runs of the chosen settings, and those settings in words."""
    found: Runs = {}
    chosen = {}
    for choice in choices(results(run_folder.load(folder)), "accuracy_validation"):
        if len(choice.results) > 1:
            first = choice.results[0]
            key = f"{float(first.settings['alpha']):g}", first.method
            found[key] = {result.seed: dict(result.metrics) for result in choice.results}
            chosen[key] = choice.chosen.partition("(")[2].removesuffix(")")
    return found, chosen


def row(runs: Runs, alpha: str, method: str) -> str:
    """A line of the table of an alpha."""
    mine, local = runs[alpha, method], runs.get((alpha, "local"), {})
    cells = [f"`{method}`", str(len(mine))]
    for metric in ("accuracy", "accuracy_local"):
        found = summary(100 * run[metric] for run in mine.values())
        assert found is not None
        both = mine.keys() & local.keys() if method != "local" else ()
        gaps = [100 * (mine[seed][metric] - local[seed][metric]) for seed in both]
        cells.append(f"{found.mean:.1f} +- {found.std:.1f}")
        cells.append(f"{fmean(gaps):+.1f}" if gaps else "")
    for metric in ("bytes_up", "bytes_down"):
        cells.append(size(fmean(run[metric] for run in mine.values())))
    cells.append(f"{fmean(run['rounds_to_90'] for run in mine.values()):.0f}")
    return f"| {' | '.join(cells)} |"


def pair(runs: Runs, alpha: str) -> str:
    """CFD against FedMD: bytes as ratios from least to largest, accuracy as paired differences."""
    cfd, fedmd = runs[alpha, "cfd"], runs[alpha, "fedmd"]
    seeds = sorted(cfd.keys() & fedmd.keys())
    cells = [alpha, str(len(seeds))]
    cells += [size(fmean(group[s]["bytes_up"] for s in seeds)) for group in (fedmd, cfd)]
    for metric, mark in (("bytes_up", "**"), ("bytes_down", "")):
        ratios = [fedmd[s][metric] / cfd[s][metric] for s in seeds]
        cells.append(f"{mark}{min(ratios):.0f} to {max(ratios):.0f}{mark}")
    for metric in ("accuracy", "accuracy_local"):
        gaps = [100 * (cfd[s][metric] - fedmd[s][metric]) for s in seeds]
        cells.append(f"{fmean(gaps):+.1f} ({min(gaps):+.1f} to {max(gaps):+.1f})")
    return f"| {' | '.join(cells)} |"


def size(count: float) -> str:
    """A number of bytes in words."""
    if count >= 1e6:
        return f"{count / 1e6:.1f} MB"
    digits = 1 if count < 1e5 else 0
    return f"{count / 1e3:.{digits}f} kB" if count else "0 B"


def rewritten(text: str, runs: Runs, chosen: dict[tuple[str, str], str]) -> str:
    """The page with the rows that the runs give."""
    lines, alpha, pairs, settings = [], "", False, False
    for line in text.splitlines():
        if line.startswith("#"):
            alpha = line.removeprefix("### Dirichlet ") if "### Dirichlet" in line else ""
            pairs = line == "### CFD against FedMD"
            settings = line == "### Settings that were chosen"
        first = line.split("|")[1].strip().strip("`") if line.startswith("| ") else ""
        if (alpha, first) in runs:
            line = row(runs, alpha, first)
        elif pairs and (first, "cfd") in runs and (first, "fedmd") in runs:
            line = pair(runs, first)
        elif settings and all((a, first) in chosen for a in ALPHAS):
            line = f"| `{first}` | {' | '.join(chosen[a, first] for a in ALPHAS)} |"
        lines.append(line)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the rows, or put them on the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    runs, chosen = read(given.folder)
    if given.page:
        text = given.page.read_text(encoding="utf-8")
        given.page.write_text(rewritten(text, runs, chosen), "utf-8")
        return
    for alpha, method in runs:
        print(f"Dirichlet {alpha}: {row(runs, alpha, method)} {chosen[alpha, method]}")


if __name__ == "__main__":
    main()
