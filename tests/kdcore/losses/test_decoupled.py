"""tests.kdcore.losses.test_decoupled."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import tensor

from kdcore.losses.decoupled import decoupled, generalised, unified
from kdcore.losses.response import (
    cross_entropy,
    kl,
    soft_cross_entropy,
)
from tests.kdcore.losses.test_response import LOG3, close, normal


class TestDecoupled:
    student, teacher = 3 * normal(8, 5), 3 * normal(8, 5, seed=1)
    labels = tensor([0, 1, 2, 3, 4, 0, 1, 2])

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
    def test_kl_is_tckd_plus_the_rest_of_the_teacher_times_nckd(self, temperature):
        """Zhao et al., equation 7: an identity, not an approximation."""

        def term(alpha, beta):
            return decoupled(self.student, self.teacher, self.labels, alpha, beta, temperature)

        q = (self.teacher / temperature).softmax(-1)
        rest = 1 - q[torch.arange(8), self.labels]
        close(term(1, 0) + rest * term(0, 1), kl(self.student, self.teacher, temperature))

    def test_nckd_is_kl_among_the_other_classes(self):
        others = torch.stack([tensor([c for c in range(5) if c != y]) for y in self.labels])
        ours = decoupled(self.student, self.teacher, self.labels, 0, 1, 4.0)
        close(ours, kl(self.student.gather(1, others), self.teacher.gather(1, others), 4.0))

    def test_the_label_is_out_however_large_its_logit(self):
        """Subtracting 1000 from the label's logit, as is commonly done, would leave it in."""
        student, teacher = self.student.clone(), self.teacher.clone()
        rows = torch.arange(8)
        before = decoupled(student, teacher, self.labels, 0, 1, 1.0)
        student[rows, self.labels] += 3000
        teacher[rows, self.labels] += 2000
        close(decoupled(student, teacher, self.labels, 0, 1, 1.0), before, tolerance=1e-9)

    def test_defaults_are_those_of_the_paper(self):
        explicit = decoupled(self.student, self.teacher, self.labels, 1.0, 8.0, 4.0)
        assert torch.equal(decoupled(self.student, self.teacher, self.labels), explicit)

    def test_one_class_is_an_error(self):
        with pytest.raises(ValueError, match="1 class; it needs C >= 2"):
            decoupled(torch.zeros(2, 1), torch.zeros(2, 1), tensor([0, 0]))


class TestGeneralised:
    student, teacher = 2 * normal(6, 2), 2 * normal(6, 2, seed=1)
    labels = tensor([0, 1, 1, 0, 1, 0])

    @pytest.mark.parametrize("imitation", [0.0, 0.3, 1.0])
    @pytest.mark.parametrize("temperature", [1.0, 5.0])
    def test_for_two_classes_it_is_the_sigmoid_of_the_paper(self, imitation, temperature):
        f, t = normal(6), normal(6, seed=1)
        pairs = [torch.stack([torch.zeros(6), x], dim=1) for x in (f, t)]
        value = generalised(*pairs, self.labels, imitation, temperature)
        hard = F.binary_cross_entropy_with_logits(f, self.labels.double(), reduction="none")
        target = (t / temperature).sigmoid()
        soft = F.binary_cross_entropy_with_logits(f, target, reduction="none")
        close(value, (1 - imitation) * hard + imitation * soft)

    def test_by_hand(self):
        # Student (1/2, 1/2), so that any target costs log 2.
        value = generalised(torch.zeros(1, 2), tensor([[LOG3, 0.0]]), tensor([0]), 0.25)
        close(value.item(), math.log(2), 1e-6)
        value = generalised(tensor([[LOG3, 0.0]]), tensor([[LOG3, 0.0]]), tensor([1]), 0.5)
        soft = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
        close(value.item(), (math.log(4) + soft) / 2, 1e-6)

    def test_the_student_is_not_softened(self):
        value = generalised(self.student, self.teacher, self.labels, 1.0, 5.0)
        close(value, soft_cross_entropy(self.student, (self.teacher / 5).softmax(-1)))
        softened = soft_cross_entropy(self.student, (self.teacher / 5).softmax(-1), 5.0)
        assert (value - softened).abs().max() > 0.1

    def test_the_code_of_the_authors_has_t_squared_too(self):
        plain, scaled = (
            generalised(self.student, self.teacher, self.labels, 1.0, 5.0, t_squared=flag)
            for flag in (False, True)
        )
        close(scaled, 25 * plain)
        hard = cross_entropy(self.student, self.labels)
        mixed = generalised(self.student, self.teacher, self.labels, 0.5, 5.0, t_squared=True)
        close(mixed, (hard + scaled) / 2)

    def test_without_imitation_it_is_ordinary_training_bit_for_bit(self):
        broken = torch.full_like(self.teacher, math.nan)
        value = generalised(self.student, broken, self.labels, 0.0)
        assert torch.equal(value, cross_entropy(self.student, self.labels))

    def test_without_labels_there_are_none_to_be_seen(self):
        nobody = torch.full((6,), -100)
        value = generalised(self.student, self.teacher, nobody, 1.0)
        assert torch.equal(value, generalised(self.student, self.teacher, self.labels, 1.0))

    @pytest.mark.parametrize("imitation", [-0.1, 1.1, math.nan])
    def test_imitation_is_a_share(self, imitation):
        with pytest.raises(ValueError, match=rf"imitation is {imitation}; expected 0 .*1"):
            generalised(self.student, self.teacher, self.labels, imitation)


class TestUnified:
    student = normal(6, 5)
    classes = (tensor([0, 1, 2]), tensor([4, 2, 3]))
    teachers = (normal(6, 3, seed=1), normal(6, 3, seed=2))

    def test_by_hand(self):
        # Of classes 0 and 1 the student gives 1/2 each, whatever it thinks of class 2.
        value = unified(tensor([[1.0, 1.0, 9.0]]), [tensor([[LOG3, 0.0]])], [tensor([0, 1])])
        close(value.item(), 0.75 * math.log(1.5) + 0.25 * math.log(0.5), 1e-6)

    @pytest.mark.parametrize("temperature", [1.0, 3.0])
    def test_it_is_the_loop_over_conditional_probabilities(self, temperature):
        p = (self.student / temperature).softmax(-1)
        total = torch.zeros(6).double()
        for teacher, known in zip(self.teachers, self.classes, strict=True):
            q = (teacher / temperature).softmax(-1)
            given = p[:, known] / p[:, known].sum(-1, keepdim=True)
            total += temperature**2 * (q * (q.log() - given.log())).sum(-1)
        close(unified(self.student, self.teachers, self.classes, temperature), total)

    def test_a_teacher_who_knows_all_is_plain_distillation(self):
        teacher = normal(6, 5, seed=3)
        close(unified(self.student, [teacher], [torch.arange(5)]), kl(self.student, teacher))

    def test_nothing_is_said_between_separate_classes(self):
        blocks = [self.student[:, :2] + 3, self.student[:, 2:] - 7]
        value = unified(self.student, blocks, [torch.arange(2), torch.arange(2, 5)])
        close(value, torch.zeros(6).double())

    def test_no_teacher_gets_a_gradient(self):
        student, *teachers = (t.clone().requires_grad_() for t in (self.student, *self.teachers))
        unified(student, teachers, self.classes).sum().backward()
        assert student.grad.abs().sum() > 0
        assert [t.grad for t in teachers] == [None, None]

    def test_a_list_of_classes_for_each_teacher(self):
        with pytest.raises(ValueError, match="2 teachers and 1 lists.*a list for each"):
            unified(self.student, self.teachers, self.classes[:1])
