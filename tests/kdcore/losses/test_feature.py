import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import tensor

from kdcore.losses.feature import (
    Regressor,
    activation_boundary,
    attention_map,
    attention_transfer,
    cosine,
    factor_transfer,
    flow,
    flow_matrix,
    hint,
    mmd,
    neuron_selectivity,
)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def close(a, b, tolerance=1e-12):
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def gradient(loss, student, *others):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student, *others).sum(), student)[0]


def length(values):
    return math.sqrt(sum(v * v for v in values))


S, T = normal(4, 3, 2, 3), normal(4, 3, 2, 3, seed=1)  # N, C, H, W
SAME = [hint, cosine, factor_transfer, activation_boundary]
MAPS = [attention_transfer, neuron_selectivity]


# The same losses with plain numbers and loops, of one example as lists of channels.


def channels(features):
    return features.flatten(1).tolist()


def naive_hint(s, t):
    return sum(
        (a - b) ** 2 / 2 for x, y in zip(s, t, strict=True) for a, b in zip(x, y, strict=True)
    )


def naive_cosine(s, t):
    s, t = sum(s, []), sum(t, [])
    return 1 - sum(a * b for a, b in zip(s, t, strict=True)) / (length(s) * length(t))


def naive_factor(s, t):
    s, t = sum(s, []), sum(t, [])
    return sum(abs(a / length(s) - b / length(t)) for a, b in zip(s, t, strict=True))


def naive_boundary(s, t):
    total = 0.0
    for a, b in zip(sum(s, []), sum(t, []), strict=True):
        if b > 0 and a <= 1:
            total += (a - 1) ** 2
        if b <= 0 and a > -1:
            total += (a + 1) ** 2
    return total


def naive_attention(s, t):
    def normed(rows):
        q = [sum(abs(a) ** 2 for a in position) for position in zip(*rows, strict=True)]
        return [v / length(q) for v in q]

    return length([a - b for a, b in zip(normed(s), normed(t), strict=True)])


def naive_mmd(s, t, degree=2, offset=0.0, unbiased=False):
    def kernel(x, y):
        return (sum(a * b for a, b in zip(x, y, strict=True)) + offset) ** degree

    def within(rows):
        n = len(rows)
        pairs = [(i, j) for i in range(n) for j in range(n) if not unbiased or i != j]
        return sum(kernel(rows[i], rows[j]) for i, j in pairs) / len(pairs)

    between = sum(kernel(x, y) for x in s for y in t) / (len(s) * len(t))
    return within(s) + within(t) - 2 * between


def naive_selectivity(s, t):
    return naive_mmd(*([[a / length(row) for a in row] for row in rows] for rows in (s, t)))


NAIVE = [
    (hint, naive_hint),
    (cosine, naive_cosine),
    (factor_transfer, naive_factor),
    (activation_boundary, naive_boundary),
    (attention_transfer, naive_attention),
    (neuron_selectivity, naive_selectivity),
]


@pytest.mark.parametrize(("loss", "naive"), NAIVE, ids=lambda f: f.__name__)
def test_losses_are_the_loops(loss, naive):
    pairs = zip(S, T, strict=True)
    close(loss(S, T), [naive(channels(s), channels(t)) for s, t in pairs])


class TestRegressor:
    def test_on_rows_it_is_a_linear_map(self):
        regress = Regressor(3, 5, seeded(0)).double()
        rows = normal(4, 3)
        close(regress(rows).detach(), (rows @ regress.weight.T + regress.bias).detach())

    def test_on_maps_it_is_a_convolution_of_1_by_1(self):
        regress = Regressor(3, 5, seeded(0)).double()
        theirs = F.conv2d(S, regress.weight[:, :, None, None], regress.bias)
        close(regress(S).detach(), theirs.detach())

    def test_the_generator_alone_decides_on_the_weights(self):
        before = torch.get_rng_state()
        one, same, other = (Regressor(4, 5, seeded(seed)) for seed in (0, 0, 1))
        assert torch.equal(before, torch.get_rng_state())
        assert torch.equal(one.weight, same.weight)
        assert not torch.equal(one.weight, other.weight)
        assert one.weight.abs().max() <= 0.5  # 1 / sqrt(4)
        assert {name for name, _ in one.named_parameters()} == {"weight", "bias"}

    def test_a_hint_through_it_recovers_a_linear_teacher(self):
        student = normal(50, 3)
        teacher = student @ normal(3, 4, seed=1) + 1
        regress = Regressor(3, 4, seeded(0)).double()
        optimiser = torch.optim.Adam(regress.parameters(), lr=0.1)
        start = hint(regress(student), teacher).mean().item()
        for _ in range(200):
            optimiser.zero_grad()
            hint(regress(student), teacher).mean().backward()
            optimiser.step()
        assert hint(regress(student), teacher).mean() < 1e-3 * start


