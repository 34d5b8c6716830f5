"""What is true beside what was said, by hand."""

import math

import pytest
import torch

from kdattacks import Scores, truth
from kdcore.rng import generator


def test_shares_of_labels_are_compared_by_kl_and_by_the_majority():
    counts = torch.tensor([[6, 2], [0, 8], [1, 0]])  # the third has too few records
    said = torch.tensor([[0.5, 0.5], [0.25, 0.75], [0.0, 1.0]])
    found = truth.LabelCounts(counts).measures(Scores(said, "labels"))
    first = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    second = math.log(1 / 0.75)
    assert found["kl"] == pytest.approx((first + second) / 2)
    assert found["kl_uniform"] == pytest.approx((first + math.log(2)) / 2)
    swapped = math.log(2), 0.75 * math.log(0.75 / 0.25) + 0.25 * math.log(0.25 / 0.75)
    assert found["kl_control"] == pytest.approx(sum(swapped) / 2)
    assert found["majority"] == 1  # of ties the first
    assert found["majority_chance"] == 0.5


def test_a_share_of_zero_costs_much_and_not_everything():
    counts, said = torch.tensor([[5, 5]]), torch.tensor([[1.0, 0.0]])
    found = truth.LabelCounts(counts).measures(Scores(said, "labels"))
    low = 0.001 / 1.001
    assert found["kl"] == pytest.approx(0.5 * math.log(0.5 / (1 - low)) + 0.5 * math.log(0.5 / low))
    assert "kl_control" not in found
    nobody = truth.LabelCounts(torch.tensor([[4, 0]]))
    assert nobody.measures(Scores(torch.tensor([[1.0, 0.0]]), "labels")) == {}


def test_which_of_two_has_more_records():
    true = truth.RecordCounts(torch.tensor([5, 9, 9, 2]))
    found = true.decisions(Scores(torch.tensor([5.0, 9.0, 8.0, 2.0]), "counts"), generator(0, "c"))
    assert len(found.values) == 5  # six pairs, of which one has the same
    assert ((found.values > 0) == found.truth).all()
    assert 0 < found.truth.sum() < 5
    said = true.measures(Scores(torch.tensor([5.0, 9.0, 8.0, 2.0]), "counts"))
    assert said == {"exact": 0.75}


def test_images_are_compared_with_the_means_of_the_labels_that_are_held():
    means = torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]])
    true = truth.Images(means, torch.tensor([[True, True, False]]), torch.tensor([1.0, 0, 0, 0]))
    right = Scores(2 * means + 1, "images")
    assert true.measures(right) == pytest.approx(
        {
            "correlation": 1.0,
            "control_correlation": (1 - 1 / 3) / 2,  # of unit vectors in four dimensions
            "nearest": 1.0,
            "nearest_chance": 0.5,
        }
    )
    found = true.decisions(right, generator(0, "c"))
    assert found.truth.tolist() == [True, False, False, True]
    assert found.values.tolist() == pytest.approx([1, -1 / 3, -1 / 3, 1])
    wrong = Scores(means[:, [1, 0, 2]], "images")
    assert true.measures(wrong)["nearest"] == 0
    nothing = truth.Images(means, torch.zeros(1, 3).bool(), means[0, 0])
    assert nothing.measures(right) == {}
    assert len(nothing.decisions(right, generator(0, "c")).values) == 0
