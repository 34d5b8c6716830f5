"""The parts of recipes that applications need: against other implementations and by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.metrics import ndcg_score

from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.schemes.learners import Learner
from kdcore.schemes.stages import LossTerm, Stage, run
from kdcore.training.batches import Examples
from kdcore.training.loop import TrainingConfig
from simulations.survey.datasets import Ratings, load
from simulations.survey.recipes.applications import generation_images, generation_text, ranking
from simulations.survey.recipes.schemes import adversarial, attention, data_free, self_supervised

QUICK = TrainingConfig("adam", 0.01, epochs=1, batch_size=16)


# ---------------------------------------------------------------- ranking


def test_ndcg_is_that_of_sklearn_where_no_seen_item_is_a_candidate():
    source = generator(0, "ndcg")
    scores = torch.randn(30, 40, generator=source)
    seen = torch.rand(30, 40, generator=source) < 0.3
    relevant = (torch.rand(30, 40, generator=source) < 0.1) & ~seen
    relevant[3] = False  # who has nothing to find does not count
    expected = [
        ndcg_score(relevant[u][None, ~seen[u]].numpy(), scores[u][None, ~seen[u]].numpy(), k=10)
        for u in range(30)
        if relevant[u].any()
    ]
    assert len(expected) < 30
    assert ranking.ndcg(scores, relevant, seen) == pytest.approx(np.mean(expected), abs=1e-12)


def test_ndcg_by_hand():
    # Hits at places 1 and 3 of two: (1 + 1/2) / (1 + 1/log2(3)).
    scores = torch.tensor([[5.0, 4.0, 3.0, 2.0, 9.0]])
    relevant = torch.tensor([[True, False, True, False, False]])
    seen = torch.tensor([[False, False, False, False, True]])
    found = ranking.ndcg(scores, relevant, seen, cut=3)
    assert found == pytest.approx(1.5 / (1 + 1 / math.log2(3)), abs=1e-12)


def test_a_seen_item_is_never_recommended_however_high_its_score():
    scores = torch.tensor([[9.0, 8.0, 1.0, 0.0]])
    relevant = torch.tensor([[False, False, True, False]])
    seen = torch.tensor([[True, True, False, False]])
    assert ranking.ndcg(scores, relevant, seen, cut=1) == 1.0
    assert ranking.ndcg(scores, relevant, torch.zeros_like(seen), cut=1) == 0.0


def test_some_takes_that_share_of_each_row_and_nothing_else():
    marked = torch.rand(50, 30, generator=generator(0, "marked")) < 0.4
    taken = ranking.some(marked, 0.2, generator(0, "taken"))
    assert not (taken & ~marked).any()
    assert torch.equal(taken.sum(1), (0.2 * marked.sum(1)).ceil().long())
    assert not torch.equal(taken, ranking.some(marked, 0.2, generator(1, "taken")))


def test_every_item_of_a_row_is_taken_as_often():
    marked = torch.ones(4000, 5, dtype=torch.bool)
    marked[:, 0] = False
    taken = ranking.some(marked, 0.5, generator(0, "taken"))  # 2 of 4
    assert taken.double().mean(0).tolist() == pytest.approx([0, 0.5, 0.5, 0.5, 0.5], abs=0.03)


def test_matrix_keeps_items_with_enough_ratings():
    data = Ratings(torch.tensor([0, 1, 2, 2, 0]), torch.tensor([4, 4, 4, 1, 2]))
    assert ranking.matrix(data, 2).tolist() == [[True], [True], [True]]
    assert ranking.matrix(data, 1).long().tolist() == [[0, 1, 1], [0, 0, 1], [1, 0, 1]]


def test_a_teachers_list_leaves_out_what_the_student_has_seen():
    recipe = ranking.Ranking(top=2, position=math.inf)
    teacher = Outputs(torch.tensor([[9.0, 5.0, 4.0, -1.0, -2.0, -3.0]]))
    student = Outputs(torch.zeros(1, 6, requires_grad=True))
    seen = torch.tensor([[1.0, 0, 0, 0, 0, 0]])
    for loss in (recipe.first_ones, recipe.relaxed(0), recipe.listwise):
        (slope,) = torch.autograd.grad(loss(student, seen, teacher).sum(), student.logits)
        assert slope[0, 0] == 0, loss
        assert slope[0, 1] < 0, loss


def test_factorisation_is_an_inner_product_and_the_items_own_part():
    one = ranking.factors(4, 6, 3, generator(0, "factors"))
    one.params["bias"] += torch.arange(6.0)
    users = torch.tensor([2, 0])
    found = one(users).logits
    for row, user in enumerate(users):
        for item in range(6):
            expected = one.params["users"][user] @ one.params["items"][item] + item
            assert found[row, item] == pytest.approx(float(expected), abs=1e-6)


# ---------------------------------------------------------------- text


def language_model(characters=5, width=7, seed=0):
    one = generation_text.network(characters, width, generator(seed, "text"))
    return Learner(one.predict, {k: 3 * v.double() for k, v in one.params.items()})


def test_perplexity_is_that_of_a_loop_over_characters():
    one = language_model()
    text = torch.randint(5, (3, 12), generator=generator(0, "text"))
    total = 0.0
    for line in text:
        for place in range(12):
            # What is there and behind is replaced: nothing of it may be seen.
            told = torch.cat([line[:place], torch.zeros(1, dtype=torch.long)])[None]
            total -= float(one(told).logits[0, place].log_softmax(-1)[line[place]])
    assert generation_text.perplexity(one, text) == pytest.approx(math.exp(total / 36), rel=1e-12)


def test_a_model_that_knows_nothing_wavers_between_all_characters():
    def even(params, text):
        return Outputs(torch.zeros(*text.shape, 65))

    text = torch.zeros(2, 9, dtype=torch.long)
    assert generation_text.perplexity(Learner(even, {}), text) == pytest.approx(65, rel=1e-6)


def test_a_character_changes_what_is_foretold_behind_it_and_within_reach():
    one = language_model()
    text = torch.randint(5, (1, 20), generator=generator(0, "text"))
    other = text.clone()
    other[0, 4] = (text[0, 4] + 1) % 5
    changed = (one(text).logits != one(other).logits).any(-1)[0].nonzero().flatten().tolist()
    assert changed == list(range(5, 5 + generation_text.CONTEXT))


def test_samples_hold_characters_and_never_padding():
    one = language_model()
    wrote = generation_text.write(one, 400, 20, generator(0, "write"))
    assert wrote.shape == (400, 20)
    assert len(one.params["embedding.weight"]) == 6  # one more than characters: the padding
    assert sorted(wrote.unique().tolist()) == [0, 1, 2, 3, 4]


def test_samples_have_the_models_chances():
    one = language_model()
    wrote = generation_text.write(one, 20_000, 2, generator(0, "write"))
    first = one(torch.zeros(1, 1, dtype=torch.long)).logits[0, 0].softmax(-1)
    share = torch.bincount(wrote[:, 0], minlength=5) / 20_000
    torch.testing.assert_close(share.double(), first, atol=0.015, rtol=0)
    second = one(torch.tensor([[2, 0]])).logits[0, 1].softmax(-1)
    after = wrote[wrote[:, 0] == 2, 1]
    share = torch.bincount(after, minlength=5) / len(after)
    torch.testing.assert_close(share.double(), second, atol=4 / math.sqrt(len(after)), rtol=0)


def test_long_samples_look_back_no_further_than_the_model_does():
    # A model that copies the character at the far end of what it sees.
    reach = generation_text.CONTEXT

    def copies(params, text):
        past = torch.nn.functional.pad(text[:, :-1], (reach, 0), value=1).unfold(1, reach, 1)
        return Outputs(100 * torch.nn.functional.one_hot(past[..., 0], 3).float())

    wrote = generation_text.write(Learner(copies, {}), 2, 30, generator(0, "write"))
    assert (wrote == 1).all()


# ---------------------------------------------------------------- images


def gaussian(n, mean, cov, seed):
    """Points whose mean and covariance are exactly these."""
    x = torch.randn(n, len(mean), generator=generator(seed, "points"), dtype=torch.float64)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False).T
    return white @ torch.linalg.cholesky(cov).T + mean


def test_frechet_distance_of_gaussians_that_is_known():
    # |m - m'|^2 + sum (s - s')^2 for covariances with the same axes.
    mean, means = torch.tensor([1.0, 0, 2]).double(), torch.tensor([0.0, 2, 2]).double()
    s, t = torch.tensor([1.0, 2, 3]).double(), torch.tensor([2.0, 2, 1]).double()
    made = gaussian(50, mean, s.square().diag(), 0)
    real = gaussian(80, means, t.square().diag(), 1)
    assert generation_images.frechet(made, real) == pytest.approx(5 + 1 + 4, abs=1e-9)


def test_frechet_distance_is_that_of_scipys_root():
    source = generator(0, "features")
    mix = torch.randn(6, 6, generator=source, dtype=torch.float64)
    made = torch.randn(40, 6, generator=source, dtype=torch.float64) @ mix
    real = torch.randn(70, 6, generator=source, dtype=torch.float64) + 0.5
    c, d = np.cov(made.numpy(), rowvar=False), np.cov(real.numpy(), rowvar=False)
    gap = ((made.mean(0) - real.mean(0)) ** 2).sum().item()
    expected = gap + np.trace(c + d - 2 * sqrtm(c @ d).real)
    assert generation_images.frechet(made, real) == pytest.approx(expected, rel=1e-10)
    assert generation_images.frechet(real, made) == pytest.approx(expected, rel=1e-10)
    assert generation_images.frechet(made, made) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_where_a_feature_is_dead():
    made = gaussian(50, torch.zeros(2).double(), torch.eye(2).double(), 0)
    flat = torch.cat([made, torch.zeros(50, 1).double()], 1)
    assert generation_images.frechet(flat, 2 * flat) == pytest.approx(2, abs=1e-9)


def test_coverage_counts_classes():
    logits = torch.eye(4)
    assert generation_images.coverage(logits) == pytest.approx(1)
    assert generation_images.coverage(logits[[0, 0, 0]]) == pytest.approx(1 / 4)
    assert generation_images.coverage(logits[[0, 0, 2, 2]]) == pytest.approx(2 / 4)


def test_evidence_is_minus_the_bound_of_torchs_distributions():
    source = generator(0, "evidence")
    logits = torch.randn(3, 5, generator=source)
    mean, spread = torch.randn(2, 3, 2, generator=source)
    image = torch.rand(3, 5, generator=source).round()
    code = torch.distributions.Normal(mean, (spread / 2).exp())
    apart = torch.distributions.kl_divergence(code, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    pixels = torch.distributions.Bernoulli(logits=logits).log_prob(image).sum(-1)
    found = generation_images.evidence(Outputs(logits, (mean, spread)), image)
    torch.testing.assert_close(found, apart - pixels)


def test_an_autoencoder_draws_with_the_noise_it_is_given():
    one = generation_images.autoencoder(6, 2, 4, generator(0, "vae"))
    image = torch.rand(3, 6, generator=generator(0, "image"))
    noise = torch.randn(3, 2, generator=generator(0, "noise"))
    seen = one((image, noise))
    mean, spread = seen.hidden
    drawn = generation_images.paint(one.params, mean + (spread / 2).exp() * noise)
    torch.testing.assert_close(seen.logits, drawn.logits)
    assert not torch.equal(seen.logits, one((image, -noise)).logits)


# ---------------------------------------------------------------- schemes


def test_a_judge_descends_and_its_student_ascends():
    scale = {"own.w": torch.tensor([[1.0]]), "shared.w": torch.tensor([[0.5]])}

    def linear(params, x):
        return Outputs(x @ params["w"])

    predict = adversarial.judged(linear, linear, 0.1)
    leaves = {k: v.clone().requires_grad_() for k, v in scale.items()}
    seen = predict(leaves, (torch.tensor([[2.0]]), torch.tensor([[3.0]])))
    assert seen.logits.item() == 2.0
    assert [view.item() for view in seen.hidden] == [1.0, 1.5, 3.0]
    loss = adversarial.discriminator_loss(seen, torch.zeros(1)).sum()
    half = [0.5 * math.log1p(math.exp(1.0)), 0.5 * math.log1p(math.exp(-1.5))]
    assert loss.item() == pytest.approx(sum(half), rel=1e-6)
    student, judge = torch.autograd.grad(loss, [leaves["own.w"], leaves["shared.w"]])
    up, down = 0.5 / (1 + math.exp(-1.0)), -0.5 / (1 + math.exp(1.5))
    assert judge.item() == pytest.approx(up * 2 + down * 3, rel=1e-5)
    assert student.item() == pytest.approx(-0.1 * up * 0.5 * 2, rel=1e-5)


def test_a_judge_without_a_task_makes_a_students_logits_the_teachers():
    # The student is one number, and misleads a judge of squares only if that is the teacher's, 2.
    x = torch.randn(400, 1, generator=generator(0, "x"))

    def scaled(params, x):
        return Outputs(x * params["w"])

    def square(params, x):
        return Outputs(x.square() * params["a"] + params["b"])

    start = adversarial.joined(
        {"w": torch.tensor(0.2)}, {"a": torch.tensor(0.0), "b": torch.tensor(0.0)}
    )
    pair = Learner(adversarial.judged(scaled, square, 1.0), start)
    seen = Examples((x, 2 * x), torch.zeros(400), torch.arange(400))
    training = TrainingConfig("sgd", 0.1, epochs=120, batch_size=100)
    study = Stage({"s": (LossTerm(adversarial.discriminator_loss),)}, seen, training)
    found = run([study], {"s": pair}, generator(0, "order"))["s"].params["own.w"]
    assert found.item() == pytest.approx(2, abs=0.1)


def test_a_fresh_judge_knows_what_differs_and_not_what_does_not():
    recipe = adversarial.Adversarial()
    source = generator(0, "logits")
    student, teacher, third = torch.randn(3, 300, 10, generator=source)
    assert recipe.fresh_judge(student, teacher + 2, 0) > 0.95
    assert abs(recipe.fresh_judge(student, third, 0) - 0.5) < 0.1


def test_attention_is_heeded_in_both_layers():
    one = attention.convolutional((3, 5), 10, 0, "one")
    other = attention.convolutional((4, 6), 10, 0, "other")
    x = torch.rand(2, 1, 8, 8, generator=generator(0, "x"))
    seen, told = one(x), other(x)
    assert [tuple(h.shape) for h in seen.hidden] == [(2, 3, 8, 8), (2, 5, 4, 4)]
    recipe = attention.Attention()
    gap = recipe.attention_gap(seen, torch.zeros(2), told)

    def q(maps):
        strength = maps.double().square().sum(1).flatten(1)
        return strength / strength.norm(dim=1, keepdim=True)

    pairs = zip(seen.hidden, told.hidden, strict=True)
    expected = sum((q(a) - q(b)).norm(dim=1) for a, b in pairs)
    torch.testing.assert_close(gap.double(), expected, atol=1e-5, rtol=0)
    assert recipe.attention_gap(seen, torch.zeros(2), seen).abs().max() == 0


def test_contrast_is_a_loop_over_the_batch():
    recipe = self_supervised.SelfSupervised(contrast_temperature=0.5)
    source = generator(0, "views")
    one, other = torch.randn(2, 4, 3, generator=source, dtype=torch.float64)
    found = recipe.contrast(Outputs(one, (other,)), torch.zeros(4))
    for i in range(4):
        both_ways = 0.0
        for a, b in ((one, other), (other, one)):
            like = [torch.cosine_similarity(a[i], b[j], dim=0) / 0.5 for j in range(4)]
            both_ways += float(torch.stack(like).logsumexp(0) - like[i]) / 2
        assert float(found[i]) == pytest.approx(both_ways, rel=1e-9)


def test_two_views_of_an_image_are_in_one_row():
    recipe = self_supervised.SelfSupervised(copies=3, reach=0, noise=0.0)
    images = torch.rand(5, 1, 4, 4, generator=generator(0, "images"))
    one, other = recipe.views(images, generator(0, "views")).x
    assert torch.equal(one, images.repeat(3, 1, 1, 1))
    assert torch.equal(one, other)
    noised = self_supervised.SelfSupervised(copies=3, reach=0, noise=0.1)
    one, other = noised.views(images, generator(0, "views")).x
    assert float((one - other).std()) == pytest.approx(0.1 * math.sqrt(2), rel=0.2)


def test_a_probe_reads_what_is_linear_and_nothing_that_is_not_there():
    source = generator(0, "features")
    x = torch.randn(600, 4, generator=source)
    y = (x @ torch.tensor([1.0, -2.0, 0.5, 0.0]) > 0).long()
    blank = torch.randn(600, 4, generator=source)
    assert self_supervised.probe(x[:200], y[:200], x[200:], y[200:]) > 0.93
    assert abs(self_supervised.probe(blank[:200], y[:200], blank[200:], y[200:]) - 0.5) < 0.1


# ---------------------------------------------------------------- whole recipes, much smaller

SMALL = [
    data_free.DataFree(rounds=2, teacher_training=QUICK, inventing=QUICK, following=QUICK),
    attention.Attention(teacher_training=QUICK, student_training=QUICK),
    adversarial.Adversarial(teacher_training=QUICK, student_training=QUICK, judging=QUICK),
    generation_images.ImageGeneration(
        copies=1, noises=200, judging=QUICK, teacher_training=QUICK, student_training=QUICK
    ),
]


@pytest.mark.parametrize("recipe", SMALL, ids=lambda recipe: type(recipe).__name__)
def test_a_seed_governs_all_of_a_recipe(recipe):
    data = load(recipe.data)
    first, again, other = (recipe.measure(data, seed) for seed in (100, 100, 101))
    assert first == again
    assert first != other
    assert all(math.isfinite(value) for value in first.values())
    for name, value in first.items():
        if name.startswith(("accuracy", "judged", "coverage", "confidence")):
            assert 0 <= value <= 1, name
