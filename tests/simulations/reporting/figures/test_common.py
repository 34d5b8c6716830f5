import io
import re

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from PIL import Image

from simulations.reporting.figures import common, curves
from simulations.reporting.figures.common import COLOURS, NARROW, WIDE, encode, looks
from simulations.results.run_results import Result


def fed(method, seed=0, top=0.8, sent=1000, rounds=(1, 2, 3), clients=(0.4, 0.6)):
    curve = [
        {
            "round": i,
            "accuracy": top * i / rounds[-1],
            "bytes_up": sent * i,
            "bytes_down": sent * i,
            "clients": {"accuracy": clients, "accuracy_local": clients, "group": ["mlp", "cnn"]},
        }
        for i in rounds
    ]
    metrics = {"accuracy": top, "agreement": 0.9, "calibration_error": 0.1}
    return Result("fed", "digits", "2 clients", method, seed, metrics, curve, {}, method)


def graph(method, seed=0, student=0.8):
    metrics = {"accuracy": student, "accuracy_baseline": 0.7, "accuracy_teacher": 0.85}
    metrics |= {"agreement": 0.9, "calibration_error": 0.02}
    return Result("graph", "cora", "inductive", method, seed, metrics, (), {}, method)


def draw(group, sheet=WIDE):
    look = looks(result.label for result in group)
    return curves.drawings(group, look, sheet) | common.drawings(group, look, sheet)


