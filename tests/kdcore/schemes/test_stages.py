"""Schemes: each against the loop that a paper's pseudo-code would be, and against theorems."""

import math

import pytest
import torch
from torch import nn

from kdcore.losses import response
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.schemes import data_free, offline, online, self_distillation, stages
from kdcore.schemes.learners import Learner, fingerprint, gradient_reversed, quantised, seeing
from kdcore.schemes.stages import LossTerm, Stage, labels, run, soft, teach
from kdcore.training.batches import Examples
from kdcore.training.loop import draw, fit
from kdcore.training.optimizers import TrainingConfig

TRAINING = TrainingConfig("momentum", 0.1, epochs=3, batch_size=4)


def predict(params, x):
    hidden = torch.tanh(x @ params["in"].T)
    return Outputs(hidden @ params["out"].T, (hidden,))


def learner(seed, width=5, features=3, classes=4):
    g = generator(seed, "learner")
    shapes = {"in": (width, features), "out": (classes, width)}
    params = {k: torch.randn(s, generator=g, dtype=torch.float64) for k, s in shapes.items()}
    return Learner(predict, params)


def examples(n=10, seed=0, classes=4, features=3):
    g = generator(seed, "examples")
    x = torch.randn(n, features, generator=g, dtype=torch.float64)
    return Examples(x, torch.randint(classes, (n,), generator=g), torch.arange(n))


def same(one, other, tolerance=1e-12):
    for name in one.params:
        torch.testing.assert_close(
            one.params[name], other.params[name], rtol=0, atol=tolerance, msg=name
        )


def differ(one, other):
    return any(not torch.equal(one.params[k], other.params[k]) for k in one.params)


def test_a_term_of_weight_0_is_left_out_bit_for_bit_and_its_teacher_is_not_asked():
    def never(params, x):
        raise AssertionError("asked")

    start, data = learner(1), examples()
    learners = {"s": start, "t": Learner(never, {})}
    found = run(
        offline.offline("s", ("t",), soft(), data, TRAINING, hard=1.0), learners, generator(0)
    )
    same(found["s"], run(offline.alone("s", data, TRAINING), {"s": start}, generator(0))["s"], 0)


def test_a_frozen_teacher_is_asked_once_about_each_example_and_not_again_where_it_was_kept():
    asked = []

    def counting(params, x):
        asked.append(len(x))
        return predict(params, x)

    data, teacher = examples(10), Learner(counting, learner(2).params)
    data = Examples(data.x, data.y, torch.tensor([1, 3, 8]))
    scheme = offline.offline("s", ("t",), soft(2.0), data, TRAINING)
    learners, said = {"s": learner(1), "t": teacher}, {}
    plain = run(scheme, learners, generator(0))["s"]
    assert sum(asked) == 3
    first = run(scheme, learners, generator(0), said)["s"]
    second = run(scheme, learners, generator(0), said)["s"]
    assert sum(asked) == 6
    assert len(said) == 1
    same(plain, first, 0)
    same(plain, second, 0)


def test_what_was_said_is_kept_by_weights_and_data():
    one, data = learner(1), examples()
    moved = Learner(predict, {k: v + 1e-12 for k, v in one.params.items()})
    keys = {
        fingerprint(one, data.x),
        fingerprint(moved, data.x),
        fingerprint(one, data.x + 1),
        fingerprint(one, data.x[:5]),
        fingerprint(one, (data.x, data.x)),
    }
    assert len(keys) == 5
    assert fingerprint(Learner(None, dict(reversed(one.params.items()))), data.x) in keys


def test_online_peers_step_together_towards_what_the_others_said():
    start = {name: learner(i) for i, name in enumerate("abc")}
    data = examples(6)
    training = TrainingConfig("sgd", 0.2, epochs=2, batch_size=3)
    found = run(online.online("abc", soft(), data, training), start, generator(0, "order"))
    batches = draw(data, training, generator(0, "order"))
    peers = {n: {k: v.clone() for k, v in one.params.items()} for n, one in start.items()}
    for i in batches.order:
        said = {n: predict(p, data.x[i]).logits for n, p in peers.items()}
        stepped = {}
        for n, p in peers.items():
            leaves = {k: v.clone().requires_grad_() for k, v in p.items()}
            own = predict(leaves, data.x[i]).logits
            loss = response.cross_entropy(own, data.y[i]).mean()
            for other in "abc".replace(n, ""):
                loss = loss + 0.5 * response.kl(own, said[other]).mean()
            grads = torch.autograd.grad(loss, list(leaves.values()))
            stepped[n] = {k: v - 0.2 * g for (k, v), g in zip(p.items(), grads, strict=True)}
        peers = stepped
    for n, p in peers.items():
        same(found[n], Learner(predict, p))


