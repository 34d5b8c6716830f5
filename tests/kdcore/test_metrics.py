import math

import pytest
import scipy.spatial.distance
import scipy.stats
import sklearn.metrics
import torch
from torch import tensor

from kdcore.metrics import (
    accuracies,
    accuracy,
    agreement,
    auc,
    calibration_error,
    distance_correlation,
    hits_at,
    linear_cka,
)

LOGITS = tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 5.0], [4.0, 0.0, 1.0]])


PREDICTED = tensor([0, 1, 2, 0])


def with_confidence(*confidences):
    """Two-class logits whose softmax gives class 0 these probabilities."""
    return tensor([[math.log(p), math.log(1 - p)] for p in confidences], dtype=torch.float64)


def random_case(n=200, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=generator)
    return logits, torch.randint(classes, (n,), generator=generator)


def test_accuracies_are_those_of_each_part():
    logits = torch.cat([LOGITS, LOGITS * torch.nan, LOGITS])
    labels = torch.cat([PREDICTED, PREDICTED, 2 - PREDICTED])
    assert accuracies(logits, labels, [4, 4, 4]) == [1, 0, 0.25]  # of the last only the 1 is right
    assert accuracies(logits, labels, [1, 8, 3]) == [1, 3 / 8, 1 / 3]
    parts = zip(logits.split([2, 7, 3]), labels.split([2, 7, 3]), strict=True)
    assert accuracies(logits, labels, [2, 7, 3]) == [accuracy(*part) for part in parts]


@pytest.mark.parametrize("sizes", [[4, 0], [3], [2, 3]])
def test_accuracies_are_of_parts_that_make_up_the_whole(sizes):
    with pytest.raises(ValueError, match="for 4 examples; expected how many each model has"):
        accuracies(LOGITS, PREDICTED, sizes)


class TestAccuracy:
    def test_by_hand(self):
        assert accuracy(LOGITS, PREDICTED) == 1.0
        assert accuracy(LOGITS, tensor([0, 1, 2, 1])) == 0.75

    def test_it_is_sklearns(self):
        logits, labels = random_case()
        theirs = sklearn.metrics.accuracy_score(labels.numpy(), logits.argmax(-1).numpy())
        assert accuracy(logits, labels) == theirs

    def test_it_is_a_float(self):
        assert type(accuracy(LOGITS, PREDICTED)) is float

    def test_of_tied_logits_the_first_counts(self):
        assert accuracy(torch.zeros(2, 3), tensor([0, 1])) == 0.5

    def test_a_row_of_nan_is_wrong(self):
        logits = LOGITS.clone()
        logits[1, 0] = math.nan
        assert accuracy(logits, tensor([0, 0, 2, 0])) == 0.75


class TestAgreement:
    def test_by_hand(self):
        teacher = LOGITS.clone()
        teacher[3] = tensor([0.0, 9.0, 0.0])
        assert agreement(LOGITS, teacher) == 0.75
        assert type(agreement(LOGITS, teacher)) is float

    def test_only_the_order_of_the_logits_matters(self):
        assert agreement(LOGITS, LOGITS.softmax(-1)) == 1.0
        assert agreement(LOGITS, 7 * LOGITS - 3) == 1.0

    def test_rows_of_nan_do_not_agree(self):
        broken = torch.full_like(LOGITS, math.nan)
        assert agreement(broken, broken) == 0.0


