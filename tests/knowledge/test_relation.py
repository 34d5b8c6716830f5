import itertools
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import tensor

from knowledge.relation import angle, distance, similarity_preserving

LOSSES = [distance, angle, similarity_preserving]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
rkd = pytest.mark.parametrize("loss", [distance, angle], ids=lambda f: f.__name__)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size, seed=0):
    return torch.linalg.qr(normal(size, size, seed=seed))[0]


def close(a, b, tolerance=1e-12):
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def gradient(loss, student, teacher):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student, teacher).sum(), student)[0]


# The same losses, read off the papers with plain numbers and loops.


def huber(gap):
    return 0.5 * gap**2 if abs(gap) <= 1 else abs(gap) - 0.5


def naive_distance(student, teacher):
    def relative(rows):
        apart = [[math.dist(a, b) for b in rows] for a in rows]
        nonzero = [d for row in apart for d in row if d > 0]
        return [[d / (sum(nonzero) / len(nonzero)) for d in row] for row in apart]

    n, s, t = len(student), relative(student.tolist()), relative(teacher.tolist())
    return [sum(huber(t[i][j] - s[i][j]) for j in range(n) if j != i) / (n - 1) for i in range(n)]


def naive_angle(student, teacher):
    def cosine(rows, i, j, k):
        length = math.dist(rows[i], rows[j]) * math.dist(rows[i], rows[k])
        inner = sum((b - a) * (c - a) for a, b, c in zip(rows[i], rows[j], rows[k], strict=True))
        return inner / length if length > 0 else 0.0

    n, s, t = len(student), student.tolist(), teacher.tolist()
    values = [0.0] * n
    for i, j, k in itertools.permutations(range(n), 3):
        values[i] += huber(cosine(t, i, j, k) - cosine(s, i, j, k)) / ((n - 1) * (n - 2))
    return values


def naive_similarity(student, teacher):
    def similar(rows):
        gram = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]
        return [[g / (math.hypot(*row) or 1.0) for g in row] for row in gram]

    n, s, t = len(student), similar(student.tolist()), similar(teacher.tolist())
    return [sum((t[i][j] - s[i][j]) ** 2 for j in range(n)) / n for i in range(n)]


NAIVE = [
    (distance, naive_distance),
    (angle, naive_angle),
    (similarity_preserving, naive_similarity),
]
against_naive = pytest.mark.parametrize(("loss", "naive"), NAIVE, ids=lambda f: f.__name__)


class TestByHand:
    triangle = tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]])  # equilateral

    def test_distance(self):
        # On a line at 0, 1, 3 the distances are 1, 3, 2, their mean 2: relative .5, 1.5, 1. The
        # triangle's are 1, 1, 1. Gaps .5, .5, 0 for the pairs 01, 02, 12; .5^2 / 2 = .125.
        line = tensor([[0.0], [1.0], [3.0]])
        close(distance(line, self.triangle), [0.125, 0.0625, 0.0625], tolerance=1e-6)

    def test_angle(self):
        # Right angle at 0 (cosine 0), 45 degrees at 1 and 2; the triangle has 60 degrees (.5).
        right = tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        at_45 = 0.5 * (math.sqrt(0.5) - 0.5) ** 2
        close(angle(right, self.triangle), [0.125, at_45, at_45], tolerance=1e-6)

    def test_angle_is_linear_in_large_gaps(self):
        # Seen from row 0, the others lie in one direction (cosine 1) or opposite (-1): a gap of 2.
        value = angle(tensor([[0.0], [-1.0], [1.0]]), tensor([[0.0], [1.0], [2.0]]))
        assert value[0].item() == 1.5

    def test_similarity_preserving(self):
        # Orthogonal rows have G = identity; equal ones have rows (1, 1) / sqrt(2).
        value = similarity_preserving(tensor([[1.0, 0], [0, 1]]), tensor([[1.0, 0], [1, 0]]))
        each = ((1 - math.sqrt(0.5)) ** 2 + 0.5) / 2
        close(value, [each, each], tolerance=1e-6)