def test_who_is_not_listened_to_learns_in_company_what_it_would_alone():
    data = examples()
    a, b = learner(1), learner(2)
    terms = {"a": (LossTerm(labels),), "b": (LossTerm(soft(), ("a",)),)}
    both = teach(Stage(terms, data, TRAINING), {"a": a, "b": b}, generator(0))
    one = run(offline.alone("a", data, TRAINING), {"a": a}, generator(0))
    same(both["a"], one["a"])
    assert differ(both["b"], b)


def test_who_is_listened_to_learns_nothing_from_it_whatever_the_loss():
    def square(student, y, other):  # which does not detach the other by itself
        return (student.logits - other.logits).square().sum(-1)

    data = examples()
    a, b = learner(1), learner(2)
    terms = {"a": (LossTerm(labels),), "b": (LossTerm(square, ("a",)),)}
    both = teach(Stage(terms, data, TRAINING), {"a": a, "b": b}, generator(0))
    same(both["a"], run(offline.alone("a", data, TRAINING), {"a": a}, generator(0))["a"])
    assert differ(both["b"], b)


def test_many_teachers_pooled_are_one_with_their_mean():
    data = examples()
    teachers = {f"t{i}": learner(i + 5) for i in range(3)}
    pool = stages.pooled(lambda p: p.mean(0), 2.0)
    scheme = offline.offline("s", tuple(teachers), pool, data, TRAINING)
    found = run(scheme, {"s": learner(1), **teachers}, generator(0))["s"]

    def mean(params, x):
        soft_labels = torch.stack([(t(x).logits / 2).softmax(-1) for t in teachers.values()])
        return Outputs(2 * soft_labels.mean(0).log())

    alone = offline.offline("s", ("m",), soft(2.0), data, TRAINING)
    same(found, run(alone, {"s": learner(1), "m": Learner(mean, {})}, generator(0))["s"], 1e-10)


def test_views_a_teacher_sees_what_its_student_never_does():
    data = examples()
    other = torch.randn(10, 3, generator=generator(9), dtype=torch.float64)
    pairs = Examples((data.x, other), data.y, data.rows)
    teacher, student = learner(2), learner(1)
    scheme = offline.offline("s", ("t",), soft(), pairs, TRAINING)
    learners = {
        "s": student._replace(predict=seeing(predict, 0)),
        "t": teacher._replace(predict=seeing(predict, 1)),
    }
    found = run(scheme, learners, generator(0))["s"]

    def told(params, x):  # the teacher's answers as if it saw the student's view
        place = (x.unsqueeze(1) == data.x).all(-1).long().argmax(1)
        return teacher(other[place])

    told_scheme = offline.offline("s", ("t",), soft(), data, TRAINING)
    expected = run(told_scheme, {"s": student, "t": Learner(told, {})}, generator(0))["s"]
    same(found, expected)


def test_multi_exit_of_weight_0_is_deep_supervision_and_of_1_ignores_labels_at_the_exit():
    def exits(params, x):
        h = torch.tanh(x @ params["in"].T)
        return Outputs(h @ params["out"].T, (x @ params["exit"].T,))

    g = generator(1)
    shapes = {"in": (5, 3), "out": (4, 5), "exit": (4, 3)}
    start = Learner(
        exits, {k: torch.randn(s, generator=g, dtype=torch.float64) for k, s in shapes.items()}
    )
    data = examples()
    apart = run(online.multi_exit("s", data, TRAINING, weight=0.0), {"s": start}, generator(0))
    shallow = Learner(lambda p, x: Outputs(x @ p["exit"].T), {"exit": start.params["exit"]})
    alone = run(offline.alone("s", data, TRAINING), {"s": shallow}, generator(0))["s"]
    torch.testing.assert_close(apart["s"].params["exit"], alone.params["exit"])
    other = Examples(data.x, data.y.roll(1), data.rows)
    # The deep part sees other labels, so the exit moves; with the deep part frozen it would not.
    taught = run(online.multi_exit("s", data, TRAINING, weight=1.0), {"s": start}, generator(0))
    moved = run(online.multi_exit("s", other, TRAINING, weight=1.0), {"s": start}, generator(0))
    assert differ(taught["s"], moved["s"])
    torch.testing.assert_close(taught["s"].params["in"], apart["s"].params["in"])


