"""The tables of one-shot methods on docs/results.md: clients train once for all data-free servers.

    python -m benchmarks.one_shot runs.jsonl --settings    # those that are tried, seeds 100 and 101
    python -m benchmarks.one_shot runs.jsonl --choose      # which of them is best, by their mean
    python -m benchmarks.one_shot runs.jsonl --results     # with the best of each, seeds 0 to 4
    python -m benchmarks.one_shot runs.jsonl --page docs/results.md

What is in the file is not run again. Each number is that of `kdsim run` with the same settings, as
in the experiment `one-shot`, to the bit. Differences are paired by seed, with 95 % t intervals.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.tables import points, put
from fedkd.algorithms.coboosting import CoBoosting
from fedkd.algorithms.dense import DENSE
from fedkd.algorithms.dsfl import DSFL
from fedkd.algorithms.fedavg import FedAvg
from fedkd.algorithms.fedkt import FedKT
from fedkd.algorithms.local import Local
from fedkd.components.data_free.ensemble import Ensemble
from fedkd.core import Algorithm
from fedkd.data import datasets, federated_data, partition
from fedkd.data.federated_data import FederatedData
from fedkd.messages import Ledger, Received
from fedkd.rounds.evaluation import evaluate
from fedkd.rounds.round import Round, deploy_all, first_server, private_of
from fedkd.rounds.synchronous import simulate
from kdcore.rng import generator
from kdcore.training.loop import TrainingConfig

NETWORKS = BATCHES, GROUPS = "fedkd.models.batch_norm:CNN", "cnn"  # how these normalise
LOCAL = TrainingConfig("momentum", 0.05, epochs=20, batch_size=16)
TRIED, REPORTED = (100, 101), (0, 1, 2, 3, 4)
Done = dict[tuple[str, str], dict[int, dict[str, float]]]  # by way and setting, and by seed


def in_use(algorithm: Algorithm, network: str, seed: int) -> float:
    """The mean accuracy of clients with the models that they use after the round."""
    federation, current = dealt(network, seed), after(algorithm, network, seed)
    used = deploy_all(algorithm, federation.task, current, seed=seed).clients
    scores = evaluate(federation.task, used, federation.test, federation.label_counts)
    return float(scores.accuracy.mean())


def together(algorithm: Algorithm, network: str, seed: int) -> float:
    """The accuracy of all clients' models asked together, which is what a server conveys."""
    federation, sent = dealt(network, seed), trained(network, seed)
    modules = [federation.task.models[one.group].module(one.payload) for one in sent]
    x, y = (table[federation.test.rows] for table in (federation.test.x, federation.test.y))
    said = Ensemble.of(modules, federation.task.device).labels(x)
    return float((said == y).double().mean())


@dataclass(frozen=True)
class Way:
    """A way to learn in one round: the settings that are tried, by a name, and its control."""

    title: str
    settings: Mapping[str, Algorithm]
    control: str = ""
    network: str = BATCHES
    score: Callable[[Algorithm, str, int], float] = in_use


def rates(kind: type[DSFL] | type[DENSE], **how: Any) -> dict[str, Algorithm]:
    """Four rates of distillation."""
    return {
        f"{rate:g}": kind(LOCAL, TrainingConfig("momentum", rate, epochs=20, batch_size=32), **how)
        for rate in (0.005, 0.01, 0.05, 0.1)
    }


def noise(kind: type[DENSE]) -> dict[str, Algorithm]:
    """Four rates of distillation, for noise that is drawn."""
    drawn = TrainingConfig("adam", 0.001, epochs=30, batch_size=32)
    return rates(kind, generator=drawn, inputs="noise", width=16)


def made(
    kind: type[DENSE], generators: Sequence[float] = (0.001, 0.01), **how: Any
) -> dict[str, Algorithm]:
    """Two rates of distillation times those of the generator."""
    found: dict[str, Algorithm] = {}
    for rate in generators:
        own = TrainingConfig("adam", rate, epochs=30, batch_size=32)
        tried = rates(kind, generator=own, width=16, **how)
        found |= {f"{name}, generator {rate:g}": tried[name] for name in ("0.01", "0.05")}
    return found


