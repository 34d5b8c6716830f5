import math

import pytest
import torch
from scipy import stats

from fedkd.privacy.accounting import noise_multiplier
from fedkd.privacy.events import RandomizedResponse
from fedkd.privacy.lower_bounds import lower_bound, projected
from fedkd.privacy.mechanisms import gaussian_sum, randomized_response
from fedkd.privacy.releases import Sizes, find

DELTA, RUNS, C = 1e-5, 2000, 10
SENSITIVITY = find("class means and labels held", "replace").sensitivity(Sizes(classes=C))
EPSILONS = (4.0, 8.0)


def class_means(label):
    """What a client sends who is sure of one label, whatever the example, and holds all labels."""
    return torch.cat([torch.eye(C)[[label] * C], torch.ones(C, 1)], 1).double()


OTHERS = sum(class_means(k % C) for k in range(19))
PAIR = OTHERS + class_means(0), OTHERS + class_means(1)


@pytest.fixture(scope="module")
def multipliers():
    return {epsilon: noise_multiplier(epsilon, DELTA) for epsilon in EPSILONS}


def audited(sensitivity, noise, seed, runs=RUNS):
    """The bound of runs of the mechanism itself, on a pair of which one client differs."""
    generator = torch.Generator().manual_seed(seed)
    scores = []
    for total in PAIR:
        released = [gaussian_sum(total, sensitivity, noise, generator).value for _ in range(runs)]
        scores.append(projected(torch.stack(released), *PAIR))
    return lower_bound(*scores, DELTA)


@pytest.mark.parametrize("epsilon", EPSILONS)
class TestClassMeans:
    def test_the_right_mechanism(self, epsilon, multipliers):
        for seed in range(2):
            bound = audited(SENSITIVITY, multipliers[epsilon], seed)
            assert 0.6 * epsilon <= bound.gaussian <= epsilon
            assert bound.clopper_pearson <= bound.gaussian

    def test_a_sensitivity_that_lacks_a_root_of_two_is_caught(self, epsilon, multipliers):
        bound = audited(SENSITIVITY / math.sqrt(2), multipliers[epsilon], 0)
        assert bound.gaussian > epsilon
        assert bound.clopper_pearson < epsilon  # the weaker control does not see it

    def test_a_sensitivity_of_one_label_is_caught(self, epsilon, multipliers):
        assert audited(math.sqrt(2), multipliers[epsilon], 0).gaussian > 2 * epsilon


def test_noise_that_is_divided_by_the_number_of_clients_is_caught(multipliers):
    assert audited(SENSITIVITY, multipliers[4.0] / 20, 0, runs=100).gaussian > 4


def test_noise_that_is_too_much_shows_as_a_bound_far_below(multipliers):
    assert audited(2 * SENSITIVITY, multipliers[4.0], 0).gaussian < 0.6 * 4


def test_there_are_no_more_false_alarms_than_allowed():
    """At alpha = .1, two of twenty; scores as normal as those of a right mechanism are."""
    mu, alarms = 1.0, 0
    truth = lower_bound_of(mu)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.randn(2, 400, generator=generator, dtype=torch.float64)
        alarms += lower_bound(scores[0], scores[1] + mu, DELTA, alpha=0.1).gaussian > truth
    assert alarms <= 2


def lower_bound_of(mu):
    """Epsilon of two normal distributions, by their closed form."""
    low, high = 0.0, 100.0
    for _ in range(60):
        e = (low + high) / 2
        delta = stats.norm.cdf(mu / 2 - e / mu) - math.exp(e) * stats.norm.cdf(-mu / 2 - e / mu)
        low, high = (e, high) if delta > DELTA else (low, e)
    return low


class TestLowerBound:
    def test_by_hand(self):
        """Ten runs of each decide, all of them right: at most 1 - (alpha / 2)^(1/10) are wrong."""
        bound = lower_bound(torch.zeros(20), torch.ones(20), DELTA, alpha=0.1)
        rate = 1 - 0.05**0.1
        assert bound.mu == pytest.approx(2 * stats.norm.isf(rate))
        assert bound.clopper_pearson == pytest.approx(math.log((1 - DELTA - rate) / rate))
        assert bound.gaussian == pytest.approx(lower_bound_of(bound.mu), abs=5e-3)

    def test_the_same_runs_prove_nothing(self):
        scores = torch.randn(200, generator=torch.Generator().manual_seed(0))
        assert lower_bound(scores, scores, DELTA) == (0.0, 0.0, 0.0)

    def test_of_a_randomised_response_the_plain_ratio_is_nearly_all(self):
        generator = torch.Generator().manual_seed(0)
        scores = [
            (randomized_response(torch.full((20_000,), y), 10, 2.0, generator).value == 1).double()
            for y in (0, 1)
        ]
        bound = lower_bound(*scores, DELTA)
        assert 0.85 * RandomizedResponse(2.0, 10).epsilon < bound.clopper_pearson < 2.0

    @pytest.mark.parametrize(
        ("scores", "alpha", "said"),
        [
            (torch.zeros(19), 0.05, r"shape \(19,\); expected \(M,\) of at least 20 runs"),
            (torch.zeros(30, 2), 0.05, r"shape \(30, 2\)"),
            (torch.full((30,), math.nan), 0.05, "a score is not finite"),
            (torch.zeros(30), 0.0, "alpha is 0.0; it has to be between 0 and 1"),
        ],
    )
    def test_values(self, scores, alpha, said):
        with pytest.raises(ValueError, match=said):
            lower_bound(scores, scores, DELTA, alpha)

    def test_a_pair_of_the_same(self):
        with pytest.raises(ValueError, match="the two of the pair are the same"):
            projected(torch.ones(3, 2), torch.ones(2), torch.ones(2))
