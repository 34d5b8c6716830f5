import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.feature_selection import mutual_info_regression
from torch import tensor

from kdcore.losses.mutual_information import (
    ContrastiveRepresentation,
    VariationalInformation,
    contrastive,
    donsker_varadhan_bound,
    infonce,
    infonce_bound,
    nwj_bound,
    smile_bound,
    variational,
)

BOUNDS = [lambda s: infonce_bound(s).nats, nwj_bound, donsker_varadhan_bound, smile_bound]
every_bound = pytest.mark.parametrize(
    "bound", BOUNDS, ids=["infonce", "nwj", "donsker_varadhan", "smile"]
)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def close(a, b, tolerance=1e-12):
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def gaussians(n, width, correlation, seed):
    """Pairs of Gaussians that are correlated feature by feature."""
    x, e = normal(2, n, width, seed=seed)
    return x, correlation * x + math.sqrt(1 - correlation**2) * e


def information(width, correlation):
    return -width / 2 * math.log(1 - correlation**2)


def log_conditional(x, y, correlation):
    """log p(y_j | x_i) for all pairs, without a constant."""
    gap = y.unsqueeze(0) - correlation * x.unsqueeze(1)
    variance = 1 - correlation**2
    return -0.5 * (gap.square() / variance + math.log(variance)).sum(-1)


def log_ratio(x, y, correlation):
    """The best critic: log p(x_i, y_j) / (p(x_i) p(y_j)) for all pairs."""
    return log_conditional(x, y, correlation) + 0.5 * y.square().sum(-1)


SCORES = 2 * normal(6, 6)


class TestByHand:
    # Scores are logs: of each row's (and column's) total, the pair that belongs has 3/4, then 1/2.
    scores = tensor([[3.0, 1.0], [2.0, 2.0]], dtype=torch.float64).log()

    def test_infonce(self):
        close(infonce(self.scores), [-math.log(3 / 4), -math.log(1 / 2)])
        bound = infonce_bound(self.scores)
        close(bound.nats, math.log(2) + (math.log(3 / 4) + math.log(1 / 2)) / 2)
        assert bound.cap == math.log(2)

    def test_the_others(self):
        together = (math.log(3) + math.log(2)) / 2
        apart = (1 + 2) / 2
        close(nwj_bound(self.scores), 1 + together - apart)
        close(donsker_varadhan_bound(self.scores), together - math.log(apart))
        close(smile_bound(self.scores), together - math.log(apart))
        clipped = (1 + math.e**0.5) / 2
        close(smile_bound(self.scores, clip=0.5), together - math.log(clipped))

    def test_variational(self):
        # Variances 1 and e^2, gaps 2 and e: (4 + 0 + 1 + 2) / 2.
        spread = (tensor([1.0, math.e**2], dtype=torch.float64) - 1e-5).expm1().log()
        value = variational(
            tensor([[0.0, 0.0]]).double(), tensor([[2.0, math.e]], dtype=torch.float64), spread
        )
        close(value, [3.5])

    def test_contrastive(self):
        # Cosines 1 and 0 at T = 1/2: e^2 against e^0.
        rows = tensor([[3.0, 0.0], [0.0, 0.5]])
        close(contrastive(rows, rows, 0.5), [math.log(1 + math.exp(-2))] * 2, 1e-6)


class TestAgainstLoops:
    def test_infonce(self):
        rows = SCORES.tolist()
        each = [-math.log(math.exp(r[i]) / sum(map(math.exp, r))) for i, r in enumerate(rows)]
        close(infonce(SCORES), each)
        close(infonce_bound(SCORES).nats, math.log(6) - sum(each) / 6)

    @pytest.mark.parametrize("n", [2, 3, 6])
    def test_the_others(self, n):
        scores = SCORES[:n, :n].tolist()
        together = sum(scores[i][i] for i in range(n)) / n
        pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
        mean = sum(math.exp(scores[i][j]) for i, j in pairs) / len(pairs)
        clipped = sum(min(max(math.exp(scores[i][j]), math.e**-1), math.e) for i, j in pairs)
        close(nwj_bound(SCORES[:n, :n]), 1 + together - mean)
        close(donsker_varadhan_bound(SCORES[:n, :n]), together - math.log(mean))
        close(smile_bound(SCORES[:n, :n], 1.0), together - math.log(clipped / len(pairs)))

    def test_variational_is_torchs_gaussian_likelihood(self):
        student, teacher, spread = normal(5, 3), normal(5, 3, seed=1), normal(3, seed=2)
        variance = (F.softplus(spread) + 1e-5).expand(5, 3)
        theirs = F.gaussian_nll_loss(student, teacher, variance, reduction="none").sum(1)
        close(variational(student, teacher, spread), theirs)

    def test_contrastive_is_cross_entropy_over_cosines(self):
        student, teacher = normal(5, 3), normal(5, 3, seed=1)
        cosines = F.cosine_similarity(student.unsqueeze(1), teacher.unsqueeze(0), dim=-1)
        theirs = F.cross_entropy(cosines / 0.07, torch.arange(5), reduction="none")
        close(contrastive(student, teacher), theirs, 1e-10)