class TestCalibrationError:
    def test_by_hand(self):
        # Bins of a fifth. (.6, .8]: confidences .7 and .78 (mean .74), one right of two: gap .24.
        # (.8, 1]: .9, right: gap .1. Together 2/3 * .24 + 1/3 * .1.
        logits = with_confidence(0.7, 0.78, 0.9)
        value = calibration_error(logits, tensor([0, 1, 0]), bins=5)
        assert value == pytest.approx(2 / 3 * 0.24 + 1 / 3 * 0.1, abs=1e-12)

    def test_bins_are_closed_on_the_right(self):
        # Confidence .5 and wrong; confidence .25 and right. With two bins both lie in (0, .5], so
        # the gaps -.5 and +.75 meet; were .5 in the upper bin, they would add to .625.
        logits = tensor([[0.0, 0.0, -math.inf, -math.inf], [0.0, 0.0, 0.0, 0.0]])
        predicted = logits.softmax(-1).argmax(-1)
        labels = tensor([(predicted[0].item() + 1) % 4, predicted[1].item()])
        assert calibration_error(logits, labels, bins=2) == pytest.approx(0.125, abs=1e-12)

    def test_it_is_the_loop_over_bins(self):
        logits, labels = random_case()
        confidence, predicted = logits.double().softmax(-1).max(-1)
        total = 0.0
        for b in range(15):
            inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
            if inside.any():
                right = (predicted[inside] == labels[inside]).double().mean()
                total += inside.double().mean() * (right - confidence[inside].mean()).abs()
        assert calibration_error(logits, labels) == pytest.approx(total.item(), abs=1e-12)

    def test_one_bin_compares_the_averages(self):
        logits, labels = random_case()
        confidence = logits.double().softmax(-1).max(-1).values.mean().item()
        expected = abs(accuracy(logits, labels) - confidence)
        assert calibration_error(logits, labels, bins=1) == pytest.approx(expected, abs=1e-12)

    def test_sure_and_right_is_zero_sure_and_wrong_is_one(self):
        logits = tensor([[1e4, 0.0], [0.0, 1e4]])
        assert calibration_error(logits, tensor([0, 1])) == 0.0
        assert calibration_error(logits, tensor([1, 0])) == 1.0

    def test_labels_drawn_from_the_predictions_are_calibrated(self):
        logits, _ = random_case(n=20_000)
        generator = torch.Generator().manual_seed(1)
        labels = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
        assert calibration_error(logits, labels) < 0.02
        assert calibration_error(3 * logits, labels) > 0.2  # over-confident

    def test_logits_without_a_softmax_are_an_error(self):
        logits = LOGITS.clone()
        logits[2, 1] = math.inf
        with pytest.raises(ValueError, match="1 of 4 rows of logits.*did training diverge"):
            calibration_error(logits, PREDICTED)

    def test_bins_are_at_least_one(self):
        with pytest.raises(ValueError, match="bins is 0; it has to be at least 1"):
            calibration_error(LOGITS, PREDICTED, bins=0)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


REPRESENTATIONS = pytest.mark.parametrize("alike", [linear_cka, distance_correlation])


class TestRepresentations:
    student, teacher = normal(30, 4), normal(30, 6, seed=1)

    def test_linear_cka_by_hand(self):
        # Centred columns (1, -1, 0, 0) and (1, 0, -1, 0): inner product 1, squared lengths 2.
        x, y = tensor([[4.0], [2], [3], [3]]), tensor([[1.0], [0], [-1], [0]])
        assert linear_cka(x, y) == pytest.approx(1 / 4)
        assert type(linear_cka(x, y)) is float

    def test_distance_correlation_by_hand(self):
        # Two points: distances (0, a), centred to -a/2 on the diagonal and a/2 beside it.
        assert distance_correlation(tensor([[0.0], [3.0]]), tensor([[7.0], [5.0]])) == 1.0

    def test_cka_is_that_of_centred_gram_matrices(self):
        def centred(rows):
            h = torch.eye(30).double() - 1 / 30
            return h @ (rows @ rows.T) @ h

        k, l = centred(self.student), centred(self.teacher)  # noqa: E741
        expected = (k * l).sum() / (k.norm() * l.norm())
        assert linear_cka(self.student, self.teacher) == pytest.approx(expected.item())

    def test_cka_of_single_columns_is_their_squared_correlation(self):
        x, y = self.student[:, :1], self.student[:, :1] + normal(30, 1, seed=2)
        r = scipy.stats.pearsonr(x.squeeze(), y.squeeze()).statistic
        assert linear_cka(x, y) == pytest.approx(r**2)

    def test_distance_correlation_is_the_loop(self):
        def centred(rows):
            d = scipy.spatial.distance.cdist(rows.numpy(), rows.numpy())
            n = range(len(d))
            total = d.mean()
            return [[d[i][j] - d[i].mean() - d[:, j].mean() + total for j in n] for i in n]

        a, b = centred(self.student), centred(self.teacher)
        pairs = [(i, j) for i in range(30) for j in range(30)]
        shared = sum(a[i][j] * b[i][j] for i, j in pairs)
        own = sum(a[i][j] ** 2 for i, j in pairs) * sum(b[i][j] ** 2 for i, j in pairs)
        expected = math.sqrt(shared / math.sqrt(own))
        assert distance_correlation(self.student, self.teacher) == pytest.approx(expected)

    @REPRESENTATIONS
    def test_rotation_scale_and_shift_change_nothing(self, alike):
        rotation = torch.linalg.qr(normal(4, 4, seed=3))[0]
        moved = 3 * self.student @ rotation + 50
        assert alike(moved, self.student) == pytest.approx(1)
        assert alike(moved, self.teacher) == pytest.approx(alike(self.student, self.teacher))

    @REPRESENTATIONS
    def test_it_is_symmetric_and_the_order_of_the_examples_does_not_matter(self, alike):
        value = alike(self.student, self.teacher)
        order = torch.randperm(30, generator=torch.Generator().manual_seed(4))
        assert alike(self.teacher, self.student) == pytest.approx(value)
        assert alike(self.student[order], self.teacher[order]) == pytest.approx(value)
        assert alike(self.student[order], self.student) < 0.7

    @REPRESENTATIONS
    def test_independent_representations_are_the_less_alike_the_more_examples(self, alike):
        few, many = (alike(normal(n, 3), normal(n, 3, seed=1)) for n in (10, 500))
        assert many < few / 2

    def test_a_dependence_that_is_not_linear_is_seen_by_distances_alone(self):
        x = torch.linspace(-1, 1, 201, dtype=torch.float64).unsqueeze(1)
        assert linear_cka(x, x.square()) < 1e-12
        assert distance_correlation(x, x.square()) > 0.4

    @REPRESENTATIONS
    def test_a_collapsed_representation_is_alike_to_none(self, alike):
        assert alike(torch.ones(30, 4), self.teacher) == 0.0

    @REPRESENTATIONS
    def test_other_examples_are_an_error(self, alike):
        with pytest.raises(ValueError, match=r"\(30, 4\).*\(29, 6\).*same examples"):
            alike(self.student, self.teacher[:-1])
        with pytest.raises(ValueError, match="N = 1 "):
            alike(self.student[:1], self.teacher[:1])


