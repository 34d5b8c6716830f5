import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from kdcore import metrics
from simulations.reporting.figures import embeddings, graph, predictions
from simulations.reporting.figures.common import NARROW, WIDE, encode, looks
from simulations.results.run_results import Result
from tests.simulations.reporting.figures.test_common import texts

N, CLASSES, DRAWN = 80, 8, 20


def kept(seed=0, whos=predictions.WHO, many=False):
    """What a run has kept, as `graphkd.evaluation.predictions` has it, drawn at random."""
    draw = np.random.default_rng(seed)
    ring = np.array([[i, (i + 1) % DRAWN] for i in range(DRAWN)])
    edges = np.concatenate([ring, ring[:, ::-1]]).T
    found = {
        "label": draw.integers(CLASSES, size=N),
        "degree": 2 ** draw.integers(9, size=N) - draw.integers(2, size=N),
        "placed": np.arange(0, N, 2),
        "drawn.label": draw.integers(CLASSES, size=DRAWN),
        "drawn.edges": edges,
    }
    if many:  # two graphs of ten nodes
        owner = np.arange(DRAWN) // 10
        inside = owner[edges[0]] == owner[edges[1]]
        found |= {"drawn.edges": edges[:, inside], "drawn.owner": owner + 3}
        found |= {"drawn.kind": np.arange(DRAWN) % 3}
    else:
        found |= {"drawn.known": np.arange(DRAWN) < 4}
    for who in whos:
        logits = 2 * draw.standard_normal((N, CLASSES))
        logits[np.arange(N), found["label"]] += 2
        chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        found |= {
            f"{who}.logits": logits,
            f"{who}.predicted": chances.argmax(1),
            f"{who}.confidence": chances.max(1),
            f"{who}.place": draw.standard_normal((N // 2, 2)),
            f"{who}.variance": np.array([0.4, 0.2]),
            f"{who}.seconds": np.array([0.001, 0.002, 0.009]) * (10 if who == "teacher" else 1),
        }
        if not many:
            found[f"{who}.drawn"] = draw.integers(CLASSES, size=DRAWN)
    return found


def result(method="glnn", seed=0, **settings):
    about = "graph", "cora", "inductive", method, seed, {"accuracy": 0.8}, (), {}, method
    return Result(*about, predictions=kept(seed, **settings))


def draw(group, sheet=WIDE):
    look = looks(one.label for one in group)
    return graph.drawings(group, look, sheet) | embeddings.drawings(group, look, sheet)


GROUPS = {
    "one": [result(seed=seed) for seed in range(3)],
    "seven": [result(f"method-{i}", seed) for i in range(7) for seed in (0, 1)],
    "settings": [result(f"glnn (removed_edges=0.{i}, train=5)") for i in range(4)],
    "alone": [result("mlp", whos=["baseline"]), result("gnnsd", whos=["baseline", "student"])],
    "graphs": [result(many=True), result("rkd", many=True)],
}
ALL = {
    f"{kind} {name}": figure
    for kind, group in GROUPS.items()
    for name, figure in draw(group, NARROW if kind in ("settings", "graphs") else WIDE).items()
}


def test_which_figures_there_are():
    shared = {"accuracy_per_class", "accuracy_per_degree", "reliability"}
    shared |= {"accuracy_against_latency", "embeddings"}
    assert set(draw(GROUPS["one"])) == shared | {"neighbourhood"}
    assert set(draw(GROUPS["graphs"])) == shared | {"small_graphs"}
    assert draw([GROUPS["one"][0]._replace(predictions=None)]) == {}


@pytest.mark.parametrize("name", ALL)
def test_no_text_covers_another_or_leaves_the_paper(name):
    figure = ALL[name]
    found = [(t.get_text(), t.get_window_extent()) for t in texts(figure)]
    for axes in figure.axes:
        own = axes.get_legend()
        written = own.get_texts() if own else ()
        found += [(t.get_text(), t.get_window_extent()) for t in written if t.get_text()]
    width, height = figure.canvas.get_width_height()
    for i, (text, box) in enumerate(found):
        assert -1 <= box.x0 <= box.x1 <= width + 1, text
        assert -1 <= box.y0 <= box.y1 <= height + 1, text
        for other, place in found[i + 1 :]:
            inside = text.isdigit() and other.isdigit()  # numbers in nodes, which may touch
            assert inside or not box.padded(-1).overlaps(place.padded(-1)), (text, other)


@pytest.mark.parametrize("name", [n for n in ALL if "accuracy" in n or "reliability" in n])
def test_axes_are_labelled_with_units(name):
    for axes in ALL[name].axes:
        if axes.axison:
            assert "(%)" in axes.get_ylabel()
            assert "(" in axes.get_xlabel()


def marks(axes):
    """x -> y of the marks of each network, by its name in the legend."""
    found = zip(axes.containers, *axes.get_legend_handles_labels()[1:], strict=True)
    return {name: dict(zip(*box.lines[0].get_data(), strict=True)) for box, name in found}


def test_accuracy_per_class_and_degree_by_a_loop():
    figures = draw(GROUPS["one"])
    bands = [(0, 0), (1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 32), (33, 64), (65, 999)]
    of_class = {str(c): (lambda p, i, c=c: p["label"][i] == c) for c in range(CLASSES)}
    of_degree = {
        str(low) if low == high else f"{low}–{high}".replace("–999", "+"): (
            lambda p, i, low=low, high=high: low <= p["degree"][i] <= high
        )
        for low, high in bands
    }
    for name, groups in (("accuracy_per_class", of_class), ("accuracy_per_degree", of_degree)):
        (axes,) = figures[name].axes
        told = [t.get_text().split("\n") for t in axes.get_xticklabels()]
        assert [text for text, _ in told] == list(groups)
        shown = marks(axes)
        for shift, (who, title) in zip((-0.22, 0, 0.22), predictions.WHO.items(), strict=True):
            for x, belongs in enumerate(groups.values()):
                accuracies, counts = [], []
                for one in GROUPS["one"]:
                    p = one.predictions
                    own = [i for i in range(N) if belongs(p, i)]
                    right = sum(p[f"{who}.predicted"][i] == p["label"][i] for i in own)
                    accuracies += [right / len(own)] if own else []
                    counts += [len(own)] if own else []
                assert shown[title][x + shift] == pytest.approx(100 * np.mean(accuracies))
                assert told[x][1] == f"({np.mean(counts):.0f})"


def test_the_legend_of_reliability_has_the_calibration_error():
    (axes,) = draw(GROUPS["one"])["reliability"].axes
    for who, text in zip(predictions.WHO, axes.get_legend().get_texts(), strict=True):
        errors = [
            metrics.calibration_error(
                torch.tensor(one.predictions[f"{who}.logits"]),
                torch.tensor(one.predictions["label"]),
            )
            for one in GROUPS["one"]
        ]
        for one, error in zip(GROUPS["one"], errors, strict=True):
            (own,) = predictions.by_who([one])[who]
            assert predictions.calibration_error(own) == pytest.approx(error, abs=1e-12)
        assert text.get_text() == f"{predictions.WHO[who]}, ECE {100 * np.mean(errors):.1f} %"


def test_reliability_is_accuracy_in_bins_of_confidence():
    parts = predictions.by_who(GROUPS["one"])["student"]
    confidence, accuracy = predictions.reliable(parts)
    pairs = [(c, r) for p in parts for c, r in zip(p.confidence, p.right, strict=True)]
    expected = []
    for b in range(15):
        inside = [(c, r) for c, r in pairs if b / 15 < c <= (b + 1) / 15]
        if inside:
            expected.append(np.mean(inside, axis=0))
    np.testing.assert_allclose(np.stack([confidence, accuracy], 1), expected)
    # On an edge: in the bin that the edge closes.
    edge = predictions.TestPredictions(
        np.array([True, False]), np.array([0.8, 0.81]), np.array([1.0]), {}
    )
    np.testing.assert_allclose(predictions.reliable([edge])[0], [0.8, 0.81])


def test_latency_is_the_median_in_milliseconds():
    (axes,) = draw(GROUPS["one"])["accuracy_against_latency"].axes
    points = [box.lines[0].get_data() for box in axes.containers]
    right = {
        who: 100
        * np.mean(
            [
                (p.predictions[f"{who}.predicted"] == p.predictions["label"]).mean()
                for p in GROUPS["one"]
            ]
        )
        for who in predictions.WHO
    }
    expected = [(20, right["teacher"]), (2, right["baseline"]), (2, right["student"])]
    np.testing.assert_allclose([(x[0], y[0]) for x, y in points], expected)


def test_nodes_are_coloured_by_right_and_wrong():
    figure = draw(GROUPS["one"])["neighbourhood"]
    p = GROUPS["one"][0].predictions
    for axes, who in zip(figure.axes, predictions.WHO, strict=True):
        told = [text.get_text() for text in axes.texts]
        assert told == [str(said) for said in p[f"{who}.drawn"]]
        right = p[f"{who}.drawn"] == p["drawn.label"]
        assert f"{right[4:].sum()} of 16 right" in axes.get_title()
        squares, circles = ([to_hex(c) for c in dots.get_facecolors()] for dots in axes.collections)
        expected = [embeddings.RIGHT if ok else embeddings.WRONG for ok in right]
        assert squares + circles == expected
        assert len(axes.get_lines()) == DRAWN  # each edge once


def test_embeddings_show_the_same_nodes_in_the_same_colours():
    figure = draw(GROUPS["one"])["embeddings"]
    p = GROUPS["one"][0].predictions
    true = p["label"][p["placed"]]
    shown = []
    for axes, who in zip(figure.axes, predictions.WHO, strict=True):
        _, *classes = axes.collections
        for label, dots in enumerate(classes):
            np.testing.assert_allclose(dots.get_offsets(), p[f"{who}.place"][true == label])
        shown.append([dots.get_facecolors()[0].tolist() for dots in classes])
        assert "40 % of variance" in axes.get_xlabel()
    assert shown[0] == shown[1] == shown[2]


def test_small_graphs_say_who_is_wrong():
    figure = draw(GROUPS["graphs"])["small_graphs"]
    p = GROUPS["graphs"][0].predictions
    for axes, owner in zip(figure.axes, (3, 4), strict=False):
        title = axes.get_title().split("\n")
        assert title[0] == f"class {p['label'][owner]}"
        for line, who in zip(title[1:], predictions.WHO, strict=True):
            wrong = p[f"{who}.predicted"][owner] != p["label"][owner]
            assert line.endswith(", wrong") == wrong
        assert len(axes.get_lines()) == 9  # a path of ten nodes


def test_many_classes_are_told_apart_as_far_as_that_goes():
    one = result()
    p = dict(one.predictions) | {"label": np.arange(N) % 40}
    figure = draw([one._replace(predictions=p)])["embeddings"]
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(told) == embeddings.FEW + 1
    assert told[-1] == "other classes"


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_node_with_one_neighbour_or_none_is_drawn(nodes):
    one = result()
    ends = np.array([[0, 1], [1, 0]])[:, : 2 * (nodes - 1)]
    few = {name: value[:nodes] for name, value in one.predictions.items() if "drawn" in name}
    few = dict(one.predictions) | few | {"drawn.edges": ends, "drawn.known": np.zeros(nodes, bool)}
    figure = draw([one._replace(predictions=few)])["neighbourhood"]
    assert len(figure.axes[0].texts) == nodes
    assert encode(figure, "png").startswith(b"\x89PNG")


def test_the_same_figure_is_the_same_file():
    again = draw(GROUPS["one"])
    for name, figure in draw(GROUPS["one"]).items():
        assert encode(figure, "svg") == encode(again[name], "svg"), name
