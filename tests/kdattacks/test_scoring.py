"""ROC curves and what is read off them, against scikit-learn and by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from kdattacks import scoring
from kdcore.rng import generator


@pytest.mark.parametrize("levels", [2, 5, 10_000])  # many ties, some, none
def test_curve_and_area_are_those_of_scikit_learn(levels):
    values = torch.randint(levels, (80,), generator=generator(levels, "values")).double()
    truth = torch.rand(80, generator=generator(levels, "truth")) < 0.3
    fpr, tpr, _ = roc_curve(truth, values, drop_intermediate=False)
    curve = scoring.roc(values, truth)
    np.testing.assert_allclose(curve.fpr, fpr)
    np.testing.assert_allclose(curve.tpr, tpr)
    assert scoring.auc(values, truth) == pytest.approx(roc_auc_score(truth, values))


def test_what_is_all_so_or_not_at_all_has_no_area():
    values = torch.arange(4).double()
    assert scoring.auc(values, torch.ones(4).bool()) is None
    assert scoring.auc(values, torch.zeros(4).bool()) is None


def test_the_low_end_is_the_largest_rate_that_few_false_alarms_allow():
    values = torch.arange(2000, 0, -1).double()
    truth = torch.zeros(2000).bool()
    truth[:3] = True  # three members above all,
    truth[13] = True  # one below ten others,
    truth[14] = truth[-1] = True  # one right behind it, and one below all
    assert scoring.tpr_at(0.00502, values, truth) == pytest.approx(5 / 6)  # 10 of 1994
    assert scoring.tpr_at(0.00501, values, truth) == pytest.approx(3 / 6)
    assert scoring.tpr_at(0.01, values, truth) == pytest.approx(5 / 6)
    assert scoring.tpr_at(1.0, values, truth) == 1


@pytest.mark.parametrize(
    ("negatives", "reported"), [(9_400, False), (9_499, False), (9_600, True), (10_000, True)]
)
def test_a_rate_of_fewer_than_ten_false_positives_is_not_told(negatives, reported):
    truth = torch.arange(negatives + 5) >= negatives
    found = scoring.tpr_at(0.001, torch.arange(negatives + 5).double(), truth)
    assert (found is not None) == reported


def test_the_interval_is_that_of_the_mann_whitney_statistic():
    truth = torch.arange(50) < 20
    low, high = scoring.interval(torch.arange(50).double(), truth)
    assert high - low == pytest.approx(2 * 1.959964 * math.sqrt(51 / (12 * 20 * 30)))
    assert low + high == pytest.approx(1)
    assert scoring.interval(torch.zeros(50).double(), truth) == (0.5, 0.5)  # all tied: no chance
    assert scoring.interval(torch.zeros(5).double(), torch.ones(5).bool()) == (0, 1)


def test_the_interval_holds_95_of_100_shuffles():
    values = torch.randn(300, generator=generator(0, "values")).round(decimals=1).double()
    truth = torch.arange(300) < 100
    low, high = scoring.interval(values, truth)
    shuffled = [scoring.decisions(values, truth, generator(s, "shuffle")) for s in range(400)]
    areas = torch.tensor([scoring.auc(one.values, one.control) for one in shuffled])
    assert 0.92 <= float(((areas >= low) & (areas <= high)).double().mean()) <= 0.98


def test_what_is_told_of_decisions():
    values, truth = torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([True, False, True, False])
    found = scoring.measures(scoring.decisions(values, truth, generator(0, "control")))
    assert found["auc"] == 0.75
    assert (found["positives"], found["negatives"]) == (2, 2)
    assert found["tpr_01"] is None
    assert found["tpr_001"] is None
    several = [scoring.decisions(values, truth, generator(s, "control")) for s in (0, 1)]
    pooled = scoring.Decisions.pooled(several)
    assert len(pooled.values) == 8
    assert pooled.truth.tolist() == 2 * truth.tolist()


def test_correlation_is_that_of_numpy():
    a, b = torch.randn(2, 5, 9, generator=generator(0, "rows"), dtype=torch.float64)
    expected = [np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(scoring.correlation(a, b), expected)
    assert (scoring.correlation(a, torch.ones(9)) == 0).all()
