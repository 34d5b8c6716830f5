"""tests.kdcore.test_statistics."""

import math

import pytest
import scipy.spatial.distance
import scipy.stats

from kdcore.statistics import paired_comparison, t_quantile
from tests.kdcore.test_metrics import normal


class TestPairedComparison:
    def test_by_hand(self):
        # Differences 10, 12, 8: mean 10, deviation 2; 4.3027 x 2 / sqrt(3) = 4.968.
        found = paired_comparison([72.0, 75.0, 70.0], [62.0, 63.0, 62.0])
        assert found.mean == 10.0
        assert (found.low, found.high) == pytest.approx((5.032, 14.968), abs=1e-3)
        assert (found.wins, found.n) == (3, 3)

    @pytest.mark.parametrize("n", [2, 3, 10, 31])
    def test_it_is_scipys_paired_t_test(self, n):
        first, second = normal(n).tolist(), normal(n, seed=1).tolist()
        found = paired_comparison(first, second)
        theirs = scipy.stats.ttest_rel(first, second).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
        assert found.wins == sum(a > b for a, b in zip(first, second, strict=True))

    def test_the_interval_covers_the_truth_in_95_of_100_cases(self):
        gaps = normal(2000, 5) + 1
        found = [paired_comparison(row, [0.0] * 5) for row in gaps.tolist()]
        covered = sum(one.low <= 1 <= one.high for one in found) / 2000
        assert covered == pytest.approx(0.95, abs=0.02)

    def test_a_tie_is_no_win(self):
        assert paired_comparison([1.0, 2.0], [1.0, 1.0]).wins == 1

    def test_one_pair_has_no_interval(self):
        found = paired_comparison([0.8], [0.7])
        assert found.mean == pytest.approx(0.1)
        assert math.isnan(found.low)
        assert math.isnan(found.high)

    def test_errors(self):
        with pytest.raises(ValueError, match="got 2 and 3 numbers; .*leave out the seeds"):
            paired_comparison([1, 2], [1, 2, 3])
        with pytest.raises(ValueError, match="got 0 and 0"):
            paired_comparison([], [])
        with pytest.raises(ValueError, match="1 of 2 differences are not finite.*diverge"):
            paired_comparison([1.0, math.nan], [1.0, 1.0])


class TestQuantile:
    @pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 10, 29, 99, 1000])
    @pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
    def test_it_is_scipys(self, freedom, level):
        theirs = scipy.stats.t.ppf((1 + level) / 2, freedom)
        assert t_quantile(freedom, level) == pytest.approx(theirs, rel=1e-12)

    def test_by_hand(self):
        assert t_quantile(1, 0.5) == pytest.approx(1)  # Cauchy: a quarter lies beyond 1
        assert t_quantile(2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)))

    def test_errors(self):
        with pytest.raises(ValueError, match="got 0 degrees of freedom at level 0.95"):
            t_quantile(0)
        with pytest.raises(ValueError, match="at level 95; .*such as 0.95"):
            t_quantile(3, 95)