class TestByHand:
    def test_hint(self):
        assert hint(tensor([[1.0, 2.0]]), tensor([[0.0, 4.0]])).item() == 2.5

    def test_cosine(self):
        rows = tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
        close(cosine(rows, tensor([[5.0, 0.0], [1.0, -1.0], [0.0, -1.0]])), [0, 1, 2], 1e-6)

    def test_attention_map(self):
        features = tensor([[[[1.0, -2.0]], [[3.0, 0.0]]]])  # two channels, two positions
        assert attention_map(features).tolist() == [[10.0, 4.0]]
        assert attention_map(features, power=1).tolist() == [[4.0, 2.0]]

    def test_attention_transfer(self):
        # All at one place against all at another: maps (1, 0) and (0, 1).
        one, other = tensor([[[[3.0, 0.0]]]]), tensor([[[[0.0, 1.0]]]])
        close(attention_transfer(one, other).item(), math.sqrt(2), 1e-6)

    def test_mmd(self):
        # Points 1 and 3 against 2 with (x y)^2: (1 + 81 + 2 * 9) / 4 + 16 - 2 * (4 + 36) / 2.
        one, other = tensor([[[1.0], [3.0]]]), tensor([[[2.0], [2.0]]])
        assert mmd(one, other).item() == 25 + 16 - 40
        assert mmd(one, other, unbiased=True).item() == 9 + 16 - 40

    def test_neuron_selectivity(self):
        # One channel that fires at the first place, one at the second: <x, y>^2 = 0.
        one, other = tensor([[[[2.0, 0.0]]]]), tensor([[[[0.0, 7.0]]]])
        assert neuron_selectivity(one, other).item() == 2

    def test_flow_matrix_and_flow(self):
        first = tensor([[[[1.0, 2.0]], [[0.0, 1.0]]]])
        second = tensor([[[[3.0, 1.0]]]])
        matrix = flow_matrix(first, second)
        assert matrix.tolist() == [[[2.5], [0.5]]]
        assert flow(matrix, torch.zeros(1, 2, 1)).item() == 6.5

    def test_a_flow_matrix_pools_by_the_maximum(self):
        # The halves of the first layer have maxima 4 and 3 (and means 2.5 and 1.5).
        first, second = tensor([[[[1.0, 4.0, 3.0, 0.0]]]]), tensor([[[[2.0, 10.0]]]])
        assert flow_matrix(first, second).tolist() == [[[(4 * 2 + 3 * 10) / 2]]]
        assert flow_matrix(second, first).tolist() == [[[19.0]]]

    def test_factor_transfer(self):
        close(factor_transfer(tensor([[3.0, 4.0]]), tensor([[0.0, 2.0]])).item(), 0.6 + 0.2, 1e-6)

    def test_activation_boundary(self):
        # On the right side by more than 1; by less; on the wrong side; a teacher at 0 is off.
        student, teacher = tensor([[2.0, 0.5, -1.0, 1.0]]), tensor([[0.1, 9.0, 3.0, 0.0]])
        assert activation_boundary(student, teacher).item() == 0 + 0.25 + 4 + 4


class TestMmd:
    def test_it_is_the_loop(self):
        s, t = normal(2, 5, 3), normal(2, 4, 3, seed=1)
        for settings in [{}, {"degree": 3, "offset": 1.0}, {"unbiased": True}]:
            loops = [
                naive_mmd(a, b, **settings) for a, b in zip(s.tolist(), t.tolist(), strict=True)
            ]
            close(mmd(s, t, **settings), loops)

    def test_with_degree_1_it_is_the_distance_of_the_means(self):
        s, t = normal(2, 5, 3), normal(2, 4, 3, seed=1)
        close(mmd(s, t, degree=1), (s.mean(1) - t.mean(1)).square().sum(-1))

    def test_with_degree_2_it_is_the_distance_of_the_second_moments(self):
        s, t = normal(2, 5, 3), normal(2, 4, 3, seed=1)
        gap = s.mT @ s / 5 - t.mT @ t / 4
        close(mmd(s, t), gap.square().sum((1, 2)))

    def test_unbiased_it_is_0_on_average_for_one_distribution(self):
        s, t = normal(4000, 10, 2), normal(4000, 10, 2, seed=1)
        unbiased, biased = mmd(s, t, unbiased=True), mmd(s, t)
        spread = unbiased.std() / math.sqrt(4000)
        assert unbiased.mean().abs() < 3 * spread
        assert (unbiased < 0).any()
        assert biased.mean() > 10 * spread
        assert (biased >= 0).all()

    def test_unbiased_it_finds_another_distribution(self):
        s, t = normal(4000, 10, 2), 1.5 * normal(4000, 10, 2, seed=1)
        # Second moments 1 and 2.25 in two dimensions: the squared gap is 2 * 1.25^2.
        assert mmd(s, t, unbiased=True).mean() == pytest.approx(3.125, rel=0.05)

    def test_unbiased_needs_two_points(self):
        with pytest.raises(ValueError, match="got 1 point; .*two on each side"):
            mmd(normal(2, 1, 3), normal(2, 4, 3), unbiased=True)

    def test_points_of_another_width_are_an_error(self):
        with pytest.raises(ValueError, match=r"\(2, 4, 3\).*\(2, 4, 2\).*\(N, P, D\)"):
            mmd(normal(2, 4, 3), normal(2, 4, 2))


