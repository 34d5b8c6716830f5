"""Co-Boosting: its objective, its weights and its harder inputs by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from fedkd.algorithms.coboosting import CoBoosting
from fedkd.components.data_free.ensemble import Ensemble
from kdcore.rng import generator
from kdcore.training.batches import Examples
from kdcore.training.loop import TrainingConfig
from tests.fedkd.algorithms.test_dense import TASK, THREE, constant, ensemble, objective


def test_the_objective_by_hand():
    # The teacher gives the label 3/4, so an unsure input counts for 1/4, or for 1/16.
    unsure = -math.log(3 / 4)
    assert objective(CoBoosting(adversarial=0.0), (0.0, THREE)) == pytest.approx(unsure / 4)
    squared = CoBoosting(adversarial=0.0, hardness=2.0)
    assert objective(squared, (0.0, THREE)) == pytest.approx(unsure / 16)
    # At T = 3 the logits are a third: KL of (q, 1 - q) and (1 - q, q) is (2 q - 1) log(3) / 3.
    q = 3 ** (1 / 3) / (3 ** (1 / 3) + 1)
    apart = 9 * (2 * q - 1) * THREE / 3
    assert objective(CoBoosting(), (0.0, THREE)) == pytest.approx(unsure / 4 - apart)
    # Unlike in DENSE, where both say the same label, they are driven apart as well.
    same = objective(CoBoosting(), (3 * THREE, 0.0))
    assert same < objective(CoBoosting(adversarial=0.0), (3 * THREE, 0.0)) - 0.1


def reweighted(algorithm, teacher, count, label, turn):
    # In mini-batches of two examples that all have one label.
    x, y = torch.zeros(count, 1, 4, 4), torch.full((count,), label)
    algorithm = replace(algorithm, distill=TrainingConfig(batch_size=2))
    before = Examples(x, y, torch.arange(count))
    return algorithm.reweighted(teacher, before, turn, generator(0))


def test_weights_move_to_those_who_are_right_by_the_size_of_a_step():
    # One mini-batch: the first is right of label 0. 0.1 / 2 clients, times 0.99 in turn 1.
    teacher, algorithm = ensemble((1.0, 0.0), (0.0, 1.0)), CoBoosting()
    found = reweighted(algorithm, teacher, 2, 0, 1).weights
    step = 0.05 * 0.99
    torch.testing.assert_close(found, torch.tensor([0.5 + step, 0.5 - step]))
    torch.testing.assert_close(teacher.weights, torch.tensor([0.5, 0.5]))
    found = reweighted(algorithm, teacher, 5, 1, 2).weights  # three mini-batches
    step = 3 * 0.05 * 0.99**2
    torch.testing.assert_close(found, torch.tensor([0.5 - step, 0.5 + step]))


def test_weights_stay_between_0_and_1_and_are_never_all_0():
    teacher, bold = ensemble((1.0, 0.0), (0.0, 1.0)), CoBoosting(boost=9.0)
    assert reweighted(bold, teacher, 4, 0, 1).weights.tolist() == [1.0, 0.0]
    for members in ([(1.0, 0.0)], [(1.0, 0.0)] * 3):  # nobody is better than anybody
        found = reweighted(bold, ensemble(*members), 8, 0, 1)
        assert found.weights.sum() > 0
        assert found.logits(torch.zeros(1, 1, 4, 4)).isfinite().all()


def test_inputs_are_moved_where_the_ensemble_changes_its_mind():
    # Of two classes, u (p, 1 - p) has the slope (u_0 - u_1) p (1 - p) (w_0 - w_1) / 4 in x.
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0, -2.0], [0.0, 1.0]])
    teacher = Ensemble.of([layer], torch.device("cpu"))
    x = torch.rand(6, 2, generator=generator(1))
    found, said = CoBoosting(nudge=51.0).studied(teacher, x, torch.zeros(3, 2), generator(2))
    u = 2 * torch.rand(6, 2, generator=generator(2)) - 1
    towards = (u[:, :1] - u[:, 1:]).sign() * torch.tensor([1.0, -1.0])
    torch.testing.assert_close(found, x + 0.2 * towards)
    torch.testing.assert_close(said, found @ layer.weight.T)  # of all of them, anew
    assert set(towards[:, 0].tolist()) == {-1.0, 1.0}
    still = CoBoosting(nudge=0.0).studied(teacher, x, torch.zeros(3, 2), generator(2))
    assert torch.equal(still[0], x)


def test_weights_are_learnt_from_what_was_made_in_turns_before():
    # Nothing in the first of two turns, and one mini-batch in the second, of labels that a teacher
    # gives to noise: the first is right of all of them, since it is the surer one.
    seen = []

    class Watched(CoBoosting):
        def studied(self, ensemble, x, said, dice):
            seen.append((ensemble.weights.tolist(), len(x)))
            return super().studied(ensemble, x, said, dice)

    short = TrainingConfig("sgd", 0.5, epochs=2, batch_size=8)
    algorithm = Watched(distill=short, generator=short, inputs="noise", width=2)
    teacher = ensemble((3.0, 0.0), (0.0, 1.0))
    algorithm.taught(TASK, constant, {"z": torch.zeros(2)}, teacher, generator(0))
    step = 0.05 * 0.99
    assert [count for _, count in seen] == [8, 16]
    assert seen[0][0] == [0.5, 0.5]
    assert seen[1][0] == pytest.approx([0.5 + step, 0.5 - step])
