"""The delicate parts of the recipes about knowledge, objectives and schemes of teaching."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy, rankdata
from torch.distributions import MultivariateNormal

from fedkd.data.datasets import Dataset, load
from kdcore.losses import mutual_information
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.schemes.learners import Learner
from kdcore.schemes.stages import LossTerm, Stage, run
from kdcore.training.batches import Examples
from kdcore.training.loop import TrainingConfig
from simulations.survey.recipes.knowledge import quality, recognition
from simulations.survey.recipes.knowledge.dark_knowledge import recall, shifted
from simulations.survey.recipes.knowledge.explanation import evened, permuted
from simulations.survey.recipes.knowledge.information import Information
from simulations.survey.recipes.knowledge.intermediate import convolutional
from simulations.survey.recipes.knowledge.recognition import (
    Recognition,
    equal_error_rate,
    recall_at_1,
)
from simulations.survey.recipes.objectives.expansion import Expansion
from simulations.survey.recipes.schemes.cross_modal import derangement
from simulations.survey.recipes.schemes.multi_teacher import _majority
from simulations.survey.students import learner, regressing


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "test"), dtype=torch.float64)


# ---------------------------------------------------------------- dark knowledge, explanation


def test_permuted_answers_have_the_same_values_and_the_same_choice():
    logits = normal(400, 10)
    mixed = permuted(logits, generator(0, "permute"))
    assert torch.equal(mixed.sort(1).values, logits.sort(1).values)
    assert torch.equal(mixed.argmax(1), logits.argmax(1))
    assert torch.equal(mixed.max(1).values, logits.max(1).values)


def test_permuted_answers_go_to_all_other_places_alike():
    # The values of the three classes that are not chosen: each in each place a third of the time.
    logits = torch.tensor([[1.0, 9.0, 2.0, 3.0]]).expand(6000, 4)
    mixed = permuted(logits, generator(1, "permute"))
    for place in (0, 2, 3):
        for value in (1.0, 2.0, 3.0):
            assert (mixed[:, place] == value).double().mean().item() == pytest.approx(
                1 / 3, abs=0.03
            )


def test_evened_answers_are_as_sure_and_prefer_nobody_else():
    logits, temperature = normal(50, 7), 3.0
    p, q = (logits / temperature).softmax(1), (evened(logits, temperature) / temperature).softmax(1)
    assert torch.equal(p.argmax(1), q.argmax(1))
    torch.testing.assert_close(p.max(1).values, q.max(1).values)
    others = q.sort(1).values[:, :-1]
    torch.testing.assert_close(others, ((1 - p.max(1).values) / 6)[:, None].expand_as(others))


def test_a_class_that_is_never_predicted_is_raised_until_it_is_predicted_in_its_turn():
    aside = normal(1000, 5) - 8 * torch.eye(5, dtype=torch.float64)[3]
    assert (aside.argmax(1) == 3).sum() == 0
    moved = shifted(aside, aside, 3)
    assert (moved.argmax(1) == 3).double().mean().item() == pytest.approx(0.2, abs=0.002)
    assert torch.equal(moved[:, [0, 1, 2, 4]], aside[:, [0, 1, 2, 4]])


def test_a_class_that_is_predicted_too_often_is_not_lowered():
    aside = normal(100, 5) + 8 * torch.eye(5, dtype=torch.float64)[3]
    assert torch.equal(shifted(aside, aside, 3), aside)


def test_recall_is_of_one_label():
    logits = torch.eye(3)[torch.tensor([0, 1, 1, 2, 1])]
    assert recall(logits, torch.tensor([0, 1, 2, 2, 2]), 2) == pytest.approx(1 / 3)


# ---------------------------------------------------------------- cross-modal, many teachers


@pytest.mark.parametrize("count", [2, 3, 7, 100])
def test_broken_pairs_are_a_permutation_that_pairs_nothing_with_itself(count):
    for seed in range(20):
        to = derangement(count, generator(seed, "break"))
        assert sorted(to.tolist()) == list(range(count))
        assert all(int(to[i]) != i for i in range(count))


def test_the_majority_is_what_counting_says():
    probabilities = normal(5, 40, 4).softmax(2)
    for column, row in enumerate(_majority(probabilities)):
        votes = probabilities[:, column].argmax(1).tolist()
        most = max(range(4), key=lambda c, votes=votes: (votes.count(c), -c))
        assert row.tolist() == [float(c == most) for c in range(4)]


# ---------------------------------------------------------------- expansion


def test_noise_moves_the_whole_image_by_at_most_the_shift():
    image = torch.zeros(300, 1, 9, 9)
    image[:, 0, 4, 3] = 1.0
    moved = Expansion(shift=2, dark=0.0).noise(image, generator(0, "noise"))
    where = moved.flatten(1).argmax(1)
    places = {(int(w) // 9, int(w) % 9) for w in where}
    assert places == {(4 + i, 3 + j) for i in range(-2, 3) for j in range(-2, 3)}
    assert torch.equal(moved.sum((1, 2, 3)), torch.ones(300))


def test_dark_pixels_leave_the_brightness_as_it_is_on_average():
    image = torch.full((200, 1, 10, 10), 0.5)
    noised = Expansion(shift=0, dark=0.4).noise(image, generator(0, "noise"))
    torch.testing.assert_close(noised.unique(), torch.tensor([0.0, 0.5 / 0.6]))
    assert float(noised.mean()) == pytest.approx(0.5, abs=0.01)


# ---------------------------------------------------------------- recognition


def test_recall_at_1_is_that_of_a_loop():
    embedding = normal(60, 3)
    y = torch.randint(4, (60,), generator=generator(0, "labels"))
    right = 0
    for i in range(60):
        others = [j for j in range(60) if j != i]
        nearest = min(others, key=lambda j, i=i: math.dist(embedding[i], embedding[j]))
        right += int(y[i] == y[nearest])
    assert recall_at_1(embedding, y) == pytest.approx(right / 60)


def test_the_equal_error_rate_of_hand_made_embeddings():
    y = torch.tensor([0, 0, 1, 1])
    assert equal_error_rate(torch.tensor([[0.0], [1.0], [10.0], [11.0]]), y) == 0.0
    # Three of four pairs of different labels are nearer than both pairs of the same label.
    assert equal_error_rate(torch.tensor([[0.0], [10.0], [0.1], [10.1]]), y) == pytest.approx(0.75)


def test_neighbours_of_the_student_of_triplets_are_those_by_direction(monkeypatch):
    seen = []

    def watched(embedding, y):
        seen.append(embedding)
        return recall_at_1(embedding, y)

    monkeypatch.setattr(recognition, "recall_at_1", watched)
    once = TrainingConfig("adam", 0.01, epochs=1, batch_size=32)
    small = Recognition(
        64, 40, 1, "mlp-8", "mlp-8", 4, teacher_training=once, student_training=once
    )
    found = small.measure(load("digits"), 0)
    embedded = dict(zip((key for key in found if "recall" in key), seen, strict=True))
    torch.testing.assert_close(embedded["recall_baseline"].norm(dim=1), torch.ones(40))
    for arm in ("recall", "recall_blank", "recall_untrained"):  # of which distances are kept
        assert float(embedded[arm].norm(dim=1).std()) > 0.01


def test_the_triplet_loss_is_that_of_three_loops():
    embedding = normal(9, 4)
    y = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3])
    rows = [row / row.norm() for row in embedding]
    for i, value in enumerate(Recognition(margin=0.3).triplet(Outputs(embedding), y)):
        violated = []
        for j in range(9):
            for k in range(9):
                if j != i and y[j] == y[i] and y[k] != y[i]:
                    near, far = (rows[i] - rows[j]).norm(), (rows[i] - rows[k]).norm()
                    violated += [float(near - far + 0.3)] if near - far + 0.3 > 0 else []
        expected = sum(violated) / len(violated) if violated else 0.0
        assert float(value) == pytest.approx(expected, rel=1e-6)


# ---------------------------------------------------------------- information, intermediate


def test_the_critic_of_gaussians_is_the_density_ratio():
    recipe, width, r = Information(batch=8), 3, 0.6
    found, true = recipe.gaussians(width, r, seed=5)
    draw = torch.randn(2, 160, width, generator=generator(5, "gaussians"))
    s, t = draw[0], r * draw[0] + (1 - r**2) ** 0.5 * draw[1]
    eye = torch.eye(width)
    conditional = MultivariateNormal(torch.zeros(width), (1 - r**2) * eye)
    marginal = MultivariateNormal(torch.zeros(width), eye)
    bounds = []
    for a, b in zip(s.split(8), t.split(8), strict=True):
        ratio = conditional.log_prob(b[None] - r * a[:, None]) - marginal.log_prob(b)[None]
        bounds.append(mutual_information.infonce_bound(ratio).nats)
    assert found == pytest.approx(float(torch.stack(bounds).mean()), abs=1e-4)
    joint = torch.cat([torch.cat([eye, r * eye], 1), torch.cat([r * eye, eye], 1)])
    assert true == pytest.approx(-0.5 * math.log(float(torch.linalg.det(joint.double()))))


def test_the_bound_of_a_copy_is_high_and_of_noise_is_not_above_zero():
    recipe = Information(batch=64, judging=TrainingConfig("adam", 0.003, epochs=20, batch_size=64))
    s, noise = (torch.randn(384, 8, generator=generator(0, name)) for name in ("s", "noise"))
    copy = recipe.bound((s[:256], s[256:]), (s[:256], s[256:]), seed=0)
    other = recipe.bound((s[:256], s[256:]), (noise[:256], noise[256:]), seed=0)
    assert 3.0 < copy <= math.log(64)
    assert other < 0.1


def test_a_regressor_changes_nothing_that_is_said_and_learns_with_the_learner():
    one = learner("mlp-6-5", (4,), 3, 0)
    both = regressing(one, 0, (6, 2), seed=0)
    x, target = normal(30, 4).float(), normal(30, 2, seed=1).float()
    assert torch.equal(both(x).logits, one(x).logits)
    assert [tuple(h.shape) for h in both(x).hidden] == [(30, 6), (30, 5), (30, 2)]

    def gap(own, y):
        return (own.hidden[-1] - y).square().sum(1)

    stage = Stage(
        {"one": (LossTerm(gap),)},
        Examples(x, target, torch.arange(30)),
        TrainingConfig("adam", 0.02, epochs=40, batch_size=30),
    )
    after = run([stage], {"one": both}, generator(0, "learn"))["one"]
    assert gap(after(x), target).mean() < 0.7 * gap(both(x), target).mean()
    changed = {k for k, v in after.params.items() if not torch.equal(v, both.params[k])}
    assert changed == {"layer0.weight", "layer0.bias", "regressor.weight", "regressor.bias"}


def test_the_convolutional_student_shows_maps():
    one = convolutional((1, 8, 8), 10, (3, 5), 0, "student")
    said = one(torch.rand(2, 1, 8, 8, generator=generator(0, "x")))
    assert said.logits.shape == (2, 10)
    assert [tuple(h.shape) for h in said.hidden] == [(2, 3, 8, 8), (2, 5, 8, 8)]


# ---------------------------------------------------------------- knowledge quality


def test_the_fitted_temperature_is_the_one_that_a_person_works_out():
    # All say (3, 0), and 4 of 5 labels are the first: sigmoid(3 / T) = 0.8, so T = 3 / log 4.
    logits = torch.tensor([[3.0, 0.0]]).expand(10, 2)
    y = torch.tensor([0] * 8 + [1] * 2)
    assert quality.temperature_of(logits, y) == pytest.approx(3 / math.log(4), rel=1e-3)
    assert quality.temperature_of(logits / 10, y) == pytest.approx(0.3 / math.log(4), rel=1e-3)


def test_the_entropy_of_answers_is_scipys():
    logits = normal(20, 5, seed=2)
    found = np.mean([entropy(row) for row in logits.softmax(1).numpy()])
    assert quality.entropy(logits) == pytest.approx(found)
    assert quality.entropy(torch.zeros(3, 10)) == pytest.approx(math.log(10))


def test_a_partial_rank_correlation_is_one_of_what_a_line_leaves():
    gains, accuracy, error = normal(3, 30, seed=5).tolist()
    accuracy = [a + g for a, g in zip(accuracy, gains, strict=True)]
    found = quality.ranked(gains, {"accuracy": accuracy, "error": error})
    x, y, z = (rankdata(values) for values in (gains, error, accuracy))
    plane = np.stack([z, np.ones(30)], 1)
    left = [v - plane @ np.linalg.lstsq(plane, v, rcond=None)[0] for v in (x, y)]
    assert found["rank_error_fixed"] == pytest.approx(np.corrcoef(*left)[0, 1])
    assert found["rank_accuracy"] == pytest.approx(np.corrcoef(x, z)[0, 1])
    assert found["rank_error"] == pytest.approx(np.corrcoef(x, y)[0, 1])
    order = quality.ranked([1.0, 2.0, 9.0], {"accuracy": [0.1, 0.5, 0.6]})
    assert order == {"rank_accuracy": pytest.approx(1.0)}
    with pytest.raises(ArithmeticError, match="error is 0.3 of all 2 answers"):
        quality.ranked([1.0, 2.0], {"accuracy": [0.1, 0.5], "error": [0.3, 0.3]})


def test_students_of_a_stack_learn_what_each_learns_alone():
    recipe = quality.Quality(student_training=TrainingConfig("adam", 0.01, epochs=2, batch_size=16))
    start = learner("mlp-6", (9,), 4, 0, "student")
    x, test, answers = (normal(*shape).float() for shape in ((40, 9), (10, 9), (3, 40, 4)))
    together = recipe._students(start, list(answers), x, test, seed=7)
    for logits, one in zip(together, answers, strict=True):
        stage = Stage(
            {"student": (LossTerm(quality.follow),)},
            Examples(x, one.softmax(1), torch.arange(40)),
            recipe.student_training,
        )
        found = run([stage], {"student": start}, generator(7, "learn"))["student"]
        torch.testing.assert_close(logits, found(test).logits, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_answers_at_all_temperatures_choose_the_same_and_arms_are_averaged():
    logits, y = 4 * normal(50, 10, seed=3), torch.arange(50) % 10
    data = Dataset(torch.arange(50), y, 10)
    teacher = Learner(lambda params, x: Outputs(logits[x]), {})
    recipe = quality.Quality(temperatures=(0.5, 2.0))
    said = recipe._soft_labels("_sharp", teacher, data, torch.arange(30), torch.arange(30, 50))
    assert [one.arms for one in said] == [("", "_plain", "_sharp"), ("", "_scaled"), ("",), ("",)]
    assert all(torch.equal(one.logits.argmax(1), logits[:30].argmax(1)) for one in said)
    torch.testing.assert_close(said[2].logits, 2 * logits[:30])
    assert recipe.smoothed(Outputs(torch.zeros(1, 10)), y[:1]).item() == pytest.approx(math.log(10))
    own = quality.SoftLabels(("", "_smoothed"), logits[:30])
    found = quality.by_arm([*said, own], {"score": [1.0, 2.0, 3.0, 4.0, 5.0]})
    assert found == {
        "score": 3.0, "score_plain": 1.0, "score_scaled": 2.0, "score_sharp": 1.0,
        "score_smoothed": 5.0,
    }  # fmt: skip