class TestOnGaussians:
    """Their mutual information is known, and so is the best critic."""

    @every_bound
    @pytest.mark.parametrize(("width", "correlation"), [(1, 0.5), (2, 0.6), (5, 0.6)])
    def test_the_best_critic_finds_it_below_the_cap(self, bound, width, correlation):
        truth = information(width, correlation)  # .14, .45, 1.12 nats; the cap is 5.5
        found = [
            bound(log_ratio(*gaussians(256, width, correlation, seed), correlation))
            for seed in range(40)
        ]
        assert sum(found) / 40 == pytest.approx(truth, abs=0.05)

    @every_bound
    def test_independent_representations_tell_nothing(self, bound):
        found = [
            bound(log_conditional(*gaussians(256, 2, 0.0, seed), 0.0) * 0) for seed in range(3)
        ]
        close(torch.stack(found), torch.zeros(3))

    @every_bound
    def test_another_critic_proves_less(self, bound):
        x, y = gaussians(500, 2, 0.8, seed=0)
        best, worse = (bound(log_ratio(x, y, correlation)) for correlation in (0.8, 0.3))
        assert worse < best - 0.1

    def test_the_axis_of_the_softmax_matters(self):
        """log p(y | x) is no density ratio: over the y it finds .4 of 1.1, over the x all."""
        over_y, over_x, ratio = [], [], []
        for seed in range(20):
            x, y = gaussians(256, 5, 0.6, seed)
            over_y.append(infonce_bound(log_conditional(x, y, 0.6)).nats)
            over_x.append(infonce_bound(log_conditional(x, y, 0.6).mT).nats)
            ratio.append(infonce_bound(log_ratio(x, y, 0.6)).nats)
        over_y, over_x, ratio = (sum(found) / 20 for found in (over_y, over_x, ratio))
        assert information(5, 0.6) == pytest.approx(1.116, abs=1e-3)
        assert 0.3 < over_y < 0.55
        assert over_x == pytest.approx(1.116, abs=0.06)
        assert ratio == pytest.approx(1.116, abs=0.06)

    @pytest.mark.parametrize("n", [64, 512])
    def test_infonce_cannot_say_more_than_log_n(self, n):
        assert information(20, 0.9) == pytest.approx(16.6, abs=0.01)
        bound = infonce_bound(log_ratio(*gaussians(n, 20, 0.9, seed=0), 0.9))
        assert bound.cap == math.log(n)
        assert bound.cap - 0.05 < bound.nats <= bound.cap

    def test_nwj_explodes_with_the_best_critic_where_there_is_much_to_know(self):
        """The ratio of a pair that does not belong has mean 1 and a variance of about e^(2 I)."""

        def found(nats, width=10):
            correlation = math.sqrt(1 - math.exp(-2 * nats / width))
            assert information(width, correlation) == pytest.approx(nats)
            return torch.stack(
                [
                    nwj_bound(log_ratio(*gaussians(256, width, correlation, s), correlation))
                    for s in range(100)
                ]
            )

        little, much = found(1.0), found(16.6)
        assert little.mean() == pytest.approx(1.0, abs=0.03)
        assert little.std() < 0.2
        assert much.median() == pytest.approx(17.6, abs=0.2)  # most batches hold no such pair
        assert much.min() < -30
        assert much.std() > 20 * little.std()

    def test_nwj_with_the_diagonal_among_the_others_is_nonsense(self):
        """Pairs that belong have ratios of millions, and must not count as independent ones."""
        scores = log_ratio(*gaussians(256, 20, 0.9, 0), 0.9)
        assert 1 + scores.diagonal().mean() - scores.exp().mean() < -1e6
        assert nwj_bound(scores) > 0

    def test_smile_is_tame_there_and_no_bound(self):
        correlation = math.sqrt(1 - math.exp(-16.6))
        found = torch.stack(
            [
                smile_bound(log_ratio(*gaussians(64, 2, correlation, s), correlation))
                for s in range(50)
            ]
        )
        assert found.std() < 0.5
        assert found.mean() == pytest.approx(16.6 + 5, abs=0.1)  # by the clip too much

    def test_variational_is_the_information_less_the_entropy_of_the_teacher(self):
        x, y = gaussians(20_000, 2, 0.8, seed=0)
        entropy = 0.5 * 2 * math.log(2 * math.pi * math.e)

        def proven(mean, variance):
            spread = (torch.full((2,), variance).double() - 1e-5).expm1().log()
            constant = 0.5 * 2 * math.log(2 * math.pi)
            return entropy - (variational(mean * x, y, spread).mean() + constant)

        truth = information(2, 0.8)
        assert proven(0.8, 1 - 0.64) == pytest.approx(truth, abs=0.02)
        assert proven(0.8, 1.0) < truth - 0.1
        assert proven(0.3, 1 - 0.64) < truth - 0.1


