"""What is read off each kind of upload, by hand."""

import pytest
import torch

from fedkd import algorithms
from fedkd.messages import Received
from fedkd.rounds.synchronous import simulate
from kdattacks import REGISTRY, Knowledge, Recorded
from kdcore.rng import generator


def shares(payload, rows=None, received=None):
    upload = Received(0, "m", payload, 1.0, rows)
    recorded = Recorded((0,), ({0: received or {}},), ({0: upload},), (None,))
    found = REGISTRY.get("labels")(recorded, Knowledge(3), generator(0, "labels"))
    assert found.of == "labels"
    return found.values[0].tolist()


def test_counts_are_as_they_are():
    assert shares({"label_counts": torch.tensor([6.0, 2.0, 0.0])}) == [0.75, 0.25, 0]
    told = {"shares": torch.tensor([0.5, 0.25, 0.0]), "head.bias": torch.tensor([0.0, 0.0, 9.0])}
    assert shares(told) == pytest.approx([2 / 3, 1 / 3, 0])


def test_labels_of_single_records_are_counted_where_a_row_is_one():
    labels, rows = torch.tensor([2, 2, 0, 1]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert shares({"labels": labels}, rows) == pytest.approx([1 / 3, 0, 2 / 3])


def test_means_of_held_labels_are_added_and_prototypes_count_evenly():
    means = torch.tensor([[0.8, 0.1, 0.1], [9, 9, 9], [0.2, 0.2, 0.6]])
    held = torch.tensor([1.0, 0.0, 1.0])
    assert shares({"means": means}, held) == pytest.approx([0.5, 0.15, 0.35])
    assert shares({"prototypes": torch.ones(3, 5)}, held) == [0.5, 0, 0.5]


def test_a_bias_tells_by_how_far_it_moved():
    start = {"head.bias": torch.tensor([0.3, -0.2, 0.1])}
    moved = {"head.bias": start["head.bias"] + torch.tensor([0.1, 0.0, 0.0])}
    found = shares(moved, received=start)
    assert found == pytest.approx(torch.tensor([1.0, 0, 0]).softmax(0).tolist())


def test_where_nothing_tells_shares_are_even():
    assert shares({"weight": torch.ones(2, 2)}) == pytest.approx([1 / 3] * 3)


def test_mean_features_are_not_taken_for_predictions(tiny):
    # As many features as classes would pass for distributions over these.
    given = tiny(("mlp-3",), (2, 4), classes=3, held=3)
    *_, last = simulate(algorithms.get("fedgh")(), given.task, given.clients, rounds=1)
    for number, sent in last.uploads.items():
        private = given.clients[number].private
        labels = private.y[private.rows].unique()
        expected = [float(label in labels) / len(labels) for label in range(3)]
        rows = torch.tensor([1.0 if label in labels else 0.0 for label in range(3)])
        assert shares(sent.payload, rows) == pytest.approx(expected)


def test_what_was_said_before_a_silence_is_not_forgotten():
    # A client that has told all there is to tell sends no row at last.
    said, none = torch.tensor([[0.7, 0.2, 0.1]]), torch.zeros(1, 3)
    uploads = [
        {0: Received(0, "m", {"means": value}, 1.0, rows)}
        for value, rows in ((said, torch.ones(1)), (none, torch.zeros(1)))
    ]
    recorded = Recorded((0,), ({0: {}},) * 2, tuple(uploads), (None,) * 2)
    found = REGISTRY.get("labels")(recorded, Knowledge(3), generator(0, "labels"))
    assert found.values[0].tolist() == pytest.approx([0.7, 0.2, 0.1])
