"""A finished run as a result: its numbers at the end, its curve, what its records say in words."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from simulations.config.schema import flatten
from simulations.results import run_folder
from simulations.results.columns import DIVERGED, is_lower, primary

# What may differ between two runs of one setting: the seed, who computed it, and where.
INCIDENTAL = {"seed", "engine", "chunk", "eval_every", "gpus_per_actor", "device", "threads"}


class Result(NamedTuple):
    """A finished run with one seed.

    Attributes:
        kind, data, protocol, method, seed: what was run.
        metrics: the test numbers at the end; shares, not per cent.
        curve: the records of its rounds or epochs.
        settings: the experiment as flat names and values, without seed and machine.
        label: the method, and the settings that tell it from others of the same name.
        topology: name, links and positions of peers without a server.
        predictions: what pictures of a graph run are drawn from, see
            `graphkd.evaluation.predictions`.
        diverged: why its numbers mean nothing, or nothing where they do.
        notes: what else its records say in words.
        dealt: of a graph that was dealt out, who holds which node, and labels by client;
            of whole graphs labels alone, and that they are graphs.
    """

    kind: str
    data: str
    protocol: str
    method: str
    seed: int
    metrics: Mapping[str, float]
    curve: Sequence[Mapping[str, Any]]
    settings: Mapping[str, str]
    label: str
    topology: Mapping[str, Any] | None = None
    predictions: Mapping[str, np.ndarray] | None = None
    diverged: str = ""
    notes: tuple[str, ...] = ()
    dealt: Mapping[str, Any] | None = None

    @property
    def group(self) -> tuple[str, str, str]:
        """Results are compared where this is the same."""
        return self.kind, self.data, self.protocol


def results(runs: Iterable[Any]) -> list[Result]:
    """The finished runs; experiment and seed twice the same count once."""
    found = {}
    for run in runs:
        for result in _finished(run):
            found[(*result.group, result.method, *result.settings.items(), result.seed)] = result
    return labelled(found.values())


def labelled(found: Iterable[Result]) -> list[Result]:
    """The results in the order of a report, `local` first; labels tell settings apart."""
    ordered = sorted(found, key=lambda r: (r.group, r.method != "local", r.method, r.seed))
    return [
        result._replace(label=label)
        for _, same in groupby(ordered, key=lambda r: (r.group, r.method))
        for label, result in _labelled(list(same))
    ]


def rounds_to(share: float, curve: Iterable[Mapping[str, Any]]) -> int | None:
    """The first evaluated round with that share of the best accuracy; None where there is none.

    Of a metric of which less is better: the first with no more than the best over that share.
    """
    rounds = [r for r in curve if r.get("record") == "round"]
    scored = [(r["round"], r[name]) for r in rounds if r.get(name := primary(r)) is not None]
    if any(is_lower(primary(r)) for r in rounds):
        least: float = min((value for _, value in scored), default=0.0)
        return next((index for index, value in scored if value <= least / share), None)
    best: float = max((value for _, value in scored), default=0.0)
    return next((index for index, value in scored if value >= share * best), None)


def _finished(run: Any) -> Iterable[Result]:
    """A result for each `run` record, with the rounds or epochs before it."""
    given = {k: v for k, v in flatten(run.experiment).items() if k not in INCIDENTAL}
    settings = {k: v if isinstance(v, str) else json.dumps(v) for k, v in sorted(given.items())}
    curve: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for record in run.records:
        what = record.get("record")
        if what in ("round", "epoch"):  # the later one counts where a resumed run wrote twice
            curve[what, record.get("phase"), record[what]] = record
        elif what == "run":
            kind, data, protocol, method = (str(record.get(key, "")) for key in Result._fields[:4])
            numbers = {
                k: float(v) for k, v in record["metrics"].items() if isinstance(v, int | float)
            }
            seed, rounds = int(record.get("seed", 0)), tuple(curve.values())
            if (reached := rounds_to(0.9, rounds)) is not None:
                numbers["rounds_to_90"] = reached
            numbers = _of_clients(rounds) | numbers
            why, said = _diverged((*rounds, record)), _remarks((*rounds, record))
            arms = _arms(numbers) if kind == "survey" else {method: numbers}
            for who, own in arms.items():
                own |= {DIVERGED: float(bool(why))} if kind != "survey" else {}
                about = (kind, data, protocol, who, seed, own, rounds, settings, who)
                yield Result(
                    *(*about, record.get("topology"), run_folder.predictions(run.path), why, said),
                    dealt=record.get("dealt"),
                )
            curve = {}


def _of_clients(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The accuracy of the median and of the least client at the end, where each has a number.

    Of a metric of which less is better, that of the client with the most.
    """
    last: Mapping[str, Any] = next((r["clients"] for r in reversed(rounds) if r.get("clients")), {})
    metric = primary(last)
    found: list[float] = last.get(metric) or []
    if len(found) < 2 or None in found:
        return {}
    name, worst = ("most", max) if is_lower(metric) else ("least", min)
    return {f"{metric}_median": statistics.median(found), f"{metric}_{name}": float(worst(found))}


def _diverged(records: Iterable[Mapping[str, Any]]) -> str:
    """What the records say of a divergence, at first; nothing where there was none."""
    found = next((r[DIVERGED] for r in records if r.get(DIVERGED)), "")
    return found if isinstance(found, str) else "it is recorded as diverged"


def _remarks(records: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The notes in records, each once."""
    return tuple(dict.fromkeys(str(note) for r in records for note in r.get("notes", ())))


def _arms(numbers: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The numbers of a recipe by whose they are: `accuracy_teacher` is the teacher's accuracy."""
    found: dict[str, dict[str, float]] = {}
    for name, value in numbers.items():
        inside = [n for n in numbers if name.startswith(f"{n}_")]
        quantity = min(inside, key=len, default=name)
        arm = name.removeprefix(quantity).strip("_").replace("_", " ") or "taught"
        found.setdefault(arm, {})[quantity] = value
    return found


def _labelled(same: list[Result]) -> Iterable[tuple[str, Result]]:
    """Results of one method; where their settings differ, the label says in what."""
    keys = sorted({key for result in same for key in result.settings})
    differ = [key for key in keys if len({result.settings.get(key) for result in same}) > 1]
    last = [key.rpartition(".")[2] for key in differ]
    names = [key if last.count(end) > 1 else end for key, end in zip(differ, last, strict=True)]
    for result in same:
        accuracies = zip(names, map(result.settings.get, differ), strict=True)
        said = [f"{name}={value}" for name, value in accuracies if value is not None]
        yield f"{result.method} ({', '.join(said)})" if said else result.method, result
