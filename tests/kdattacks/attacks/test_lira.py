"""LiRA's likelihood ratio by hand, and the small print of RMIA."""

import math

import pytest
import torch

from kdattacks.attacks import lira, rmia
from kdattacks.attacks.invert import inverse
from kdattacks.attacks.property import mixed
from kdcore.rng import generator


def test_log_odds_are_those_of_the_definition_and_do_not_cancel():
    logits, y = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.0, 0.0]]), torch.tensor([1, 2])
    p = logits.double().softmax(-1)[[0, 1], y]
    torch.testing.assert_close(lira.confidence(logits, y), (p / (1 - p)).log())
    certain = lira.confidence(torch.tensor([[60.0, 0.0]]), torch.tensor([0]))
    assert certain.item() == pytest.approx(60)


def test_the_likelihood_ratio_by_hand():
    """Two shadows inside and two outside: means 3 and 0, and variances 1 and 4."""
    shadows = torch.tensor([[2.0], [4.0], [-2.0], [2.0]], dtype=torch.float64)
    member = torch.tensor([[True], [True], [False], [False]])
    target = torch.tensor([[1.0], [5.0]], dtype=torch.float64)
    found = lira.likelihood_ratio(target, shadows, member)

    def density(x, mean, deviation):
        scale = deviation * math.sqrt(2 * math.pi)
        return math.exp(-(((x - mean) / deviation) ** 2) / 2) / scale

    expected = [[math.log(density(x, 3, 1) / density(x, 0, 2))] for x in (1, 5)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    offline = lira.deviation(target, shadows, member)
    torch.testing.assert_close(offline, torch.tensor([[0.5], [2.5]], dtype=torch.float64))


def test_variances_are_common_to_all_examples_and_means_are_not():
    shadows = torch.tensor([[0.0, 10.0], [2.0, 14.0], [0.0, 0.0], [0.0, 0.0]]).double()
    member = torch.tensor([[True, True], [True, True], [False, False], [False, False]])
    found = lira._normal(shadows, member)
    assert found.mean.tolist() == [1, 12]
    assert found.variance.tolist() == pytest.approx(2 * [(1 + 1 + 4 + 4) / 4])


def test_rmia_counts_whom_an_example_beats_and_breaks_ties_by_its_ratio():
    z = torch.tensor([1.0, 2.0, 3.0, 4.0])
    x = torch.tensor([2.5, 2.0, 9.0, 5.0, 0.5])
    found = rmia.beaten(x, z)
    torch.testing.assert_close(found.floor(), torch.tensor([0, 0, 1, 1, 0.0]).double())
    assert found.argsort(descending=True).tolist() == [2, 3, 0, 1, 4]
    assert float(found[4]) < 1 / 4


def test_a_small_population_saturates_the_share():
    """The trap: half of a thousand ratios have the largest share, whatever their order."""
    z = torch.linspace(0, 1, 20)
    x = torch.linspace(0, 2, 1000)
    plain = torch.searchsorted(z, x, right=True) / len(z)
    assert (plain == 1).sum() == 500
    assert len(rmia.beaten(x, z).unique()) == 1000


def test_a_linear_map_is_found_again():
    said = torch.randn(50, 3, generator=generator(0, "said"), dtype=torch.float64)
    weight = torch.randn(3, 7, generator=generator(0, "weight"), dtype=torch.float64)
    found = inverse(said, said @ weight + 2, ridge=1e-9)
    torch.testing.assert_close(found(torch.eye(3).double()), weight + 2)
    assert inverse(said, said @ weight, ridge=1e9)(said).abs().max() < 1e-3


def test_shadows_with_the_property_have_much_of_it():
    trait = torch.arange(100) < 40
    parts = mixed(trait, 4, seed=0)
    assert all(len(part) == 50 and len(part.unique()) == 50 for part in parts)
    assert [int(trait[part].sum()) for part in parts] == [40, 10, 40, 10]
    with pytest.raises(ValueError, match="1 examples of the attacker's have the property and 99"):
        mixed(torch.arange(100) < 1, 4, seed=0)