def nearest_neighbours(x, y, k=3):
    """The estimator of Kraskov, Stoegbauer and Grassberger, by distances in the largest feature."""
    apart_x, apart_y = (torch.cdist(rows, rows, p=math.inf) for rows in (x, y))
    both = torch.maximum(apart_x, apart_y).fill_diagonal_(math.inf)
    reach = both.kthvalue(k, dim=1, keepdim=True).values
    within = [(apart < reach).sum(1).double() for apart in (apart_x, apart_y)]  # itself included
    n = tensor([float(k), float(len(x))], dtype=torch.float64)
    return n.digamma().sum() - sum(count.digamma() for count in within).mean()


class TestNearestNeighbours:
    """Another way to estimate it, with no critic: right in one dimension, far off in twenty."""

    def test_in_one_dimension_all_agree(self):
        x, y = gaussians(1000, 1, 0.8, seed=0)
        theirs = mutual_info_regression(x.numpy(), y.squeeze(1).numpy(), random_state=0)[0]
        assert nearest_neighbours(x, y) == pytest.approx(theirs, abs=0.02)
        assert infonce_bound(log_ratio(x, y, 0.8)).nats == pytest.approx(theirs, abs=0.08)
        assert theirs == pytest.approx(information(1, 0.8), abs=0.08)

    def test_its_bias_grows_with_the_dimension(self):
        def missing(width):
            correlation = math.sqrt(1 - math.exp(-2 * 2.0 / width))  # 2 nats whatever the width
            return 2.0 - nearest_neighbours(*gaussians(1000, width, correlation, seed=0))

        assert missing(1).abs() < 0.15
        assert missing(20) > missing(5) + 0.2
        assert missing(20) > 0.5


class TestScores:
    def test_a_constant_for_each_student_row_changes_infonce_nothing(self):
        close(infonce(SCORES + normal(6, 1)), infonce(SCORES))
        assert (infonce(SCORES + normal(1, 6)) - infonce(SCORES)).abs().max() > 0.1

    def test_one_constant_changes_donsker_varadhan_nothing_but_nwj(self):
        close(donsker_varadhan_bound(SCORES + 2), donsker_varadhan_bound(SCORES))
        assert nwj_bound(SCORES + 2) < nwj_bound(SCORES)

    def test_donsker_varadhan_is_nwj_at_its_best_constant(self):
        best = donsker_varadhan_bound(SCORES)
        constant = best - SCORES.diagonal().mean()
        close(nwj_bound(SCORES + constant), best)

    def test_smile_becomes_donsker_varadhan(self):
        close(smile_bound(SCORES, 100.0), donsker_varadhan_bound(SCORES))

    def test_duplicates_are_false_negatives(self):
        """Of a batch that holds every example twice, half of the bound is lost to chance."""
        scores = 50 * torch.eye(4)
        twice = scores.repeat(2, 2)
        close(infonce(scores), torch.zeros(4), 1e-6)
        close(infonce(twice), torch.full((8,), math.log(2)), 1e-6)

    @every_bound
    def test_permuting_the_pairs_changes_nothing(self, bound):
        order = tensor([3, 1, 5, 0, 2, 4])
        close(bound(SCORES[order][:, order]), bound(SCORES))
        close(infonce(SCORES[order][:, order]), infonce(SCORES)[order])

    @every_bound
    def test_gradients(self, bound):
        scores = SCORES.clone().requires_grad_()
        assert torch.autograd.gradcheck(bound, (scores,))

    @every_bound
    def test_vmap_is_a_loop(self, bound):
        several = normal(3, 5, 5)
        close(torch.func.vmap(bound)(several), torch.stack([bound(s) for s in several]))

    @every_bound
    def test_huge_scores_are_no_nan(self, bound):
        assert not bound(300 * torch.eye(4)).isnan()

    @every_bound
    def test_scores_have_to_be_square(self, bound):
        with pytest.raises(ValueError, match=r"scores have shape \(6, 5\); expected \(N, N\)"):
            bound(SCORES[:, :5])

    @pytest.mark.parametrize("bound", BOUNDS[1:])
    def test_one_pair_has_nothing_to_compare_with(self, bound):
        with pytest.raises(ValueError, match="got 1 pair; .*N >= 2"):
            bound(SCORES[:1, :1])

    def test_no_clip_is_an_error(self):
        with pytest.raises(ValueError, match="clip is 0; .*positive"):
            smile_bound(SCORES, clip=0)


