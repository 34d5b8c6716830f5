import json
import math

import dp_accounting
import pytest
import torch
from dp_accounting.pld import PLDAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from fedkd.privacy.accounting import Guarantee, Ledger, noise_multiplier, renyi
from fedkd.privacy.events import Gaussian, Laplace, RandomizedResponse
from kdcore import ensemble

DELTA = 1e-5


def epsilon(*events, delta=DELTA, relation="add"):
    return Ledger("client", relation, events).guarantee(delta).epsilon


def analytic(noise, delta=DELTA):
    """Balle and Wang, ICML 2018, https://arxiv.org/abs/1805.06530, theorem 8."""

    def excess(eps):
        mu = 1 / noise
        hidden = math.exp(eps + norm.logcdf(-eps / mu - mu / 2))
        return norm.cdf(mu / 2 - eps / mu) - hidden - delta

    return brentq(excess, 0, 1 / noise**2 + 20 / noise, xtol=1e-12)


class TestGaussian:
    @pytest.mark.parametrize("noise", [0.1, 0.5, 1.0, 3.7, 30.0])
    def test_it_is_the_closed_form_and_never_less(self, noise):
        assert analytic(noise) <= epsilon(Gaussian(noise)) <= analytic(noise) * 1.0003

    @pytest.mark.parametrize(("noise", "count"), [(2.0, 4), (20.0, 100)])
    def test_several_are_one_of_less_noise(self, noise, count):
        one = epsilon(Gaussian(noise / math.sqrt(count)))
        assert epsilon(Gaussian(noise, count)) == one
        assert epsilon(*[Gaussian(noise)] * count) == one

    def test_those_of_different_noise_add_their_squares(self):
        """mu = sqrt(mu_1^2 + mu_2^2): Dong, Roth and Su, https://arxiv.org/abs/1905.02383."""
        together = analytic(1 / math.hypot(1 / 3, 1 / 4))
        assert epsilon(Gaussian(3.0), Gaussian(4.0)) == pytest.approx(together, rel=1e-4)

    def test_less_noise_more_rounds_and_more_clients_cost_more(self):
        costs = [
            epsilon(Gaussian(8.0, 10, 0.1)),
            epsilon(Gaussian(4.0, 10, 0.1)),
            epsilon(Gaussian(4.0, 20, 0.1)),
            epsilon(Gaussian(4.0, 20, 0.3)),
            epsilon(Gaussian(4.0, 20)),
        ]
        assert costs == sorted(set(costs))

    @pytest.mark.parametrize(("noise", "count", "rate", "published"), [(1.2, 200, 0.05, 3.38)])
    def test_of_poisson_samples_it_is_that_of_the_library(self, noise, count, rate, published):
        sampled = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
        theirs = PLDAccountant(value_discretization_interval=1e-3).compose(sampled, count)
        ours = epsilon(Gaussian(noise, count, rate))
        assert ours == pytest.approx(theirs.get_epsilon(DELTA), rel=1e-3)
        assert ours == pytest.approx(published, abs=0.005)

    def test_rounds_that_are_forgotten_would_show(self):
        assert epsilon(Gaussian(4.0, 10)) > 3 * epsilon(Gaussian(4.0))

    def test_without_noise_there_is_no_privacy(self):
        assert epsilon(Gaussian(3.0), Gaussian(0.0)) == epsilon(Laplace(0.0)) == math.inf
        assert renyi([Laplace(0.0)], DELTA) == math.inf

    def test_what_is_never_released_costs_nothing(self):
        assert epsilon() == epsilon(Gaussian(1.0, count=0)) == epsilon(Gaussian(0.0, 0)) == 0


