import math

import pytest
import scipy.stats
import torch
from torch import tensor

from kdcore.ensemble import (
    amalgamate,
    entropy_reduced,
    entropy_weighted,
    mean,
    mean_logits,
    votes,
    weighted,
)

ENSEMBLES = [mean, entropy_reduced, lambda p: weighted(p, torch.ones(len(p))), entropy_weighted]
every_ensemble = pytest.mark.parametrize(
    "ensemble", ENSEMBLES, ids=["mean", "entropy_reduced", "weighted", "entropy_weighted"]
)

# Two teachers, two examples, two classes.
CROWD = tensor([[[0.9, 0.1], [0.5, 0.5]], [[0.3, 0.7], [0.1, 0.9]]], dtype=torch.float64)


def predictions(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype).softmax(-1)


def close(a, b, tolerance=1e-12):
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


class TestByHand:
    def test_mean(self):
        close(mean(CROWD), [[0.6, 0.4], [0.3, 0.7]])

    def test_one_weight_per_teacher(self):
        # 3/4 of the first and 1/4 of the second
        close(weighted(CROWD, tensor([3, 1])), [[0.75, 0.25], [0.4, 0.6]])

    def test_one_weight_per_teacher_and_example(self):
        weights = tensor([[1.0, 1.0], [0.0, 3.0]])
        close(weighted(CROWD, weights), [[0.9, 0.1], [0.2, 0.8]])

    def test_entropy_reduced_is_a_softmax_of_probabilities(self):
        # The averages differ by .2 and -.4: at T = .1 the odds are e^2 and e^-4.
        odds = tensor([2.0, -4.0], dtype=torch.float64)
        expected = torch.stack([odds.sigmoid(), (-odds).sigmoid()], dim=1)
        close(entropy_reduced(CROWD), expected)


