"""From the records of runs to tables: mean and spread over seeds, and paired differences."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, repeat
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student_t

from simulations.config.experiments import FedExperiment, GraphExperiment
from simulations.config.schema import flatten, leaves
from simulations.results import run_folder

# What may differ between two runs of one setting: the seed, who computed it, and where.
INCIDENTAL = {"seed", "engine", "chunk", "eval_every", "gpus_per_actor", "device", "threads"}
# Settings of the task, which methods share when they are compared; of a kind, as a method may have
# one of the same name: `rounds` are CPF's own.
TASK = {"fed": tuple(leaves(FedExperiment)), "graph": tuple(leaves(GraphExperiment))}
# How a federation goes about it, which may be just what is compared.
POLICY = {"clock.deadline", "clock.staleness", "clock.buffer", "clock.server_learning_rate"}
POLICY |= {"topology", "degree", "rewiring", "radius"}


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

    @property
    def group(self) -> tuple[str, str, str]:
        """Results are compared where this is the same."""
        return self.kind, self.data, self.protocol


class Quantity(NamedTuple):
    """Mean over n seeds, sample standard deviation, the 95% t-interval of the mean, the numbers.

    Of fewer than three seeds there is no interval: with one degree of freedom it is 12.7 standard
    errors wide to each side, and says nothing.
    """

    mean: float
    std: float | None = None
    n: int = 1
    low: float | None = None
    high: float | None = None
    values: tuple[float, ...] = ()


class Column(NamedTuple):
    """A metric; with `minus`, its difference to that run, paired by seed."""

    metric: str
    title: str
    unit: str = ""
    minus: str = ""


class Table(NamedTuple):
    """Runs of one kind on the same data and protocol; a method in each row."""

    kind: str
    data: str
    protocol: str
    columns: tuple[Column, ...]
    rows: dict[str, tuple[Quantity | None, ...]]
    seeds: dict[str, int]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """Kind, data and protocol, in a line."""
        return ", ".join(filter(None, (KINDS.get(self.kind, self.kind), self.data, self.protocol)))

    @property
    def header(self) -> list[str]:
        """Column titles, with units."""
        return ["Method", "Seeds", *(column.title for column in self.columns)]

    @property
    def body(self) -> list[list[str]]:
        """The cells as text, a list for each row."""
        return [
            [label, str(self.seeds[label]), *map(_text, cells, self.columns, repeat(n))]
            for (label, cells), n in zip(self.rows.items(), self.seeds.values(), strict=True)
        ]


KINDS = {"fed": "Federated distillation", "graph": "Graph distillation", "survey": "Recipe"}
DIVERGED = "diverged"
_SHARED = (
    Column(DIVERGED, "Diverged (share of seeds)"),
    Column("agreement", "Agreement (%)", "share"),
    Column("calibration_error", "Calibration error (%)", "share"),
)
FED = (
    Column("accuracy", "Accuracy, global test set (%)", "share"),
    Column("accuracy", "the same, minus local (points)", "share", minus="local"),
    Column("accuracy_median", "Accuracy, median client (%)", "share"),
    Column("accuracy_least", "Accuracy, least client (%)", "share"),
    Column("accuracy_local", "Accuracy, own distribution (%)", "share"),
    Column("accuracy_local", "the same, minus local (points)", "share", minus="local"),
    Column("accuracy_validation", "Accuracy, validation (%)", "share"),
    *_SHARED,
    Column("rounds_to_90", "Rounds to 90% of the best", "rounds"),
    Column("bytes_up", "Sent up", "bytes"),
    Column("bytes_down", "Sent down", "bytes"),
    Column("virtual_seconds", "Virtual time (s)", "seconds"),
    Column("consensus_distance", "Consensus distance"),
    Column("spectral_gap", "Spectral gap"),
    Column("diameter", "Diameter"),
)
GRAPH = (
    Column("accuracy", "Student (%)", "share"),
    Column("accuracy_baseline", "Student without KD (%)", "share"),
    Column("accuracy", "Gain over student without KD (points)", "share", minus="baseline"),
    Column("accuracy_teacher", "Teacher (%)", "share"),
    Column("accuracy_tran", "Student, observed nodes (%)", "share"),
    Column("accuracy_ind", "Student, unseen nodes (%)", "share"),
    Column("accuracy_prod", "Student, both mixed (%)", "share"),
    Column("accuracy_prod", "Gain, both mixed (points)", "share", minus="baseline"),
    Column("r2", "Student, R² (%)", "share"),
    Column("r2_baseline", "Student without KD, R² (%)", "share"),
    Column("r2", "Gain, R² (points)", "share", minus="baseline"),
    Column("r2_teacher", "Teacher, R² (%)", "share"),
    *_SHARED,
)
SPREAD = (
    "Mean ± sample standard deviation over seeds; differences, in percentage points, are "
    "paired by seed: their mean, with a 95% t-interval in brackets, or of one or two seeds the "
    "differences themselves. (n = ...): only so many seeds have a number."
)
NOTES = {
    "fed": "Test numbers are those of the last round, never the best over rounds; averages over "
    "clients. Agreement: with what most clients say. Bytes: all clients, all rounds; "
    "1 MB is 10^6 bytes; without ± they are the same for all seeds.",
    "graph": "Test numbers are those of the epoch chosen on validation nodes; of nodes unseen in "
    "training where the protocol is inductive. Agreement: with the teacher.",
}
FEW = 3  # seeds, from which on there is an interval
SHARES = ("accuracy", "agreement", "fidelity", "recall", "r2")  # metrics that are shares
MORE_NOTES = {
    "rounds_to_90": "Rounds to 90% of the best: the first evaluated round with nine tenths of the "
    "run's own best accuracy on the global test set; how fast, not how well.",
    "accuracy_least": "Median and least client: of the clients' accuracies on the global test set "
    "in the last round, of each run; means over seeds.",
    "virtual_seconds": "Virtual time: on a clock that counts steps and bytes, when the last round "
    "ended; no time of the machine is in it.",
    "consensus_distance": "Peers have no server: what is sent crosses every link once, and is told "
    "under Sent up. Consensus distance: the root mean square distance of a peer's upload to the "
    "mean one, in the last round. Spectral gap: 1 where one round of averaging makes all agree.",
}


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


def tables(runs: Iterable[Any]) -> list[Table]:
    """One table for each kind, data and protocol; methods as rows, `local` first."""
    return [table(list(group)) for _, group in groupby(results(runs), key=lambda r: r.group)]


def table(group: Sequence[Result]) -> Table:
    """The table of results that can be compared."""
    kind, data, protocol = group[0].group
    known = {"graph": GRAPH, "survey": ()}.get(kind, FED)
    names = dict.fromkeys(name for result in group for name in result.metrics)
    theirs = ("accuracy_baseline_", "accuracy_teacher_", "r2_baseline_", "r2_teacher_")
    idle = {n for n in names if n.startswith(theirs)}
    if not any(result.diverged for result in group):
        idle |= {DIVERGED}
    if "accuracy_ind" not in names:  # then the observed nodes are all there are
        idle |= {"accuracy_tran"}
    told = {column.metric for column in known}
    more = [Column(name, *_titled(name)) for name in names if name not in told]
    labels = list(dict.fromkeys(result.label for result in group))
    columns = {c: [summary(_values(group, n, c)) for n in labels] for c in (*known, *more)}
    shown = {c: cells for c, cells in columns.items() if any(cells) and c.metric not in idle}
    rows = {label: tuple(cells[i] for cells in shown.values()) for i, label in enumerate(labels)}
    seeds = {label: len({r.seed for r in group if r.label == label}) for label in labels}
    notes = [SPREAD, NOTES[kind]] if kind in NOTES else [SPREAD]
    if unlike := _differences(group):
        notes.append(f"Compare with care: these runs differ in {', '.join(unlike)}; see Settings.")
    notes += [text for metric, text in MORE_NOTES.items() if metric in names]
    notes += [*_divergences(group), *_noted(group), *_rejections(group)]
    return Table(kind, data, protocol, tuple(shown), rows, seeds, tuple(notes))


def summary(values: Iterable[float]) -> Quantity | None:
    """Mean, sample standard deviation and t-interval of one number per seed; None for no seed."""
    x = np.asarray(list(values), dtype=float)
    told = tuple(x.tolist())
    if len(x) < 2:
        return Quantity(told[0], values=told) if told else None
    mean, std = float(x.mean()), float(x.std(ddof=1))
    if len(x) < FEW:
        return Quantity(mean, std, len(x), values=told)
    half = float(student_t.ppf(0.975, len(x) - 1)) * std / math.sqrt(len(x))
    return Quantity(mean, std, len(x), mean - half, mean + half, told)


def rounds_to(share: float, curve: Iterable[Mapping[str, Any]]) -> int | None:
    """The first evaluated round with that share of the best accuracy; None where there is none."""
    scored = [r for r in curve if r.get("record") == "round" and r.get("accuracy") is not None]
    best: float = max((record["accuracy"] for record in scored), default=0.0)
    return next((r["round"] for r in scored if r["accuracy"] >= share * best), None)


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
                    *about, record.get("topology"), run_folder.predictions(run.path), why, said
                )
            curve = {}


def _of_clients(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The accuracy of the median and of the least client at the end, where each has a number."""
    found = next((r["clients"]["accuracy"] for r in reversed(rounds) if r.get("clients")), None)
    told: list[float] = found or []
    if len(told) < 2 or None in told:
        return {}
    return {"accuracy_median": statistics.median(told), "accuracy_least": float(min(told))}


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