class TestPure:
    def test_one_laplace_is_its_inverse_scale(self):
        assert epsilon(Laplace(4.0), delta=1e-12) == pytest.approx(0.25, rel=1e-3)

    def test_of_a_laplace_at_delta(self):
        """delta = 1 - e^((eps - 1/b) / 2), of two Laplace densities a distance of 1 apart."""
        delta = 0.05
        assert epsilon(Laplace(0.5), delta=delta) == pytest.approx(
            2 + 2 * math.log(1 - delta), rel=1e-4
        )

    def test_one_randomised_response_is_its_epsilon(self):
        said = epsilon(RandomizedResponse(2.0, 10), delta=1e-12, relation="replace")
        assert said == pytest.approx(2.0, abs=2e-4)

    def test_of_a_randomised_response_at_delta(self):
        """P(own) - e^eps P(other) = delta, where the odds of the two are e^2."""
        keep = math.exp(2) / (math.exp(2) + 9)
        other, delta = (1 - keep) / 9, 0.05
        said = epsilon(RandomizedResponse(2.0, 10), delta=delta, relation="replace")
        assert said == pytest.approx(math.log((keep - delta) / other), abs=2e-4)

    def test_many_cost_less_than_their_sum(self):
        votes = ensemble.votes(torch.ones(3, 300, 2), 0.1, torch.Generator())
        assert epsilon(Laplace(votes.noise, votes.queries)) == pytest.approx(19.07, abs=0.005)
        many = epsilon(RandomizedResponse(0.5, 10, 100), relation="replace")
        assert 10 < many < 50

    def test_two_coordinates_that_move_by_one_are_no_worse_than_one_that_moves_by_two(self):
        for delta in (1e-9, 1e-5, 0.01, 0.1):
            assert epsilon(Laplace(5.0, 2), delta=delta) <= epsilon(Laplace(2.5), delta=delta)


class TestRenyi:
    @pytest.mark.parametrize(
        "events",
        [
            [Gaussian(1.0)],
            [Gaussian(4.0, 50, 0.1)],
            [Laplace(5.0, 100)],
            [Gaussian(5.0, 10), Laplace(3.0), Gaussian(4.0, 5, 0.05)],
        ],
    )
    def test_it_proves_no_less_privacy_loss(self, events):
        exact = epsilon(*events)
        assert exact <= renyi(events, DELTA) <= 1.5 * exact

    def test_a_gaussian_by_hand(self):
        """a/2 + ln(1 - 1/a) - ln(delta a)/(a - 1), least over whole orders (Canonne et al.)."""
        least = min(
            a / 2 + math.log1p(-1 / a) - math.log(DELTA * a) / (a - 1) for a in range(2, 65)
        )
        assert renyi([Gaussian(1.0)], DELTA) == pytest.approx(least, rel=1e-9)

    def test_randomised_responses(self):
        with pytest.raises(ValueError, match="RandomizedResponse is not composed"):
            renyi([RandomizedResponse(1.0, 3)], DELTA)


class TestCalibration:
    @pytest.mark.parametrize("target", [4.0])
    def test_it_is_the_closed_form(self, target):
        noise = noise_multiplier(target, DELTA)
        assert analytic(noise) <= target
        assert analytic(noise * 0.999) > target

    def test_over_rounds_the_noise_grows_by_the_root(self):
        one, nine = noise_multiplier(8.0, DELTA), noise_multiplier(8.0, DELTA, rounds=9)
        assert nine == pytest.approx(3 * one, rel=2e-4)

    @pytest.mark.slow
    def test_of_poisson_samples_the_accountant_agrees(self):
        noise = noise_multiplier(0.5, DELTA, rounds=4, rate=0.1)
        assert 0.998 * 0.5 < epsilon(Gaussian(noise, 4, 0.1)) <= 0.5
        assert noise < noise_multiplier(0.5, DELTA, rounds=4) / 3

    @pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
    def test_epsilon(self, bad):
        with pytest.raises(ValueError, match=f"epsilon is {bad}; it has to be positive"):
            noise_multiplier(bad, DELTA)

    @pytest.mark.parametrize(
        ("target", "said"), [(1e-9, "so small that no noise"), (1e7, "so large that next to no")]
    )
    def test_what_no_noise_gives(self, target, said):
        with pytest.raises(ValueError, match=said):
            noise_multiplier(target, 1e-9)

    def test_rounds_and_rate(self):
        with pytest.raises(ValueError, match="rounds is 0"):
            noise_multiplier(1.0, DELTA, rounds=0)
        with pytest.raises(ValueError, match="rate is 0"):
            noise_multiplier(1.0, DELTA, rate=0)


