import pytest
import torch
from torch import tensor

from kdcore.losses.numerics import check_rows, root, squared_distances, unit


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slope(function, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


def test_root_has_no_slope_at_0_where_the_plain_one_has_nan():
    rows = tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0]])
    assert slope(lambda x: squared_distances(x).sqrt(), rows).isnan().any()
    ours = slope(lambda x: root(squared_distances(x)), rows)
    assert ours.isfinite().all()
    assert torch.equal(ours[0], ours[1])
    assert torch.equal(root(tensor([0.0, 4.0])), tensor([0.0, 2.0]))


def test_unit_by_hand():
    rows = tensor([[3.0, -4.0], [0.0, 0.0]])
    torch.testing.assert_close(unit(rows), tensor([[0.6, -0.8], [0.0, 0.0]]))
    assert (slope(unit, rows)[1] == 0).all()


def test_unit_and_root_are_differentiable_twice():
    x = normal(3, 4).requires_grad_()
    for function in (unit, lambda v: root(v.square().sum(-1))):
        assert torch.autograd.gradcheck(function, (x,))
        assert torch.autograd.gradgradcheck(function, (x,))


def test_squared_distances_are_the_loop():
    rows = normal(5, 3)
    loops = torch.stack([torch.stack([((a - b) ** 2).sum() for b in rows]) for a in rows])
    torch.testing.assert_close(squared_distances(rows), loops)


def test_far_from_the_origin_the_gram_matrix_loses_all_digits_and_differences_do_not():
    rows = normal(40, 3).float() + 1000
    exact = squared_distances(rows.double())
    gram = rows @ rows.T
    trick = gram.diagonal() + gram.diagonal().unsqueeze(1) - 2 * gram
    assert (trick - exact).abs().max() > 0.1
    assert (squared_distances(rows) - exact).abs().max() < 1e-4


def test_rows_have_to_match():
    check_rows(normal(2, 3), normal(2, 4), least=2)
    with pytest.raises(ValueError, match=r"\(2, 3\) and teacher \(3, 4\).*same examples"):
        check_rows(normal(2, 3), normal(3, 4))
    with pytest.raises(ValueError, match=r"N = 2 examples; .*at least 3"):
        check_rows(normal(2, 3), normal(2, 4), least=3)