class TestProbabilitiesAreNotLogits:
    logits = tensor([[[4.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]], dtype=torch.float64)

    def test_averaging_logits_is_another_ensemble(self):
        # softmax(4, 0, 0) = (.965, .018, .018), softmax(0, 1, 0) = (.212, .576, .212)
        ours = mean(self.logits.softmax(-1))[0, 0]
        theirs = self.logits.mean(0).softmax(-1)[0, 0]
        close(ours, 0.588, tolerance=5e-4)
        close(theirs, 0.736, tolerance=5e-4)

    def test_era_sharpens_the_probabilities(self):
        average = mean(self.logits.softmax(-1))
        close(entropy_reduced(self.logits.softmax(-1), 0.1), (average / 0.1).softmax(-1))
        # Sharpening the average as a distribution would raise it to a power: not ERA.
        assert (
            entropy_reduced(self.logits.softmax(-1), 0.1) - (average.log() / 0.1).softmax(-1)
        ).abs().max() > 0.01

    def test_one_teacher_moves_the_mean_by_one_share_at_most(self):
        members = predictions(20, 5, 3)
        attacked = members.clone()
        attacked[7] = tensor([0.0, 1.0, 0.0])
        assert (mean(attacked) - mean(members)).abs().max() <= 1 / 20


class TestEntropy:
    def entropy(self, p):
        return -torch.special.xlogy(p, p).sum(-1)

    def test_it_falls_with_the_temperature(self):
        members = predictions(4, 6, 3)
        hot, warm, cold = (self.entropy(entropy_reduced(members, t)) for t in (1.0, 0.1, 0.01))
        assert (hot > warm).all()
        assert (warm > cold).all()

    def test_at_temperature_one_the_average_does_not_come_back(self):
        certain = tensor([[[1.0, 0.0]]], dtype=torch.float64)
        close(entropy_reduced(certain, 1.0)[0, 0], 0.7310585786300049)  # e / (1 + e)


class TestEntropyWeights:
    def test_by_hand(self):
        # Entropies 0 and log 2: weights 1 and 1/2 before they are scaled to sum 1.
        members = tensor([[[1.0, 0.0]], [[0.5, 0.5]]], dtype=torch.float64)
        close(entropy_weighted(members), [[2 / 3 + 1 / 6, 1 / 6]])

    @pytest.mark.parametrize("sharpness", [0.5, 1.0, 10.0])
    def test_it_is_the_loop(self, sharpness):
        members = predictions(4, 6, 3)
        for n in range(6):
            entropies = [scipy.stats.entropy(p) for p in members[:, n].numpy()]
            weights = [math.exp(-sharpness * h) for h in entropies]
            total = sum(w * p for w, p in zip(weights, members[:, n], strict=True))
            close(entropy_weighted(members, sharpness)[n], total / sum(weights))

    def test_without_sharpness_it_is_the_mean(self):
        members = predictions(4, 6, 3)
        close(entropy_weighted(members, 0.0), mean(members))

    def test_with_much_of_it_the_surest_teacher_speaks_alone(self):
        members = predictions(4, 6, 3)
        entropy = -(members * members.log()).sum(-1)
        surest = members[entropy.argmin(0), torch.arange(6)]
        close(entropy_weighted(members, 1e6), surest, 1e-6)

    def test_exact_zeros_have_an_entropy(self):
        assert entropy_weighted(torch.eye(3).expand(2, 3, 3)).isfinite().all()

    @pytest.mark.parametrize("sharpness", [-1.0, math.inf, math.nan])
    def test_sharpness(self, sharpness):
        with pytest.raises(ValueError, match=f"sharpness is {sharpness}; .*at least 0"):
            entropy_weighted(CROWD, sharpness)


class TestMeanLogits:
    def test_by_hand(self):
        logits = tensor([[[1.0, 4.0]], [[3.0, -2.0]]])
        assert mean_logits(logits).tolist() == [[2.0, 1.0]]

    def test_it_is_the_geometric_mean_of_the_probabilities(self):
        members = predictions(4, 6, 3)
        product = members.prod(0) ** 0.25
        ours = mean_logits(members.log()).softmax(-1)
        close(ours, product / product.sum(-1, keepdim=True))

    def test_one_teacher_with_huge_logits_outvotes_all_others(self):
        logits = torch.cat([tensor([5.0, 0.0]).expand(19, 1, 2), tensor([[[0.0, 1e3]]])])
        assert mean_logits(logits).argmax(-1).item() == 1
        assert mean(logits.softmax(-1)).argmax(-1).item() == 0

    def test_shape(self):
        with pytest.raises(ValueError, match=r"shape \(5, 3\); expected \(M, N, C\)"):
            mean_logits(torch.ones(5, 3))


class TestVotes:
    members = tensor([[0, 1, 2, 2], [0, 1, 1, 2], [0, 2, 1, 0]])  # three teachers, four examples
    certain = torch.nn.functional.one_hot(members, 3).double()

    def cast(self, gamma, seed=0, members=None):
        generator = torch.Generator().manual_seed(seed)
        return votes(self.certain if members is None else members, gamma, generator)

    def test_by_hand_without_noise(self):
        elected = self.cast(math.inf)
        assert elected.labels.tolist() == [0, 1, 1, 2]
        assert elected.noise == 0

    def test_what_an_accountant_has_to_know(self):
        """A vote that moves is 2 in L1: noise of scale 10 is 5 of that, for each of 300."""
        assert self.cast(0.1, members=predictions(5, 300, 3))[1:] == (5.0, 300)

    def test_confidence_does_not_count_but_heads_do(self):
        members = tensor([[[0.51, 0.49]], [[0.51, 0.49]], [[0.0, 1.0]]])
        assert self.cast(math.inf, members=members).labels.tolist() == [0]
        assert mean(members).argmax(-1).tolist() == [1]

    def test_the_generator_decides(self):
        members = predictions(5, 300, 3)
        one, same, other = (self.cast(0.1, seed, members).labels for seed in (0, 0, 1))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_the_noise_is_laplace(self):
        """With one class ahead by m votes of two, the chance to lose is that of two Laplaces."""
        ahead, gamma, n = 4, 0.5, 20_000
        members = torch.nn.functional.one_hot(torch.zeros(ahead, n, dtype=torch.long), 2)
        lost = self.cast(gamma, members=members).labels.double().mean().item()
        x = gamma * ahead  # P(L1 - L2 > x) of unit Laplaces is e^-x (2 + x) / 4
        expected = math.exp(-x) * (2 + x) / 4
        assert lost == pytest.approx(expected, abs=4 * math.sqrt(expected / n))

    def test_less_privacy_gives_better_labels(self):
        members = torch.nn.functional.one_hot(torch.zeros(10, 2000, dtype=torch.long), 4)
        right = [
            (self.cast(g, members=members).labels == 0).double().mean() for g in (0.02, 0.1, 1.0)
        ]
        assert right[0] < right[1] < right[2]

    @pytest.mark.parametrize("gamma", [0.0, -1.0, math.nan])
    def test_gamma(self, gamma):
        with pytest.raises(ValueError, match=f"gamma is {gamma}; .*positive"):
            self.cast(gamma)


class TestAmalgamate:
    blocks = (tensor([[1.0, 2.0]]), tensor([[7.0, 5.0, 6.0]]))

    def test_separate_classes_are_put_side_by_side(self):
        together = amalgamate(self.blocks, [tensor([3, 0]), tensor([1, 4, 2])])
        assert together.tolist() == [[2.0, 7.0, 6.0, 1.0, 5.0]]

    def test_classes_that_several_know_are_averaged(self):
        together = amalgamate(self.blocks, [tensor([0, 1]), tensor([1, 3, 2])])
        assert together.tolist() == [[1.0, 4.5, 6.0, 5.0]]

    def test_teachers_who_know_all_have_the_mean_of_their_logits(self):
        blocks = predictions(3, 4, 5).log()
        close(amalgamate(list(blocks), [torch.arange(5)] * 3), mean_logits(blocks))

    def test_the_larger_logits_win_between_teachers(self):
        together = amalgamate(
            [self.blocks[0] * 100, self.blocks[1]], [tensor([0, 1]), tensor([2, 3, 4])]
        )
        assert together.argmax(-1).item() == 1

    def test_a_class_without_a_teacher(self):
        with pytest.raises(ValueError, match="class 2 has no teacher, of 5"):
            amalgamate(self.blocks, [tensor([0, 1]), tensor([1, 4, 3])])

    @pytest.mark.parametrize(
        ("count", "classes"), [(0, []), (2, [tensor([0, 1])]), (1, [tensor([0, 1, 2])])]
    )
    def test_shapes(self, count, classes):
        with pytest.raises(ValueError, match=r"expected M of \(N, C_m\)"):
            amalgamate(self.blocks[:count], classes)


class TestExactness:
    def test_teachers_are_added_in_order_in_float64(self):
        members = predictions(50, 2, 3, dtype=torch.float32)
        for n, c in [(0, 0), (1, 2)]:
            total = 0.0
            for p in members[:, n, c].tolist():
                total += p
            assert mean(members)[n, c].item() == tensor(total / 50, dtype=torch.float32).item()
            assert mean(members.double())[n, c].item() == total / 50

    @every_ensemble
    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
    def test_the_dtype_comes_back(self, ensemble, dtype):
        assert ensemble(CROWD.to(dtype)).dtype == dtype

    @every_ensemble
    def test_teachers_who_agree_are_their_own_average(self, ensemble):
        one = predictions(1, 5, 3)
        close(ensemble(one.expand(7, 5, 3)), ensemble(one))

    @every_ensemble
    def test_the_result_is_on_the_simplex(self, ensemble):
        pooled = ensemble(predictions(4, 6, 3))
        assert (pooled >= 0).all()
        close(pooled.sum(-1), torch.ones(6))

    @every_ensemble
    def test_vmap_is_a_loop(self, ensemble):
        stacks = predictions(3, 4, 5, 2)
        looped = torch.stack([ensemble(members) for members in stacks])
        assert torch.equal(torch.func.vmap(ensemble)(stacks), looped)

    def test_equal_weights_give_the_mean(self):
        members = predictions(4, 6, 3)
        close(weighted(members, torch.full((4,), 0.2)), mean(members))
        close(weighted(members, torch.ones(4, 6, dtype=torch.bool)), mean(members))

    def test_a_teacher_of_weight_zero_is_absent(self):
        members = predictions(4, 6, 3)
        close(weighted(members, tensor([1, 1, 0, 1])), mean(members[[0, 1, 3]]))


class TestErrors:
    @every_ensemble
    @pytest.mark.parametrize("shape", [(5, 3), (0, 5, 3)])
    def test_shapes(self, ensemble, shape):
        with pytest.raises(ValueError, match=rf"shape \({shape[0]}, .*expected \(M, N, C\).*stack"):
            ensemble(torch.ones(shape))

    def test_shape_of_the_weights(self):
        with pytest.raises(ValueError, match=r"weights have shape \(3,\).*\(2, 2, 2\)"):
            weighted(CROWD, torch.ones(3))

    @pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
    def test_bad_weights_are_named(self, bad):
        with pytest.raises(ValueError, match=rf"weights hold {bad}; .*at least 0"):
            weighted(CROWD, tensor([1.0, bad]))

    @pytest.mark.parametrize(
        ("weights", "count"), [([0.0, 0.0], "1 of 1"), ([[1.0, 0.0], [1.0, 0.0]], "1 of 2")]
    )
    def test_an_example_needs_a_teacher(self, weights, count):
        with pytest.raises(ValueError, match=rf"all weights are 0 .*{count}.*leave out"):
            weighted(CROWD, tensor(weights))

    def test_under_vmap_weights_of_zero_give_nan_for_that_problem(self):
        weights = tensor([[1.0, 1.0], [0.0, 0.0]])
        pooled = torch.func.vmap(weighted, in_dims=(None, 0))(CROWD, weights)
        close(pooled[0], mean(CROWD))
        assert pooled[1].isnan().all()

    @pytest.mark.parametrize("temperature", [0.0, -0.1, float("nan"), float("inf")])
    def test_temperature(self, temperature):
        with pytest.raises(ValueError, match=f"temperature is {temperature}; .*positive"):
            entropy_reduced(CROWD, temperature)
