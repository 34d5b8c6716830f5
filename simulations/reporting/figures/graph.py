"""Figures of graph distillation: where teacher and student are right, how sure, and how fast."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from simulations.reporting.figures.common import (
    COLOURS,
    FAINT,
    PAPER,
    SOFT,
    STYLE,
    WIDE,
    Look,
    Sheet,
    by_label,
    paper,
    with_legend,
    wrapped,
)
from simulations.reporting.figures.predictions import (
    WHO,
    Predictions,
    TestPredictions,
    by_who,
    calibration_error,
    octave,
    octave_name,
    reliable,
    shares,
)
from simulations.results.run_results import Result

STYLES: dict[
    str, dict[str, Any]
] = {  # of the three networks, in all figures; they differ in grey too
    "teacher": {"color": SOFT, "marker": "D", "ls": ":"},
    "baseline": {"color": COLOURS[1], "marker": "s", "ls": "--"},
    "student": {"color": COLOURS[0], "marker": "o", "ls": "-"},
}
METHODS = 6  # that have a panel


def drawings(
    group: Sequence[Result], look: Mapping[str, Look], sheet: Sheet = WIDE
) -> dict[str, Figure]:
    """The figures of results on the same data and protocol that have kept predictions."""
    kept = [result for result in group if result.predictions is not None]
    makers = (accuracy_per_class, accuracy_per_degree, reliability, accuracy_against_latency)
    with matplotlib.rc_context(STYLE):
        return {make.__name__: make(kept, look, sheet) for make in makers} if kept else {}


def accuracy_per_class(group: Sequence[Result], look: Mapping[str, Look], sheet: Sheet) -> Figure:
    """Accuracy on the test nodes of each class, of teacher and student."""
    return _per_group(group, sheet, lambda predictions: predictions["label"], str, "class")


def accuracy_per_degree(group: Sequence[Result], look: Mapping[str, Look], sheet: Sheet) -> Figure:
    """Accuracy on the test nodes of each degree; of whole graphs, of each size."""
    what = "nodes in a graph" if of_graphs(group) else "neighbours of a node"
    return _per_group(
        group, sheet, lambda predictions: octave(predictions["degree"]), octave_name, what
    )


def reliability(group: Sequence[Result], look: Mapping[str, Look], sheet: Sheet) -> Figure:
    """Accuracy against confidence, in bins of it; on the diagonal confidence is honest."""
    figure, panels = _panels(group, sheet, 3.6)
    for axes, (_, same) in panels:
        axes.plot([0, 100], [0, 100], color=FAINT, lw=1, zorder=1)
        for who, parts in by_who(same).items():
            x, y = reliable(parts)
            error = np.mean([calibration_error(part) for part in parts])
            text = f"{WHO[who]}, ECE {100 * error:.1f} %"
            axes.plot(100 * x, 100 * y, mec=PAPER, mew=0.5, ms=5, label=text, **STYLES[who])
        axes.set(xlabel="confidence (%)", ylabel="accuracy (%)", xlim=(0, 102), ylim=(0, 102))
        axes.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.2), handlelength=3)
    return figure


def accuracy_against_latency(
    group: Sequence[Result], look: Mapping[str, Look], sheet: Sheet
) -> Figure:
    """Test accuracy of teacher and student against the time that one answer takes."""
    labels = dict(by_label(group))
    height = 0.25 * len(labels) + (3.6 if sheet.narrow else 1.8)
    figure, (axes,) = paper(group, sheet, max(3.8, height))
    axes.set_xscale("log")
    fills = {"teacher": "none", "baseline": "bottom", "student": "full"}
    for label, same in labels.items():
        style: dict[str, Any] = {
            "color": look[label].colour,
            "marker": look[label].marker,
            "ms": 8,
            "mfcalt": PAPER,
        }
        for who, parts in by_who(same).items():
            x, y, error = _point(parts)
            axes.errorbar(x, y, yerr=error, lw=0.8, fillstyle=fills[who], **style)
        axes.plot([], [], ls="", label=label, **style)
    for who, fill in fills.items():
        style = {"color": SOFT, "marker": "o", "ms": 8, "mfcalt": PAPER, "fillstyle": fill}
        axes.plot([], [], ls="", label=WHO[who], **style)
    low, high = axes.get_xlim()
    axes.set_xlim(low / 2, high * 2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda x, _: ""))
    what = "graph" if of_graphs(group) else "node"
    axes.set(xlabel=f"latency of one {what} (ms, log scale)", ylabel=f"accuracy, test {what}s (%)")
    return with_legend(figure, sheet, axes)


def of_graphs(group: Iterable[Result]) -> bool:
    """Whether the examples are whole graphs."""
    return any("drawn.owner" in (result.predictions or {}) for result in group)


def _point(parts: Sequence[TestPredictions]) -> tuple[float, float, float]:
    """Median milliseconds of all calls; mean accuracy in per cent, and its deviation."""
    seconds = np.concatenate([part.seconds for part in parts])
    of = shares(parts, lambda predictions: np.zeros_like(predictions["label"]))[0]
    return 1e3 * float(np.median(seconds)), 100 * of.mean, 100 * of.std


def _per_group(
    group: Sequence[Result],
    sheet: Sheet,
    groups: Callable[[Predictions], np.ndarray],
    name: Callable[[int], str],
    what: str,
) -> Figure:
    """A panel for each method: accuracy on each group of nodes, side by side for the three."""
    figure, panels = _panels(group, sheet, 2.3)
    tested = "test graphs" if of_graphs(group) else "test nodes"
    for axes, (_, same) in panels:
        found = {who: shares(parts, groups) for who, parts in by_who(same).items()}
        names = sorted({key for each in found.values() for key in each})
        shifts = (-0.22, 0, 0.22) if len(found) > 1 else (0,)
        for shift, (who, each) in zip(shifts, found.items(), strict=False):
            x = [names.index(key) + shift for key in each]
            y, error = (100 * np.array([s[i] for s in each.values()]) for i in (0, 1))
            style: dict[str, Any] = {**STYLES[who], "ls": "", "ms": 5, "mec": PAPER, "mew": 0.5}
            axes.errorbar(x, y, yerr=error, lw=1, label=WHO[who], **style)
        count = next(iter(found.values()))
        every = -(-len(names) // 10)
        labels = [f"{name(key)}\n({count[key].nodes:.0f})" for key in names]
        axes.set_xticks(range(0, len(names), every), labels[::every], fontsize=7)
        axes.set(xlabel=f"{what} (below: {tested})", ylabel="accuracy (%)", ylim=(-3, 103))
        axes.grid(visible=False, axis="x")
    return with_legend(figure, sheet, panels[0][0], "outside lower center")


def _panels(
    group: Sequence[Result], sheet: Sheet, height: float
) -> tuple[Figure, list[tuple[Axes, tuple[str, list[Result]]]]]:
    """Panels for the first methods, two in a row, each with its name."""
    labels = list(islice(by_label(group), METHODS))
    columns = 1 if sheet.narrow else min(2, len(labels))
    rows = -(-len(labels) // columns)
    figure, axes = paper(group, sheet, 1.0 + height * rows, columns, rows=rows, sharey=False)
    for panel in axes[len(labels) :]:
        panel.set_axis_off()
    for panel, (label, _) in zip(axes, labels, strict=False):
        panel.set_title(wrapped(label, 40), fontsize=9)
    return figure, list(zip(axes, labels, strict=False))