def plain() -> dict[str, Algorithm]:
    """The setting of `dense` that its settings chose, without statistics: nothing is chosen."""
    name = "0.05, generator 0.01"
    return {name: made(DENSE, statistics=0.0)[name]}


def votes() -> dict[str, Algorithm]:
    """Two rates of students, for each of which a client trains twelve networks."""
    return {
        f"{rate:g}": FedKT(LOCAL, TrainingConfig("adam", rate, epochs=20, batch_size=32))
        for rate in (0.001, 0.003)
    }


WAYS = {
    "local": Way("`local`", {"": Local(LOCAL)}),
    "together": Way("all clients asked together", {"": DENSE(LOCAL)}, score=together),
    "fedavg": Way("`fedavg`", {"": FedAvg(LOCAL)}),
    "mean": Way("`dsfl`, plain mean", rates(DSFL, aggregation="sa")),
    "variance": Way("`dsfl`, by variance", rates(DSFL, aggregation="variance"), "mean"),
    "fedkt": Way("`fedkt`", votes()),
    "noise": Way("`dense`, noise", noise(DENSE)),
    "dense": Way("`dense`", made(DENSE), "noise"),
    "plain": Way("`dense`, no statistics", plain(), "dense"),
    "boosted noise": Way("`coboosting`, noise", noise(CoBoosting)),
    "coboosting": Way("`coboosting`", made(CoBoosting), "boosted noise"),
    "group local": Way("`local`", {"": Local(LOCAL)}, network=GROUPS),
    "group together": Way(
        "all clients asked together", {"": DENSE(LOCAL)}, network=GROUPS, score=together
    ),
    "group noise": Way("`dense`, noise", noise(DENSE), network=GROUPS),
    "group dense": Way("`dense`", made(DENSE, [0.01]), "group noise", GROUPS),
}


@cache
def dealt(network: str, seed: int) -> FederatedData:
    """Five clients of 500 digits, and 578 public ones without labels; 719 test."""
    data = datasets.load("digits")
    pools = federated_data.pools(data, private=500, public=578, validation=0, test=0, seed=seed)
    parts = partition.dirichlet(data.y[pools.private], 5, generator(seed, "partition"), alpha=0.3)
    return federated_data.federate(data, pools, parts, [network], seed=seed)


@cache
def trained(network: str, seed: int) -> list[Received]:
    """The models that clients of a data-free server send up, whatever it makes of them."""
    federation, algorithm = dealt(network, seed), DENSE(local=LOCAL)
    found = []
    for client in federation.clients:
        predict = federation.task.models[client.group].predict
        private = private_of(algorithm, client, seed, 1)
        _, upload = algorithm.client_update(predict, client.params, {}, private, None)
        found.append(Received(client.id, client.group, upload.payload, 1.0))
    return found


def after(algorithm: Algorithm, network: str, seed: int) -> Round:
    """The round that there is."""
    federation = dealt(network, seed)
    if not isinstance(algorithm, DENSE):
        (found,) = simulate(algorithm, federation.task, federation.clients, rounds=1, seed=seed)
        return found
    server = first_server(algorithm, federation.task, seed)
    server = algorithm.server_update(federation.task, server, trained(network, seed), None)
    return Round(1, server, tuple(federation.clients), (), {}, Ledger())


def read(path: Path) -> Done:
    """What was run."""
    found: Done = defaultdict(dict)
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        one = json.loads(line)
        found[one["way"], one["setting"]][one["seed"]] = one
    return found


