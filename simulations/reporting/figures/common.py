"""Figures. Colours are Okabe and Ito's; markers and line styles differ too, so grey will do.

Each figure is drawn for a `Sheet`: a wide one, and a narrow one for telephones. As SVG it follows
the reader's choice of light or dark; see `encode`.
"""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Figure  # pages, which only pass them on, name it from here
from matplotlib.lines import Line2D

from simulations.results.columns import PRIMARY, primary, scale
from simulations.results.run_results import Result
from simulations.results.tables import summary

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType  # which older versions have not

# https://jfly.uni-koeln.de/color/; grey is for `local`, and yellow is too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
# What is drawn in these is drawn in the second of each pair where the reader's screen is dark.
INK, SOFT, FAINT, GRID, PAPER = "#1a1a1a", "#555555", "#bbbbbb", "#dddddd", "#ffffff"
DARK = {INK: "#e6e6e6", SOFT: "#b0b0b0", FAINT: "#5c5c5c", GRID: "#383838", PAPER: "#161616"}
STYLE: "dict[RcKeyType, Any]" = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.facecolor": PAPER,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "kdsim",  # the same figure is the same file
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}
# What models are compared by, on an axis: on all test examples, and on a client's own.
ON_TEST = {
    metric: f"{title if metric == 'rmse' else title.lower()}, global test set{' (%)' * bool(unit)}"
    for metric, (title, unit) in PRIMARY.items()
}
OWN = {m: text.replace("global test set", "own distribution") for m, text in ON_TEST.items()}
APART = 24  # settings, at the most, that have a panel or a row each


Place = Literal["outside right upper", "outside lower center"]  # of a legend


class Sheet(NamedTuple):
    """What a figure is drawn on: its width in inches, and how many small panels fit beside."""

    width: float
    columns: int

    @property
    def narrow(self) -> bool:
        """Whether large panels stand below each other, and legends below all."""
        return self.columns < 3


WIDE, NARROW = Sheet(9.0, 5), Sheet(3.75, 2)


class Look(NamedTuple):
    """How a method is drawn, in all figures."""

    colour: str
    marker: str
    line: Any


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """A colour, marker and line style for each method; `local` is grey."""
    others = [label for label in dict.fromkeys(labels) if label != "local"]
    found = {
        label: Look(COLOURS[i % 6], MARKERS[i % 11], LINES[i % 5]) for i, label in enumerate(others)
    }
    return {**found, "local": Look(SOFT, "*", (0, (1, 1)))}


def drawings(
    group: Sequence[Result], look: Mapping[str, Look], sheet: Sheet = WIDE
) -> dict[str, Figure]:
    """The figures of results on the same data and protocol, as far as they hold what is drawn."""
    if len({result.label for result in group}) > APART:  # a row for each would be too many
        return {}
    with matplotlib.rc_context(STYLE):
        makers = (client_spread, students, fidelity)
        found = {make.__name__: make(group, look, sheet) for make in makers}
    return {name: figure for name, figure in found.items() if figure is not None}


def encode(figure: Figure, form: str) -> bytes:
    """The figure as a file: "png" with 200 dots per inch, or "svg", which is dark on demand."""
    out = BytesIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type")) if form == "svg" else None
    with matplotlib.rc_context(STYLE):
        if figure.get_layout_engine() is not None:  # once is enough, and is what takes long
            figure.draw_without_rendering()
            figure.set_layout_engine(None)
        figure.savefig(out, format=form, dpi=200, facecolor=PAPER, metadata=metadata)
    return _both_ways(out.getvalue().decode()).encode() if form == "svg" else out.getvalue()


def _both_ways(picture: str) -> str:
    """An SVG with its colours as variables, that have a second value on a dark screen."""
    names = {light: f"--c{i}" for i, light in enumerate(DARK)}
    light = ";".join(f"{name}:{colour}" for colour, name in names.items())
    dark = ";".join(f"{name}:{DARK[colour]}" for colour, name in names.items())
    style = f"<style>svg{{{light}}} @media (prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    for colour, name in names.items():
        picture = re.sub(rf"(fill|stroke): {colour}\b", rf"\1: var({name})", picture)
    return re.sub(r"(<svg\b[^>]*>)", lambda found: found[1] + style, picture, count=1)


