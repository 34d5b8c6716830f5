import pytest
import torch
from torch import tensor

from knowledge.ensemble import entropy_reduced, mean, weighted

ENSEMBLES = [mean, entropy_reduced, lambda p: weighted(p, torch.ones(len(p)))]
every_ensemble = pytest.mark.parametrize(
    "ensemble", ENSEMBLES, ids=["mean", "entropy_reduced", "weighted"]
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
        crowd = predictions(20, 5, 3)
        attacked = crowd.clone()
        attacked[7] = tensor([0.0, 1.0, 0.0])
        assert (mean(attacked) - mean(crowd)).abs().max() <= 1 / 20


class TestEntropy:
    def entropy(self, p):
        return -torch.special.xlogy(p, p).sum(-1)

    def test_it_falls_with_the_temperature(self):
        crowd = predictions(4, 6, 3)
        hot, warm, cold = (self.entropy(entropy_reduced(crowd, t)) for t in (1.0, 0.1, 0.01))
        assert (hot > warm).all()
        assert (warm > cold).all()

    def test_at_temperature_one_the_average_does_not_come_back(self):
        certain = tensor([[[1.0, 0.0]]], dtype=torch.float64)
        close(entropy_reduced(certain, 1.0)[0, 0], 0.7310585786300049)  # e / (1 + e)


class TestExactness:
    def test_teachers_are_added_in_order_in_float64(self):
        crowd = predictions(50, 2, 3, dtype=torch.float32)
        for n, c in [(0, 0), (1, 2)]:
            total = 0.0
            for p in crowd[:, n, c].tolist():
                total += p
            assert mean(crowd)[n, c].item() == tensor(total / 50, dtype=torch.float32).item()
            assert mean(crowd.double())[n, c].item() == total / 50

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
        crowds = predictions(3, 4, 5, 2)
        looped = torch.stack([ensemble(crowd) for crowd in crowds])
        assert torch.equal(torch.func.vmap(ensemble)(crowds), looped)

    def test_equal_weights_give_the_mean(self):
        crowd = predictions(4, 6, 3)
        close(weighted(crowd, torch.full((4,), 0.2)), mean(crowd))
        close(weighted(crowd, torch.ones(4, 6, dtype=torch.bool)), mean(crowd))

    def test_a_teacher_of_weight_zero_is_absent(self):
        crowd = predictions(4, 6, 3)
        close(weighted(crowd, tensor([1, 1, 0, 1])), mean(crowd[[0, 1, 3]]))


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
