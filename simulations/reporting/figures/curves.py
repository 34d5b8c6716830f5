"""Figures of what changes from round to round: small multiples where many curves would crowd."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from simulations.reporting.figures.common import (
    APART,
    FAINT,
    ON_TEST,
    PAPER,
    STYLE,
    WIDE,
    Look,
    Sheet,
    by_label,
    paper,
    with_legend,
    wrapped,
)
from simulations.results.columns import is_lower, primary, scale
from simulations.results.run_results import Result

TOGETHER = 6  # curves, at the most, that share one panel


class Curve(NamedTuple):
    """Over rounds: where a method is, mean over seeds; its value there; smallest and largest."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


Number = Callable[[Mapping[str, Any]], float | None]  # of a record


def drawings(
    group: Sequence[Result], look: Mapping[str, Look], sheet: Sheet = WIDE
) -> dict[str, Figure]:
    """The figures of results on the same data and protocol, as far as they hold what is drawn."""
    with matplotlib.rc_context(STYLE):
        makers = (accuracy_per_round, accuracy_per_megabyte)
        found = {named(make.__name__, group): make(group, look, sheet) for make in makers}
    return {name: figure for name, figure in found.items() if figure is not None}


def named(name: str, group: Sequence[Result]) -> str:
    """The name of a figure of accuracies; of another metric, with that in its place."""
    return name.replace("accuracy", metric_of(group))


def accuracy_per_round(
    group: Sequence[Result], look: Mapping[str, Look], sheet: Sheet
) -> Figure | None:
    """Mean line, and smallest-to-largest band over seeds, for each method."""
    found = scores(group, number)
    return trends(group, found, look, sheet, "round", axis(group)) if found else None


def accuracy_per_megabyte(
    group: Sequence[Result], look: Mapping[str, Look], sheet: Sheet
) -> Figure | None:
    """Accuracy over traffic so far; methods that send nothing are horizontal lines."""
    found = scores(group, _megabytes)
    if not any(curve.x[-1] > 0 for curve in found.values()):
        return None
    where = "MB up and down, all clients (log scale)"
    return trends(group, found, look, sheet, where, axis(group), logarithmic=True)


def number(record: Mapping[str, Any]) -> float:
    """That of a round."""
    return float(record["round"])


def metric_of(group: Sequence[Result]) -> str:
    """The metric that the runs are compared by."""
    return primary({name: value for result in group for name, value in result.metrics.items()})


def axis(group: Sequence[Result]) -> str:
    """What an axis of that metric is called."""
    return ON_TEST[metric_of(group)]


def scores(group: Sequence[Result], x: Number) -> dict[str, Curve]:
    """Each method's curve of that metric where a round was evaluated; shares are in per cent."""
    metric = metric_of(group)

    def score(record: Mapping[str, Any]) -> float | None:
        return None if record.get(metric) is None else scale(metric) * float(record[metric])

    return curves(group, x, score, is_lower(metric))


def _megabytes(record: Mapping[str, Any]) -> float:
    keys = "bytes_up", "bytes_down", "bytes_deployed"
    return float(sum(record.get(key, 0) for key in keys)) / 1e6


def curves(group: Sequence[Result], x: Number, y: Number, lower: bool = False) -> dict[str, Curve]:
    """Each method's curve, the best at the end first, so that the legend reads as the lines end.

    The best is the highest one, or with `lower` the lowest.
    """
    found = {label: _curve(same, x, y) for label, same in by_label(group)}
    kept = [(label, curve) for label, curve in found.items() if len(curve.x)]
    return dict(sorted(kept, key=lambda item: item[1].mean[-1] if lower else -item[1].mean[-1]))


def _curve(same: Sequence[Result], x: Number, y: Number) -> Curve:
    """The rounds that all seeds have."""
    seeds = [{r["round"]: (x(r), y(r)) for r in result.curve if "round" in r} for result in same]
    seeds = [{i: both for i, both in seed.items() if None not in both} for seed in seeds]
    rounds = sorted(set.intersection(*map(set, seeds)))
    table = np.array([[seed[i] for i in rounds] for seed in seeds], dtype=float)
    across, up = table.reshape(len(seeds), -1, 2).transpose(2, 0, 1)
    return Curve(across.mean(0), up.mean(0), up.min(0), up.max(0))


