import itertools
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import tensor

from kdcore.losses.relation import (
    angle,
    correlation_congruence,
    darkrank,
    distance,
    probabilistic_transfer,
    similarity_distribution,
    similarity_preserving,
)

LOSSES = [distance, angle, similarity_preserving, correlation_congruence, probabilistic_transfer]
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


def naive_cosines(rows):
    rows = rows.tolist()
    lengths = [math.hypot(*x) or 1.0 for x in rows]
    inner = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]
    n = range(len(rows))
    return [[inner[i][j] / (lengths[i] * lengths[j]) for j in n] for i in n]


def naive_congruence(student, teacher, gamma=0.4, order=2):
    def kernel(rows):
        powers = range(order + 1)
        return [
            [sum((2 * gamma * c) ** p / math.factorial(p) for p in powers) for c in row]
            for row in naive_cosines(rows)
        ]

    n, s, t, scale = len(student), kernel(student), kernel(teacher), math.exp(-2 * gamma)
    return [sum((scale * (t[i][j] - s[i][j])) ** 2 for j in range(n)) / n for i in range(n)]


def naive_transfer(student, teacher):
    def neighbours(rows):
        kernel = [[(c + 1) / 2 for c in row] for row in naive_cosines(rows)]
        others = [[k for j, k in enumerate(row) if j != i] for i, row in enumerate(kernel)]
        return [[k / sum(row) for k in row] for row in others]

    pairs = zip(neighbours(student), neighbours(teacher), strict=True)
    return [sum(b * math.log(b / a) for a, b in zip(p, q, strict=True)) for p, q in pairs]


def naive_darkrank(student, teacher, neighbours=4, alpha=3.0, beta=3.0):
    n, s, t, values = len(student), student.tolist(), teacher.tolist(), []
    for i in range(n):
        nearest = sorted((j for j in range(n) if j != i), key=lambda j: math.dist(t[i], t[j]))
        score = [-alpha * math.dist(s[i], s[j]) ** beta for j in nearest[:neighbours]]
        total = 0.0
        for r in range(len(score)):
            total -= score[r] - math.log(sum(math.exp(x) for x in score[r:]))
        values.append(total)
    return values


