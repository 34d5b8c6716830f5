"""Figures of what recipes claim: both numbers of each seed, paired."""

import pytest
from matplotlib.colors import to_hex

from simulations.reporting.figures.common import COLOURS, NARROW, WIDE, encode
from simulations.reporting.figures.recipes import PANELS, drawings
from simulations.survey.claims import About

RUNS = {
    3: {"accuracy": 0.9, "accuracy_baseline": 0.8, "rmse": 2.0},
    1: {"accuracy": 0.6, "accuracy_baseline": 0.7, "rmse": 1.0},
    2: {"accuracy": 0.5},  # without its other half
}
ABOUT = About(
    term="a term",
    claims=("accuracy - accuracy_baseline >= 0.03", "accuracy > 0.5"),
    controls=("accuracy / accuracy_baseline < 1",),
)


def pairs(axes):
    """Of each seed: the line from the other number to the arm, its colour and style."""
    return [
        (line.get_xdata()[0], line.get_xdata()[1], to_hex(line.get_color()).upper(), line.get_ls())
        for line in axes.get_lines()[:-2]
    ]


def test_a_row_for_each_seed_joins_its_two_numbers():
    figure = drawings(ABOUT, RUNS)["paired"]
    more, less = figure.axes  # what compares nothing has no panel
    assert [text.get_text() for text in more.get_yticklabels()] == ["1", "3"]
    # Seed 1 lost a tenth, seed 3 won one; the control claims less, so there it is the other way.
    assert pairs(more) == [(0.7, 0.6, COLOURS[1], ":"), (0.8, 0.9, COLOURS[0], "-")]
    assert pairs(less) == [(0.7, 0.6, COLOURS[0], "-"), (0.8, 0.9, COLOURS[1], ":")]
    others, arms = more.get_lines()[-2:]
    assert list(others.get_xdata()) == [0.7, 0.8]
    assert list(arms.get_xdata()) == [0.6, 0.9]
    assert more.get_title().split("\n")[1] == "filled: accuracy; open: accuracy baseline"
    assert to_hex(arms.get_markerfacecolor()).upper() == COLOURS[0]


def test_what_compares_nothing_has_no_figure():
    assert drawings(About(claims=("accuracy > 0.5",)), RUNS) == {}
    assert drawings(About(claims=("accuracy - lost > 0",)), RUNS) == {}


@pytest.mark.parametrize("sheet", [WIDE, NARROW])
def test_many_claims_fit_on_the_paper(sheet):
    said = About(term="t " * 90, claims=ABOUT.claims[:1] * 9)
    figure = drawings(said, RUNS, sheet)["paired"]
    assert len([axes for axes in figure.axes if axes.axison]) == PANELS
    assert encode(figure, "svg")
