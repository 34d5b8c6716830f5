"""ROC curves of attacks, on logarithmic axes: the low end is what counts.

Nothing is drawn where there are fewer than ten false positives: that is chance.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from kdattacks.scoring import FALSE_POSITIVES, RATES, Decisions, roc
from simulations.reporting.figures.common import (
    COLOURS,
    LINES,
    SOFT,
    STYLE,
    WIDE,
    Sheet,
    blank,
    wrapped,
)

LOWEST = 1e-4
MOST = 12  # curves in a panel
FEW = ("labels", "counts", "invert", "property")
# Attacks whose decisions are about one thing each, of which there are enough for a curve.
PANELS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "membership of records": lambda about: (
        about["attack"] not in ("nodes", *FEW) and "pairs" not in about
    ),
    "links, any pair": lambda about: about.get("pairs") == "any",
    "links, same label": lambda about: about.get("pairs") == "same label",
    "membership of nodes": lambda about: about["attack"] == "nodes",
}


class Attacked(Protocol):
    """What there is to draw: see `simulations.audits.outcomes.Outcome`."""

    @property
    def about(self) -> dict[str, Any]:
        """The attack, the data, who was attacked."""

    @property
    def decisions(self) -> Decisions:
        """What a curve is drawn of."""

    @property
    def label(self) -> str:
        """What the curve is called."""


def curves(outcomes: Sequence[Attacked], sheet: Sheet = WIDE) -> Figure | None:
    """A panel for each subject; None where no attack has enough decisions for a curve."""
    panels = {
        title: [o for o in outcomes if fits(o.about) and _enough(o.decisions)][:MOST]
        for title, fits in PANELS.items()
    }
    panels = {title: group for title, group in panels.items() if group}
    if not panels:
        return None
    first = next(iter(panels.values()))[0].about
    title = ", ".join(str(first[key]) for key in ("data", "protocol") if key in first)
    with matplotlib.rc_context(STYLE):
        rows = -(-len(panels) // 2)
        columns = min(len(panels), 2)
        figure, axes = blank(sheet, 4.6 * rows, title, rows, columns, sharey=False)
        for panel, (name, group) in zip(axes, panels.items(), strict=False):
            _draw(panel, group, name)
        for panel in axes[len(panels) :]:
            panel.set_axis_off()
    return figure


def _enough(decisions: Decisions) -> bool:
    negatives = int((~decisions.truth).sum())
    return negatives > FALSE_POSITIVES and bool(decisions.truth.any())


def _draw(axes: Axes, group: Sequence[Attacked], title: str) -> None:
    axes.plot([LOWEST, 1], [LOWEST, 1], color=SOFT, lw=1, label="a guess")
    for rate in RATES.values():
        axes.axvline(rate, color=SOFT, lw=0.8, ls=":")
    control = group[0].decisions
    for number, one in enumerate(group):
        style: dict[str, Any] = {
            "color": COLOURS[number % len(COLOURS)],
            "ls": LINES[number % len(LINES)],
        }
        _curve(axes, one.decisions, wrapped(one.label, 34), **style)
    shuffled = Decisions(control.values, control.control, control.control)
    _curve(axes, shuffled, "control: the truth shuffled", color=SOFT, ls="--")
    axes.set(xscale="log", yscale="log", xlim=(LOWEST, 1), ylim=(LOWEST, 1.05))
    for axis, name in ((axes.xaxis, "false"), (axes.yaxis, "true")):
        axis.set_major_formatter(lambda rate, _: f"{100 * rate:g} %")
        axis.set_minor_formatter(NullFormatter())
        axis.set_label_text(f"{name}-positive rate")
    axes.set_title(title, fontsize=10, loc="left")
    axes.legend(fontsize=7, loc="lower right")


def _curve(axes: Axes, decisions: Decisions, label: str, **style: Any) -> None:
    """The part of a curve with ten false positives or more."""
    found = roc(decisions.values, decisions.truth)
    negatives = int((~decisions.truth).sum())
    drawn = (found.fpr * negatives).round() >= FALSE_POSITIVES
    axes.plot(found.fpr[drawn], found.tpr[drawn].clamp(min=LOWEST / 10), label=label, **style)
