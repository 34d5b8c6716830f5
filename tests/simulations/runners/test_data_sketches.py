"""Whether two machines have the same data, by a sketch."""

import pytest
import torch

from kdcore.rng import generator
from simulations.runners.data_sketches import same, sketches

X = torch.rand(300, 7, generator=generator(0, "x"))
Y = torch.randint(10, (5000,), generator=generator(0, "y"))
NOT_KNOWN = torch.where(X > 0.9, torch.nan, X)


@pytest.mark.parametrize("data", [X, Y, (X, Y), {"x": (NOT_KNOWN,)}, Y > 4, X[:0], ()])
def test_the_same_data_have_the_same_sketch_whatever_the_last_bit(data):
    assert same(sketches(data), sketches(data))
    near = torch.utils._pytree.tree_map(
        lambda t: t * (1 + 1e-6) if t.is_floating_point() else t, data
    )
    assert same(sketches(data), sketches(near))


OTHER = {
    "another order": (X.flip(0), Y),
    "a label": (X, torch.cat([Y[:-2], (Y[-2:-1] + 1) % 10, Y[-1:]])),
    "two other labels": (
        X,
        Y.clone().index_copy_(0, torch.tensor([0, 5]), torch.tensor([7, 8])),
    ),
    "one example fewer": (X[:-1], Y),
    "another type": (X.double(), Y),
    "another scale": (X * 1.01, Y),
    "no labels": (X,),
}


@pytest.mark.parametrize("name", OTHER)
def test_other_data_have_another(name):
    assert not same(sketches((X, Y)), sketches(OTHER[name]))