class TestAgainstLoops:
    @against_naive
    def test_random_rows(self, loss, naive):
        student, teacher = normal(7, 3), normal(7, 5, seed=1)
        close(loss(student, teacher), naive(student, teacher))

    @against_naive
    def test_coincident_rows_and_rows_of_zeros(self, loss, naive):
        student, teacher = normal(7, 3), normal(7, 5, seed=1)
        student[1] = student[4]
        student[5] = 0
        teacher[2] = teacher[3] = teacher[4]
        teacher[0] = 0
        close(loss(student, teacher), naive(student, teacher))


class TestAgainstThePapersBatchValue:
    """Our mean over the examples, and the authors' mean over all pairs or triplets."""

    student, teacher, n = normal(6, 3), normal(6, 4, seed=1), 6

    def test_distance(self):
        s, t = (torch.cdist(rows, rows) for rows in (self.student, self.teacher))
        over_all = F.smooth_l1_loss(s / s[s > 0].mean(), t / t[t > 0].mean())
        n = self.n
        close(distance(self.student, self.teacher).mean() * (n - 1) / n, over_all, 1e-9)

    def test_angle(self):
        def cosines(rows):
            e = F.normalize(rows.unsqueeze(0) - rows.unsqueeze(1), dim=2)
            return (e @ e.mT).flatten()

        over_all = F.smooth_l1_loss(cosines(self.student), cosines(self.teacher))
        n = self.n
        close(angle(self.student, self.teacher).mean() * (n - 1) * (n - 2) / n**2, over_all)

    def test_similarity_preserving(self):
        def gram(rows):
            return F.normalize(rows @ rows.T)

        frobenius = torch.linalg.matrix_norm(gram(self.teacher) - gram(self.student))
        close(similarity_preserving(self.student, self.teacher).mean(), frobenius**2 / self.n**2)


class TestInvariance:
    student, teacher = normal(6, 4), normal(6, 4, seed=1)

    @every_loss
    @pytest.mark.parametrize("side", ["student", "teacher"])
    def test_scale_and_rotation_change_nothing(self, loss, side):
        rows = {"student": self.student, "teacher": self.teacher}
        moved = rows | {side: 3.5 * rows[side] @ rotation(4)}
        close(loss(**moved), loss(**rows))

    @rkd
    def test_translation_changes_nothing_for_rkd(self, loss):
        close(loss(self.student + 10, self.teacher - 7), loss(self.student, self.teacher), 1e-10)

    def test_translation_changes_similarity(self):
        moved = similarity_preserving(self.student + 10, self.teacher)
        assert (moved - similarity_preserving(self.student, self.teacher)).abs().max() > 0.01

    @every_loss
    def test_a_rotated_and_scaled_teacher_is_a_perfect_student(self, loss):
        close(loss(2 * self.teacher @ rotation(4), self.teacher), torch.zeros(6).double())

    @rkd
    def test_distances_survive_an_offset_in_float32(self, loss):
        # Multiples of 1/8 below 2^13 are exact in float32, so are their differences.
        rows = (torch.randint(-50, 50, (6, 4), generator=torch.Generator().manual_seed(0))) / 8
        teacher = self.teacher.float()
        assert torch.equal(loss(rows + 4096, teacher), loss(rows, teacher))