def trends(
    group: Sequence[Result],
    found: Mapping[str, Curve],
    look: Mapping[str, Look],
    sheet: Sheet,
    xlabel: str,
    ylabel: str,
    logarithmic: bool = False,
) -> Figure:
    """Curves in one panel; or, where they would crowd, small panels with the others in grey."""
    panes = _panes(group, found)
    large = len(panes) == 1
    columns = min(len(panes), sheet.columns)
    rows = -(-len(panes) // columns)
    height = (3.6 if sheet.narrow else 4.2) if large else 0.9 + 1.5 * rows
    figure, panels = paper(group, sheet, height, columns, True, rows=rows)
    for axes in panels[len(panes) :]:
        axes.set_axis_off()
    for axes, (title, labels) in zip(panels, panes.items(), strict=False):
        if not large:
            axes.set_title(wrapped(_ended(title, labels, found), 24), fontsize=8.5)
            axes.add_collection(_behind(found), autolim=True)
        shown = found if logarithmic else _beside({label: found[label] for label in labels})
        for label in labels:
            _line(axes, shown[label], label, look[label], logarithmic, 6 if large else 3.5)
    whole = all((curve.x == curve.x.round()).all() for curve in found.values())
    _scale_x(panels[0], logarithmic, large, whole)
    if large:
        panels[0].set(xlabel=xlabel, ylabel=ylabel)
        return with_legend(figure, sheet, panels[0])
    for axes in panels[: len(panes)]:  # the lowest of a column may not be in the last row
        axes.tick_params(labelsize=8, labelbottom=True)
    figure.supxlabel(xlabel, fontsize=10)
    figure.supylabel(ylabel, fontsize=10)
    return figure


def _panes(group: Sequence[Result], found: Mapping[str, Curve]) -> dict[str, list[str]]:
    """Which curves share a panel, by its name: few all, some none, many those of one method."""
    if len(found) <= TOGETHER:
        return {"": list(found)}
    if len(found) <= APART:
        return {label: [label] for label in found}
    methods = {result.label: result.method for result in group}
    panes: dict[str, list[str]] = {}
    for label in found:
        panes.setdefault(methods[label], []).append(label)
    return panes


def _beside(found: Mapping[str, Curve]) -> dict[str, Curve]:
    """Curves of one point each a little apart: at one place they hide each other's spread."""
    if any(len(curve.x) > 1 for curve in found.values()):
        return dict(found)
    first = -(len(found) - 1) / 2
    return {
        label: curve._replace(x=curve.x + 0.05 * (first + place))
        for place, (label, curve) in enumerate(found.items())
    }


def _ended(name: str, labels: Sequence[str], found: Mapping[str, Curve]) -> str:
    """The title of a small panel: what is in it, and where it ends."""
    ends = [found[label].mean[-1] for label in labels]
    if len(ends) == 1:
        return f"{name}: {ends[0]:.3g}"
    return f"{name}, {len(ends)} settings: {min(ends):.3g} to {max(ends):.3g}"


def _behind(found: Mapping[str, Curve]) -> LineCollection:
    """All curves, thin and grey."""
    return LineCollection(
        [np.column_stack([curve.x, curve.mean]) for curve in found.values() if curve.x[-1]],
        colors=FAINT,
        linewidths=0.6,
        zorder=1,
    )


def _line(axes: Axes, curve: Curve, label: str, look: Look, logarithmic: bool, size: float) -> None:
    if logarithmic and not curve.x[-1]:
        text = f"{label} (sends nothing)"
        axes.axhline(curve.mean[-1], color=look.colour, ls="--", label=text)
        return
    if len(curve.x) == 1:  # nothing to fill
        axes.vlines(curve.x, curve.low, curve.high, color=look.colour, lw=1.2)
    axes.fill_between(curve.x, curve.low, curve.high, color=look.colour, alpha=0.15, lw=0)
    style = {"color": look.colour, "marker": look.marker, "ls": look.line, "mec": PAPER}
    every = max(1, len(curve.x) // 12)
    axes.plot(curve.x, curve.mean, lw=1.6, ms=size, mew=0.5, markevery=every, label=label, **style)


def _scale_x(axes: Axes, logarithmic: bool, large: bool, whole: bool) -> None:
    if not logarithmic:
        ticks = {"steps": [1, 2, 5, 10], "integer": whole, "min_n_ticks": 1}
        axes.xaxis.set_major_locator(MaxNLocator(6 if large else 3, **ticks))
        return
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    fine = large and high < 300 * low
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if fine else (1,), numticks=4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
