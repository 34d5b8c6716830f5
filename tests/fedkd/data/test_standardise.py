"""Columns are scaled by what is trained on: test rows change nothing."""

import numpy as np
import pytest
import torch

from fedkd.data.datasets import Dataset
from fedkd.data.federated_data import federate, pools
from fedkd.data.own.sources import data
from fedkd.data.partition import iid
from fedkd.data.standardise import standardised
from kdcore.rng import generator


def test_mean_and_deviation_are_of_the_given_rows():
    x = torch.tensor([[1.0, 5.0], [3.0, 6.0], [100.0, 7.0]])
    found = standardised(
        Dataset(x, torch.tensor([0, 1, 0]), 2, standardise=(0,)), torch.tensor([0, 1])
    )
    assert found.x.tolist() == [[-1.0, 5.0], [1.0, 6.0], [98.0, 7.0]]  # mean 2, deviation 1
    assert found.notes == (
        "1 column has mean 0 and standard deviation 1 over the 2 private examples",
    )
    assert x[0, 0] == 1  # what was given stays


def test_a_column_that_is_the_same_everywhere_is_centred():
    x = torch.full((4, 1), 0.1)
    x[3] = 0.6
    found = standardised(
        Dataset(x, torch.tensor([0, 1, 0, 1]), 2, standardise=(0,)), torch.arange(3)
    )
    torch.testing.assert_close(found.x.flatten(), torch.tensor([0.0, 0.0, 0.0, 0.5]))


def test_channels_of_pictures_are_columns():
    x = torch.rand(20, 3, 4, 4, generator=generator(0, "x")) * torch.tensor([1.0, 5, 9]).view(
        3, 1, 1
    )
    rows = torch.arange(15)
    found = standardised(Dataset(x, torch.arange(20) % 2, 2, standardise=(0, 1, 2)), rows).x[rows]
    torch.testing.assert_close(found.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.std(dim=(0, 2, 3), correction=0), torch.ones(3))


@pytest.mark.parametrize("changed", ["test", "validation", "public"])
def test_what_is_not_trained_on_does_not_enter(changed):
    numbers = np.random.default_rng(0).random((40, 2))
    given = data(numbers, np.arange(40) % 2, standardise=True)
    chosen = pools(given, 20, 5, 5, 0, seed=0)
    parts = iid(given.y[chosen.private], 2, generator(0, "parts"))
    before = federate(given, chosen, parts, ["mlp-4"], seed=0)
    x = given.x.clone()
    x[getattr(chosen, changed)] += 1000
    after = federate(given._replace(x=x), chosen, parts, ["mlp-4"], seed=0)
    for one, other in zip(before.clients, after.clients, strict=True):
        assert torch.equal(one.private.x[one.private.rows], other.private.x[other.private.rows])
    seen = before.clients[0].private.x[chosen.private]
    torch.testing.assert_close(seen.mean(dim=0), torch.zeros(2), atol=1e-6, rtol=0)
    assert "over the 20 private examples" in " ".join(before.notes)


def test_whole_numbers_and_several_inputs_are_not_standardised():
    for x in (np.arange(8).reshape(4, 2), (np.ones((4, 2)), np.ones((4, 1)))):
        with pytest.raises(ValueError, match="standardise is for one table of measurements"):
            data(x, [0, 1, 0, 1], standardise=True)
