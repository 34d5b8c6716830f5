"""Figures that show single nodes: small graphs, and where networks have nodes in their spaces."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice

import matplotlib
import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from simulations.reporting.figures.common import (
    COLOURS,
    FAINT,
    MARKERS,
    PAPER,
    SOFT,
    STYLE,
    WIDE,
    Look,
    Sheet,
    by_label,
    paper,
    wrapped,
)
from simulations.reporting.figures.predictions import WHO, Predictions
from simulations.results.run_results import Result

ROWS = 3  # methods that have a row of panels
FEW = 12  # classes, or kinds of nodes, that are told apart
RIGHT, WRONG, LINE = "#bfe0f5", "#a33800", FAINT  # light and dark in grey too


def drawings(
    group: Sequence[Result], look: Mapping[str, Look], sheet: Sheet = WIDE
) -> dict[str, Figure]:
    """The figures of results on the same data and protocol; each method's first seed."""
    seeds = [min(same, key=lambda r: r.seed) for _, same in by_label(group)]
    kept = [result for result in seeds if result.predictions is not None]
    with matplotlib.rc_context(STYLE):
        makers = (embeddings, neighbourhood, small_graphs)
        found = {make.__name__: make(kept, sheet) for make in makers}
    return {name: figure for name, figure in found.items() if figure is not None}


def embeddings(results: Sequence[Result], sheet: Sheet) -> Figure | None:
    """The same test nodes where each network has them, by their true class."""
    if not results:
        return None
    every = np.concatenate([predictions["label"] for predictions in map(_predictions, results)])
    classes = _frequent(every)

    def draw(axes: Axes, predictions: Predictions, who: str) -> str:
        true, place = predictions["label"][predictions["placed"]], predictions[f"{who}.place"]
        rest = ~np.isin(true, classes)
        x, y = place[rest].T
        axes.scatter(x, y, 5, color=FAINT, lw=0, rasterized=True)
        for i, name in enumerate(classes):
            colour, marker = _mark(i)
            x, y = place[true == name].T
            axes.scatter(x, y, 13, color=colour, marker=marker, lw=0, alpha=0.8, rasterized=True)
        axes.set_box_aspect(1)
        axes.set(xticks=[], yticks=[])
        first, second = 100 * predictions[f"{who}.variance"]
        axes.set_xlabel(f"first component ({first:.0f} % of variance)", fontsize=8)
        axes.set_ylabel(f"second component ({second:.0f} %)", fontsize=8)
        return ""

    figure = _rows(results, sheet, "place", draw)
    handles = [_dot(i, f"class {name}") for i, name in enumerate(classes)]
    if len(classes) < len(np.unique(every)):
        handles.append(Line2D([], [], ls="", marker=".", color=FAINT, label="other classes"))
    return _with_legend(figure, sheet, handles)


def neighbourhood(results: Sequence[Result], sheet: Sheet) -> Figure | None:
    """A small part of the graph: at which nodes is who right?"""
    if not results or "drawn.known" not in _predictions(results[0]):
        return None

    def draw(axes: Axes, predictions: Predictions, who: str) -> str:
        said, known = predictions[f"{who}.drawn"], predictions["drawn.known"]
        right = said == predictions["drawn.label"]
        place = _layout(predictions["drawn.edges"], len(said))
        _edges(axes, place, predictions["drawn.edges"])
        for own, marker in ((known, "s"), (~known, "o")):
            fill = np.where(right[own], RIGHT, WRONG)
            x, y = place[own].T
            axes.scatter(x, y, 95, c=fill, marker=marker, edgecolors=SOFT, lw=0.6, zorder=2)
        for (x, y), name, ok in zip(place, said, right, strict=True):
            ink = "black" if ok else "white"
            axes.text(x, y, str(name), fontsize=6, color=ink, ha="center", va="center")
        axes.set_axis_off()
        return f"{right[~known].sum()} of {(~known).sum()} right"

    figure = _rows(results, sheet, "drawn", draw)
    looks = (("right", "o", RIGHT), ("wrong", "o", WRONG), ("training or validation", "s", PAPER))
    handles = [
        Line2D([], [], ls="", marker=marker, mfc=fill, mec=SOFT, ms=8, label=text)
        for text, marker, fill in looks
    ]
    return _with_legend(figure, sheet, handles)


