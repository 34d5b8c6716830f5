import math

import pytest
import torch
from scipy import stats
from scipy.optimize import minimize

from fedkd.privacy.accounting import Ledger, noise_multiplier, renyi
from fedkd.privacy.events import Gaussian, RandomizedResponse
from fedkd.privacy.mechanisms import (
    confident_gnmax,
    gaussian_sum,
    onto_simplex,
    randomized_response,
    unbiased,
)

N = 20_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class TestGaussianSum:
    def test_the_noise_is_normal_and_of_the_size_that_it_says(self):
        total = torch.arange(N).double()
        value, events = gaussian_sum(total, math.sqrt(20), 3.0, generator())
        noise = (value - total) / (3.0 * math.sqrt(20))
        assert stats.kstest(noise.numpy(), "norm").pvalue > 0.01
        assert noise.std().item() == pytest.approx(1, abs=4 / math.sqrt(2 * N))
        assert events == (Gaussian(3.0),)

    def test_what_is_calibrated_costs_what_was_asked_for(self):
        noise = noise_multiplier(8.0, 1e-5)
        _, events = gaussian_sum(torch.zeros(3), 1.0, noise, generator())
        said = Ledger("client", "replace", events).guarantee(1e-5)
        assert 7.99 < said.epsilon <= 8

    def test_the_generator_decides_and_float32_does_not_round_it(self):
        one, same, other = (
            gaussian_sum(torch.zeros(9), 1.0, 1.0, generator(seed)).value for seed in (0, 0, 1)
        )
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
        assert one.dtype == torch.float64

    def test_without_noise_the_sum_comes_back(self):
        total = torch.tensor([1.5, -2.0])
        assert gaussian_sum(total, 1.0, 0.0, generator()).value.tolist() == [1.5, -2.0]

    @pytest.mark.parametrize(
        ("total", "sensitivity", "noise", "said"),
        [
            (1.0, math.inf, 1.0, "sensitivity is inf; .*clip"),
            (1.0, -1.0, 1.0, "sensitivity is -1.0"),
            (1.0, 1.0, math.nan, "noise is nan"),
            (math.nan, 1.0, 1.0, "not finite"),
        ],
    )
    def test_values(self, total, sensitivity, noise, said):
        with pytest.raises(ValueError, match=said):
            gaussian_sum(torch.tensor([total]), sensitivity, noise, generator())


class TestRandomizedResponse:
    @pytest.mark.parametrize(
        ("epsilon", "classes", "keep"),
        [(1.0, 10, 0.232), (2.0, 10, 0.451), (4.0, 10, 0.858), (2.0, 100, 0.069)],
    )
    def test_a_label_is_kept_as_often_as_it_should_be(self, epsilon, classes, keep):
        labels = torch.full((N,), 3)
        value, events = randomized_response(labels, classes, epsilon, generator())
        assert (value == 3).double().mean().item() == pytest.approx(keep, abs=0.015)
        assert events == (RandomizedResponse(epsilon, classes, N),)

    def test_the_others_are_as_likely_as_each_other_and_the_odds_are_e_to_the_epsilon(self):
        value, _ = randomized_response(torch.full((N,), 2), 5, 1.5, generator())
        odds = math.exp(1.5)
        expected = torch.tensor([1, 1, odds, 1, 1], dtype=torch.float64) * N / (odds + 4)
        seen = torch.bincount(value, minlength=5)
        assert stats.chisquare(seen.numpy(), expected.numpy()).pvalue > 0.01

    def test_the_mean_of_the_decoded_rows_is_the_truth_exactly(self):
        """Over all five values that may come, with their chances."""
        odds = math.exp(1.0)
        chances = torch.tensor([1, odds, 1, 1, 1], dtype=torch.float64) / (odds + 4)
        mean = chances @ unbiased(torch.arange(5), 5, 1.0)
        torch.testing.assert_close(mean, torch.eye(5).double()[1], rtol=0, atol=1e-12)

    def test_decoded_rows_reach_below_zero(self):
        """-1 / (e - 1) = -0.58 at epsilon 1, of any number of classes."""
        least = -1 / (math.e - 1)
        assert unbiased(torch.tensor([0]), 10, 1.0).min().item() == pytest.approx(least)

    def test_with_a_huge_epsilon_nothing_changes(self):
        labels = torch.randint(7, (50,), generator=generator())
        assert torch.equal(randomized_response(labels, 7, 2000.0, generator()).value, labels)

    def test_labels(self):
        with pytest.raises(ValueError, match="labels are from -1 to 4; expected 0 to 3"):
            randomized_response(torch.tensor([-1, 4]), 4, 1.0, generator())
        assert len(randomized_response(torch.empty(0).long(), 4, 1.0, generator()).value) == 0


