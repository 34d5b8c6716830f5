import math

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import sklearn.metrics
import torch
import torch.nn.functional as F  # noqa: N812
from torch import tensor

from kdcore.losses.decoupled import decoupled
from kdcore.losses.response import (
    cross_entropy,
    jensen_shannon,
    kl,
    kl_to_probabilities,
    logit_matching,
    mutual,
    reverse_kl,
    soft_cross_entropy,
    symmetric_kl,
)

DIVERGENCES = [kl, reverse_kl, jensen_shannon, symmetric_kl]


LOG3 = math.log(3.0)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def centred(logits):
    return logits - logits.mean(-1, keepdim=True)


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(
        torch.as_tensor(a), torch.as_tensor(b), rtol=tolerance, atol=tolerance
    )


class TestByHand:
    # softmax of (log 3, 0) is (3/4, 1/4); of (0, 0) it is (1/2, 1/2).
    student = tensor([[0.0, 0.0]], dtype=torch.float64)
    teacher = tensor([[LOG3, 0.0]], dtype=torch.float64)

    def test_kl_weighs_with_the_teacher(self):
        close(kl(self.student, self.teacher).item(), 0.75 * math.log(1.5) + 0.25 * math.log(0.5))

    def test_reverse_kl_weighs_with_the_student(self):
        expected = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
        close(reverse_kl(self.student, self.teacher).item(), expected)

    def test_jensen_shannon_goes_through_the_middle(self):
        # m = (5/8, 3/8)
        to_student = 0.5 * math.log(4 / 5) + 0.5 * math.log(4 / 3)
        to_teacher = 0.75 * math.log(6 / 5) + 0.25 * math.log(2 / 3)
        close(jensen_shannon(self.student, self.teacher).item(), (to_student + to_teacher) / 2)

    def test_symmetric_kl_goes_both_ways(self):
        # (3/4 - 1/2) log (3/4 : 1/2) + (1/4 - 1/2) log (1/4 : 1/2)
        expected = 0.25 * math.log(1.5) - 0.25 * math.log(0.5)
        close(symmetric_kl(self.student, self.teacher).item(), expected)

    def test_soft_cross_entropy(self):
        target = tensor([[0.25, 0.75]], dtype=torch.float64)
        expected = -0.25 * math.log(0.75) - 0.75 * math.log(0.25)
        close(soft_cross_entropy(self.teacher, target).item(), expected)
        # At T = 1/2 the logits double: softmax(2 log 3, 0) = (9/10, 1/10); no T^2 in front.
        expected = -0.25 * math.log(0.9) - 0.75 * math.log(0.1)
        close(soft_cross_entropy(self.teacher, target, temperature=0.5).item(), expected)

    def test_kl_to_a_one_hot_target_is_the_cross_entropy(self):
        one_hot = tensor([[0.0, 1.0]], dtype=torch.float64)
        close(kl_to_probabilities(self.teacher, one_hot).item(), math.log(4))
        close(cross_entropy(self.teacher, tensor([1])).item(), math.log(4))

    def test_logit_matching_sums_squares_but_averages_absolute_errors(self):
        student, teacher = tensor([[1.0, 2.0, -3.0]]), tensor([[0.0, 0.0, 0.0]])
        assert logit_matching(student, teacher).item() == (1 + 4 + 9) / 2
        assert logit_matching(student, teacher, norm="l1").item() == (1 + 2 + 3) / 3

    def test_decoupled(self):
        # Teacher (1/2, 1/4, 1/4), student (1/4, 1/4, 1/2), label 0.
        teacher = tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
        student = tensor([[0.25, 0.25, 0.5]], dtype=torch.float64).log()
        tckd = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)  # [1/2, 1/2] against [1/4, 3/4]
        nckd = 0.5 * math.log(3 / 2) + 0.5 * math.log(3 / 4)  # [1/2, 1/2] against [1/3, 2/3]
        value = decoupled(student, teacher, tensor([0]), alpha=2.0, beta=5.0, temperature=1.0)
        close(value.item(), 2 * tckd + 5 * nckd)


