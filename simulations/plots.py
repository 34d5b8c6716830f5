"""Figures. Colours are Okabe and Ito's; markers and line styles differ too, so grey will do."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from simulations.tables import Result, summary

# https://jfly.uni-koeln.de/color/; grey is for `local`, and yellow is too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "kdsim",  # the same figure is the same file
    "text.parse_math": False,
}
ACCURACY = "accuracy, global test set (%)"
WIDTH = 7.4  # inches


class Look(NamedTuple):
    """How a method is drawn, in all figures."""

    colour: str
    marker: str
    line: Any


class _Curve(NamedTuple):
    """For each round, over seeds: accuracy in per cent, and traffic so far."""

    rounds: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    megabytes: np.ndarray


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """A colour, marker and line style for each method; `local` is grey."""
    others = [label for label in dict.fromkeys(labels) if label != "local"]
    found = {
        label: Look(COLOURS[i % 6], MARKERS[i % 11], LINES[i % 5]) for i, label in enumerate(others)
    }
    return {**found, "local": Look("#555555", "*", (0, (1, 1)))}


def drawings(group: Sequence[Result], look: Mapping[str, Look]) -> dict[str, Figure]:
    """The figures of results on the same data and protocol, as far as they hold what is drawn."""
    makers = (accuracy_per_round, accuracy_per_megabyte, client_spread, students, fidelity)
    with matplotlib.rc_context(STYLE):
        found = {make.__name__: make(group, look) for make in makers}
    return {name: figure for name, figure in found.items() if figure is not None}


def encode(figure: Figure, form: str) -> bytes:
    """The figure as a file: "svg", or "png" with 200 dots per inch."""
    out = BytesIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type")) if form == "svg" else None
    with matplotlib.rc_context(STYLE):
        figure.savefig(out, format=form, dpi=200, facecolor="white", metadata=metadata)
    return out.getvalue()


def accuracy_per_round(group: Sequence[Result], look: Mapping[str, Look]) -> Figure | None:
    """Mean line, and smallest-to-largest band over seeds, for each method."""
    curves = _curves(group)
    if not curves:
        return None
    figure, (axes,) = paper(group, max(4.0, 0.22 * len(curves)))
    for label, curve in curves.items():
        _line(axes, curve.rounds, curve, label, look[label])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set(xlabel="round", ylabel=ACCURACY)
    return with_legend(figure, axes)


def accuracy_per_megabyte(group: Sequence[Result], look: Mapping[str, Look]) -> Figure | None:
    """Accuracy over traffic so far; methods that send nothing are horizontal lines."""
    curves = _curves(group)
    if not any(curve.megabytes[-1] > 0 for curve in curves.values()):
        return None
    figure, (axes,) = paper(group, max(4.0, 0.22 * len(curves)))
    axes.set_xscale("log")
    for label, curve in curves.items():
        if curve.megabytes[-1] > 0:
            _line(axes, curve.megabytes, curve, label, look[label])
        else:
            text, colour = f"{label} (sends nothing)", look[label].colour
            axes.axhline(curve.mean[-1], color=colour, ls="--", label=text)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda x, _: ""))
    axes.set(xlabel="megabytes up and down, all clients (log scale)", ylabel=ACCURACY)
    return with_legend(figure, axes)


def client_spread(group: Sequence[Result], look: Mapping[str, Look]) -> Figure | None:
    """Each client's accuracy in the last round that says so; its marker is its architecture."""
    runs = {label: list(filter(None, map(_clients, same))) for label, same in by_label(group)}
    runs = {label: seeds for label, seeds in runs.items() if seeds}
    if not runs:
        return None
    found = [c for seeds in runs.values() for c in seeds]
    panels = {"accuracy": ACCURACY, "accuracy_local": "accuracy, own distribution (%)"}
    panels = {key: text for key, text in panels.items() if all(key in c for c in found)}
    names = sorted({name for c in found for name in c.get("group", ["model"])})
    markers = {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(names)}
    figure, axes = paper(group, 1.9 + 0.6 * len(runs), len(panels), sharex=True)
    for panel, (key, text) in zip(axes, panels.items(), strict=True):
        for place, (label, seeds) in enumerate(runs.items()):
            _strip(panel, place, seeds, key, look[label].colour, markers)
        panel.set_xlabel(text)
    _name_rows(axes, list(runs))
    if len(names) > 1:
        dots = [Line2D([], [], ls="", marker=m, color="#444444") for m in markers.values()]
        figure.legend(dots, names, loc="outside lower center", ncols=4)
    return figure


