"""Figures of federations on a clock, and without a server."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from simulations.reporting.figures.common import (
    APART,
    FAINT,
    SOFT,
    STYLE,
    WIDE,
    Look,
    Sheet,
    by_label,
    paper,
    wrapped,
)
from simulations.reporting.figures.curves import axis, curves, named, number, scores, trends
from simulations.results.columns import primary, scale
from simulations.results.run_results import Result

SHADES = "cividis"  # reads the same with any colour vision, and in grey
PEERS = "consensus_distance"
PANELS = 3  # topologies in a row, at the most
NUMBERED = 60  # peers, at the most, that have room for a number each


def drawings(
    group: Sequence[Result], look: Mapping[str, Look], sheet: Sheet = WIDE
) -> dict[str, Figure]:
    """The figures of results on the same data and protocol, as far as they hold what is drawn."""
    makers = [accuracy_per_virtual_second, disagreement_per_round, consensus_distance_per_round]
    if len({result.label for result in group}) <= APART:  # a panel for each
        makers.append(topologies)
    with matplotlib.rc_context(STYLE):
        found = {named(make.__name__, group): make(group, look, sheet) for make in makers}
    return {name: figure for name, figure in found.items() if figure is not None}


def accuracy_per_virtual_second(
    group: Sequence[Result], look: Mapping[str, Look], sheet: Sheet
) -> Figure | None:
    """Accuracy over virtual time; a method that ends early has used less of it."""
    found = scores(group, lambda record: record.get("virtual_seconds"))
    if not found:
        return None
    return trends(group, found, look, sheet, "virtual seconds (steps and bytes)", axis(group))


def disagreement_per_round(
    group: Sequence[Result], look: Mapping[str, Look], sheet: Sheet
) -> Figure | None:
    """How many test examples a peer sees otherwise than most, after each round."""
    if not any(result.topology for result in group):
        return None
    found = curves(group, number, _disagreement)
    return trends(group, found, look, sheet, "round", "says other than most (%)") if found else None


def consensus_distance_per_round(
    group: Sequence[Result], look: Mapping[str, Look], sheet: Sheet
) -> Figure | None:
    """How far apart is what peers send, after each round."""
    found = curves(group, number, lambda record: record.get(PEERS))
    return trends(group, found, look, sheet, "round", "consensus distance") if found else None


def _disagreement(record: Mapping[str, Any]) -> float | None:
    return None if record.get("agreement") is None else 100 * (1 - float(record["agreement"]))


def topologies(group: Sequence[Result], look: Mapping[str, Look], sheet: Sheet) -> Figure | None:
    """Peers and links, each peer with its accuracy in the last round; the first seed of each."""
    drawn = {label: min(same, key=lambda r: r.seed) for label, same in by_label(group)}
    accuracies = {label: _accuracies(r) for label, r in drawn.items() if r.topology}
    found = {label: (drawn[label], each) for label, each in accuracies.items() if each is not None}
    if not found:
        return None
    every = np.concatenate([each for _, each in found.values()])
    shades = ScalarMappable(Normalize(np.nanmin(every), np.nanmax(every)), SHADES)
    columns = 1 if sheet.narrow else min(len(found), PANELS)
    rows = -(-len(found) // columns)
    figure, panels = paper(group, sheet, 0.5 + 2.8 * rows, columns, rows=rows)
    for panel in panels:
        panel.set_axis_off()
    for panel, (label, (result, each)) in zip(panels, found.items(), strict=False):
        assert result.topology is not None
        panel.set_title(wrapped(label, 24), fontsize=9)
        _draw(panel, result.topology, each, shades)
    beside = "bottom" if sheet.narrow else "right"
    figure.colorbar(shades, ax=panels, label=axis(group), shrink=0.8, location=beside)
    return figure


def _draw(
    axes: Axes,
    topology: Mapping[str, Sequence[Sequence[float]]],
    accuracies: np.ndarray,
    shades: Any,
) -> None:
    places = np.asarray(topology["positions"])
    ends = places[np.asarray(topology["links"], dtype=int)]  # (E, 2 ends, x and y)
    many = len(ends) > 1000
    axes.plot(*ends.transpose(2, 1, 0), color=FAINT, lw=0.8, zorder=1, rasterized=many)
    size = min(260, 5000 / len(places))
    axes.scatter(
        places[:, 0],
        places[:, 1],
        s=size,
        c=shades.to_rgba(accuracies),
        edgecolors=SOFT,
        lw=0.6,
        zorder=2,
    )
    for place, value in zip(places, accuracies, strict=True) if len(places) <= NUMBERED else ():
        colour = "white" if shades.norm(value) < 0.55 else "black"  # on the peer, not on the paper
        text = "?" if np.isnan(value) else f"{value:.0f}"
        font = 7.0 if size > 150 else 4.0
        axes.text(place[0], place[1], text, ha="center", va="center", color=colour, fontsize=font)
    axes.set(xlim=(-0.12, 1.12), ylim=(-0.12, 1.12), aspect="equal")


def _accuracies(result: Result) -> np.ndarray | None:
    """Those of all peers in the last round that says so, in per cent; or another metric's."""
    scored = [r["clients"] for r in result.curve if r.get("clients")]
    if not scored:
        return None
    metric = primary(scored[-1])
    return scale(metric) * np.asarray(scored[-1][metric], dtype=float)
