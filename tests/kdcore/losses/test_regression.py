import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import tensor

from kdcore.losses.regression import (
    attentive_imitation,
    error_range,
    outlier_rejecting,
    teacher_bounded,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(a, b, tolerance=1e-12):
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def slope(loss, student):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student).sum(), student)[0]


S, T, Y = normal(8, 3), normal(8, 3, seed=1), normal(8, 3, seed=2)


# The same losses with plain numbers and loops.


def squared(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def naive_bounded(student, teacher, targets, margin, weight):
    values = []
    for s, t, y in zip(student.tolist(), teacher.tolist(), targets.tolist(), strict=True):
        gaps = [abs(a - b) for a, b in zip(s, y, strict=True)]
        hard = sum(0.5 * g * g if g < 1 else g - 0.5 for g in gaps)
        bounded = squared(s, y) if squared(s, y) + margin > squared(t, y) else 0
        values.append(hard + weight * bounded)
    return values


def naive_imitation(student, teacher, targets, scale, alpha):
    values = []
    for s, t, y in zip(student.tolist(), teacher.tolist(), targets.tolist(), strict=True):
        trust = max(0, 1 - squared(t, y) / scale)
        values.append(alpha * squared(s, y) + (1 - alpha) * trust * squared(s, t))
    return values


def naive_rejecting(student, teacher, targets, threshold, alpha):
    values = []
    for s, t, y in zip(student.tolist(), teacher.tolist(), targets.tolist(), strict=True):
        hard = squared(s, y) if math.sqrt(squared(t, y)) <= threshold else 0
        values.append(alpha * hard + (1 - alpha) * squared(s, t))
    return values


class TestAgainstLoops:
    @pytest.mark.parametrize(("margin", "weight"), [(0.0, 0.5), (2.0, 0.3)])
    def test_teacher_bounded(self, margin, weight):
        value = teacher_bounded(S, T, Y, margin, weight)
        close(value, naive_bounded(S, T, Y, margin, weight))
        inside = (S - Y).square().sum(-1) + margin <= (T - Y).square().sum(-1)
        assert 0 < inside.sum() < 8  # both sides of the bound are there

    @pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
    def test_attentive_imitation(self, alpha):
        scale = 6.0
        error = (T - Y).square().sum(-1)
        assert 0 < (error > scale).sum() < 8
        value = attentive_imitation(S, T, Y, scale, alpha)
        close(value, naive_imitation(S, T, Y, scale, alpha))
        close(attentive_imitation(S, T, Y, tensor(scale).double(), alpha), value)

    @pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
    def test_outlier_rejecting(self, alpha):
        value = outlier_rejecting(S, T, Y, 2.0, alpha)
        close(value, naive_rejecting(S, T, Y, 2.0, alpha))
        assert 0 < ((T - Y).norm(dim=1) > 2).sum() < 8


class TestTeacherBounded:
    y = tensor([[0.0], [0.0], [0.0]])
    teacher = tensor([[1.0], [1.0], [3.0]])
    student = tensor([[0.5], [2.0], [2.0]])

    def test_by_hand(self):
        # |s| = .5, 2, 2; the teacher's 1, 1, 3: only the second is worse than its teacher.
        close(teacher_bounded(self.student, self.teacher, self.y), [0.125, 1.5 + 2.0, 1.5])

    def test_the_margin_widens_what_is_bounded(self):
        value = teacher_bounded(self.student, self.teacher, self.y, margin=0.8)
        close(value, [0.125 + 0.125, 1.5 + 2.0, 1.5])

    def test_the_target_is_the_label_and_not_the_teacher(self):
        """Pressure pulls towards y, even where the teacher is elsewhere."""
        gradient = slope(lambda s: teacher_bounded(s, self.teacher, self.y), self.student)
        close(gradient, [[0.5], [1.0 + 2.0], [1.0]])

    def test_a_student_within_the_bound_has_the_plain_loss(self):
        value = teacher_bounded(0.1 * T + 0.9 * Y, T, Y)
        close(value, F.smooth_l1_loss(0.1 * T + 0.9 * Y, Y, reduction="none").sum(-1))

    def test_at_the_teacher_it_is_the_smooth_error_of_the_teacher(self):
        close(teacher_bounded(T, T, Y), F.smooth_l1_loss(T, Y, reduction="none").sum(-1))


class TestAttentiveImitation:
    def test_by_hand(self):
        # Errors 0, 1, 4 of the teacher, scale 4: trust 1, 3/4, 0.
        y = tensor([[0.0], [0.0], [0.0]])
        value = attentive_imitation(
            tensor([[2.0]]).repeat(3, 1), tensor([[0.0], [1.0], [2.0]]), y, 4
        )
        close(value, [2 + 2 * 1.0, 2 + 0.5 * 0.75 * 1, 2.0])

    def test_the_scale_is_the_range_of_the_error(self):
        teacher, y = tensor([[1.0, 0.0], [0.0, 3.0], [2.0, 0.0]]), torch.zeros(3, 2)
        assert error_range(teacher, y).item() == 9 - 1

    def test_an_example_does_not_depend_on_its_company(self):
        scale = error_range(T, Y)
        alone = attentive_imitation(S[:2], T[:2], Y[:2], scale)
        close(alone, attentive_imitation(S, T, Y, scale)[:2])

    def test_nobody_is_driven_away_from_a_bad_teacher(self):
        far = Y + 100
        gradient = slope(lambda s: attentive_imitation(s, far, Y, 1.0, alpha=0.0), S)
        assert (gradient == 0).all()

    def test_a_perfect_teacher_is_imitated_in_full(self):
        close(attentive_imitation(S, Y, Y, 1.0), (S - Y).square().sum(-1))

    @pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
    def test_the_scale_has_to_be_positive(self, scale):
        with pytest.raises(ValueError, match=rf"scale is {scale}; .*error_range.*training set"):
            attentive_imitation(S, T, Y, scale)


class TestOutlierRejecting:
    def test_by_hand(self):
        # The second label is 5 from the teacher: it does not count, the first is 1 from it.
        teacher, y = tensor([[1.0], [1.0]]), tensor([[2.0], [6.0]])
        close(outlier_rejecting(torch.zeros(2, 1), teacher, y, threshold=2.0), [2 + 0.5, 0.5])

    def test_a_wrong_label_leaves_no_trace(self):
        wrong = Y.clone()
        wrong[0] += 1e6
        gradient = slope(lambda s: outlier_rejecting(s, T, wrong, 3.0), S)
        close(gradient[0], (S - T)[0])

    def test_with_an_endless_threshold_all_labels_count(self):
        value = outlier_rejecting(S, T, Y, math.inf, alpha=1.0)
        close(value, (S - Y).square().sum(-1))

    @pytest.mark.parametrize("threshold", [0.0, -1.0, math.nan])
    def test_the_threshold_has_to_be_positive(self, threshold):
        with pytest.raises(ValueError, match=rf"threshold is {threshold}; .*unit of the targets"):
            outlier_rejecting(S, T, Y, threshold)


@pytest.mark.parametrize(
    "loss",
    [teacher_bounded, lambda *a: attentive_imitation(*a, 1.0), lambda *a: error_range(*a[1:])],
)
def test_flat_targets_would_be_broadcast_and_are_an_error(loss):
    with pytest.raises(ValueError, match=r"targets have shape \(8,\).*unsqueeze\(1\)"):
        loss(S[:, :1], T[:, :1], Y[:, 0])