def test_lifelong_of_weight_0_is_fine_tuning_and_of_much_weight_keeps_old_answers():
    data, old = examples(classes=4), learner(3)

    def drift(weight):
        scheme = offline.lifelong("s", "old", [0, 1], data, TRAINING, weight)
        found = run(scheme, {"s": old, "old": old}, generator(0))["s"]
        gap = response.kl(found(data.x).logits[:, :2], old(data.x).logits[:, :2])
        return found, float(gap.mean())

    plain = run(offline.alone("s", data, TRAINING), {"s": old}, generator(0))["s"]
    same(drift(0.0)[0], plain, 0)
    assert drift(3.0)[1] < drift(0.0)[1] / 3


def test_lifelong_keeps_what_was_said_among_the_old_classes_with_t_squared():
    (stage,) = offline.lifelong("s", "old", [0, 1], examples(), TRAINING, temperature=2.0)
    _, keep = stage.terms["s"]
    now, then = torch.tensor([[0.0, 0.0, 9.0]]), torch.tensor([[2 * math.log(3), 0.0, -9.0]])
    # Softened by 2, (3/4, 1/4) before and (1/2, 1/2) now; the new class does not count.
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    found = keep.loss(Outputs(now), torch.tensor([2]), Outputs(then))
    assert found.tolist() == pytest.approx([expected], rel=1e-5)


def test_confident_keeps_a_share_of_each_predicted_class_the_surest_first():
    logits = torch.tensor([[3.0, 0], [1, 0], [2, 0], [0, 5], [0, 1], [4, 0]])
    found = self_distillation.confident(
        Learner(lambda p, x: Outputs(logits), {}), torch.zeros(6, 1), 0.5
    )
    assert found.rows.tolist() == [0, 3, 5]
    assert found.y[found.rows].tolist() == [0, 1, 0]


def test_self_training_asks_the_teacher_first_and_itself_after():
    x = examples(20).x
    learners = {"t": learner(2), "s": learner(1)}
    scheme = self_distillation.self_training("s", "t", x, (0.5, 1.0), TRAINING)
    found = run(scheme, learners, generator(0))["s"]
    g = generator(0)
    first = offline.alone("s", self_distillation.confident(learners["t"], x, 0.5), TRAINING)
    half = run(first, learners, g)
    second = offline.alone("s", self_distillation.confident(half["s"], x, 1.0), TRAINING)
    same(found, run(second, half, g)["s"], 0)


def test_noisy_student_without_noise_learns_labels_and_answers():
    data, extra = examples(6), examples(5, seed=7).x
    learners = {"t": learner(2), "s": learner(1)}
    scheme = self_distillation.noisy_student(("s",), "t", data, extra, lambda x, g: x, 1, TRAINING)
    found = run(scheme, learners, generator(0))["s"]
    hard = nn.functional.one_hot(data.y, 4).double()
    target = torch.cat([hard, learners["t"](extra).logits.softmax(-1)])
    both = Examples(torch.cat([data.x, extra]), target, torch.arange(11))
    batches = draw(both, TRAINING, generator(0))

    def loss(outputs, y):
        return response.soft_cross_entropy(outputs.logits, y)

    expected = fit(predict, learners["s"].params, batches, TRAINING, loss)
    same(found, Learner(predict, expected))


def test_each_noisy_student_teaches_the_next():
    data, extra = examples(6), examples(5, seed=7).x
    learners = {"t": learner(2), "a": learner(1), "b": learner(3)}

    def scheme(students, teacher):
        return self_distillation.noisy_student(
            students, teacher, data, extra, lambda x, g: x, 1, TRAINING
        )

    found = run(scheme(("a", "b"), "t"), learners, generator(0))
    g = generator(0)
    second = run(scheme(("b",), "a"), run(scheme(("a",), "t"), learners, g), g)
    for name in learners:
        same(found[name], second[name], 0)


def test_noise_is_drawn_anew_for_each_copy():
    x = torch.zeros(4, 2)
    noise = lambda x, g: x + torch.rand(x.shape, generator=g)  # noqa: E731
    found = data_free.copied(x, torch.arange(4), noise, 3, generator(0))
    assert found.x.shape == (12, 2)
    assert found.y.tolist() == [0, 1, 2, 3] * 3
    assert len({tuple(row) for row in found.x.tolist()}) == 12


