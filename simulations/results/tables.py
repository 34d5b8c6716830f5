"""From the records of runs to tables: mean and spread over seeds, and paired differences."""

import math
from collections.abc import Iterable, Sequence
from itertools import groupby, repeat
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student_t

from simulations.config.experiments import FedExperiment, GraphExperiment
from simulations.config.schema import leaves
from simulations.results.columns import (
    DIVERGED,
    FED,
    GRAPH,
    KINDS,
    MORE_NOTES,
    NOTES,
    PRIMARY,
    SPREAD,
    Column,
    figure,
    primary,
    scale,
    titled,
)
from simulations.results.run_results import INCIDENTAL, Result, results

# Settings of the task, which methods share when they are compared; of a kind, as a method may have
# one of the same name: `rounds` are CPF's own.
TASK = {"fed": tuple(leaves(FedExperiment)), "graph": tuple(leaves(GraphExperiment))}
# How a federation goes about it, which may be just what is compared.
POLICY = {"clock.deadline", "clock.staleness", "clock.buffer", "clock.server_learning_rate"}
POLICY |= {"topology", "degree", "rewiring", "radius"}
POLICY |= {"epsilon", "privacy_unit", "clip_norm"}


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
            [label, str(n), *map(_text, self._meant(cells), self.columns, repeat(n))]
            for (label, cells), n in zip(self.rows.items(), self.seeds.values(), strict=True)
        ]

    def _meant(self, cells: Sequence[Quantity | None]) -> Iterable[Quantity | None]:
        """The cells; of a method all of whose seeds diverged no shares, which mean nothing."""
        metrics = [column.metric for column in self.columns]
        lost = cells[metrics.index(DIVERGED)] if DIVERGED in metrics else None
        for cell, column in zip(cells, self.columns, strict=True):
            yield None if lost and lost.mean == 1.0 and column.unit == "share" else cell


FEW = 3  # seeds, from which on there is an interval


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
    for quantity in PRIMARY:  # what a run says of its worst client is a column of its own
        idle |= {f"{quantity}_{end}" for end in ("min", "max")} if kind == "fed" else set()
    for quantity in ("accuracy", "r2"):
        if f"{quantity}_ind" not in names:  # then the observed nodes are all there are
            idle |= {f"{quantity}_tran"}
    given = {column.metric for column in known}
    more = [Column(name, *titled(name)) for name in names if name not in given]
    labels = list(dict.fromkeys(result.label for result in group))
    columns = {c: [summary(_values(group, n, c)) for n in labels] for c in (*known, *more)}
    shown = {c: cells for c, cells in columns.items() if any(cells) and c.metric not in idle}
    rows = {label: tuple(cells[i] for cells in shown.values()) for i, label in enumerate(labels)}
    seeds = {label: len({r.seed for r in group if r.label == label}) for label in labels}
    points = scale(primary(names)) != 1
    spread = SPREAD if points or kind != "fed" else SPREAD.replace(", in percentage points,", "")
    notes = [spread, NOTES[kind]] if kind in NOTES else [spread]
    if unlike := _differences(group):
        notes.append(f"Compare with care: these runs differ in {', '.join(unlike)}; see Settings.")
    notes += [text for metric, text in MORE_NOTES.items() if metric in names and kind == "fed"]
    notes += [*_divergences(group), *_noted(group), *_rejections(group)]
    return Table(kind, data, protocol, tuple(shown), rows, seeds, tuple(notes))


def summary(values: Iterable[float]) -> Quantity | None:
    """Mean, sample standard deviation and t-interval of one number per seed; None for no seed."""
    x = np.asarray(list(values), dtype=float)
    numbers = tuple(x.tolist())
    if len(x) < 2:
        return Quantity(numbers[0], values=numbers) if numbers else None
    mean, std = float(x.mean()), float(x.std(ddof=1))
    if len(x) < FEW:
        return Quantity(mean, std, len(x), values=numbers)
    half = float(student_t.ppf(0.975, len(x) - 1)) * std / math.sqrt(len(x))
    return Quantity(mean, std, len(x), mean - half, mean + half, numbers)


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
        f"Diverged: {r.label}, seed {r.seed}: {r.diverged}. Means count what its records say; a "
        "dash is where all seeds diverged."
        for r in group
        if r.diverged
    ]
    return _first(lines, "Diverged: {} more runs.")


