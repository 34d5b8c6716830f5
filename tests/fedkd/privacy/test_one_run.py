"""Bounds of epsilon from one run."""

import math

import pytest
import torch

from fedkd.privacy.one_run import chance, lower_bound, proved
from kdcore.rng import generator


@pytest.mark.parametrize(("guesses", "alpha"), [(10, 0.05), (50, 0.01)])
def test_guesses_that_are_all_right_refute_what_a_person_can_derive(guesses, alpha):
    """All right with chance q^r, so alpha^(1/r) is the q that is just refuted."""
    share = alpha ** (1 / guesses)
    found = proved(1000, guesses, guesses, 0.0, alpha)
    assert found == pytest.approx(math.log(share / (1 - share)), abs=1e-9)


def test_the_chance_is_that_of_a_binomial_number_and_more_with_delta():
    # three guesses at epsilon ln 3, each right with 3/4: two or three right
    plain = 3 * (3 / 4) ** 2 / 4 + (3 / 4) ** 3
    assert chance(100, 3, 2, math.log(3), 0.0) == pytest.approx(plain)
    # v - 1 = 1 right has chance 9/64, and none or one 10/64, so the greatest of 9/64 and 5/64
    more = plain + 2 * 100 * 1e-3 * 9 / 64
    assert chance(100, 3, 2, math.log(3), 1e-3) == pytest.approx(more)
    assert chance(100, 3, 0, 1.0, 1e-3) == 1.0


def test_a_randomised_response_is_seldom_above_its_epsilon_and_near_it():
    epsilon, above, found = 2.0, 0, []
    for seed in range(40):
        coins = torch.rand(4000, generator=generator(seed, "in")) < 0.5
        kept = torch.rand(4000, generator=generator(seed, "kept")) < 1 / (1 + math.exp(-epsilon))
        said = (coins == kept).double() + 1e-6 * torch.rand(4000, generator=generator(seed))
        found.append(lower_bound(said[~coins], said[coins], 1e-12))
        above += found[-1] > epsilon
    assert above <= 6  # of 40, at alpha 0.05: more has a chance below 0.4 %
    assert max(found) > 1.7


def test_scores_that_say_nothing_prove_nothing_and_what_cannot_be_is_refused():
    scores = torch.rand(200, generator=generator(0))
    assert lower_bound(scores[:100], scores[100:], 1e-5) < 1
    with pytest.raises(ValueError, match="7 canaries; expected 8 or more"):
        lower_bound(scores[:3], scores[:4], 1e-5)
    with pytest.raises(ValueError, match="alpha is 2"):
        lower_bound(scores, scores, 1e-5, 2)
