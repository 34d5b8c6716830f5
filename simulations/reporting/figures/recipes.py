"""Figures of recipes: what is claimed, seed by seed."""

from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from simulations.reporting.figures.common import (
    COLOURS,
    PAPER,
    SOFT,
    STYLE,
    WIDE,
    Sheet,
    blank,
    wrapped,
)
from simulations.survey.claims import About, BySeed, Claim, read

PANELS = 6  # claims and controls, at the most


def drawings(said: About, by_seed: BySeed, sheet: Sheet = WIDE) -> dict[str, Figure]:
    """The figures of a recipe that compares something with something."""
    found = [claim for claim in map(read, (*said.claims, *said.controls)) if claim.other]
    shown = [claim for claim in found if claim.values(by_seed)][:PANELS]
    with matplotlib.rc_context(STYLE):
        return {"paired": paired(said, shown, by_seed, sheet)} if shown else {}


def paired(said: About, shown: list[Claim], by_seed: BySeed, sheet: Sheet) -> Figure:
    """A panel for each comparison, a row for each seed: the arm, and what it is compared with."""
    columns = min(len(shown), 1 if sheet.narrow else 2)
    rows = -(-len(shown) // columns)
    height = 0.6 + rows * (1.5 + 0.17 * len(by_seed))
    figure, panels = blank(sheet, height, said.term, rows, columns, sharey=False)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    for axes, claim in zip(panels, shown, strict=False):
        _pairs(axes, claim, by_seed)
    return figure


def _pairs(axes: Axes, claim: Claim, by_seed: BySeed) -> None:
    """The two numbers of each seed, joined by a line: a full one in the claimed direction."""
    both = {
        seed: (metrics[claim.other], metrics[claim.metric])
        for seed, metrics in sorted(by_seed.items())
        if claim.other in metrics and claim.metric in metrics
    }
    for place, (other, arm) in enumerate(both.values()):
        way = arm > other if claim.order == "more" else arm < other
        colour, line = (COLOURS[0], "-") if way else (COLOURS[1], ":")
        axes.plot([other, arm], [place, place], lw=1.4, zorder=2, color=colour, ls=line)
    places = list(range(len(both)))
    others, arms = zip(*both.values(), strict=True)
    style: dict[str, Any] = {"ls": "", "marker": "o", "ms": 5.5}
    axes.plot(others, places, mfc=PAPER, mec=SOFT, **style)
    axes.plot(arms, places, mfc=COLOURS[0], mec=PAPER, **style)
    legend = f"filled: {_of(claim.metric)}; open: {_of(claim.other)}"
    axes.set_title("\n".join(wrapped(text, 46) for text in (claim.text, legend)), fontsize=9)
    axes.set_yticks(places, [str(seed) for seed in both], fontsize=8)
    axes.set_ylim(len(both) - 0.4, -0.6)
    axes.set(xlabel=claim.metric.partition("_")[0], ylabel="seed")
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _of(metric: str) -> str:
    return metric.replace("_", " ")