def run(path: Path, names: Sequence[str], seeds: Sequence[int], chosen: bool) -> None:
    """Run what is missing, of all settings or of the best ones, each a line of the file."""
    for name, seed in ((name, seed) for name in names for seed in seeds):
        way, done = WAYS[name], read(path)
        for setting in [best(done, name)] if chosen else way.settings:
            if seed in done[name, setting]:
                continue
            start = time.process_time()
            accuracy = way.score(way.settings[setting], way.network, seed)
            found = {"accuracy": accuracy, "seconds": time.process_time() - start}
            line = json.dumps({"way": name, "setting": setting, "seed": seed, **found})
            with path.open("a", encoding="utf-8") as file:
                print(line, file=file)


def tried(done: Done, name: str) -> dict[str, float]:
    """The mean accuracy of each setting on the seeds that it is chosen by."""
    found = {}
    for setting in WAYS[name].settings:
        by_seed = done.get((name, setting), {})
        if not {*TRIED} <= by_seed.keys():
            raise SystemExit(f"{name}: setting {setting!r} lacks a seed; run --settings first")
        found[setting] = fmean(by_seed[seed]["accuracy"] for seed in TRIED)
    return found


def best(done: Done, name: str) -> str:
    """The setting with the best mean; the first of several, and the only one unmeasured."""
    if len(WAYS[name].settings) == 1:
        return next(iter(WAYS[name].settings))
    means = tried(done, name)
    return max(means, key=lambda setting: means[setting])


def reported(done: Done, name: str) -> list[float]:
    """The accuracy on each seed that counts, at the setting that was chosen."""
    by_seed = done.get((name, best(done, name)), {})
    if missing := [seed for seed in REPORTED if seed not in by_seed]:
        raise SystemExit(f"{name}: no result of seeds {missing}; run --results first")
    return [by_seed[seed]["accuracy"] for seed in REPORTED]


def table(done: Done, names: Sequence[str]) -> list[str]:
    """A line for each way: the setting, every seed, the mean, and the points above two others."""
    head = ["", "setting", *(f"seed {seed}" for seed in REPORTED), "mean"]
    head += ["minus `local`", "minus control"]
    lines = [head, ["---"] * len(head)]
    local = reported(done, names[0])
    for name in names:
        mine, control = reported(done, name), WAYS[name].control
        cells = [WAYS[name].title, best(done, name), *(f"{100 * value:.1f}" for value in mine)]
        cells += [f"{100 * fmean(mine):.1f}", "" if name == names[0] else points(mine, local)]
        lines.append([*cells, points(mine, reported(done, control)) if control else ""])
    return [f"| {' | '.join(line)} |" for line in lines]


def rewritten(text: str, done: Done) -> str:
    """The page with the tables of what was run, each between its mark and the next `end`."""
    for network in NETWORKS:
        local, *others = (name for name, way in WAYS.items() if way.network == network)
        begun = [name for name in others if (name, next(iter(WAYS[name].settings))) in done]
        names = [local, *begun]  # all others are held against it
        text = put(text, f"one-shot: {network}", table(done, names))
    return text


def main() -> None:
    """Run what is asked for, or print it, or put it on the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("ways", nargs="*", default=[*WAYS], metavar="way")
    for flag in ("settings", "choose", "results"):
        parser.add_argument(f"--{flag}", action="store_true")
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    if unknown := [name for name in given.ways if name not in WAYS]:
        parser.error(f"no way is called {unknown[0]!r}; choose of {', '.join(map(repr, WAYS))}")
    torch.set_num_threads(1)
    if given.settings:
        run(given.path, [n for n in given.ways if len(WAYS[n].settings) > 1], TRIED, False)
    if given.choose:
        for name in (n for n in given.ways if len(WAYS[n].settings) > 1):
            print(name, {k: round(100 * v, 1) for k, v in tried(read(given.path), name).items()})
    if given.results:
        run(given.path, given.ways, REPORTED, True)
    if given.page:
        text = given.page.read_text("utf-8")
        given.page.write_text(rewritten(text, read(given.path)), "utf-8")


if __name__ == "__main__":
    main()