class TestAgainstOthers:
    student, teacher = 3 * normal(7, 5), 3 * normal(7, 5, seed=1)

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
    def test_kl_both_ways_is_scipys_entropy(self, temperature):
        p = (self.student / temperature).softmax(-1).numpy()
        q = (self.teacher / temperature).softmax(-1).numpy()
        scale = temperature**2
        close(
            kl(self.student, self.teacher, temperature), scale * scipy.stats.entropy(q, p, axis=1)
        )
        close(
            reverse_kl(self.student, self.teacher, temperature),
            scale * scipy.stats.entropy(p, q, axis=1),
        )

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
    def test_jensen_shannon_is_the_square_of_scipys(self, temperature):
        p = (self.student / temperature).softmax(-1).numpy()
        q = (self.teacher / temperature).softmax(-1).numpy()
        root = scipy.spatial.distance.jensenshannon(p, q, axis=1)
        close(jensen_shannon(self.student, self.teacher, temperature), temperature**2 * root**2)

    def test_cross_entropy_is_sklearns_log_loss(self):
        labels = np.array([0, 4, 2, 2, 1, 3, 0])
        theirs = sklearn.metrics.log_loss(labels, self.student.softmax(-1).numpy())
        close(cross_entropy(self.student, torch.as_tensor(labels)).mean().item(), theirs)

    def test_torchs_default_mean_is_c_times_too_small(self):
        log_p, q = self.student.log_softmax(-1), self.teacher.softmax(-1)
        with pytest.warns(UserWarning, match="batchmean"):
            trap = F.kl_div(log_p, q)
        close(kl(self.student, self.teacher).mean(), 5 * trap)
        close(kl(self.student, self.teacher).mean(), F.kl_div(log_p, q, reduction="batchmean"))


class TestTemperature:
    student, teacher = normal(6, 4), normal(6, 4, seed=1)

    def test_the_limit_is_half_the_centred_squared_gap_over_c(self):
        """Hinton et al., section 2.1; the error falls like 1/T."""
        limit = 0.5 * (centred(self.student) - centred(self.teacher)).square().mean(-1)
        errors = [
            (kl(self.student, self.teacher, t) - limit).abs().max().item()
            for t in (1.0, 10.0, 100.0, 1000.0)
        ]
        assert errors[0] > errors[1]
        for smaller, larger in zip(errors[2:], errors[1:], strict=False):
            assert larger / smaller == pytest.approx(10, rel=0.2)

    @pytest.mark.parametrize("temperature", [1.0, 3.0, 100.0])
    def test_the_gradient_is_t_times_the_gap_of_the_probabilities(self, temperature):
        student = self.student.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(kl(student, self.teacher, temperature).sum(), student)
        p, q = (self.student / temperature).softmax(-1), (self.teacher / temperature).softmax(-1)
        close(gradient, temperature * (p - q))

    def test_the_gradient_stays_exact_in_float32_where_the_value_does_not(self):
        student = self.student.float().requires_grad_()
        (gradient,) = torch.autograd.grad(kl(student, self.teacher.float(), 1e3).sum(), student)
        limit = (centred(self.student) - centred(self.teacher)) / 4
        close(gradient.double(), limit, tolerance=3e-3)

    def test_centred_logit_matching_is_the_limit(self):
        limit = logit_matching(self.student, self.teacher, centre=True) / 4
        close(kl(self.student, self.teacher, 1e4), limit, tolerance=1e-3)

    def test_in_float32_the_value_loses_digits_as_t_grows(self):
        student, teacher = normal(500, 10), normal(500, 10, seed=1)

        def error(temperature):
            exact = kl(student, teacher, temperature).mean()
            each = kl(student.float(), teacher.float(), temperature) - kl(
                student, teacher, temperature
            )
            return (each.square().mean().sqrt() / exact).item()

        at_20, at_100, at_1000 = (error(temperature) for temperature in (20, 100, 1000))
        assert at_20 < 1e-3 < 1e-2 < at_1000
        assert 3 * at_20 < at_100 < at_1000 / 3

    @pytest.mark.parametrize("loss", DIVERGENCES)
    def test_scaling_logits_and_temperature_scales_by_t_squared(self, loss):
        close(loss(3 * self.student, 3 * self.teacher, 3.0), 9 * loss(self.student, self.teacher))

    @pytest.mark.parametrize("loss", [*DIVERGENCES, soft_cross_entropy, kl_to_probabilities])
    @pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
    def test_it_has_to_be_positive_and_finite(self, loss, temperature):
        with pytest.raises(ValueError, match=rf"temperature is {temperature}.*positive"):
            loss(self.student, self.teacher.softmax(-1), temperature)

    def test_decoupled_checks_it_too(self):
        labels = torch.zeros(6, dtype=torch.long)
        with pytest.raises(ValueError, match="temperature is 0"):
            decoupled(self.student, self.teacher, labels, temperature=0)


@pytest.mark.parametrize("loss", DIVERGENCES)
def test_a_constant_shift_of_the_logits_changes_nothing(loss):
    student, teacher = normal(6, 4), normal(6, 4, seed=1)
    close(loss(student + 5, teacher - 7), loss(student, teacher), tolerance=1e-10)
    close(loss(teacher + 3, teacher), torch.zeros(6).double())