class TestCoincidentRows:
    teacher = normal(6, 5, seed=1).float()

    @every_loss
    @pytest.mark.parametrize("shift", [0.0, 1.0])
    def test_the_gradient_is_finite_and_moderate_in_float32(self, loss, shift):
        student = normal(6, 3).float().relu()
        student[1] = student[4] = student[5] = 0  # dead units: rows 1, 4 and 5 coincide
        slope = gradient(loss, student + shift, self.teacher)
        assert slope.isfinite().all()
        assert 0 < slope.abs().max() < 10  # 3e9 where unit vectors are made with eps = 1e-12

    @rkd
    def test_a_collapsed_student_is_not_rewarded_but_gets_no_direction(self, loss):
        student = torch.ones(6, 3)
        assert (loss(student, self.teacher) > 0).all()
        assert (gradient(loss, student, self.teacher) == 0).all()

    @every_loss
    def test_a_collapsed_teacher_is_finite(self, loss):
        student = normal(6, 3).float()
        assert loss(student, torch.zeros(6, 5)).isfinite().all()
        assert gradient(loss, student, torch.zeros(6, 5)).isfinite().all()

    def test_a_zero_direction_passes_no_gradient_for_angles(self):
        # Rows 0 and 1 coincide: seen from either the cosine is 0, and seen from row 2 it is 1,
        # its largest value. Nothing is left that could have a slope.
        student = tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
        assert (gradient(angle, student, TestByHand.triangle) == 0).all()

    def test_a_zero_row_gets_its_gradient_from_the_other_rows_alone(self):
        # Row 1 of G is (x_1.x_0, 1) = (0, 1) for the student and (a, a), a = sqrt(1/2), for the
        # teacher: (a - 0)^2 / N has the slope -2 a / N = -a in x_1.x_0, and x_1 = (1, 0).
        student, teacher = tensor([[0.0, 0.0], [1.0, 0.0]]), tensor([[1.0, 0.0], [1.0, 0.0]])
        slope = gradient(similarity_preserving, student, teacher)
        close(slope[0], [-math.sqrt(0.5), 0.0], tolerance=1e-6)

    @rkd
    def test_the_gradient_is_that_of_the_other_pairs(self, loss):
        """Beside coincident rows the loss is smooth in every row that is alone."""
        student, teacher = normal(5, 3), self.teacher[:5].double()
        student[3] = student[4]
        alone = student[:3].clone().requires_grad_()
        joined = lambda rows: loss(torch.cat([rows, student[3:]]), teacher)  # noqa: E731
        assert torch.autograd.gradcheck(joined, (alone,))


class TestBlocks:
    student, teacher = normal(7, 3), normal(7, 4, seed=1)

    @pytest.mark.parametrize("block", [1, 3, 7, 100])
    def test_the_block_does_not_change_value_or_gradient(self, block):
        in_blocks = lambda s, t: angle(s, t, block=block)  # noqa: E731
        close(in_blocks(self.student, self.teacher), angle(self.student, self.teacher), 1e-14)
        slope = gradient(angle, self.student, self.teacher)
        close(gradient(in_blocks, self.student, self.teacher), slope, 1e-14)

    @pytest.mark.parametrize("block", [1, 3])
    def test_blocks_can_be_differentiated_twice_and_under_vmap(self, block):
        student = normal(2, 4, 3).requires_grad_()
        each = torch.func.vmap(lambda s: angle(s, self.teacher[:4], block=block))
        assert torch.autograd.gradcheck(each, (student,))
        assert torch.autograd.gradgradcheck(each, (student,))

    def test_the_backward_pass_keeps_no_cosines(self):
        kept = []

        def keep(tensor):
            kept.append(tensor.numel())
            return tensor

        student = normal(40, 3).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            angle(student, normal(40, 4), block=5)
        assert 0 < sum(kept) <= 40 * (3 + 4)  # the two inputs; the cosines would be 40^3

    def test_no_block_is_an_error(self):
        with pytest.raises(ValueError, match="block is 0; it has to be at least 1"):
            angle(self.student, self.teacher, block=0)


class TestErrors:
    @pytest.mark.parametrize(("loss", "least"), [(distance, 2), (angle, 3)])
    def test_too_few_examples(self, loss, least):
        loss(normal(least, 3), normal(least, 3))
        with pytest.raises(ValueError, match=rf"N = {least - 1} .*at least {least}.*larger"):
            loss(normal(least - 1, 3), normal(least - 1, 3))

    @every_loss
    def test_feature_maps_have_to_be_flat(self, loss):
        with pytest.raises(ValueError, match=r"student has shape \(4, 3, 2, 2\).*flatten\(1\)"):
            loss(normal(4, 3, 2, 2), normal(4, 12))
