"""What is measured of a cohort at once: what a loop over its tensors finds."""

import math

import pytest
import torch

from fedkd.communication import measures
from fedkd.communication.measures import Asked, Measures, measured, root_mean_square


def test_measures_by_hand():
    distribution = torch.tensor([[0.5, 0.5], [0.7, 0.4]])
    counts = torch.tensor([3, -4, 0], dtype=torch.int32)
    found = measured(
        [
            Asked(distribution, simplex=True),
            Asked(counts, ends=True),
            Asked(torch.tensor(2.0)),
            Asked(torch.zeros(0, 5), simplex=True, ends=True),
        ]
    )
    squares = 0.25 + 0.25 + 0.49 + 0.16
    assert found[0] == pytest.approx(Measures(4, squares, 0.4, 0.0, 0.1), abs=1e-6)
    assert found[1:] == [Measures(3, 25.0, -4.0, 3.0), Measures(1, 4.0), Measures(0, 0.0)]
    assert found[1].largest == 4
    assert root_mean_square(found[1:3]) == math.sqrt(29 / 4)
    assert root_mean_square(found[3:]) == root_mean_square([]) == 0


@pytest.mark.parametrize("near", [1, 7, 2**17])
def test_tensors_of_all_shapes_are_measured_as_each_alone(near, monkeypatch):
    monkeypatch.setattr(measures, "NEAR", near)
    stream = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (2, 2), (3, 4), (5,), (3, 4), (), (2, 2)]
    values = [torch.randn(shape, generator=stream) for shape in shapes]
    values[2][1, 1] = torch.nan
    asked = [Asked(v, simplex=v.ndim > 0, ends=True) for v in values]
    for value, found in zip([*values, values[0]], measured([*asked, asked[0]]), strict=True):
        assert found.size == value.numel()
        wide = value.double()
        expected = [wide.square().sum(), value.min(), value.max()]
        if value.ndim:
            expected.append((wide.sum(dim=-1) - 1).abs().max())
        torch.testing.assert_close(
            torch.tensor(found[1 : 1 + len(expected)], dtype=torch.float64),
            torch.stack([one.double() for one in expected]),
            equal_nan=True,
        )


def test_the_largest_of_finite_numbers_are_finite():
    big = torch.tensor([torch.finfo(torch.float32).max] * 3)
    assert math.isfinite(measured([Asked(big)])[0].squares)
    assert not math.isfinite(measured([Asked(torch.tensor([1.0, torch.inf]))])[0].squares)