class TestJensenShannon:
    student, teacher = 5 * normal(6, 4), 5 * normal(6, 4, seed=1)

    def test_it_is_symmetric(self):
        there, back = (
            jensen_shannon(self.student, self.teacher, 2.0),
            jensen_shannon(self.teacher, self.student, 2.0),
        )
        close(there, back)

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
    def test_it_is_bounded(self, temperature):
        bound = temperature**2 * math.log(2)
        assert (jensen_shannon(self.student, self.teacher, temperature) < bound).all()
        apart = jensen_shannon(tensor([[900.0, 0.0]]), tensor([[0.0, 900.0]]), temperature)
        close(apart.item(), bound, tolerance=1e-6)  # reached by distributions that never meet


class TestTargets:
    student = normal(6, 4)
    target = normal(6, 4, seed=1).softmax(-1)

    def test_cross_entropy_minus_kl_is_the_entropy_of_the_target(self):
        gap = soft_cross_entropy(self.student, self.target, 2.0) - kl_to_probabilities(
            self.student, self.target, 2.0
        )
        close(gap, scipy.stats.entropy(self.target.numpy(), axis=1))

    def test_cross_entropy_and_kl_have_the_same_gradient(self):
        student = self.student.clone().requires_grad_()
        (ours,) = torch.autograd.grad(soft_cross_entropy(student, self.target).sum(), student)
        (theirs,) = torch.autograd.grad(kl_to_probabilities(student, self.target).sum(), student)
        assert torch.equal(ours, theirs)

    def test_kl_to_the_probabilities_of_a_teacher_is_kl_without_t_squared(self):
        teacher = normal(6, 4, seed=2)
        ours = 9 * kl_to_probabilities(self.student, (teacher / 3).softmax(-1), 3.0)
        close(ours, kl(self.student, teacher, 3.0))

    def test_one_hot_targets_give_the_hard_cross_entropy(self):
        labels = tensor([0, 1, 2, 3, 0, 1])
        one_hot = F.one_hot(labels, 4).double()
        close(soft_cross_entropy(self.student, one_hot), cross_entropy(self.student, labels))
        close(kl_to_probabilities(self.student, one_hot), cross_entropy(self.student, labels))

    @pytest.mark.parametrize("loss", [soft_cross_entropy, kl_to_probabilities])
    def test_a_row_of_zeros_means_no_teacher(self, loss):
        target = self.target.clone()
        target[2] = 0
        student = self.student.clone().requires_grad_()
        value = loss(student, target)
        (gradient,) = torch.autograd.grad(value.sum(), student)
        assert value[2].item() == 0
        assert (gradient[2] == 0).all()
        kept = [0, 1, 3, 4, 5]
        close(value[kept], loss(self.student, self.target)[kept])

    @pytest.mark.parametrize("loss", [soft_cross_entropy, kl_to_probabilities])
    def test_extreme_logits_and_exact_zeros_are_finite_in_float32(self, loss):
        student = tensor([[200.0, -200.0, 0.0], [200.0, -200.0, 0.0]], requires_grad=True)
        value = loss(student, tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
        (gradient,) = torch.autograd.grad(value.sum(), student)
        assert value.tolist() == [400.0, 0.0]
        assert gradient.tolist() == [[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]


class TestLabels:
    logits = normal(3, 4)

    def test_minus_100_means_no_label(self):
        value = cross_entropy(self.logits, tensor([1, -100, 2]))
        assert value[1].item() == 0
        together = torch.func.vmap(cross_entropy)(
            self.logits.expand(2, 3, 4), tensor([[1, -100, 2], [0, 3, -100]])
        )
        close(together[0], value)
        assert together[1, 2].item() == 0

    def test_small_integers_will_do(self):
        labels = tensor([1, 3, 2])
        close(cross_entropy(self.logits, labels.int()), cross_entropy(self.logits, labels))
        close(
            decoupled(self.logits, self.logits + 1, labels.to(torch.uint8)),
            decoupled(self.logits, self.logits + 1, labels),
        )

    @pytest.mark.parametrize("loss", [cross_entropy, lambda s, y: decoupled(s, s, y)])
    def test_probabilities_are_no_labels(self, loss):
        with pytest.raises(ValueError, match=r"torch.float64; expected integers.*soft_cross"):
            loss(self.logits, torch.zeros(3).double())
        with pytest.raises(ValueError, match=r"labels \(3, 4\); expected \(N, C\) and \(N,\)"):
            loss(self.logits, torch.zeros(3, 4, dtype=torch.long))


class TestLogitMatching:
    student, teacher = normal(4, 3), normal(4, 3, seed=1)

    def test_the_gradient_is_the_gap(self):
        student = self.student.clone().requires_grad_()
        value = logit_matching(student, self.teacher).sum()
        (gradient,) = torch.autograd.grad(value, student)
        close(gradient, self.student - self.teacher)

    def test_l1_gradient(self):
        student = self.student.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda s: logit_matching(s, self.teacher, "l1"), (student,))

    def test_it_is_not_centred(self):
        shifted = logit_matching(self.student + 1, self.student)
        close(shifted, torch.full((4,), 1.5).double())

    @pytest.mark.parametrize("norm", ["l2", "l1"])
    def test_centred_a_shift_does_not_matter(self, norm):
        shifts = torch.arange(4.0).unsqueeze(1)
        plain = logit_matching(self.student, self.teacher, norm, centre=True)
        close(logit_matching(self.student + shifts, self.teacher - 3, norm, centre=True), plain)

    def test_centred_by_hand(self):
        student, teacher = tensor([[1.0, 2.0, 6.0]]), tensor([[0.0, 0.0, 0.0]])
        assert logit_matching(student, teacher, centre=True).item() == (4 + 1 + 9) / 2
        assert logit_matching(student, teacher, "l1", centre=True).item() == (2 + 1 + 3) / 3

    def test_an_unknown_norm_lists_the_known_ones(self):
        with pytest.raises(ValueError, match="unknown norm 'l3'; choose one of 'l2', 'l1'"):
            logit_matching(self.student, self.teacher, norm="l3")


class TestFiniteOrExactZero:
    """Where torch's own functions give nan or infinity."""

    def test_log_of_softmax_is_infinite_and_log_softmax_is_not(self):
        logits = tensor([[200.0, -200.0]])
        assert logits.softmax(-1).log().isinf().any()
        assert kl(logits, -logits).item() == 400

    def test_a_target_of_minus_infinity_is_nan_for_torch_and_a_zero_is_safe_here(self):
        student, target = tensor([[0.5, 0.2, 0.1]]), tensor([[0.5, 0.5, 0.0]])
        trap = F.kl_div(
            student.log_softmax(-1), target.log(), reduction="batchmean", log_target=True
        )
        assert trap.isnan()
        value = kl_to_probabilities(student, target)
        safe = F.kl_div(student.log_softmax(-1), target, reduction="batchmean")
        close(value, safe.reshape(1), tolerance=1e-6)

    def test_adding_epsilon_to_a_target_would_not_be_zero_at_equality(self):
        """As FedGKT's code does: C epsilon too much, since the target sums to 1 + C epsilon."""
        logits = normal(4, 10)
        target = logits.softmax(-1)
        close(kl_to_probabilities(logits, target), torch.zeros(4).double())
        offset = F.kl_div(logits.log_softmax(-1), target + 1e-7, reduction="batchmean")
        assert offset.item() == pytest.approx(10 * 1e-7, rel=1e-3)

    def test_raw_logits_as_a_target_go_unnoticed_in_torch(self):
        """Which is why targets are checked where they arrive: the loss may even be negative."""
        student, teacher = normal(20, 10), 5 * normal(20, 10, seed=1)
        assert F.cross_entropy(student, teacher, reduction="none").min() < 0
        assert (kl(student, teacher) >= 0).all()


class TestMutual:
    peers = tuple(normal(5, 3, seed=seed) for seed in range(3))

    def test_by_hand(self):
        one, other = tensor([[0.0, 0.0]]).double(), tensor([[LOG3, 0.0]], dtype=torch.float64)
        to_one = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
        to_other = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
        close(torch.cat(mutual([one, other])), tensor([to_one, to_other], dtype=torch.float64))

    @pytest.mark.parametrize("temperature", [1.0, 3.0])
    def test_it_is_the_loop_over_peers(self, temperature):
        for k, value in enumerate(mutual(self.peers, temperature)):
            total = sum(kl(self.peers[k], self.peers[j], temperature) for j in range(3) if j != k)
            close(value, total / 2)

    def test_a_student_moves_none_of_its_peers(self):
        peers = [peer.clone().requires_grad_() for peer in self.peers]
        gradients = torch.autograd.grad(mutual(peers)[0].sum(), peers, allow_unused=True)
        assert gradients[0].abs().sum() > 0
        assert gradients[1:] == (None, None)

    def test_peers_who_agree_have_nothing_to_learn(self):
        for value in mutual([self.peers[0]] * 4):
            close(value, torch.zeros(5).double())

    def test_vmap_is_a_loop(self):
        stacks = [normal(4, 5, 3, seed=seed) for seed in range(3)]
        together = torch.func.vmap(lambda *peers: mutual(peers))(*stacks)
        for n in range(4):
            looped = mutual([stack[n] for stack in stacks])
            close(torch.stack([value[n] for value in together]), torch.stack(looped))

    def test_alone_there_is_nobody_to_learn_from(self):
        with pytest.raises(ValueError, match="got 1 student; .*at least 2"):
            mutual(self.peers[:1])
