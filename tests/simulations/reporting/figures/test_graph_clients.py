import matplotlib
import numpy as np
from matplotlib.colors import to_rgba

from simulations.reporting.figures.common import FAINT, NARROW, WIDE, looks
from simulations.reporting.figures.graph_clients import PALETTE, drawings
from simulations.results.run_results import Result

# Client 0 has a path of three nodes, client 1 one of two; one edge leads from the one to the other.
DEALT = {
    "labels": [[2, 1], [0, 4]],
    "owner": [0, 0, 0, 1, 1],
    "edges": [[0, 1], [1, 2], [2, 3], [3, 4]],
}


def result(method, seed=0, own=0.8, everybody=0.5, dealt=DEALT):
    metrics = {"accuracy": everybody, "accuracy_local": own}
    return Result("fed", "cora", "2 clients", method, seed, metrics, [], {}, method, dealt=dealt)


def draw(group, sheet=WIDE):
    return drawings(group, looks(one.label for one in group), sheet)


def test_edges_between_clients_are_grey_and_others_in_the_colour_of_the_client():
    (axes,) = draw([result("local")])["graph_partition"].axes
    nodes = axes.collections[0].get_offsets()
    assert len(nodes) == 5
    drawn = {(tuple(np.round(line.get_xdata(), 6)), to_rgba(line.get_color())[:3])
             for line in axes.lines}  # fmt: skip
    for ends, colour in (((2, 3), to_rgba(FAINT)[:3]),
                         ((0, 1), matplotlib.colormaps[PALETTE](0)[:3]),
                         ((3, 4), matplotlib.colormaps[PALETTE](1)[:3])):  # fmt: skip
        assert (tuple(np.round(nodes[list(ends), 0], 6)), colour) in drawn
    assert axes.texts[0].get_text() == "25 % of edges lead to another client (grey)"


def test_bars_are_the_labels_of_each_client():
    (axes,) = draw([result("local")])["labels_of_clients"].axes
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
    assert heights == [[2, 0], [1, 4]]  # of class 0, and of class 1 above it
    assert [bar.get_y() for bar in axes.containers[1]] == [2, 0]


def test_own_accuracy_is_drawn_against_everybodys_for_each_seed():
    group = [result("local"), result("local", 1, 0.9, 0.4), result("dsfl", 0, 0.6, 0.7)]
    (axes,) = draw(group)["own_against_all"].axes
    points = {c.get_label(): c.get_offsets().tolist() for c in axes.collections}
    assert points == {"local": [[80, 50], [90, 40]], "dsfl": [[60, 70]]}
    assert set(draw(group, NARROW)) == {"graph_partition", "labels_of_clients", "own_against_all"}


def test_large_graphs_are_not_drawn_and_images_have_none_of_this():
    large = {"labels": DEALT["labels"]}
    assert set(draw([result("local", dealt=large)])) == {"labels_of_clients", "own_against_all"}
    assert draw([result("local", dealt=None)]) == {}


def test_whole_graphs_are_called_graphs_and_clients_are_whole_numbers():
    drawn = draw([result("local", dealt={"labels": [[2, 1], [0, 4]], "examples": "graphs"})])
    (bars,), (marks,) = drawn["labels_of_clients"].axes, drawn["own_against_all"].axes
    assert bars.get_ylabel() == "graphs to train on, by class"
    assert all(tick == round(tick) for tick in bars.get_xticks())
    assert marks.get_xlabel() == "accuracy, own graphs (%)"


def test_more_settings_than_a_legend_can_tell_apart_have_no_figure_of_marks():
    group = [result(f"setting-{i}") for i in range(25)]
    assert "own_against_all" in draw(group[:24])
    assert "own_against_all" not in draw(group)


def test_a_narrow_figure_is_as_tall_as_the_legend_of_many_settings_needs():
    group = [result(f"fedmd with a setting of thirty letters and more, {i}") for i in range(24)]
    figure = draw(group, NARROW)["own_against_all"]
    figure.draw_without_rendering()  # warns where there is no room for panels, and warnings fail
    assert figure.axes[0].get_position().height * figure.get_figheight() > 1