class TestVariational:
    def test_it_may_be_negative(self):
        rows = normal(5, 3)
        assert (variational(rows, rows, torch.full((3,), -5.0)) < 0).all()

    def test_the_module_starts_with_variances_of_5(self):
        module = VariationalInformation(2, 3, seeded(0))
        close((F.softplus(module.spread) + 1e-5).detach(), [5.0] * 3, 1e-6)

    def test_the_generator_alone_decides_on_the_weights(self):
        before = torch.get_rng_state()
        one, same, other = (VariationalInformation(2, 3, seeded(s)) for s in (0, 0, 1))
        assert torch.equal(before, torch.get_rng_state())
        assert torch.equal(one.mean.weight, same.mean.weight)
        assert not torch.equal(one.mean.weight, other.mean.weight)

    def test_trained_it_finds_the_information_on_new_examples(self):
        (x, y), (new_x, new_y) = (gaussians(2000, 2, 0.8, seed) for seed in (0, 1))
        module = VariationalInformation(2, 2, seeded(0)).double()
        optimiser = torch.optim.Adam(module.parameters(), lr=0.1)
        for _ in range(150):
            optimiser.zero_grad()
            module(x, y).mean().backward()
            optimiser.step()
        entropy = 0.5 * 2  # log 2 pi left out on both sides
        found = (entropy - module(new_x, new_y).mean()).item()
        assert found == pytest.approx(information(2, 0.8), abs=0.05)

    def test_one_variance_per_feature(self):
        with pytest.raises(ValueError, match=r"spread has shape \(2,\).*one variance per feature"):
            variational(normal(5, 3), normal(5, 3), torch.zeros(2))


class TestContrastive:
    def test_rows_that_all_are_alike_give_log_n(self):
        close(contrastive(torch.ones(7, 3), normal(7, 3).float() * 0 + 2), [math.log(7)] * 7, 1e-6)

    def test_lengths_do_not_matter(self):
        student, teacher = normal(5, 3), normal(5, 3, seed=1)
        lengths = normal(5, 1, seed=2).exp()
        close(contrastive(lengths * student, teacher / lengths), contrastive(student, teacher))

    def test_the_module_is_the_loss_of_its_maps(self):
        module = ContrastiveRepresentation(3, 4, seeded(0), width=5, temperature=0.2).double()
        student, teacher = normal(6, 3), normal(6, 4, seed=1)
        mapped = module.student(student), module.teacher(teacher)
        close(module(student, teacher).detach(), contrastive(*mapped, temperature=0.2).detach())

    def test_its_teachers_side_learns_but_not_the_teacher(self):
        module = ContrastiveRepresentation(3, 4, seeded(0)).double()
        teacher = normal(6, 4, seed=1).requires_grad_()
        module(normal(6, 3), teacher).sum().backward()
        assert teacher.grad is None
        assert module.teacher.weight.grad.abs().sum() > 0

    def test_trained_it_finds_information_on_new_examples_below_its_cap(self):
        (x, y), (new_x, new_y) = (gaussians(256, 3, 0.9, seed) for seed in (0, 1))
        module = ContrastiveRepresentation(3, 3, seeded(0), width=16, temperature=0.2).double()
        before = infonce_bound(module.scores(new_x, new_y))
        optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
        for _ in range(100):
            optimiser.zero_grad()
            module(x, y).mean().backward()
            optimiser.step()
        after = infonce_bound(module.scores(new_x, new_y))
        assert before.nats + 0.3 < after.nats < min(after.cap, information(3, 0.9) + 0.1)

    def test_errors(self):
        with pytest.raises(ValueError, match=r"teacher has shape \(5, 4\).*feature.Regressor"):
            contrastive(normal(5, 3), normal(5, 4))
        with pytest.raises(ValueError, match="temperature is 0; .*positive"):
            contrastive(normal(5, 3), normal(5, 3), temperature=0)