NAIVE = [
    (distance, naive_distance),
    (angle, naive_angle),
    (similarity_preserving, naive_similarity),
    (correlation_congruence, naive_congruence),
    (probabilistic_transfer, naive_transfer),
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

    def test_correlation_congruence(self):
        # Cosine 0 against cosine 1: 2g + 2g^2 of exp(-2g) (1 + 2g + 2g^2) apart, at g = .4.
        value = correlation_congruence(tensor([[1.0, 0], [0, 3]]), tensor([[1.0, 0], [2, 0]]))
        each = (math.exp(-0.8) * (0.8 + 0.32)) ** 2 / 2
        close(value, [each, each], tolerance=1e-6)

    def test_probabilistic_transfer(self):
        # Seen from row 0 the others have cosine 0 and 1 for the student, 1 and 0 for the teacher:
        # shares 1/3 and 2/3 against 2/3 and 1/3.
        student, teacher = tensor([[1.0, 0], [0, 1], [1, 0]]), tensor([[1.0, 0], [1, 0], [0, 1]])
        value = probabilistic_transfer(student, teacher)
        close(value[0], math.log(2) / 3, tolerance=1e-6)

    def test_darkrank(self):
        # The teacher's order seen from row 0 is 1, 2; the student has them at 2 and 1, so that
        # S = -2 and -1 with alpha = beta = 1.
        student, teacher = tensor([[0.0], [2.0], [-1.0]]), tensor([[0.0], [1.0], [3.0]])
        value = darkrank(student, teacher, neighbours=2, alpha=1, beta=1)
        close(value[0], math.log(1 + math.e), tolerance=1e-6)

    def test_similarity_distribution(self):
        # Queue of one: cosine 0 for the teacher, 1 for its own row; the student the other way.
        queue = tensor([[0.0, 1.0]])
        student, teacher = tensor([[0.0, 5.0]]), tensor([[2.0, 0.0]])
        q = 1 / (1 + math.e)  # of the queue
        value = similarity_distribution(student, teacher, queue, 1.0, 1.0)
        expected = q * math.log(q / (1 - q)) + (1 - q) * math.log((1 - q) / q)
        close(value, [expected], tolerance=1e-6)


class TestAgainstLoops:
    @pytest.mark.parametrize(("gamma", "order"), [(0.4, 1), (1.0, 5)])
    def test_orders_of_congruence(self, gamma, order):
        student, teacher = normal(7, 3), normal(7, 5, seed=1)
        value = correlation_congruence(student, teacher, gamma, order)
        close(value, naive_congruence(student, teacher, gamma, order))

    def test_an_endless_series_is_the_kernel(self):
        student, teacher = F.normalize(normal(7, 3)), F.normalize(normal(7, 5, seed=1))
        s, t = (torch.exp(-0.4 * torch.cdist(x, x) ** 2) for x in (student, teacher))
        value = correlation_congruence(student, teacher, order=None)
        close(value, (t - s).square().mean(-1), 1e-9)
        close(correlation_congruence(student, teacher, order=30), value)

    @pytest.mark.parametrize("settings", [{}, {"neighbours": 2}, {"neighbours": 20, "alpha": 1.0}])
    def test_darkrank(self, settings):
        student, teacher = normal(7, 3) / 2, normal(7, 5, seed=1)
        close(darkrank(student, teacher, **settings), naive_darkrank(student, teacher, **settings))

    def test_similarity_distribution(self):
        student, teacher, queue = normal(5, 3), normal(5, 3, seed=1), normal(8, 3, seed=2)
        values = []
        for s, t in zip(student, teacher, strict=True):
            known = torch.cat([queue, t.unsqueeze(0)])
            theirs = (F.cosine_similarity(t.unsqueeze(0), known) / 0.01).log_softmax(0)
            ours = (F.cosine_similarity(s.unsqueeze(0), known) / 0.2).log_softmax(0)
            values.append(F.kl_div(ours, theirs, reduction="sum", log_target=True).item())
        close(similarity_distribution(student, teacher, queue), values, 1e-10)

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

    cosines = [similarity_preserving, correlation_congruence, probabilistic_transfer]

    @pytest.mark.parametrize("loss", cosines, ids=lambda f: f.__name__)
    def test_translation_changes_what_looks_at_cosines(self, loss):
        moved = loss(self.student + 10, self.teacher)
        assert (moved - loss(self.student, self.teacher)).abs().max() > 0.001

    def test_darkrank_sees_distances_of_the_student_and_an_order_of_the_teacher(self):
        moved = darkrank(self.student @ rotation(4) + 3, 100 * self.teacher @ rotation(4, 1) - 7)
        close(moved, darkrank(self.student, self.teacher), 1e-9)

    def test_the_order_of_the_queue_does_not_matter(self):
        queue = normal(9, 4, seed=2)
        value = similarity_distribution(self.student, self.teacher, queue)
        close(similarity_distribution(3 * self.student, self.teacher, queue.flip(0)), value)

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

    def test_unit_vectors_with_an_epsilon_explode_where_rows_coincide(self):
        """The authors' angle loss, in float32: up to 1 / eps; ours is tested above."""

        def angles(rows, eps):
            e = F.normalize(rows.unsqueeze(0) - rows.unsqueeze(1), dim=2, eps=eps)
            return e @ e.mT

        def official(student, teacher, eps):
            return F.smooth_l1_loss(angles(student, eps), angles(teacher, eps))

        student = normal(6, 3).float().relu()
        student[1] = student[4] = 0
        steep, less, safe = (
            gradient(lambda s, t, eps=eps: official(s, t, eps), student, self.teacher).abs().max()
            for eps in (1e-12, 1e-6, 1e-3)
        )
        assert steep > 1e6 * safe
        assert less > 1e2 * safe

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


class TestMeansOverAllPairs:
    """What the zeros of the diagonal do to a mean: why weights go with a convention."""

    def test_the_official_mean_is_smaller_by_1_of_n(self):
        # From 26 rows on cdist multiplies matrices, and rows are not quite at 0 from themselves.
        student, teacher, exact = (
            normal(64, 3),
            normal(64, 4, seed=1),
            "donot_use_mm_for_euclid_dist",
        )
        s, t = (torch.cdist(rows, rows, compute_mode=exact) for rows in (student, teacher))
        over_all = F.smooth_l1_loss(s / s[s > 0].mean(), t / t[t > 0].mean())
        assert (distance(student, teacher).mean() / over_all).item() == pytest.approx(64 / 63)

    def test_transfer_with_the_diagonal_over_n_squared_is_far_smaller(self):
        student, teacher = normal(64, 3), normal(64, 4, seed=1)

        def with_diagonal(rows):
            kernel = (F.cosine_similarity(rows.unsqueeze(0), rows.unsqueeze(1), dim=-1) + 1) / 2
            return kernel / kernel.sum(-1, keepdim=True)

        p, q = with_diagonal(student), with_diagonal(teacher)
        theirs = (q * (q / p).log()).mean()
        ratio = (probabilistic_transfer(student, teacher).mean() / theirs).item()
        assert 60 < ratio < 70  # N, and a little for the diagonal

    @pytest.mark.parametrize("loss", [*LOSSES, darkrank], ids=lambda f: f.__name__)
    def test_the_mean_over_micro_batches_is_another_number(self, loss):
        student, teacher = normal(12, 3), normal(12, 4, seed=1)
        parts = [loss(s, t) for s, t in zip(student.split(4), teacher.split(4), strict=True)]
        whole = loss(student, teacher)
        assert ((torch.cat(parts) - whole).abs() / whole).max() > 0.05

    def test_a_distribution_over_a_queue_is_a_value_of_the_example(self):
        student, teacher, queue = normal(12, 3), normal(12, 3, seed=1), normal(5, 3, seed=2)
        parts = [
            similarity_distribution(s, t, queue)
            for s, t in zip(student.split(4), teacher.split(4), strict=True)
        ]
        close(torch.cat(parts), similarity_distribution(student, teacher, queue))


class TestOrdersAndNeighbours:
    def test_opposite_rows_are_finite_for_transfer(self):
        student = tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [1.0, 0.1]])
        teacher = tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]])
        assert probabilistic_transfer(student, teacher).isfinite().all()
        assert gradient(probabilistic_transfer, student, teacher).isfinite().all()

    def test_two_rows_have_nothing_to_tell_for_transfer(self):
        close(probabilistic_transfer(normal(2, 3), normal(2, 3, seed=1)), torch.zeros(2).double())

    def test_a_row_never_is_its_own_neighbour(self):
        """A twin of the teacher's row may be sorted before it."""
        teacher = tensor([[0.0], [0.0], [0.0], [5.0], [9.0]])
        student = normal(5, 2).float()
        assert darkrank(student, teacher, neighbours=4).isfinite().all()
        # Seen from row 3 the others are at 4, 5, 5, 5: row 4 comes first.
        value = darkrank(tensor([[0.0], [0.0], [0.0], [5.0], [5.0]]), teacher, 2, 1.0, 1.0)
        close(value[3], math.log(1 + math.exp(-5)), tolerance=1e-5)

    def test_darkrank_is_less_for_the_teachers_order_than_for_any_other(self):
        rows = tensor([[0.0], [1.0], [2.1], [3.3]]).double()
        at_teacher = darkrank(rows, rows)[0]
        for order in itertools.permutations(range(1, 4)):
            assert darkrank(rows[[0, *order]], rows)[0] >= at_teacher

    @pytest.mark.parametrize("beta", [1.0, 3.0])
    def test_coincident_rows_have_a_finite_gradient_for_darkrank(self, beta):
        student = normal(6, 3).float().relu()
        student[1] = student[4] = 0
        loss = lambda s, t: darkrank(s, t, beta=beta)  # noqa: E731
        assert gradient(loss, student, normal(6, 5, seed=1).float()).isfinite().all()

    def test_a_student_at_its_teacher_is_perfect_where_the_temperatures_are_equal(self):
        rows, queue = normal(5, 3), normal(8, 3, seed=2)
        close(similarity_distribution(rows, rows, queue, 0.1, 0.1), torch.zeros(5).double())
        assert (similarity_distribution(rows, rows, queue) > 0.01).all()

    def test_distances_learn_the_order_of_the_teacher(self):
        teacher = normal(8, 2)
        student = normal(8, 2, seed=1).requires_grad_()
        optimiser = torch.optim.Adam([student], lr=0.05)
        start = darkrank(student, teacher).mean().item()
        for _ in range(150):
            optimiser.zero_grad()
            darkrank(student, teacher).sum().backward()
            optimiser.step()
        assert darkrank(student, teacher).mean() < 0.3 * start


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
    @pytest.mark.parametrize(
        ("loss", "least"), [(distance, 2), (angle, 3), (probabilistic_transfer, 2), (darkrank, 3)]
    )
    def test_too_few_examples(self, loss, least):
        loss(normal(least, 3), normal(least, 3))
        with pytest.raises(ValueError, match=rf"N = {least - 1} .*at least {least}.*larger"):
            loss(normal(least - 1, 3), normal(least - 1, 3))

    @every_loss
    def test_feature_maps_have_to_be_flat(self, loss):
        with pytest.raises(ValueError, match=r"student has shape \(4, 3, 2, 2\).*flatten\(1\)"):
            loss(normal(4, 3, 2, 2), normal(4, 12))

    def test_an_order_of_one(self):
        with pytest.raises(ValueError, match="neighbours is 1; .*at least 2"):
            darkrank(normal(4, 3), normal(4, 3), neighbours=1)

    @pytest.mark.parametrize(("gamma", "order"), [(0.0, 2), (0.4, 0)])
    def test_congruence_needs_a_series(self, gamma, order):
        with pytest.raises(ValueError, match=rf"gamma is {gamma} and order {order}; .*positive"):
            correlation_congruence(normal(4, 3), normal(4, 3), gamma, order)

    def test_a_queue_of_another_width(self):
        with pytest.raises(ValueError, match=r"queue has shape \(8, 4\).*\(Q, D\).*Regressor"):
            similarity_distribution(normal(5, 3), normal(5, 3), normal(8, 4))

    @pytest.mark.parametrize("temperatures", [(0.0, 0.1), (0.1, 0.0)])
    def test_temperatures_of_similarities(self, temperatures):
        with pytest.raises(ValueError, match=r"temperature is 0.0; .*positive"):
            similarity_distribution(normal(5, 3), normal(5, 3), normal(8, 3), *temperatures)