class TestOntoSimplex:
    def test_by_hand(self):
        rows = torch.tensor([[0.2, 0.3, 0.5], [1.2, 0.4, -0.6], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        expected = torch.tensor([[0.2, 0.3, 0.5], [0.9, 0.1, 0], [1, 0, 0], [1 / 3] * 3])
        torch.testing.assert_close(onto_simplex(rows), expected)

    def test_it_is_what_an_optimiser_finds(self):
        rows = torch.randn(3, 4, generator=generator(), dtype=torch.float64)
        ours = onto_simplex(rows)
        assert (ours >= 0).all()
        for row, found in zip(rows.numpy(), ours.numpy(), strict=True):
            theirs = minimize(
                lambda p, row=row: ((p - row) ** 2).sum(),
                [0.25] * 4,
                bounds=[(0, 1)] * 4,
                constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
                method="SLSQP",
                options={"ftol": 1e-14},
            )
            assert found == pytest.approx(theirs.x, abs=1e-6)


class TestConfidentGNMax:
    counts = torch.tensor([[9, 1, 0], [4, 3, 3], [0, 2, 8], [0, 10, 0]])

    def test_by_hand_without_noise(self):
        labels, _ = confident_gnmax(self.counts, 7.5, 0.0, 0.0, 9, generator())
        assert labels.tolist() == [0, -1, 2, 1]

    def test_after_so_many_nothing_is_said(self):
        labels, events = confident_gnmax(self.counts, 7.5, 1e-9, 1e-9, 2, generator())
        assert labels.tolist() == [0, -1, 2, -1]
        assert [event.count for event in events] == [4, 2]

    def test_epsilon_of_the_papers_run_on_mnist(self):
        """T = 200, noises 150 and 40, 640 queries, of which 286 were answered."""
        counts = torch.zeros(640, 10)
        _, events = confident_gnmax(counts, 200.0, 150.0, 40.0, 286, generator())
        said = Ledger("client", "replace", events).guarantee(1e-5)
        assert said.epsilon == pytest.approx(2.54, abs=0.005)
        assert renyi(events, 1e-5) == pytest.approx(2.76, abs=0.005)

    def test_the_test_passes_as_often_as_a_normal_is_that_large(self):
        counts = torch.tensor([[10.0, 0.0]]).expand(N, 2)
        labels, _ = confident_gnmax(counts, 12.0, 4.0, 1.0, N, generator())
        assert (labels >= 0).double().mean().item() == pytest.approx(stats.norm.sf(0.5), abs=0.015)

    def test_the_second_wins_as_often_as_two_normals_say(self):
        counts = torch.tensor([[10.0, 7.0]]).expand(N, 2)
        labels, _ = confident_gnmax(counts, -1e9, 0.0, 2.0, N, generator())
        lost = stats.norm.sf(3 / (2 * math.sqrt(2)))
        assert labels.double().mean().item() == pytest.approx(lost, abs=0.015)

    def test_values(self):
        with pytest.raises(ValueError, match=r"shape \(3,\); expected \(N, C\)"):
            confident_gnmax(torch.ones(3), 1.0, 1.0, 1.0, 1, generator())
        with pytest.raises(ValueError, match="count is -1"):
            confident_gnmax(self.counts, 1.0, 1.0, 1.0, -1, generator())