class TestLedger:
    ledger = Ledger("client", "add", (Gaussian(9.0, 3), Gaussian(8.0, 5, 0.5))).plus(Laplace(9.0))

    def test_a_figure_names_all_that_it_needs(self):
        assert str(Guarantee(3.9994, 1e-5, "client", "replace")) == (
            "epsilon 4 at delta 1e-05 per client (replace)"
        )
        assert self.ledger.guarantee(DELTA)[1:] == (DELTA, "client", "add")

    def test_a_record_is_plain_data_and_comes_back(self):
        said = json.loads(json.dumps(self.ledger.record(DELTA)))
        assert said["events"][0] == {"kind": "gaussian", "noise": 9.0, "count": 3, "rate": 1.0}
        again = Ledger.from_record(said)
        assert again == self.ledger
        assert again.guarantee(DELTA).epsilon == said["epsilon"]

    def test_no_privacy_is_no_number(self):
        said = Ledger("record", "add", (Gaussian(0.0),)).record(DELTA)
        assert json.loads(json.dumps(said, allow_nan=False))["epsilon"] is None

    def test_in_rounds_or_at_once_is_the_same(self):
        rounds = Ledger("client", "add")
        for _ in range(20):
            rounds = rounds.plus(Gaussian(3.0, rate=0.2))
        assert rounds.guarantee(DELTA).epsilon == epsilon(Gaussian(3.0, 20, 0.2))

    @pytest.mark.parametrize("bad", [0.0, 1.0, -1e-5, math.nan])
    def test_delta(self, bad):
        for refused in (
            lambda: self.ledger.guarantee(bad),
            lambda: renyi([], bad),
            lambda: noise_multiplier(1.0, bad),
        ):
            with pytest.raises(ValueError, match=f"delta is {bad}; it has to be between 0 and 1"):
                refused()

    def test_a_delta_that_would_allow_publishing_one_of_them(self):
        for refused in (
            lambda: self.ledger.guarantee(0.02, count=100),
            lambda: noise_multiplier(1.0, 0.02, count=100),
        ):
            with pytest.raises(ValueError, match="delta is 0.02, above 1/100: publishing one"):
                refused()
        assert self.ledger.guarantee(0.01, count=100).delta == 0.01

    def test_unit_relation_and_kind(self):
        with pytest.raises(ValueError, match="unit must be one of record, client, label, got 'x'"):
            Ledger("x", "add")
        with pytest.raises(ValueError, match="relation must be one of replace, add, got 'remove'"):
            Ledger("client", "remove")
        with pytest.raises(ValueError, match="kind must be one of gaussian, .*got 'x'"):
            Ledger.from_record({"unit": "client", "relation": "add", "events": [{"kind": "x"}]})

    def test_what_the_relation_does_not_allow(self):
        with pytest.raises(ValueError, match=r"Poisson sample \(rate 0.1\).*added or removed"):
            Ledger("client", "replace", (Gaussian(1.0, 1, 0.1),))
        with pytest.raises(ValueError, match="about a label that is replaced"):
            Ledger("label", "add").plus(RandomizedResponse(1.0, 3))


class TestEvents:
    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda: Gaussian(-1.0), "noise is -1.0; it has to be finite and at least 0"),
            (lambda: Gaussian(math.nan), "noise is nan"),
            (lambda: Gaussian(1.0, -1), "count is -1"),
            (lambda: Gaussian(1.0, 1, 1.5), "rate is 1.5; .*above 0 and at most 1"),
            (lambda: Laplace(math.inf), "noise is inf"),
            (lambda: Laplace(1.0, -2), "count is -2"),
            (lambda: RandomizedResponse(0.0, 3), "epsilon is 0.0; .*above 0"),
            (lambda: RandomizedResponse(1.0, 1), "classes is 1; .*at least 2"),
        ],
    )
    def test_values(self, make, said):
        with pytest.raises(ValueError, match=said):
            make()