def students(group: Sequence[Result], look: Mapping[str, Look]) -> Figure | None:
    """Teacher, student with and without distillation: mean over seeds, sample deviation, value."""
    bars: dict[str, tuple[str, dict[str, Any]]] = {
        "accuracy_teacher": ("teacher", {"color": "#888888", "hatch": "//", "ec": "white"}),
        "accuracy": ("student with KD", {}),
        "accuracy_baseline": ("student without KD", {"color": "white", "ec": "#444444"}),
    }
    if not any("accuracy_baseline" in result.metrics for result in group):
        return None
    labels = dict(by_label(group))
    figure, (axes,) = paper(group, 1.3 + 0.75 * len(labels))
    for row, (metric, (text, style)) in enumerate(bars.items()):
        for place, (label, same) in enumerate(labels.items()):
            fill = {"color": look[label].colour, **style}
            _bar(axes, place + 0.27 * (row - 1), 0.25, same, metric, fill)
        axes.bar(0, 0, label=text, **{"color": "#444444", **style})
    axes.set_xlim(0, 122)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("accuracy on test nodes (%)")
    _name_rows([axes], list(labels))
    return with_legend(figure, axes, "outside lower center")


def fidelity(group: Sequence[Result], look: Mapping[str, Look]) -> Figure | None:
    """Agreement and calibration error of each method: mean, sample deviation, value."""
    titles = {"agreement": "agreement (%)", "calibration_error": "expected calibration error (%)"}
    shown = {m: text for m, text in titles.items() if any(m in r.metrics for r in group)}
    if not shown:
        return None
    labels = dict(by_label(group))
    figure, axes = paper(group, 1.2 + 0.36 * len(labels), len(shown))
    for panel, (metric, text) in zip(axes, shown.items(), strict=True):
        ends = [
            _bar(panel, place, 0.6, same, metric, {"color": look[label].colour})
            for place, (label, same) in enumerate(labels.items())
        ]
        panel.set_xlim(0, 1.45 * max([*ends, 1e-3]))
        panel.set_xticks([tick for tick in panel.get_xticks() if tick <= min(100, max(ends) * 1.3)])
        panel.set_xlabel(text)
    _name_rows(axes, list(labels))
    return figure


def by_label(group: Sequence[Result]) -> Iterable[tuple[str, list[Result]]]:
    """The runs of each method, which differ in their seeds."""
    for label in dict.fromkeys(result.label for result in group):
        yield label, [result for result in group if result.label == label]


def _curves(group: Sequence[Result]) -> dict[str, _Curve]:
    """Each method's curve, the best at the end first, so that the legend reads as the lines end."""
    found = {label: _curve(same) for label, same in by_label(group)}
    kept = [(label, curve) for label, curve in found.items() if len(curve.rounds)]
    return dict(sorted(kept, key=lambda item: -item[1].mean[-1]))


def _curve(same: Sequence[Result]) -> _Curve:
    """The rounds that all seeds have."""
    seeds = [
        {r["round"]: r for r in result.curve if "round" in r and r.get("accuracy") is not None}
        for result in same
    ]
    rounds = sorted(set.intersection(*map(set, seeds)))
    table = [[seed[i] for i in rounds] for seed in seeds]
    y = np.array([[100 * r["accuracy"] for r in row] for row in table], dtype=float)
    sent = [[r.get("bytes_up", 0) + r.get("bytes_down", 0) for r in row] for row in table]
    return _Curve(np.array(rounds), y.mean(0), y.min(0), y.max(0), np.mean(sent, axis=0) / 1e6)