def client_spread(group: Sequence[Result], look: Mapping[str, Look], sheet: Sheet) -> Figure | None:
    """Each client's accuracy in the last round that says so; its marker is its architecture."""
    runs = {label: list(filter(None, map(_clients, same))) for label, same in by_label(group)}
    runs = {label: seeds for label, seeds in runs.items() if seeds}
    if not runs:
        return None
    found = [c for seeds in runs.values() for c in seeds]
    metric = primary(found[0])
    panels = {metric: ON_TEST[metric], f"{metric}_local": OWN[metric]}
    panels = {key: text for key, text in panels.items() if all(key in c for c in found)}
    names = sorted({name for c in found for name in c.get("group", ["model"])})
    distinct = 1 < len(names) <= len(MARKERS)  # beyond that two would share a marker
    markers = dict(zip(names, MARKERS if distinct else MARKERS[:1] * len(names), strict=False))
    figure, axes = paper(group, sheet, 1.9 + 0.6 * len(runs), len(panels), sharex=True)
    for panel, (key, text) in zip(axes, panels.items(), strict=True):
        for place, (label, seeds) in enumerate(runs.items()):
            _strip(panel, place, seeds, key, look[label].colour, markers)
        panel.set_xlabel(text)
    name_rows(axes, list(runs), sheet)
    if distinct:
        dots = [Line2D([], [], ls="", marker=m, color=SOFT) for m in markers.values()]
        labels = [wrapped(name, 18) for name in names]
        _outside(figure, dots, labels, "outside lower center", 2 if sheet.narrow else 4)
    return figure


def students(group: Sequence[Result], look: Mapping[str, Look], sheet: Sheet) -> Figure | None:
    """Teacher, student with and without distillation: mean over seeds, sample deviation, value."""
    known = {name for result in group for name in result.metrics}
    axis = {"accuracy": "accuracy on test nodes (%)", "auc": "AUC of test links (%)"}
    by = next((name for name in axis if f"{name}_baseline" in known), None)
    if by is None:
        return None
    bars: dict[str, tuple[str, dict[str, Any]]] = {
        f"{by}_teacher": ("teacher", {"color": "#888888", "hatch": "//", "ec": PAPER}),
        by: ("student with KD", {}),
        f"{by}_baseline": ("student without KD", {"color": PAPER, "ec": SOFT}),
    }
    labels = dict(by_label(group))
    figure, (axes,) = paper(group, sheet, 1.3 + 0.75 * len(labels))
    for row, (metric, (text, style)) in enumerate(bars.items()):
        for place, (label, same) in enumerate(labels.items()):
            fill = {"color": look[label].colour, **style}
            _bar(axes, place + 0.27 * (row - 1), 0.25, same, metric, fill)
        axes.bar(0, 0, label=text, **{"color": SOFT, **style})
    axes.set_xlim(0, 145 if sheet.narrow else 118)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel(axis[by])
    name_rows([axes], list(labels), sheet)
    return with_legend(figure, sheet, axes, "outside lower center")


def fidelity(group: Sequence[Result], look: Mapping[str, Look], sheet: Sheet) -> Figure | None:
    """Agreement and calibration error of each method: mean, sample deviation, value."""
    titles = {"agreement": "agreement (%)", "calibration_error": "expected calibration error (%)"}
    shown = {m: text for m, text in titles.items() if any(m in r.metrics for r in group)}
    if not shown:
        return None
    labels = dict(by_label(group))
    figure, axes = paper(group, sheet, 1.2 + 0.36 * len(labels), len(shown))
    for panel, (metric, text) in zip(axes, shown.items(), strict=True):
        ends = [
            _bar(panel, place, 0.6, same, metric, {"color": look[label].colour})
            for place, (label, same) in enumerate(labels.items())
        ]
        panel.set_xlim(0, (1.75 if sheet.narrow else 1.35) * max([*ends, 1e-3]))
        panel.set_xticks([tick for tick in panel.get_xticks() if tick <= min(100, max(ends) * 1.3)])
        panel.set_xlabel(text)
    name_rows(axes, list(labels), sheet)
    return figure