def test_data_free_inventions_cost_what_is_unsure_and_gain_by_balance():
    scheme = data_free.data_free("s", "t", "g", None, 1, 2, 4, TRAINING, TRAINING, balance=5.0)
    assert [list(stage.terms) for stage in scheme] == [["g"], ["s"], ["g"], ["s"]]
    ((term,),) = scheme[0].terms.values()
    sure, unsure = torch.tensor([[40.0, 0.0], [0.0, 40.0]]), torch.zeros(2, 2)
    for logits, expected in (
        (sure, -5 * math.log(2)),  # no doubt about any, and both classes alike
        (unsure, (1 - 5) * math.log(2)),
        (sure[:1], 0.0),  # no doubt, and one class alone
    ):
        value = term.loss(Outputs(logits), torch.full((len(logits),), -100))
        torch.testing.assert_close(value, torch.full((len(logits),), expected))


def test_data_free_generator_makes_what_the_teacher_is_sure_of_and_balanced():
    teacher = learner(2)

    def make(params, z):
        return z @ params["make"].T

    inventor = Learner(
        lambda p, z: teacher.predict(teacher.params, make(p, z)),
        {"make": 0.1 * torch.randn(3, 6, generator=generator(3)).double()},
    )

    def sureness(one):
        z = torch.randn(200, 6, generator=generator(4)).double()
        said = one(z).logits.softmax(-1)
        return float(said.max(-1).values.mean())

    torch.set_default_dtype(torch.float64)
    try:
        scheme = data_free.data_free(
            "s", "t", "g", make, 6, 20, 64,
            TrainingConfig("adam", 0.05, epochs=5, batch_size=64),
            TrainingConfig("adam", 0.01, epochs=5, batch_size=64),
        )  # fmt: skip
        found = run(scheme, {"s": learner(1), "t": teacher, "g": inventor}, generator(0))
    finally:
        torch.set_default_dtype(torch.float32)
    assert sureness(found["g"]) > sureness(inventor) + 0.1
    x = make(found["g"].params, torch.randn(200, 6, generator=generator(5)).double())
    agree = lambda s: (s(x).logits.argmax(1) == teacher(x).logits.argmax(1)).double().mean()  # noqa: E731
    assert agree(found["s"]) > agree(learner(1)) + 0.2
    same(found["t"], teacher, 0)


def test_kernel_generations_shrink_each_eigenvector_by_its_own_factor():
    g = generator(0)
    root = torch.randn(6, 6, generator=g, dtype=torch.float64)
    gram, y = root @ root.T, torch.randn(6, generator=g, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(gram)
    ridges = (0.5, 0.2, 1.0)
    weights = self_distillation.kernel_generations(gram, y, ridges)
    coefficient = vectors.T @ y
    for weight, ridge in zip(weights, ridges, strict=True):
        coefficient = coefficient * values / (values + ridge)
        torch.testing.assert_close(vectors.T @ gram @ weight, coefficient)


def test_quantised_weights_have_few_values_and_a_straight_gradient():
    weight = torch.tensor([[0.9, -0.31], [0.2, -1.0]], requires_grad=True)
    bias = torch.tensor([0.123, 0.456])

    def linear(params, x):
        return Outputs(x @ params["w"].T + params["b"])

    said = quantised(linear, 2)({"w": weight, "b": bias}, torch.eye(2)).logits
    torch.testing.assert_close(said.detach() - bias, torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
    said.sum().backward()
    torch.testing.assert_close(weight.grad, torch.ones(2, 2))
    with pytest.raises(ValueError, match="at least 2"):
        quantised(linear, 1)


def test_gradient_reversed_is_the_identity_forward_and_minus_backward():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = gradient_reversed(x, 0.5)
    assert torch.equal(y, x)
    (y * torch.tensor([3.0, 4.0])).sum().backward()
    assert x.grad.tolist() == [-1.5, -2.0]


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"x": (LossTerm(labels),)}, "no learner is called 'x'"),
        ({"s": (LossTerm(soft(), ("y",)),)}, "no learner is called 'y'"),
        ({"s": (LossTerm(labels, (), 0.0),)}, "s has nothing to learn"),
        ({}, "nobody has nothing to learn"),
    ],
)
def test_wrong_stages(terms, said):
    with pytest.raises(ValueError, match=said):
        teach(Stage(terms, examples(), TRAINING), {"s": learner(1)}, generator(0))


def test_a_lone_peer_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        online.online(["a"], soft(), examples(), TRAINING)