def _noted(group: Sequence[Result]) -> list[str]:
    """What engines, algorithms and protocols had to say of runs; once what is said of all."""
    said: dict[str, list[Result]] = {}
    for result in group:
        for note in result.notes:
            said.setdefault(note, []).append(result)
    common = [note for note, own in said.items() if len(own) == len(group) > 1]
    lines = [f"Note: {_whose(own, group)}: {n}." for n, own in said.items() if n not in common]
    return [f"Note: {note}." for note in common] + _first(lines, "Note: {} more.")


def _whose(own: Sequence[Result], group: Sequence[Result]) -> str:
    """Which runs: `fedmd, seed 0`; of all methods with some seeds, these alone."""
    seeds = dict.fromkeys(result.seed for result in own)
    if len(own) > len(seeds) and len(own) == sum(result.seed in seeds for result in group):
        return f"seed {', '.join(map(str, seeds))}"
    return "; ".join(f"{result.label}, seed {result.seed}" for result in own)


def _rejections(group: Sequence[Result]) -> list[str]:
    """Whose uploads were turned away, how often, and why; a line for each client and seed."""
    lines = []
    for result in group:
        found: dict[str, list[tuple[int, str]]] = {}
        for record in result.curve:
            for client, reason in record.get("rejected", {}).items():
                found.setdefault(client, []).append((record["round"], reason))
        start = f"Rejected: {result.label}, seed {result.seed}, client"
        for client, rejected in found.items():
            first, reason = rejected[0]
            lines.append(
                f"{start} {client}, {len(rejected)} uploads from round {first} on: {reason}"
            )
    return _first(lines, "Rejected: {} more clients and seeds.")


def _first(lines: list[str], more: str, most: int = 10) -> list[str]:
    """The first lines, and how many more there are."""
    return [*lines[:most], *([more.format(len(lines) - most)] if lines[most:] else [])]


def _text(cell: Quantity | None, column: Column, seeds: int) -> str:
    if cell is None:
        return "–"
    if column.minus:
        times, form = (100, "+.1f") if column.unit == "share" else (1, "+.3g")
        text = " and ".join(figure(times * value, form) for value in cell.values)
        if cell.low is not None and cell.high is not None:
            mean, low, high = (figure(times * v, form) for v in (cell.mean, cell.low, cell.high))
            text = f"{mean} ({low} to {high})"
    else:
        size, form, unit = _scale(cell.mean, column.unit)
        text = figure(cell.mean / size, form)
        same = column.unit in ("bytes", "constant") and not cell.std  # often so in all seeds
        std = None if same else cell.std
        text += ("" if std is None else f" ± {figure(std / size, form)}") + unit
    return text.replace("-", "−") + ("" if cell.n == seeds else f" (n = {cell.n})")


def in_bytes(count: float) -> str:
    """A number of bytes as tables write it: 21500 is "21.50 kB"."""
    size, form, unit = _scale(count, "bytes")
    return figure(count / size, form) + unit


def _scale(mean: float, unit: str) -> tuple[float, str, str]:
    """Divide by this, write like that, and add the unit."""
    if unit == "share":
        return 0.01, ".1f", ""
    if unit != "bytes":
        return 1.0, ".1f" if unit in ("seconds", "rounds") else ".4g", ""
    sizes = ((1e9, ".2f", " GB"), (1e6, ".2f", " MB"), (1e3, ".2f", " kB"))
    return next((size for size in sizes if mean >= size[0]), (1.0, ".0f", " B"))
