"""The tables of docs/consensus.md, from folders that `consensus` and `liars` were run into.

    kdsim run consensus --out runs/consensus
    python -m benchmarks.consensus runs/consensus                # above the plain mean, paired
    kdsim run liars --out runs/liars
    python -m benchmarks.consensus runs/liars --levels           # each as it is
    python -m benchmarks.consensus runs/liars --known            # and where it is known who lies

With `--known` the liars of each seed are left out of every round, which no server could do that is
not told: what the clients who remain are worth, and how far from it a defence is.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch

from benchmarks.tables import points, spread
from fedkd.rounds.client_sampling import Sample
from simulations.config import experiments
from simulations.config.experiments import HONEST, FedExperiment
from simulations.results import run_folder
from simulations.results.run_folder import Run
from simulations.runners import federated

MEAN, KNOWN = "sa", ("sa", "variance")


class Setting(NamedTuple):
    """What a row of a table is of."""

    algorithm: str
    data: str
    clients: str
    alpha: str
    liars: str


Scores = Mapping[int, float]  # by seed
Runs = Mapping[Setting, Mapping[str, Scores]]  # by rule
Share = Setting  # without the lie


class WithoutLiars(FedExperiment):
    """An experiment in which those who lie take part in no round."""

    @property
    def sample(self) -> Sample:
        """The others."""
        assert self.lie is not None
        who, _ = self.lie
        return lambda clients, generator: [client for client in clients if client not in who]


def read(found: Sequence[Run]) -> Runs:
    """The accuracies of all finished runs.

    Raises:
        ValueError: there are none, or two that differ otherwise than a table shows.
    """
    runs: dict[Setting, dict[str, dict[int, float]]] = {}
    for run in found:
        if run.complete:
            seeds = runs.setdefault(_setting(run), {}).setdefault(_rule(run), {})
            accuracy, seed = run.records[-1]["metrics"]["accuracy"], run.experiment["seed"]
            if seeds.setdefault(seed, accuracy) != accuracy:
                raise ValueError(
                    f"{run.path}: another run of {_rule(run)} with seed {seed} and the same "
                    f"{', '.join(Setting._fields)} has another accuracy; a table is of runs that "
                    "differ in these alone, so give it a folder for each number of rounds and so on"
                )
    if not runs:
        raise ValueError("no finished run to make a table of; see `kdsim run consensus --out`")
    return runs


def _setting(run: Run) -> Setting:
    shown = {name: str(run.experiment.get(name, HONEST)) for name in Setting._fields}
    return Setting(**shown)


def _rule(run: Run) -> str:
    """The way to a consensus; where runs say nothing of it, it is the mean, their default."""
    return str(run.experiment.get("aggregation", MEAN))


def table(runs: Runs, levels: bool) -> Iterator[str]:
    """Of each rule the accuracy in percent, or, but for the mean, by how much it is above that.

    What is the same in all rows is left out.
    """
    found = {rule for row in runs.values() for rule in row}
    rules = sorted(found, key=lambda rule: (rule != MEAN, rule))
    varying = [name for name in Setting._fields if len({getattr(one, name) for one in runs}) > 1]
    yield f"| {' | '.join([*varying, *rules])} |"
    yield "|" + " --- |" * (len(varying) + len(rules))
    for setting, row in sorted(runs.items(), key=lambda one: (one[0].liars != HONEST, one[0])):
        cells = [getattr(setting, name) for name in varying]
        cells += [cell(row, rule, levels) for rule in rules]
        yield f"| {' | '.join(cells)} |"


def cell(row: Mapping[str, Scores], rule: str, levels: bool) -> str:
    """Mean and standard deviation, or the paired difference to the mean and on how many seeds."""
    if rule not in row or not (levels or MEAN in row):
        return "–"
    if levels or rule == MEAN:
        return level(row[rule])
    return above(row[rule], row[MEAN])


def level(scores: Scores) -> str:
    """Mean and standard deviation in percent."""
    return spread([100 * share for share in scores.values()])


def above(first: Scores, second: Scores) -> str:
    """Points, their interval, and on how many of the seeds that both have."""
    seeds = sorted(first.keys() & second.keys())
    wins = sum(first[seed] > second[seed] for seed in seeds)
    one, other = ([scores[seed] for seed in seeds] for scores in (first, second))
    return points(one, other, f" {wins}/{len(seeds)}")


def known(found: Sequence[Run], root: Path | None) -> Mapping[Share, Mapping[str, Scores]]:
    """The accuracies where those who lie are left out, by rule and seed."""
    left: dict[Share, dict[str, dict[int, float]]] = {}
    for run in found:
        setting, rule, seed = _setting(run), _rule(run), run.experiment["seed"]
        if setting.liars == HONEST or rule not in KNOWN:
            continue
        seeds = left.setdefault(_share(setting), {}).setdefault(rule, {})
        if seed not in seeds:  # what they would have said does not matter
            seeds[seed] = _without_liars(run, root)
    return left


def _share(setting: Setting) -> Share:
    return setting._replace(liars=setting.liars.split(":")[0])


def _without_liars(run: Run, root: Path | None) -> float:
    given = {
        key: value for key, value in run.experiment.items() if key not in ("kind", "algorithm")
    }
    experiment = experiments.build("fed", run.experiment["algorithm"], given)
    *_, end = federated.run(WithoutLiars(**vars(experiment)), root)
    return float(end["metrics"]["accuracy"])


def against_known(runs: Runs, left: Mapping[Share, Mapping[str, Scores]]) -> Iterator[str]:
    """Of each lie the rule that stands it best, and how far above those who remain that is."""
    for share, rules in left.items():
        means = ", ".join(f"`{rule}` {level(own)}" for rule, own in rules.items())
        yield f"\n{' '.join(share)} left out: {means}\n"
        best = max(rules.values(), key=_mean)
        for setting, row in runs.items():
            if setting.liars != HONEST and _share(setting) == share:
                rule = max(row, key=lambda name: _mean(row[name]))
                gap = above(row[rule], best)
                yield f"| {setting.liars} | `{rule}` | {level(row[rule])} | {gap} |"


def _mean(scores: Scores) -> float:
    return fmean(scores.values())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--levels", action="store_true")
    parser.add_argument("--known", action="store_true")
    parser.add_argument("--data-root", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = run_folder.load(given.folder)
    try:
        runs = read(found)
    except ValueError as error:
        raise SystemExit(f"{given.folder}: {error}") from None
    print(*table(runs, given.levels), sep="\n")
    if given.known:
        print(*against_known(runs, known(found, given.data_root)), sep="\n")


if __name__ == "__main__":
    main()