def _titled(name: str) -> tuple[str, str]:
    """The title of a column that has none of its own, and its unit."""
    share = name.startswith(SHARES)
    return name.replace("_", " ").capitalize() + (" (%)" if share else ""), "share" * share


def _labelled(same: list[Result]) -> Iterable[tuple[str, Result]]:
    """Results of one method; where their settings differ, the label says in what."""
    keys = sorted({key for result in same for key in result.settings})
    differ = [key for key in keys if len({result.settings.get(key) for result in same}) > 1]
    last = [key.rpartition(".")[2] for key in differ]
    names = [key if last.count(end) > 1 else end for key, end in zip(differ, last, strict=True)]
    for result in same:
        told = zip(names, map(result.settings.get, differ), strict=True)
        said = [f"{name}={value}" for name, value in told if value is not None]
        yield f"{result.method} ({', '.join(said)})" if said else result.method, result


def _values(group: Sequence[Result], label: str, column: Column) -> Iterable[float]:
    """One number per seed: the metric, or its difference to the reference of the same seed."""
    for result in group:
        if result.label == label and column.metric in result.metrics:
            other = _reference(group, result, column) if column.minus else 0.0
            if other is not None:
                yield result.metrics[column.metric] - other


def _reference(group: Sequence[Result], result: Result, column: Column) -> float | None:
    if column.minus == "baseline":
        quantity, _, nodes = column.metric.partition("_")
        return result.metrics.get(f"{quantity}_baseline{nodes and '_'}{nodes}")
    if result.method == column.minus:
        return None
    same = [r for r in group if r.method == column.minus and r.seed == result.seed]
    same = [r for r in same if not _differences([r, result])]
    # Of several, the one that shares most settings of its training with this run.
    same.sort(key=lambda r: -len(r.settings.items() & result.settings.items()))
    return same[0].metrics.get(column.metric) if same else None


