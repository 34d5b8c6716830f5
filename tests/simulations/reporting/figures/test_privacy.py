"""Privacy against utility: a panel for each unit, epsilon on a logarithmic axis."""

import numpy as np
import pytest
from scipy import stats

from simulations.reporting.figures.common import NARROW, WIDE, looks
from simulations.reporting.figures.privacy import drawings
from simulations.reporting.page import CAPTIONS
from simulations.results.run_results import Result

SCORES = {0: 0.5, 1: 0.6, 2: 0.7}


def result(method, seed, accuracy, label="", **account):
    metrics = {"accuracy": accuracy, **account}
    given = "fed", "digits", "3 clients", method, seed, metrics, [], {}
    return Result(*given, f"{method} {label}".strip())


def several(method, gain, label="", **account):
    return [result(method, seed, score + gain, label, **account) for seed, score in SCORES.items()]


RECORD = [
    *several("dsfl", 0.2),
    *several("dsfl", 0.1, "epsilon=8", epsilon_record_add=8.0, delta=1e-5),
    *several("dsfl", 0.0, "epsilon=1", epsilon_record_add=1.0, delta=1e-5),
]
LABEL = several(
    "fedmd", 0.0, "label", epsilon_label_replace=2.0, epsilon_client_replace=90.0, delta=1e-5
)


def draw(group, sheet=WIDE):
    return drawings(group, looks(one.label for one in group), sheet)


def test_a_method_is_drawn_over_epsilon_with_its_interval_and_without_noise_dashed():
    figures = draw(RECORD)
    assert figures.keys() <= CAPTIONS.keys()
    (axes,) = figures["privacy_against_accuracy"].axes
    assert axes.get_xscale() == "log"
    (container,) = axes.containers
    line, _, (bars,) = container
    np.testing.assert_allclose(line.get_xydata(), [[1, 60], [8, 70]])
    half = stats.t.ppf(0.975, 2) * 10 / np.sqrt(3)  # of 50, 60 and 70
    np.testing.assert_allclose(bars.get_segments()[0][:, 1], [60 - half, 60 + half])
    (dashed,) = [one for one in axes.get_lines() if one.get_label() == "dsfl, no noise (inf)"]
    assert dashed.get_linestyle() == "--"
    np.testing.assert_allclose(dashed.get_ydata(), [80, 80])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "8"]


@pytest.mark.parametrize("sheet", [WIDE, NARROW])
def test_units_have_a_panel_each_that_names_relation_and_delta(sheet):
    figure = draw([*RECORD, *LABEL], sheet)["privacy_against_accuracy"]
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [
        "Epsilon per record (added), delta 1e-05",
        "Epsilon per label (replaced)",
    ]
    left, right = figure.axes
    assert right.get_lines()[0].get_xydata().tolist() == [[2.0, 60.0]]
    assert len(left.containers) == len(right.containers) == 1


def test_what_claims_no_epsilon_is_not_drawn():
    bare = several("fd", 0.0, delta=1e-5)  # noise in training, and means as they are
    assert draw([*bare, *several("local", 0.0)]) == {}
    (axes,) = draw([*RECORD, *bare])["privacy_against_accuracy"].axes
    assert not any("fd" in line.get_label() for line in axes.get_lines())


def test_an_epsilon_that_rounds_to_none_has_no_logarithm_and_is_drawn_at_zero():
    spent = several("dsfl", 0.0, "epsilon=1e-09", epsilon_record_add=0.0, delta=1e-4)
    (axes,) = draw([*RECORD, *spent])["privacy_against_accuracy"].axes
    assert (axes.get_xscale(), axes.get_xlabel()) == ("linear", "epsilon")
    ((line, _, _),) = axes.containers
    np.testing.assert_allclose(line.get_xydata(), [[0, 60], [1, 60], [8, 70]])
