"""Figures of federations on a clock, and without a server."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from simulations.plots import ACCURACY, STYLE, Look, by_label, paper, with_legend
from simulations.tables import Result

SHADES = "cividis"  # reads the same with any colour vision, and in grey
PEERS = "consensus_distance"
PANELS = 3  # topologies in a row, at the most
NUMBERED = 60  # peers, at the most, that have room for a number each


def drawings(group: Sequence[Result], look: Mapping[str, Look]) -> dict[str, Figure]:
    """The figures of results on the same data and protocol, as far as they hold what is drawn."""
    makers = (accuracy_per_virtual_second, disagreement_per_round, topologies)
    with matplotlib.rc_context(STYLE):
        found = {make.__name__: make(group, look) for make in makers}
    return {name: figure for name, figure in found.items() if figure is not None}


def accuracy_per_virtual_second(group: Sequence[Result], look: Mapping[str, Look]) -> Figure | None:
    """Accuracy over virtual time; a method that ends early has used less of it."""
    curves = _curves(group, "virtual_seconds", "accuracy")
    if not curves:
        return None
    figure, (axes,) = paper(group, max(4.0, 0.22 * len(curves)))
    _lines(axes, curves, look, lambda accuracy: 100 * accuracy)
    axes.set(xlabel="virtual seconds (steps and bytes)", ylabel=ACCURACY)
    return with_legend(figure, axes)


def disagreement_per_round(group: Sequence[Result], look: Mapping[str, Look]) -> Figure | None:
    """How far apart peers are after each round, in labels and in what they send."""
    if not any(result.topology for result in group):
        return None
    labels, sent = _curves(group, "round", "agreement"), _curves(group, "round", PEERS)
    figure, panels = paper(group, 4.4, 2, sharey=False)
    _lines(panels[0], labels, look, lambda agreement: 100 * (1 - agreement))
    _lines(panels[1], sent, look, lambda distance: distance)
    for axes, text in zip(panels, ("says other than most (%)", "consensus distance"), strict=True):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.set(xlabel="round", ylabel=text)
        axes.set_ylim(bottom=0)
    return with_legend(figure, panels[0], "outside lower center")


def topologies(group: Sequence[Result], look: Mapping[str, Look]) -> Figure | None:
    """Peers and links, each peer with its accuracy in the last round; the first seed of each."""
    drawn = {label: min(same, key=lambda r: r.seed) for label, same in by_label(group)}
    told = {label: _accuracies(r) for label, r in drawn.items() if r.topology}
    found = {label: (drawn[label], each) for label, each in told.items() if each is not None}
    if not found:
        return None
    every = np.concatenate([each for _, each in found.values()])
    shades = ScalarMappable(Normalize(np.nanmin(every), np.nanmax(every)), SHADES)
    rows, columns = -(-len(found) // PANELS), min(len(found), PANELS)
    figure, panels = paper(group, 0.5 + 2.7 * rows, columns, rows=rows)
    for panel in panels:
        panel.set_axis_off()
    for panel, (label, (result, each)) in zip(panels, found.items(), strict=False):
        assert result.topology is not None
        panel.set_title(textwrap.fill(label, 24), fontsize=9)
        _draw(panel, result.topology, each, shades)
    figure.colorbar(shades, ax=panels, label=ACCURACY, shrink=0.8)
    return figure


def _draw(
    axes: Axes, topology: Mapping[str, Sequence[Sequence[float]]], told: np.ndarray, shades: Any
) -> None:
    places = np.asarray(topology["positions"])
    ends = places[np.asarray(topology["links"], dtype=int)]  # (E, 2 ends, x and y)
    many = len(ends) > 1000
    axes.plot(*ends.transpose(2, 1, 0), color="#999999", lw=0.8, zorder=1, rasterized=many)
    size = min(260, 5000 / len(places))
    axes.scatter(
        places[:, 0],
        places[:, 1],
        s=size,
        c=shades.to_rgba(told),
        edgecolors="#444444",
        lw=0.6,
        zorder=2,
    )
    for place, value in zip(places, told, strict=True) if len(places) <= NUMBERED else ():
        colour = "white" if shades.norm(value) < 0.55 else "black"
        text = "?" if np.isnan(value) else f"{value:.0f}"
        font = 7.0 if size > 150 else 4.0
        axes.text(place[0], place[1], text, ha="center", va="center", color=colour, fontsize=font)
    axes.set(xlim=(-0.12, 1.12), ylim=(-0.12, 1.12), aspect="equal")


def _accuracies(result: Result) -> np.ndarray | None:
    """Those of all peers in the last round that says so, in per cent."""
    told = [r["clients"]["accuracy"] for r in result.curve if r.get("clients")]
    return 100 * np.asarray(told[-1], dtype=float) if told else None


def _lines(
    axes: Axes,
    curves: Mapping[str, np.ndarray],
    look: Mapping[str, Look],
    shown: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Mean over seeds, and a band from smallest to largest; best at the end comes first."""
    for label, (x, y) in sorted(curves.items(), key=lambda item: -item[1][1, :, -1].mean()):
        across, up, one = x.mean(axis=0), shown(y), look[label]
        axes.fill_between(across, up.min(axis=0), up.max(axis=0), color=one.colour, alpha=0.15)
        axes.plot(
            across,
            up.mean(axis=0),
            color=one.colour,
            marker=one.marker,
            ls=one.line,
            mec="white",
            mew=0.5,
            ms=6,
            lw=1.6,
            markevery=max(1, len(across) // 12),
            label=label,
        )


def _curves(group: Sequence[Result], x: str, y: str) -> dict[str, np.ndarray]:
    """(2, seeds, rounds) for each method: x and y where all seeds have both."""
    found = {}
    for label, same in by_label(group):
        seeds = [
            {r["round"]: (r[x], r[y]) for r in result.curve if None not in (r.get(x), r.get(y))}
            for result in same
        ]
        rounds = sorted(set.intersection(*map(set, seeds)))
        if rounds:
            table = [[seed[i] for i in rounds] for seed in seeds]
            found[label] = np.array(table, dtype=float).transpose(2, 0, 1)
    return found