def small_graphs(results: Sequence[Result], sheet: Sheet) -> Figure | None:
    """Some of the test graphs, and what the networks of the first method say of them."""
    if not results or "drawn.owner" not in _predictions(results[0]):
        return None
    predictions = _predictions(results[0])
    owners = list(dict.fromkeys(predictions["drawn.owner"].tolist()))
    if not owners:
        return None
    kinds = _frequent(predictions["drawn.kind"])
    rows = -(-len(owners) // sheet.columns)
    figure, panels = paper(results, sheet, 0.9 + 2.3 * rows, sheet.columns, rows=rows, sharey=False)
    for axes in panels:
        axes.set_axis_off()
    for axes, owner in zip(panels, owners, strict=False):
        _draw_graph(axes, predictions, owner, kinds)
    return _with_legend(
        figure, sheet, [_dot(i, f"node label {kind}") for i, kind in enumerate(kinds)]
    )


def _draw_graph(axes: Axes, predictions: Predictions, owner: int, kinds: Sequence[int]) -> None:
    inside = np.flatnonzero(predictions["drawn.owner"] == owner)
    edges = predictions["drawn.edges"]
    edges = np.searchsorted(inside, edges[:, np.isin(edges[0], inside)])
    place, of = _layout(edges, len(inside)), predictions["drawn.kind"][inside]
    _edges(axes, place, edges)
    x, y = place[~np.isin(of, kinds)].T
    axes.scatter(x, y, 16, color=FAINT, lw=0, zorder=2)
    for i, kind in enumerate(kinds):
        colour, marker = _mark(i)
        x, y = place[of == kind].T
        axes.scatter(x, y, 24, color=colour, marker=marker, lw=0, zorder=2)
    short = {"teacher": "teacher", "baseline": "alone", "student": "taught"}
    true, lines = predictions["label"][owner], []
    for who, text in short.items():
        if f"{who}.predicted" in predictions:
            said = predictions[f"{who}.predicted"][owner]
            lines.append(f"{text}: {said}" + ("" if said == true else ", wrong"))
    axes.set_title("\n".join([f"class {true}", *lines]), fontsize=7.5)


def _rows(
    results: Sequence[Result],
    sheet: Sheet,
    what: str,
    draw: Callable[[Axes, Predictions, str], str],
) -> Figure:
    """A row of panels for each method: teacher, student alone, student."""
    shown = list(islice(results, ROWS))
    columns = 1 if sheet.narrow else len(WHO)
    rows = len(shown) * len(WHO) // columns
    figure, panels = paper(results, sheet, 0.9 + 3.3 * rows, columns, rows=rows, sharey=False)
    for row, result in enumerate(shown):
        predictions = _predictions(result)
        for axes, who in zip(panels[3 * row : 3 * row + 3], WHO, strict=True):
            if f"{who}.{what}" not in predictions:
                axes.set_axis_off()
                continue
            caption = draw(axes, predictions, who)
            name = wrapped(result.label, 34, 2)
            axes.set_title("\n".join(filter(None, (name, WHO[who], caption))), fontsize=8)
    return figure


def _layout(edges: np.ndarray, nodes: int) -> np.ndarray:
    """Where the nodes of a small graph are drawn, (k, 2) from -1 to 1: by springs.

    Fruchterman and Reingold, "Graph drawing by force-directed placement", Software: Practice and
    Experience 1991, https://doi.org/10.1002/spe.4380211102, from a fixed start.
    """
    graph = nx.Graph()
    graph.add_nodes_from(range(nodes))
    graph.add_edges_from(edges.T.tolist())
    place = nx.kamada_kawai_layout(graph) if nx.is_connected(graph) else None
    place = nx.spring_layout(graph, pos=place, seed=0, iterations=30)
    return np.array([place[node] for node in range(nodes)])


def _edges(axes: Axes, place: np.ndarray, edges: np.ndarray) -> None:
    once = edges[:, edges[0] < edges[1]]
    axes.plot(*place[once].transpose(2, 0, 1), color=LINE, lw=0.7, zorder=1)
    axes.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), box_aspect=1)


def _frequent(of: np.ndarray) -> list[int]:
    """The most frequent values, not more than can be told apart, in order."""
    values, counts = np.unique(of, return_counts=True)
    return sorted(values[np.argsort(-counts, kind="stable")][:FEW].tolist())


def _mark(i: int) -> tuple[str, str]:
    return COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]


def _dot(i: int, text: str) -> Line2D:
    colour, marker = _mark(i)
    return Line2D([], [], ls="", marker=marker, color=colour, label=text)


def _with_legend(figure: Figure, sheet: Sheet, handles: list[Line2D]) -> Figure:
    """The figure with a legend below, in rows of about the same length."""
    columns = -(-len(handles) // -(-len(handles) // (3 if sheet.narrow else 7)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8)
    return figure


def _predictions(result: Result) -> Predictions:
    assert result.predictions is not None
    return result.predictions
