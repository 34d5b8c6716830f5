"""tests.kdcore.losses.test_teacher_free."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import tensor

from kdcore.losses.response import kl_to_probabilities, soft_cross_entropy
from kdcore.losses.teacher_free import label_means, smoothed_labels, virtual_teacher
from tests.kdcore.losses.test_response import close, normal


class TestTargetsOfLabels:
    labels = tensor([2, 0, -100])

    def test_virtual_teacher_by_hand(self):
        close(
            virtual_teacher(self.labels, 4, correct=0.7),
            tensor([[0.1, 0.1, 0.7, 0.1], [0.7, 0.1, 0.1, 0.1], [0.0] * 4]),
            tolerance=1e-6,
        )

    def test_smoothed_labels_are_those_of_torch(self):
        target = smoothed_labels(self.labels[:2], 4, 0.2)
        close(target, tensor([[0.05, 0.05, 0.85, 0.05], [0.85, 0.05, 0.05, 0.05]]), 1e-6)
        logits = normal(2, 4).float()
        theirs = F.cross_entropy(logits, self.labels[:2], label_smoothing=0.2, reduction="none")
        close(soft_cross_entropy(logits, target), theirs, tolerance=1e-6)

    def test_without_a_label_there_is_no_teacher(self):
        student = normal(3, 4).float()
        value = kl_to_probabilities(student, virtual_teacher(self.labels, 4))
        assert value[2].item() == 0

    def test_sure_it_is_the_label_itself(self):
        one_hot = F.one_hot(self.labels[:2], 4).float()
        assert torch.equal(virtual_teacher(self.labels[:2], 4, correct=1.0), one_hot)
        assert torch.equal(smoothed_labels(self.labels[:2], 4, smoothing=0.0), one_hot)

    def test_vmap_is_a_loop(self):
        several = tensor([[0, 1], [2, -100], [1, 1]])
        together = torch.func.vmap(lambda y: virtual_teacher(y, 3))(several)
        close(together, torch.stack([virtual_teacher(y, 3) for y in several]))

    @pytest.mark.parametrize(("classes", "correct"), [(1, 1.0), (4, 0.2), (4, 1.1)])
    def test_it_is_right_more_often_than_by_chance(self, classes, correct):
        with pytest.raises(ValueError, match=rf"correct is {correct} among {classes} classes"):
            virtual_teacher(self.labels, classes, correct)

    def test_probabilities_are_no_labels(self):
        with pytest.raises(
            ValueError, match=r"labels are torch.float32 .*expected \(N,\) integers"
        ):
            virtual_teacher(torch.ones(3), 4)


class TestLabelMeans:
    outputs = tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [9.0, 9.0]])

    def test_by_hand(self):
        means, counts = label_means(self.outputs, tensor([2, 0, 2, -100]), 4)
        assert counts.tolist() == [1, 0, 2, 0]
        assert means[[0, 2]].tolist() == [[3.0, 4.0], [3.0, 4.0]]

    def test_a_label_that_is_missing_is_flagged_and_no_target_of_zeros(self):
        means, counts = label_means(self.outputs, tensor([0, 0, 0, 0]), 3)
        assert means[1:].isnan().all()
        assert counts.tolist() == [4, 0, 0]

    def test_it_is_the_loop(self):
        outputs, labels = normal(50, 3), torch.arange(50) ** 2 % 7
        means, counts = label_means(outputs, labels, 7)
        for label in range(7):
            mine = outputs[labels == label]
            assert counts[label] == len(mine)
            if len(mine):
                close(means[label], mine.mean(0))
        assert (counts == 0).any()

    def test_the_order_of_the_examples_does_not_matter(self):
        labels, order = tensor([2, 0, 2, 1]), tensor([3, 1, 0, 2])
        close(
            label_means(self.outputs[order], labels[order], 3).means,
            label_means(self.outputs, labels, 3).means,
        )

    def test_weighted_with_the_counts_the_means_of_clients_are_those_of_all(self):
        """The unweighted mean of the clients' means is another number."""
        outputs, labels = normal(30, 3), torch.arange(30) % 3
        one, other = (
            label_means(outputs[part], labels[part], 3) for part in (slice(4), slice(4, 30))
        )
        whole = label_means(outputs, labels, 3).means
        weights = torch.stack([one.counts, other.counts]).unsqueeze(-1)
        both = torch.stack([one.means, other.means])
        close((weights * both).sum(0) / weights.sum(0), whole)
        assert (both.mean(0) - whole).abs().max() > 0.01

    def test_labels_have_to_fit(self):
        with pytest.raises(ValueError, match=r"\(4, 2\) and labels \(3,\)"):
            label_means(self.outputs, tensor([0, 1, 2]), 3)