class TestErrors:
    labelled = pytest.mark.parametrize("measure", [accuracy, calibration_error])

    @pytest.mark.parametrize("measure", [accuracy, calibration_error, agreement])
    def test_nothing_to_measure(self, measure):
        with pytest.raises(ValueError, match=r"shape \(0, 3\); expected \(N, C\).*empty\?"):
            measure(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))

    @labelled
    def test_labels_of_another_length(self, measure):
        with pytest.raises(ValueError, match=r"shape \(3,\) beside logits of \(4, 3\); expected 4"):
            measure(LOGITS, PREDICTED[:3])

    @labelled
    def test_labels_that_are_not_integers(self, measure):
        with pytest.raises(ValueError, match="labels are torch.float32.*expected 4 integers"):
            measure(LOGITS, PREDICTED.float())

    @labelled
    @pytest.mark.parametrize("label", [-100, 3])
    def test_labels_out_of_range(self, measure, label):
        with pytest.raises(ValueError, match=rf"{label}; expected 0 to 2|from {label} to.*0 to 2"):
            measure(LOGITS, tensor([label, 1, 2, 0]))

    def test_models_of_different_shapes(self):
        with pytest.raises(ValueError, match=r"student_logits .*\(4, 3\).*teacher.*\(4, 2\)"):
            agreement(LOGITS, LOGITS[:, :2])


def test_auc_and_hits_at_k_are_those_of_others_and_of_a_count():
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (200,), generator=draw)
    scores = (torch.randn(200, generator=draw) + labels).mul(4).round()  # with many ties
    assert auc(scores, labels) == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores))
    assert auc(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([1, 0, 1])) == 0.5
    # Negative scores 5, 3, 1; positive 6, 5, 2: above the first 1 of 3, above the second 2.
    scores, labels = torch.tensor([5.0, 3, 1, 6, 5, 2]), torch.tensor([0, 0, 0, 1, 1, 1])
    assert hits_at(scores, labels, 1) == pytest.approx(1 / 3)
    assert hits_at(scores, labels, 2) == pytest.approx(2 / 3)
    assert hits_at(scores, labels, 4) == 1
    with pytest.raises(ValueError, match="3 labels are 1 and 0 are 0"):
        auc(torch.ones(3), torch.ones(3))
    with pytest.raises(ValueError, match=r"\(3,\) and labels \(2,\)"):
        hits_at(torch.ones(3), torch.ones(2), 1)
