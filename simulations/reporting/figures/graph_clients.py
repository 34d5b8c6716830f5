"""Figures of federations whose clients hold parts of a graph, or whole graphs."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import matplotlib
import networkx as nx
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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
    with_legend,
)
from simulations.reporting.figures.curves import named
from simulations.results.run_results import Result

PALETTE = "tab20"  # of clients: more than there are colours that anyone tells apart
ITERATIONS = 15  # of the layout, in which 2,500 nodes take 4 s


def drawings(
    group: Sequence[Result], look: Mapping[str, Look], sheet: Sheet = WIDE
) -> dict[str, Figure]:
    """The figures of results on the same data and protocol, where a graph was dealt out."""
    if not any(result.dealt for result in group):
        return {}
    makers = (graph_partition, labels_of_clients, own_against_all)
    with matplotlib.rc_context(STYLE):
        found = {named(make.__name__, group): make(group, look, sheet) for make in makers}
    return {name: figure for name, figure in found.items() if figure is not None}


def graph_partition(
    group: Sequence[Result], look: Mapping[str, Look], sheet: Sheet
) -> Figure | None:
    """Nodes in the colour of their client, edges between clients grey; the first seed."""
    result = _first(group)
    if "owner" not in result:
        return None
    owner, edges = np.asarray(result["owner"]), np.asarray(result["edges"], dtype=int)
    places = _layout(tuple(owner.tolist()), tuple(map(tuple, edges.tolist())))
    figure, (axes,) = paper(group, sheet, 6.0)
    axes.set_axis_off()
    lost = owner[edges[:, 0]] != owner[edges[:, 1]]
    colours = matplotlib.colormaps[PALETTE](owner % 20)
    ends = places[edges].transpose(2, 1, 0)  # (x and y, 2 ends, E)
    axes.plot(ends[0][:, lost], ends[1][:, lost], color=FAINT, lw=0.4, zorder=1, rasterized=True)
    for client in np.unique(owner):
        inside = ~lost & (owner[edges[:, 0]] == client)
        colour = matplotlib.colormaps[PALETTE](client % 20)
        axes.plot(
            ends[0][:, inside],
            ends[1][:, inside],
            color=colour,
            lw=0.5,
            alpha=0.6,
            zorder=2,
            rasterized=True,
        )
    axes.scatter(
        places[:, 0], places[:, 1], s=6, c=colours, linewidths=0, zorder=3, rasterized=True
    )
    share = f"{100 * lost.mean():.0f} % of edges lead to another client (grey)"
    axes.text(0, 0, share, transform=axes.transAxes, color=SOFT, fontsize=9)
    return figure


def labels_of_clients(
    group: Sequence[Result], look: Mapping[str, Look], sheet: Sheet
) -> Figure | None:
    """How many examples of each class each client trains on; the first seed."""
    counts = np.asarray(_first(group)["labels"])  # (K, C)
    figure, (axes,) = paper(group, sheet, 3.6)
    below = np.zeros(len(counts))
    palette = matplotlib.colormaps[PALETTE]
    for label, column in enumerate(counts.T):
        places = np.arange(len(counts))
        colour = palette(label % 20)
        axes.bar(places, column, 0.8, bottom=below, color=colour, lw=0, label=f"class {label}")
        below += column
    axes.set(xlabel="client", ylabel=f"{_examples(group)} to train on, by class")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False, axis="x")
    return with_legend(figure, sheet, axes) if counts.shape[1] <= 20 else figure


def own_against_all(
    group: Sequence[Result], look: Mapping[str, Look], sheet: Sheet
) -> Figure | None:
    """Accuracy on everybody's examples over that on a client's own; a point for each seed."""
    if len({result.label for result in group}) > APART:  # a legend longer than all else
        return None
    figure, (axes,) = paper(group, sheet, 4.2)
    for label, same in by_label(group):
        points = np.array([[r.metrics[k] for k in ("accuracy_local", "accuracy")] for r in same])
        axes.scatter(
            100 * points[:, 0],
            100 * points[:, 1],
            s=28,
            color=look[label].colour,
            marker=look[label].marker,
            label=label,
        )
    limits = {"xlim": axes.get_xlim(), "ylim": axes.get_ylim()}
    axes.axline((50, 50), slope=1, color=FAINT, lw=0.8, zorder=0)
    what = _examples(group)
    axes.set(xlabel=f"accuracy, own {what} (%)", ylabel=f"accuracy, everybody's {what} (%)")
    axes.set(**limits)
    return with_legend(figure, sheet, axes)


def _first(group: Sequence[Result]) -> Mapping[str, Any]:
    """How the graph was dealt out in the run with the lowest seed."""
    result = min((one for one in group if one.dealt), key=lambda one: one.seed)
    assert result.dealt is not None
    return result.dealt


def _examples(group: Sequence[Result]) -> str:
    """What is classified: nodes, or graphs."""
    return str(_first(group).get("examples", "nodes"))


@lru_cache(maxsize=4)
def _layout(owner: tuple[int, ...], edges: tuple[tuple[int, int], ...]) -> np.ndarray:
    """(N, 2) places by springs, which begin with each client's nodes around a place of its own.

    So a few iterations are enough, and clients can be seen.
    """
    graph = nx.empty_graph(len(owner))
    graph.add_edges_from(edges)
    angles = 2 * np.pi * np.asarray(owner) / (max(owner) + 1)
    around = np.random.default_rng(0).normal(scale=0.2, size=(len(owner), 2))
    start = np.stack([np.cos(angles), np.sin(angles)], axis=1) + around
    places = dict(enumerate(start))
    found = nx.spring_layout(graph, pos=places, seed=0, iterations=ITERATIONS)
    return np.array([found[node] for node in range(len(owner))])