class TestInvariance:
    @pytest.mark.parametrize("loss", [cosine, factor_transfer, *MAPS], ids=lambda f: f.__name__)
    def test_scale_changes_nothing(self, loss):
        close(loss(3 * S, 0.2 * T), loss(S, T))

    def test_attention_sees_no_sign_and_no_order_of_channels(self):
        close(attention_transfer(-S[:, [2, 0, 1]], T), attention_transfer(S, T))

    def test_selectivity_sees_no_order_and_no_number_of_channels(self):
        close(neuron_selectivity(S[:, [2, 0, 1]], T), neuron_selectivity(S, T))
        close(neuron_selectivity(torch.cat([S, S], dim=1), S), torch.zeros(4).double())

    def test_flow_goes_with_both_layers(self):
        close(flow_matrix(2 * S, 3 * T), 6 * flow_matrix(S, T))
        close(flow_matrix(T, S), flow_matrix(S, T).mT)

    def test_boundaries_see_the_teachers_side_alone(self):
        close(activation_boundary(S, 100 * T), activation_boundary(S, T))


class TestResolution:
    @pytest.mark.parametrize("loss", MAPS, ids=lambda f: f.__name__)
    @pytest.mark.parametrize("larger", [0, 1])
    def test_the_larger_map_is_pooled(self, loss, larger):
        sides = [S, T]
        fine = [x.repeat_interleave(2, -1) if i == larger else x for i, x in enumerate(sides)]
        close(loss(*fine), loss(*sides))

    def test_each_side_may_be_larger_one_way(self):
        high, wide = S.repeat_interleave(2, -2), T.repeat_interleave(3, -1)
        close(attention_transfer(high, wide), attention_transfer(S, T))
        close(flow_matrix(high, wide), flow_matrix(S, T))

    def test_widths_may_differ(self):
        assert attention_transfer(S, normal(4, 7, 2, 3)).shape == (4,)
        assert flow_matrix(S, normal(4, 7, 2, 3)).shape == (4, 3, 7)


class TestZeros:
    @pytest.mark.parametrize("loss", [cosine, factor_transfer, *MAPS], ids=lambda f: f.__name__)
    def test_dead_features_have_a_finite_gradient(self, loss):
        dead = S.clone()
        dead[0] = 0
        assert loss(dead, T).isfinite().all()
        assert gradient(loss, dead, T).isfinite().all()
        assert gradient(loss, S, dead).isfinite().all()

    def test_attention_has_no_slope_at_the_teacher(self):
        """The length of a gap has a corner where the gap is 0."""
        assert (attention_transfer(T, T) == 0).all()
        assert (gradient(attention_transfer, T, T) == 0).all()

    def test_features_of_zeros_have_no_direction(self):
        assert cosine(torch.zeros(1, 3), torch.ones(1, 3)).item() == 1


class TestErrors:
    @pytest.mark.parametrize("loss", SAME, ids=lambda f: f.__name__)
    def test_another_width_needs_a_regressor(self, loss):
        with pytest.raises(ValueError, match=r"\(4, 3\).*\(4, 5\).*a Regressor maps"):
            loss(normal(4, 3), normal(4, 5))

    @pytest.mark.parametrize("loss", MAPS, ids=lambda f: f.__name__)
    def test_rows_are_no_maps(self, loss):
        with pytest.raises(ValueError, match=r"\(4, 3\).*features without positions"):
            loss(normal(4, 3), T)

    def test_maps_of_features_need_positions(self):
        with pytest.raises(ValueError, match=r"\(4, 3\); expected \(N, C, H, W\)"):
            attention_map(normal(4, 3))

    def test_layers_of_other_examples(self):
        with pytest.raises(ValueError, match=r"\(4, 3, 2, 3\) and \(3, 3, 2, 3\).*same examples"):
            flow_matrix(S, T[:3])

    def test_matrices_of_another_size(self):
        with pytest.raises(ValueError, match=r"\(4, 3, 3\).*\(4, 3, 5\).*flow_matrix for both"):
            flow(flow_matrix(S, T), flow_matrix(S, normal(4, 5, 2, 3)))