def by_label(group: Sequence[Result]) -> Iterable[tuple[str, list[Result]]]:
    """The runs of each method, which differ in their seeds."""
    for label in dict.fromkeys(result.label for result in group):
        yield label, [result for result in group if result.label == label]


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
    times = scale(key)
    pooled = np.concatenate([np.asarray(c[key], dtype=float) for c in seeds]) * times
    low, middle, high = np.nanpercentile(pooled, (25, 50, 75))
    axes.barh(place, high - low, 0.7, left=low, color=colour, alpha=0.18)
    axes.vlines(middle, place - 0.35, place + 0.35, color=INK, lw=1.4)
    style: dict[str, Any] = {
        "color": colour,
        "s": 400 / max(16, len(pooled) ** 0.8),
        "alpha": 0.75,
        "lw": 0,
    }
    for clients in seeds:
        x = times * np.asarray(clients[key], dtype=float)
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
        axes.errorbar(mean, y, xerr=std, color=INK, capsize=2.5, lw=1)
    text = f"{mean:.1f}" + ("" if cell.std is None else f" ± {std:.1f}")
    axes.grid(visible=False)  # the values are written out
    axes.annotate(
        text, (mean + std, y), (5, 0), textcoords="offset points", va="center", fontsize=8.5
    )
    return mean + std


def paper(
    group: Sequence[Result],
    sheet: Sheet,
    height: float,
    panels: int = 1,
    sharex: bool = False,
    sharey: bool = True,
    rows: int = 1,
) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels in each row, titled with data and protocol.

    On a narrow sheet, panels that stand side by side in one row, each `height` inches high, are
    stacked instead.
    """
    if sheet.narrow and rows == 1:
        rows, panels = panels, 1
        height *= rows
    return blank(
        sheet, height, ", ".join(filter(None, group[0].group[1:])), rows, panels, sharex, sharey
    )


def blank(
    sheet: Sheet,
    height: float,
    title: str,
    rows: int = 1,
    columns: int = 1,
    sharex: bool = False,
    sharey: bool = True,
) -> tuple[Figure, list[Axes]]:
    """A figure with so many rows and columns of panels, and a title at the left."""
    figure = Figure((sheet.width, height), layout="constrained")
    text = wrapped(title, int(sheet.width * 11))
    figure.suptitle(text, x=0.01, ha="left", fontsize=10, color=SOFT)
    made = figure.subplots(rows, columns, sharex=sharex, sharey=sharey)
    return figure, list(np.ravel(made))


def wrapped(text: str, width: int, most: int = 3) -> str:
    """A name in lines of so many letters; what is left after the last of them is cut off."""
    return "\n".join(textwrap.wrap(text, width, max_lines=most, placeholder="…"))


def name_rows(panels: Sequence[Axes], labels: Sequence[str], sheet: Sheet) -> None:
    """Methods from top to bottom; their names at the left panel, or at each that stands alone."""
    panels[0].set_ylim(len(labels) - 0.4, -0.6)
    for panel in panels:
        panel.grid(visible=False, axis="y")
    width = 17 if sheet.narrow else 26
    panels[0].set_yticks(range(len(labels)), [wrapped(n, width) for n in labels])


def with_legend(
    figure: Figure, sheet: Sheet, axes: Axes, place: Place = "outside right upper"
) -> Figure:
    """The figure with a legend of what the axes show."""
    place = "outside lower center" if sheet.narrow else place
    handles, names = axes.get_legend_handles_labels()
    columns = 3 if "center" in place else 1
    width = 24 if columns > 1 else 22
    if sheet.narrow:
        columns, width = (2, 16) if max(map(len, names), default=0) <= 16 else (1, 40)
    labels = [wrapped(name, width) for name in names]
    _outside(figure, handles, labels, place, columns, handlelength=3)
    return figure


def _outside(
    figure: Figure,
    handles: Sequence[Any],
    labels: Sequence[str],
    place: Place,
    columns: int,
    **style: Any,
) -> None:
    """A legend beside or below the panels, for which the figure is made tall enough.

    Else many names, or long ones, would leave the panels no room at all.
    """
    figure.legend(handles, labels, loc=place, ncols=columns, fontsize=9, **style)
    rows = -(-len(labels) // columns)
    heights = [0.06 + 0.15 * (label.count("\n") + 1) for label in labels]
    tall = max((sum(heights[i : i + rows]) for i in range(0, len(labels), rows or 1)), default=0.0)
    more = tall - 0.5  # two rows are reckoned with where the height of the panels is chosen
    needed = figure.get_figheight() + more if "lower" in place else tall + 0.6
    figure.set_figheight(max(figure.get_figheight(), needed))