def _line(axes: Axes, x: np.ndarray, curve: _Curve, label: str, look: Look) -> None:
    axes.fill_between(x, curve.low, curve.high, color=look.colour, alpha=0.15, lw=0)
    style = {"color": look.colour, "marker": look.marker, "ls": look.line, "mec": "white"}
    every = max(1, len(x) // 12)
    axes.plot(x, curve.mean, lw=1.6, ms=6, mew=0.5, markevery=every, label=label, **style)


def _clients(result: Result) -> Mapping[str, Any] | None:
    return next((r["clients"] for r in reversed(result.curve) if r.get("clients")), None)


def _strip(
    axes: Axes,
    place: int,
    seeds: Sequence[Mapping[str, Any]],
    key: str,
    colour: str,
    markers: Mapping[str, str],
) -> None:
    """One row of marks; a client has the same height in each row."""
    pooled = np.concatenate([np.asarray(c[key], dtype=float) for c in seeds]) * 100
    low, middle, high = np.nanpercentile(pooled, (25, 50, 75))
    axes.barh(place, high - low, 0.7, left=low, color=colour, alpha=0.18)
    axes.vlines(middle, place - 0.35, place + 0.35, color="#222222", lw=1.4)
    style = {"color": colour, "s": 400 / max(16, len(pooled) ** 0.8), "alpha": 0.75, "lw": 0}
    for clients in seeds:
        x = 100 * np.asarray(clients[key], dtype=float)
        y = place + np.linspace(-0.28, 0.28, len(x)) * (len(x) > 1)
        groups = np.array(clients.get("group", ["model"] * len(x)))
        for name in np.unique(groups):
            own = groups == name
            axes.scatter(x[own], y[own], marker=markers[name], rasterized=len(x) > 500, **style)


def _bar(
    axes: Axes, y: float, height: float, same: Sequence[Result], metric: str, style: dict[str, Any]
) -> float:
    """A bar in per cent with its deviation and value; returns where it ends."""
    cell = summary(result.metrics[metric] for result in same if metric in result.metrics)
    if cell is None:
        return 0.0
    mean, std = 100 * cell.mean, 100 * (cell.std or 0.0)
    axes.barh(y, mean, height, **style)
    if cell.std is not None:
        axes.errorbar(mean, y, xerr=std, color="black", capsize=2.5, lw=1)
    text = f"{mean:.1f}" + ("" if cell.std is None else f" ± {std:.1f}")
    axes.grid(visible=False)  # the values are written out
    place = {"textcoords": "offset points", "va": "center", "fontsize": 8.5}
    axes.annotate(text, (mean + std, y), (5, 0), **place)
    return mean + std


def paper(
    group: Sequence[Result],
    height: float,
    panels: int = 1,
    sharex: bool = False,
    sharey: bool = True,
    rows: int = 1,
) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels in each row, titled with data and protocol."""
    figure = Figure((WIDTH, height), layout="constrained")
    title = textwrap.fill(", ".join(filter(None, group[0].group[1:])), 78)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color="#444444")
    made = figure.subplots(rows, panels, sharex=sharex, sharey=sharey)
    return figure, list(np.ravel(made))


def _name_rows(panels: Sequence[Axes], labels: Sequence[str]) -> None:
    """Methods from top to bottom; their names at the left panel only."""
    panels[0].set_ylim(len(labels) - 0.4, -0.6)
    for panel in panels:
        panel.grid(visible=False, axis="y")
    panels[0].set_yticks(range(len(labels)), [textwrap.fill(n, 26) for n in labels])


def with_legend(figure: Figure, axes: Axes, place: str = "outside right upper") -> Figure:
    """The figure with a legend of what the axes show."""
    handles, names = axes.get_legend_handles_labels()
    columns = 3 if "center" in place else 1
    width = 24 if columns > 1 else 18
    wrapped = [textwrap.fill(name, width, break_long_words=False) for name in names]
    figure.legend(handles, wrapped, loc=place, ncols=columns, handlelength=3, fontsize=9)
    return figure