def _differences(group: Sequence[Result]) -> list[str]:
    """Settings of the task itself, not of a method, in which results of a kind differ."""
    names = [name for name in TASK.get(group[0].kind, ()) if name not in INCIDENTAL | POLICY]
    return [n for n in names if len({result.settings.get(n) for result in group}) > 1]


def _divergences(group: Sequence[Result]) -> list[str]:
    """Which runs diverged, so that what the table says of them are no accuracies."""
    lines = [
        f"Diverged: {r.label}, seed {r.seed}: {r.diverged}. The table counts what its records say."
        for r in group
        if r.diverged
    ]
    return _first(lines, "Diverged: {} more runs.")


def _noted(group: Sequence[Result]) -> list[str]:
    """What engines, algorithms and protocols had to say of runs; once what is said of all."""
    common = [n for n in group[0].notes if len(group) > 1 and all(n in r.notes for r in group)]
    found = [(r, note) for r in group for note in r.notes if note not in common]
    lines = [f"Note: {r.label}, seed {r.seed}: {note}." for r, note in found]
    return [f"Note: {note}." for note in common] + _first(lines, "Note: {} more.")


def _rejections(group: Sequence[Result]) -> list[str]:
    """Whose uploads were turned away, how often, and why; a line for each client and seed."""
    lines = []
    for result in group:
        found: dict[str, list[tuple[int, str]]] = {}
        for record in result.curve:
            for client, reason in record.get("rejected", {}).items():
                found.setdefault(client, []).append((record["round"], reason))
        start = f"Rejected: {result.label}, seed {result.seed}, client"
        for client, told in found.items():
            first, reason = told[0]
            lines.append(f"{start} {client}, {len(told)} uploads from round {first} on: {reason}")
    return _first(lines, "Rejected: {} more clients and seeds.")


def _first(lines: list[str], more: str, most: int = 10) -> list[str]:
    """The first lines, and how many more there are."""
    return [*lines[:most], *([more.format(len(lines) - most)] if lines[most:] else [])]


def _text(cell: Quantity | None, column: Column, seeds: int) -> str:
    if cell is None:
        return "–"
    if column.minus:
        text = " and ".join(f"{100 * value:+.1f}" for value in cell.values)
        if cell.low is not None and cell.high is not None:
            text = f"{100 * cell.mean:+.1f} ({100 * cell.low:+.1f} to {100 * cell.high:+.1f})"
    else:
        size, form, unit = _scale(cell.mean, column.unit)
        text = format(cell.mean / size, form)
        std = None if unit and not cell.std else cell.std  # bytes are often the same in all seeds
        text += ("" if std is None else f" ± {std / size:{form}}") + unit
    return text.replace("-", "−") + ("" if cell.n == seeds else f" (n = {cell.n})")


def _scale(mean: float, unit: str) -> tuple[float, str, str]:
    """Divide by this, write like that, and add the unit."""
    if unit == "share":
        return 0.01, ".1f", ""
    if unit != "bytes":
        return 1.0, ".1f" if unit in ("seconds", "rounds") else ".4g", ""
    sizes = ((1e9, ".2f", " GB"), (1e6, ".2f", " MB"), (1e3, ".2f", " kB"))
    return next((size for size in sizes if mean >= size[0]), (1.0, ".0f", " B"))