def texts(figure):
    """What a reader sees beside the data, drawn."""
    FigureCanvasAgg(figure).draw()
    found = [*figure.texts]
    for axes in figure.axes:
        found += [axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            found += [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
        found += [axes.title]
    for legend in figure.legends:
        found += legend.get_texts()
    return [text for text in found if text.get_text() and text.get_visible()]


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


MANY = [fed(f"method-{i}", seed, 0.5 + i / 60, 10 ** (i % 6)) for i in range(12) for seed in (0, 1)]
GRAPHS = [graph(f"method-{i}", seed, 0.75 + seed / 50) for i in range(9) for seed in (0, 1)]
FEW = [r._replace(label=f"{r.method} (local.learning_rate=0.1)") for r in MANY[:10]]
ALL = {
    f"{kind} {name}": figure
    for kind, group, sheet in (
        ("many", MANY, WIDE),
        ("few, narrow", FEW, NARROW),
        ("graph", GRAPHS, NARROW),
    )
    for name, figure in draw(group, sheet).items()
}


def test_which_figures_there_are():
    shown = ["accuracy_per_round", "accuracy_per_megabyte", "client_spread", "fidelity"]
    assert list(draw([fed("fedmd")])) == shown
    assert list(draw([graph("glnn")])) == ["students", "fidelity"]


@pytest.mark.parametrize("name", ALL)
def test_axes_are_labelled_with_units(name):
    figure = ALL[name]
    for axes in [axes for axes in figure.axes if axes.axison]:
        x = axes.get_xlabel() or figure.get_supxlabel()
        assert "(%)" in x + axes.get_ylabel() + figure.get_supylabel()
        assert x == "round" or "(" in x


@pytest.mark.parametrize("name", ALL)
def test_no_text_covers_another_or_leaves_the_paper(name):
    figure = ALL[name]
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts(figure)]
    width, height = figure.canvas.get_width_height()
    for i, (text, box) in enumerate(boxes):
        assert box.x0 >= -1, text
        assert box.x1 <= width + 1, text
        assert box.y0 >= -1, text
        assert box.y1 <= height + 1, text
        for other, place in boxes[i + 1 :]:
            assert not box.padded(-1).overlaps(place.padded(-1)), (text, other)


def test_many_curves_have_a_panel_each_and_the_others_behind():
    figure = draw(MANY)["accuracy_per_round"]
    panels = [axes for axes in figure.axes if axes.axison]
    # Twelve methods that end at 50, 51.7, ... 68.3: the best is first.
    assert [axes.get_title() for axes in panels][:2] == ["method-11: 68.3", "method-10: 66.7"]
    assert len(panels) == 12
    for axes in panels:
        own, *more = [line for line in axes.get_lines() if len(line.get_xdata())]
        assert not more
        assert own.get_label() == axes.get_title().partition(":")[0]
        behind = axes.collections[0]
        assert len(behind.get_segments()) == 12
        assert {to_hex(colour) for colour in behind.get_colors()} == {common.FAINT}


def test_more_settings_than_panels_share_those_of_their_methods():
    group = [
        fed("fd", top=i / 30)._replace(label=f"fd (gamma={i})", method=f"m{i % 2}")
        for i in range(1, common.APART + 3)
    ]
    figures = draw(group)
    assert list(figures) == ["accuracy_per_round", "accuracy_per_megabyte"]  # no rows for each
    titles = [axes.get_title() for axes in figures["accuracy_per_round"].axes if axes.axison]
    assert [title.replace("\n", " ") for title in titles] == [
        "m0, 13 settings: 6.67 to 86.7",
        "m1, 13 settings: 3.33 to 83.3",
    ]


def test_long_names_are_cut_and_leave_room_for_the_figure():
    group = [fed("x" * 200), fed("y " * 200)]
    for sheet in (WIDE, NARROW):
        figure = draw(group, sheet)["fidelity"]
        labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert all(label.endswith("…") for label in labels)
        assert encode(figure, "svg")  # a warning of matplotlib's would be an error


def test_a_picture_is_dark_on_a_dark_screen_and_its_data_are_not():
    picture = encode(draw([fed("fedmd")])["accuracy_per_round"], "svg").decode()
    style = re.search(
        r"<style>svg{(.*?)} @media \(prefers-color-scheme:dark\){svg{(.*?)}}", picture
    )
    light, dark = (dict(pair.split(":") for pair in found.split(";")) for found in style.groups())
    assert {light[name]: dark[name] for name in light} == common.DARK
    used = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", picture)) - {"none"}
    assert COLOURS[0].lower() in used
    assert not used & set(common.DARK)  # all of them are variables
    ink = next(name for name, colour in light.items() if colour == common.INK)
    assert f"var({ink})" in used


def test_lines_are_means_and_bands_reach_from_smallest_to_largest():
    group = [fed("fedmd", seed, top) for seed, top in enumerate((0.3, 0.6, 0.9))]
    (axes,) = draw(group)["accuracy_per_round"].axes
    np.testing.assert_allclose(lines(axes)["fedmd"].get_ydata(), [20, 40, 60])
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((10, 90))


def test_one_evaluated_round_shows_its_spread_and_methods_beside_each_other():
    tops = {"fedmd": (0.3, 0.9), "dsfl": (0.6, 0.8)}
    group = [fed(name, seed, top) for name, own in tops.items() for seed, top in enumerate(own)]
    group = [result._replace(curve=result.curve[-1:]) for result in group]
    (axes,) = draw(group)["accuracy_per_round"].axes
    bars = [c.get_segments() for c in axes.collections if isinstance(c, LineCollection)]
    seen = {tuple(bar[:, 1].round(6)) for found in bars for bar in found}
    assert seen == {(30, 90), (60, 80)}
    places = [line.get_xdata().item() for line in axes.get_lines()]
    assert len(set(places)) == 2
    assert {round(place) for place in places} == {3}
    assert [tick for tick in axes.get_xticks() if 2.5 < tick < 3.5] == [3]


def test_rounds_without_an_evaluation_are_left_out():
    result = fed("fedmd")
    curve = [result.curve[0], {"round": 2, "bytes_up": 5}, result.curve[2]]
    (axes,) = draw([result._replace(curve=curve)])["accuracy_per_round"].axes
    assert lines(axes)["fedmd"].get_xdata().tolist() == [1, 3]


def test_megabytes_up_and_down_together():
    (axes,) = draw([fed("fedmd", sent=2_000_000)])["accuracy_per_megabyte"].axes
    assert axes.get_xscale() == "log"
    np.testing.assert_allclose(lines(axes)["fedmd"].get_xdata(), [4, 8, 12])


def test_who_sends_nothing_is_a_dashed_line_at_the_last_round():
    group = [fed("local", top=0.5, sent=0), fed("fedmd")]
    (axes,) = draw(group)["accuracy_per_megabyte"].axes
    line = lines(axes)["local (sends nothing)"]
    assert list(line.get_ydata()) == [50, 50]
    assert line.get_linestyle() == "--"


def test_no_traffic_no_figure():
    assert "accuracy_per_megabyte" not in draw([fed("local", sent=0)])


def test_each_client_is_a_mark_and_each_architecture_a_shape():
    figure = draw([fed("fedmd", clients=(0.4, None)), fed("fedmd", 1, clients=(0.7, 0.9))])[
        "client_spread"
    ]
    marks = np.concatenate([c.get_offsets()[:, 0] for c in figure.axes[0].collections[1:]])
    np.testing.assert_allclose(np.sort(marks), [40, 70, 90, np.nan])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cnn", "mlp"]
    handles = [handle.get_marker() for handle in figure.legends[0].legend_handles]
    assert len(set(handles)) == 2


def test_bars_tell_their_values():
    figure = draw([graph("glnn", 0, 0.80), graph("glnn", 1, 0.84)])["students"]
    assert [text.get_text() for text in figure.axes[0].texts] == [
        "85.0 ± 0.0",
        "82.0 ± 2.8",
        "70.0 ± 0.0",
    ]
    (alone,) = [text for text in draw([graph("glnn", 0, 0.8)])["fidelity"].axes[0].texts]
    assert alone.get_text() == "90.0"


def test_a_method_without_teacher_has_no_teacher_bar():
    result = graph("mlp")
    metrics = {k: v for k, v in result.metrics.items() if k != "accuracy_teacher"}
    figure = draw([result._replace(metrics=metrics)])["students"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["80.0", "70.0"]


def test_a_method_has_one_colour_in_all_figures():
    group = [fed("local", sent=0), fed("fd"), fed("fedmd")]
    look, found = looks(["local", "fd", "fedmd"]), draw(group)
    (per_round,) = found["accuracy_per_round"].axes
    assert lines(per_round)["fedmd"].get_color() == look["fedmd"].colour
    bars = found["fidelity"].axes[0].patches
    assert [to_hex(bar.get_facecolor()).upper() for bar in bars] == [
        look[label].colour for label in ("local", "fd", "fedmd")
    ]


def test_looks_differ_without_colour_too():
    look = looks(f"m{i}" for i in range(50))
    assert len(set(look.values())) == 51
    assert len({(each.marker, each.line) for each in looks("abcdefghij").values()}) == 11
    assert look["m0"].colour == COLOURS[0]
    assert look["local"].colour not in COLOURS


def test_names_are_no_formulas():
    group = [fed("$\\frac{1", top=0.5), fed("_x")]
    for figure in draw(group).values():
        assert encode(figure, "svg")


def test_thousands_of_clients_stay_small():
    result = fed("fedmd")
    some = np.linspace(0, 1, 4000).tolist()
    clients = {"accuracy": some, "accuracy_local": some, "group": ["mlp"] * 4000}
    figure = draw([result._replace(curve=[{"round": 1, "clients": clients}])])["client_spread"]
    assert len(encode(figure, "svg")) < 300_000


def test_files():
    figure = draw([fed("fedmd")])["accuracy_per_round"]
    with Image.open(io.BytesIO(encode(figure, "png"))) as picture:
        assert picture.size == (1800, 840)
    assert encode(figure, "svg") == encode(draw([fed("fedmd")])["accuracy_per_round"], "svg")


@pytest.mark.parametrize("count", [11, 12, 30])
def test_a_legend_of_many_architectures_leaves_room_for_clients(count):
    names = [f"mlp-{width}-128-64-of-a-long-name" for width in range(count)]
    clients = {"accuracy": [0.5] * count, "accuracy_local": [0.5] * count, "group": names}
    one = fed("local")._replace(curve=[{"round": 1, "clients": clients}])
    figure = common.drawings([one], looks(["local"]))["client_spread"]
    figure.draw_without_rendering()  # warns where there is no room for panels, and warnings fail
    assert figure.axes[0].get_position().height * figure.get_figheight() > 0.5
    assert len(figure.legends) == (count <= 11)  # no two architectures share a marker
