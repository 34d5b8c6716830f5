"""Certainty: a regression as scikit-learn's, how far one example moves it, and its noise."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fedkd.encoders.certainty import Certainty, in_ball, noisy, regression
from fedkd.encoders.pixels import Pixels

pytestmark = pytest.mark.usefixtures("double")


def dice(seed=0):
    return torch.Generator().manual_seed(seed)


def test_rows_of_a_ball_by_hand():
    rows = in_ball(torch.tensor([[3.0, 4.0], [0.0, 20.0], [0.0, 0.0]]), torch.tensor(10.0))
    half = 0.5**0.5
    expected = [[0.3 * half, 0.4 * half, half], [0.0, half, half], [0.0, 0.0, half]]
    torch.testing.assert_close(rows, torch.tensor(expected))


@pytest.mark.parametrize("strength", [0.1, 1e-3, 1e-5])
@pytest.mark.parametrize("apart", [0.0, 3.0, 100.0])
def test_the_regression_is_that_of_scikit_learn(strength, apart):
    own = in_ball(torch.randn(13, 4, generator=dice()) + apart, torch.tensor(2.0))
    others = in_ball(torch.randn(30, 4, generator=dice(1)) - apart, torch.tensor(2.0))
    there = (torch.arange(13) < 9).double()  # the last rows are padding
    x, y = torch.cat([own[:9], others]).numpy(), [1] * 9 + [0] * 30
    theirs = LogisticRegression(
        C=1 / (strength * 39), fit_intercept=False, solver="newton-cholesky", tol=1e-12
    ).fit(x, y)
    found = regression(own, there, others, strength)
    torch.testing.assert_close(found, torch.tensor(theirs.coef_[0]), rtol=1e-6, atol=1e-6)


def test_an_example_that_is_replaced_moves_it_by_no_more_than_is_said():
    # 2 / (n strength) is for the sum of both; of all the examples here, replaced by the opposite
    # one or by any other, none moves w by more, and the worst comes to a good part of it.
    strength, moved = 1.0, []
    others = in_ball(0.01 * torch.randn(4, 2, generator=dice()), torch.tensor(1.0))
    for seed in range(40):
        own = in_ball(5 * torch.randn(3, 2, generator=dice(seed)), torch.tensor(1.0))
        other = own.clone()
        other[0, :2] *= -1
        one, two = (regression(x, torch.ones(3), others, strength) for x in (own, other))
        moved.append(float((one - two).norm()))
    most = 2 / (7 * strength)
    assert 0.25 * most < max(moved) <= most


def test_examples_like_the_own_ones_score_higher():
    # Public examples lie around -1 and 1, and so do those set apart; the client's are around 1.
    x = torch.tensor([1.0, -1.0] * 20).unsqueeze(1) + 0.2 * torch.randn(40, 1, generator=dice())
    way = Certainty(Pixels(), 0.25, 0.01)
    assert way.asked(x).tolist() == list(range(30))
    params = {"weight": torch.zeros(1)}
    own, there = torch.ones(6, 1) + 0.2 * torch.randn(6, 1, generator=dice(1)), torch.ones(6)
    radius = x.norm(dim=1).max()
    w = regression(in_ball(own, radius), there, in_ball(x[30:], radius), 0.01)
    scores = way.scores(lambda params, x: x, params, x, w)
    assert scores.shape == (30, 1)
    assert scores[0::2].min() > 2 * scores[1::2].max()


def test_one_example_is_asked_about_and_one_set_apart_at_the_least():
    x = torch.zeros(2, 3)
    for share in (0.01, 0.99):
        assert Certainty(Pixels(), share, 0.1).asked(x).tolist() == [0]
    # 40 public examples, a quarter set apart, lambda 0.1: 2 / (10 * 0.1) = 2 for a multiplier of 1.
    assert Certainty(Pixels(), 0.25, 0.1).deviation(torch.zeros(40, 1), 3.0) == pytest.approx(6.0)


def test_noise_is_on_what_it_is_for_and_as_large_as_the_broadcast_says():
    stage = noisy("certainty", "noise")
    sent = {"certainty": torch.zeros(20_000), "weight": torch.ones(3)}
    told = {"noise": torch.tensor([6.0])}
    found = stage(told).encode(sent, dice())
    assert torch.equal(found["weight"], sent["weight"])
    assert float(found["certainty"].std()) == pytest.approx(6.0, rel=0.05)  # 10 standard errors
    assert stage(told).encode({"weight": torch.ones(3)}, dice()).keys() == {"weight"}
    assert torch.equal(stage({}).encode(sent, dice())["certainty"], sent["certainty"])
