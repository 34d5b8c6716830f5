"""Privacy against utility: a panel for each unit, since epsilons of two units say nothing together.

What is drawn is the epsilon that was spent, on a logarithmic axis; runs without noise are dashed
lines across.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from simulations.reporting.figures.common import (
    COLOURS,
    LINES,
    MARKERS,
    PAPER,
    STYLE,
    WIDE,
    Look,
    Sheet,
    paper,
    with_legend,
)
from simulations.reporting.figures.curves import axis, metric_of, named
from simulations.results.columns import FED, scale
from simulations.results.run_results import Result
from simulations.results.tables import Quantity, summary

START = "epsilon_"  # of the metric of an account: its unit and its relation come behind
UNITS = ("record", "client", "label")
ROOM = 1.6  # by which an axis of epsilons is longer than they are, to either side


class Point(NamedTuple):
    """Runs of one setting: epsilon, and the score over their seeds."""

    epsilon: float
    score: Quantity


def drawings(
    group: Sequence[Result], look: Mapping[str, Look], sheet: Sheet = WIDE
) -> dict[str, Figure]:
    """The figure of results on the same data and protocol, if some of them have an account."""
    with matplotlib.rc_context(STYLE):
        figure = utility(group, sheet)
    return {} if figure is None else {named("privacy_against_accuracy", group): figure}


def utility(group: Sequence[Result], sheet: Sheet = WIDE) -> Figure | None:
    """The score of each method over epsilon; the bars are 95% intervals over seeds."""
    units = {unit: of_unit(group, unit) for unit in UNITS}
    units = {unit: found for unit, found in units.items() if found}
    if not units:
        return None
    methods = list(dict.fromkeys(method for found in units.values() for method in found))
    figure, panels = paper(group, sheet, 3.4, len(units))
    without = unprotected(group)
    for panel, (unit, found) in zip(panels, units.items(), strict=True):
        for method, points in found.items():
            _line(panel, points, without.get(method), method, methods.index(method))
        _scale(panel, [point.epsilon for points in found.values() for point in points])
        panel.set_title(_titled(group, unit), fontsize=9, loc="left")
    panels[0].set_ylabel(axis(group))
    widest = max(range(len(panels)), key=lambda place: len(panels[place].get_lines()))
    return with_legend(figure, sheet, panels[widest], "outside lower center")


def of_unit(group: Sequence[Result], unit: str) -> dict[str, list[Point]]:
    """Each method's points under accounts of a unit, by epsilon; those that claim none left out."""
    runs: dict[str, dict[str, list[Result]]] = {}
    for result in group:
        if unit_of(result) == unit:
            runs.setdefault(result.method, {}).setdefault(result.label, []).append(result)
    return {
        method: sorted(_point(same, unit, metric_of(group)) for same in settings.values())
        for method, settings in runs.items()
    }


def unprotected(group: Sequence[Result]) -> dict[str, Quantity]:
    """Each method's score without noise."""
    runs: dict[str, list[Result]] = {}
    for result in group:
        if unit_of(result) is None and "delta" not in result.metrics:
            runs.setdefault(result.method, []).append(result)
    return {method: _score(same, metric_of(group)) for method, same in runs.items()}


def unit_of(result: Result) -> str | None:
    """Whose privacy a run has an account of; None where it has none, or claims no epsilon."""
    units = [unit for unit in UNITS if _metric(result, unit)]
    return units[-1] if units else None  # one of labels says what it comes to for the client, too


def _metric(result: Result, unit: str) -> str:
    """The name of the metric that has epsilon for a unit; empty where there is none."""
    return next((name for name in result.metrics if name.startswith(f"{START}{unit}_")), "")


def _point(same: Sequence[Result], unit: str, metric: str) -> Point:
    spent = [result.metrics[_metric(result, unit)] for result in same]
    return Point(sum(spent) / len(spent), _score(same, metric))


def _score(same: Sequence[Result], metric: str) -> Quantity:
    found = summary(scale(metric) * r.metrics[metric] for r in same if metric in r.metrics)
    return Quantity(float("nan")) if found is None else found


def _line(
    axes: Axes, points: Sequence[Point], without: Quantity | None, method: str, place: int
) -> None:
    colour = COLOURS[place % len(COLOURS)]
    x = [point.epsilon for point in points]
    y = [point.score.mean for point in points]
    low = [p.score.mean - (p.score.mean if p.score.low is None else p.score.low) for p in points]
    high = [(p.score.mean if p.score.high is None else p.score.high) - p.score.mean for p in points]
    style = {"ls": LINES[place % len(LINES)], "marker": MARKERS[place % len(MARKERS)]}
    axes.errorbar(x, y, [low, high], color=colour, mec=PAPER, capsize=2.5, label=method, **style)
    if without is not None:
        axes.axhline(without.mean, color=colour, ls="--", lw=1, label=f"{method}, no noise (inf)")
        if without.low is not None and without.high is not None:
            axes.axhspan(without.low, without.high, color=colour, alpha=0.08, lw=0)


def _scale(axes: Axes, epsilons: Sequence[float]) -> None:
    if min(epsilons) <= 0:  # so much noise that the account rounds to none: it has no logarithm
        axes.set_xlabel("epsilon")
        return
    axes.set_xlabel("epsilon (log scale)")
    axes.set_xscale("log")
    axes.set_xlim(min(epsilons) / ROOM, max(epsilons) * ROOM)
    axes.set_xticks(sorted({float(f"{epsilon:.2g}") for epsilon in epsilons}))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _titled(group: Sequence[Result], unit: str) -> str:
    """Unit, relation and delta: without them a figure means nothing."""
    own = [result for result in group if unit_of(result) == unit]
    titles = {column.metric: column.title for column in FED}
    said = dict.fromkeys(titles[_metric(result, unit)] for result in own)
    deltas = dict.fromkeys(f"{result.metrics['delta']:g}" for result in own)
    if unit == "label":  # randomised response needs none
        return ", ".join(said)
    return f"{', '.join(said)}, delta {', '.join(deltas)}"
