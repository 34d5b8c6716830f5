import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from simulations.reporting.figures.common import NARROW, WIDE, looks
from simulations.reporting.figures.systems import drawings
from simulations.results.run_results import Result
from simulations.results.tables import table
from tests.simulations.reporting.figures.test_common import lines

RING = {"name": "ring", "links": [[0, 1], [1, 2], [0, 2]], "positions": [[0, 0], [1, 0], [0, 1]]}


def result(method, seed=0, end=0.8, pace=10.0, topology=None):
    curve = [
        {
            "round": i,
            "accuracy": end * i / 3,
            "virtual_seconds": pace * i,
            "agreement": 0.4 + 0.1 * i + 0.02 * seed,
            **({"consensus_distance": 0.3 / i} if topology else {}),
            "clients": {"accuracy": [0.5, 0.75, None], "accuracy_local": [1, 1, 1]},
        }
        for i in (1, 2, 3)
    ]
    metrics = {"accuracy": end, "virtual_seconds": 3 * pace}
    metrics |= {"consensus_distance": 0.1, "spectral_gap": 1.0, "diameter": 1} if topology else {}
    given = "fed", "digits", "3 clients", method, seed, metrics, curve, {}, method
    return Result(*given, topology)


def draw(group, sheet=WIDE):
    return drawings(group, looks(one.label for one in group), sheet)


def test_accuracy_is_drawn_over_virtual_time():
    (axes,) = draw([result("a", 0, pace=10.0), result("a", 1, pace=20.0), result("b")])[
        "accuracy_per_virtual_second"
    ].axes
    np.testing.assert_allclose(lines(axes)["a"].get_xdata(), [15, 30, 45])
    np.testing.assert_allclose(lines(axes)["a"].get_ydata(), [80 / 3, 160 / 3, 80])
    assert "virtual seconds" in axes.get_xlabel()


def test_disagreement_is_drawn_in_labels_and_in_what_is_sent():
    group = [result("ring", 0, topology=RING), result("ring", 1, topology=RING), result("server")]
    figures = draw(group)
    (left,) = figures["disagreement_per_round"].axes
    (right,) = figures["consensus_distance_per_round"].axes
    np.testing.assert_allclose(lines(left)["ring"].get_ydata(), [49, 39, 29])
    np.testing.assert_allclose(lines(right)["ring"].get_ydata(), [0.3, 0.15, 0.1])
    assert "server" in lines(left)
    assert "server" not in lines(right)


def test_the_topology_is_drawn_with_the_accuracy_of_each_peer():
    figure = draw([result("ring", topology=RING), result("server")])["topologies"]
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["50", "75", "?"]
    assert len(axes.get_lines()) == 3
    np.testing.assert_allclose(axes.collections[0].get_offsets(), RING["positions"])
    assert "(%)" in figure.axes[-1].get_ylabel()


def test_what_is_not_there_is_not_drawn():
    bare = result("a")
    bare = bare._replace(curve=[{"round": 1, "accuracy": 0.5, "agreement": 0.5}])
    assert draw([bare]) == {}
    assert list(draw([result("a")])) == ["accuracy_per_virtual_second"]


@pytest.mark.parametrize("sheet", [WIDE, NARROW])
@pytest.mark.parametrize("name", ["topologies", "disagreement_per_round"])
def test_no_text_leaves_the_paper_or_covers_another(name, sheet):
    group = [result(f"fedmd (topology={i}-and-more)", topology=RING) for i in range(5)]
    figure = draw(group, sheet)[name]
    FigureCanvasAgg(figure).draw()
    found = [text for axes in figure.axes for text in (axes.title, axes.yaxis.label)]
    found += [text for legend in figure.legends for text in legend.get_texts()]
    boxes = [text.get_window_extent() for text in found if text.get_text()]
    width, height = figure.canvas.get_width_height()
    for i, box in enumerate(boxes):
        assert -1 <= box.x0 <= box.x1 <= width + 1
        assert -1 <= box.y0 <= box.y1 <= height + 1
        assert not any(box.padded(-1).overlaps(other.padded(-1)) for other in boxes[i + 1 :])


def test_the_table_has_columns_and_notes_for_them():
    found = table([result("ring", topology=RING)])
    titles = [column.title for column in found.columns]
    assert {"Virtual time (s)", "Consensus distance", "Spectral gap", "Diameter"} <= set(titles)
    assert any(note.startswith("Virtual time:") for note in found.notes)
    assert any("crosses every link once" in note for note in found.notes)
    bare = table([result("server")])
    assert not any("link" in note for note in bare.notes)


def test_how_a_federation_goes_about_it_may_be_compared():
    group = [
        result(m)._replace(settings={"clock.deadline": d}) for m, d in (("a", "1"), ("b", "0"))
    ]
    assert not any("Compare with care" in note for note in table(group).notes)
