"""Recipes of schemes: their delicate parts, by hand, by loops and by other implementations."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics.pairwise import rbf_kernel

from fedkd.data.datasets import Dataset
from graphkd.data import datasets as graphs
from graphkd.graph import Graph
from graphkd.models import networks
from graphkd.training.loop import predict
from kdcore.losses.response import cross_entropy, kl
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.schemes.learners import Learner
from kdcore.schemes.offline import alone
from kdcore.schemes.stages import LossTerm, Stage, run
from kdcore.training.loop import TrainingConfig
from simulations.survey.datasets import Citations, labelled, load, split
from simulations.survey.recipes.applications import label_noise, regression
from simulations.survey.recipes.knowledge import privileged
from simulations.survey.recipes.schemes import (
    architecture_search,
    codistillation,
    graph_data_free,
    kernel_self,
    lifelong,
    multi_exit,
)
from simulations.survey.students import learner


def by_numpy(number, x, noise, a):
    """The experiments as the paper's appendix words them, one example at a time."""
    regular, special, y = [], [], []
    for one, e in zip(x, noise, strict=True):
        if number == 1:
            margin = np.dot(a, one)
            row = one, [margin], margin + e[0] > 0
        elif number == 2:
            row = one + e, one, np.dot(a, one) > 0
        else:
            row = one, one[:3], np.dot(a[:3], one[:3]) > 0
        for table, value in zip((regular, special, y), row, strict=True):
            table.append(value)
    return np.array(regular), np.array(special), np.array(y)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_synthetic_experiments_are_those_of_the_paper(number):
    g = generator(3, "test")
    x, noise = torch.randn(2, 300, 50, generator=g, dtype=torch.float64)
    a = torch.randn(50, generator=g, dtype=torch.float64)
    found = privileged.EXPERIMENTS[number - 1](x, noise, a)
    regular, special, y = by_numpy(number, x.numpy(), noise.numpy(), a.numpy())
    np.testing.assert_allclose(found.regular, regular, atol=1e-12)
    np.testing.assert_allclose(found.privileged, special, atol=1e-12)
    np.testing.assert_array_equal(found.y, y)


def test_only_the_first_experiment_has_noisy_labels_and_only_the_second_noisy_features():
    a = torch.randn(50, generator=generator(0, "a"))
    clean, noisy_x, few = (
        privileged.drawn(e, a, 4000, generator(0, "draw")) for e in privileged.EXPERIMENTS
    )
    agree = ((clean.privileged.squeeze(1) > 0).long() == clean.y).double().mean()
    share = 1 - np.arctan(1 / a.norm().item()) / np.pi  # of two normal numbers, alike in sign
    assert abs(agree.item() - share) < 0.01
    assert abs(noisy_x.regular.var().item() - 2) < 0.05
    assert abs(few.regular.var().item() - 1) < 0.05
    assert ((few.privileged @ a[:3] > 0).long() == few.y).all()


def test_peers_with_skewed_labels_share_out_each_label_unevenly_and_nothing_twice():
    y = torch.arange(1000) % 10
    rows = torch.randperm(1000, generator=generator(1, "rows"))[:500]
    parts = codistillation.skewed(y, rows, 5, 0.3, seed=4)
    assert sorted(torch.cat(parts).tolist()) == sorted(rows.tolist())
    counts = torch.stack([torch.bincount(y[part], minlength=10) for part in parts])
    assert counts.sum(0).tolist() == torch.bincount(y[rows], minlength=10).tolist()
    largest = counts.max(0).values / counts.sum(0)  # of a label, at whoever has most of it
    assert largest.mean() > 0.5
    even = codistillation.skewed(y, rows, 5, 1e6, seed=4)
    for part in even:
        assert torch.bincount(y[part], minlength=10).sub(10).abs().max() <= 5


def constant(logits):
    return Learner(lambda params, x: Outputs(torch.tensor(logits).expand(len(x), -1)), {})


def test_divergence_is_the_mean_over_ordered_pairs():
    logits = [[0.0, 1.0, 2.0], [1.0, 1.0, -1.0], [0.5, 0.0, 0.0]]
    p = [np.exp(z) / np.exp(z).sum() for z in logits]
    expected = np.mean([entropy(q, r) for q in p for r in p if q is not r])
    found = codistillation.divergence([constant(z) for z in logits], torch.zeros(4, 2))
    assert found == pytest.approx(expected, abs=1e-6)


def test_misplaced_answers_are_those_to_other_examples():
    crowd = torch.rand(3, 4, 2, generator=generator(0, "crowd"))
    found = codistillation.misplaced(crowd)
    for i in range(4):
        torch.testing.assert_close(found[i], crowd[:, i - 1].mean(0))


def real_table(n=60):
    x = torch.randn(n, 4, generator=generator(0, "x"))
    return x, x[:, :1] + 0.1 * torch.randn(n, 1, generator=generator(0, "y"))


def test_out_of_bag_answers_are_of_trees_that_never_saw_the_row():
    x, y = real_table()
    forest = regression.grown(x, y, 50, 2, seed=0)
    found = regression.out_of_bag(forest)
    for row in range(len(x)):
        blind = [
            tree
            for tree, seen in zip(forest.estimators_, forest.estimators_samples_, strict=True)
            if row not in seen
        ]
        assert 0 < len(blind) < 50
        expected = np.mean([tree.predict(x[row : row + 1].numpy())[0] for tree in blind])
        assert found[row].item() == pytest.approx(expected, abs=1e-5)


def test_a_label_that_is_changed_changes_what_is_said_of_others_only():
    x, y = real_table()
    other = y.clone()
    other[7] = 100.0
    before, after = (
        regression.out_of_bag(regression.grown(x, target, 50, 2, seed=0)) for target in (y, other)
    )
    assert before[7] == after[7]
    assert (before != after).sum() > 30


def test_so_many_labels_are_wrong_and_no_others():
    y = torch.zeros(200, 1)
    found = regression.corrupted(y, 0.15, 2.0, generator(0, "wrong"))
    assert (found != 0).sum() == 30
    assert (y == 0).all()
    assert 1.3 < found[found != 0].std() < 2.7


def test_what_networks_put_out_are_predictions_and_the_oracle_reads_its_own():
    term = regression.on_outputs(lambda s, t, y: (s - t).squeeze(1) + 10 * y.squeeze(1))
    said = regression.ORACLE((torch.ones(3, 2), torch.tensor([[1.0], [2.0], [3.0]])))
    found = term(Outputs(torch.full((3, 1), 5.0)), torch.ones(3, 1), said)
    assert found.tolist() == [14.0, 13.0, 12.0]


def test_robust_control_is_teacher_bounded_regression_that_no_teacher_can_change():
    s, y = torch.tensor([[0.5], [3.0]]), torch.zeros(2, 1)
    for teacher in (torch.zeros(2, 1), torch.full((2, 1), 9.0)):
        assert regression.robust(s, teacher, y).tolist() == [0.125, 2.5]


def test_kernel_and_freedom_are_those_of_the_matrices():
    x = torch.randn(12, 3, generator=generator(0, "x"), dtype=torch.float64)
    recipe = kernel_self.KernelSelf(width=1.5)
    gram = recipe.kernel(x, x)
    np.testing.assert_allclose(gram, rbf_kernel(x, gamma=1 / (2 * 1.5**2)), atol=1e-12)
    smooth = [gram @ torch.linalg.inv(gram + c * torch.eye(12)) for c in (0.3, 0.1)]
    values = torch.linalg.eigvalsh(gram)
    expected = (smooth[1] @ smooth[0]).trace().item()
    assert kernel_self.freedom(values, [0.3, 0.1]).item() == pytest.approx(expected)
    ridge = kernel_self.ridge_of(values, expected)
    assert ridge > 0.3
    assert kernel_self.freedom(values, [ridge]).item() == pytest.approx(expected)


def test_kernel_generations_shrink_the_fit_and_the_same_seed_gives_the_same_numbers():
    recipe, data = kernel_self.KernelSelf(), load("diabetes")
    found = recipe.measure(data, 100)
    assert found == recipe.measure(data, 100)
    assert found["freedom"] < found["freedom_baseline"] < recipe.train


def test_exits_are_networks_that_end_earlier():
    deep = multi_exit.exits(6, (5, 4, 3), 2, seed=1)
    x = torch.randn(7, 2, 3, generator=generator(0, "x"))
    said = deep(x)
    assert [tuple(h.shape) for h in (*said.hidden, said.logits)] == [(7, 2)] * 3
    for depth in (1, 2):
        cut = multi_exit.exits(6, (5, 4, 3)[:depth], 2, seed=1)
        params = {name: deep.params[name] for name in cut.params}
        torch.testing.assert_close(cut.predict(params, x).logits, said.hidden[depth - 1])
    p = {name: value.numpy() for name, value in deep.params.items()}
    value = x.flatten(1).numpy()
    for i in range(3):
        value = np.maximum(value @ p[f"layer{i}.weight"].T + p[f"layer{i}.bias"], 0)
    expected = value @ p["exit2.weight"].T + p["exit2.bias"]
    np.testing.assert_allclose(said.logits, expected, atol=1e-5)


def test_the_answer_is_the_best_among_the_labels_of_the_task():
    # The largest logit of each row is of another task; of the task's own, 0 and 2 are right.
    logits = torch.tensor([[9.0, 0, 3, 2], [9, 0, 3, 2], [0, 9, 1, 4]])
    data = Dataset(torch.arange(3).float(), torch.tensor([2, 3, 3]), 4)
    one = Learner(lambda params, x: Outputs(logits[x.long()]), {})
    assert lifelong.among(one, data, torch.arange(3), range(2, 4)) == pytest.approx(2 / 3)
    old, new = lifelong.Lifelong(old=3).tasks(data, torch.tensor([2, 0]))
    assert (old.tolist(), new.tolist()) == ([0], [2])


def test_flipped_labels_are_all_wrong_evenly_so_and_no_others():
    y = torch.arange(1000) % 10
    found = label_noise.flipped(y, 0.4, 10, generator(0, "wrong"))
    assert (found != y).sum() == 400
    shift = torch.bincount((found - y)[found != y] % 10, minlength=10)
    assert shift[0] == 0
    assert shift[1:].min() > 20


def test_invented_nodes_are_named_as_wanted_and_joined_to_their_likes():
    graph = graphs.fake(size=55)
    data = Citations(graph.x.abs(), graph.edge_index, graph.y, graph.classes)
    quick = TrainingConfig("adam", 0.05, epochs=30)
    recipe = graph_data_free.GraphDataFree(
        nodes=60,
        hidden=8,
        joined=0.5,
        teacher_training=quick,
        inverting=quick,
        student_training=TrainingConfig(epochs=2),
    )
    classes = torch.arange(60) % 3
    ends = recipe._edges(classes, 0)
    assert (classes[ends[0]] == classes[ends[1]]).all()
    # Each of 3 * 20 * 19 / 2 pairs with chance 1/2: mean 285, deviation 12.
    assert 225 < ends.shape[1] / 2 < 345
    known = Graph(data.x, graph.edge_index, graph.y, 3)
    teacher = graph_data_free._fit(
        networks.build("gcn", known, 8, 2, 0.0),
        lambda network: cross_entropy(network(known).logits, known.y).mean(),
        quick,
        0,
    )
    x = recipe._inverted(teacher, classes, torch.rand(60, graph.x.shape[1]), 3)
    assert x.min() >= 0
    alone = Graph(x, ends[:, :0], classes, 3)
    assert (predict(teacher, alone).logits.argmax(1) == classes).float().mean() > 0.8
    found = recipe.measure(data, 0)
    assert len(found) == 1 + 4 * 2 * 2
    assert found["accuracy_teacher"] > 0.8


# ---------------------------------------------------------------- architecture search


def test_neighbours_differ_by_a_step_a_layer_or_the_kind():
    widths = (4, 8, 16)
    near = {"mlp-8-4", "mlp-8-16", "mlp-4-8", "mlp-16-8", "mlp-8", "mlp-8-8-4", "cnn-8-8"}
    far = {"mlp-8-8", "mlp-4-4", "mlp-4", "mlp-16-16", "cnn-8", "mlp-4-8-8", "mlp-16-4"}
    for one in near | far:
        assert architecture_search.neighbours("mlp-8-8", one, widths) == (one in near), one
        assert architecture_search.neighbours(one, "mlp-8-8", widths) == (one in near), one


def test_a_search_tries_each_network_once_and_goes_to_neighbours_of_the_best_of_the_newest():
    recipe = architecture_search.ArchitectureSearch(
        widths=(1, 2, 3, 4, 5, 6, 7, 8), trials=12, population=3, contest=3
    )
    space = [f"{kind}-{a}-{b}" for kind in ("mlp", "cnn") for a in range(1, 9) for b in range(1, 9)]

    def score(name):
        kind, a, b = name.split("-")
        return abs(int(a) - 7) + abs(int(b) - 7) + (kind == "cnn") / 2

    for seed in range(5):
        tried = recipe.evolved(space, score, generator(seed, "evolve"))
        assert len(tried) == len(set(tried)) == 12
        for place in range(3, 12):
            parent = min(tried[place - 3 : place], key=score)
            near = [n for n in space if architecture_search.neighbours(n, parent, recipe.widths)]
            assert tried[place] in near or set(near) <= set(tried[:place])
    every = dataclasses.replace(recipe, trials=500).evolved(space, score, generator(0, "evolve"))
    assert sorted(every) == sorted(space)


def test_the_space_is_all_that_the_budget_allows():
    data = load("digits")
    recipe = architecture_search.ArchitectureSearch(families=("mlp",), widths=(4, 16, 24))
    # 64 w + w of the hidden layer, 10 w + 10 of the last, and w w' + w' of one between them.
    wanted = {f"mlp-{w}" for w in (4, 16, 24) if 75 * w + 10 <= 1500}
    wanted |= {
        f"mlp-{a}-{b}"
        for a in (4, 16, 24)
        for b in (4, 16, 24)
        if 65 * a + (a + 1) * b + 10 * b + 10 <= 1500
    }
    assert {name for name in recipe.space(data) if name.count("-") < 3} == wanted
    with pytest.raises(ValueError, match="the smallest of these networks has 310 parameters"):
        dataclasses.replace(recipe, budget=300).space(data)


def test_where_there_is_one_network_all_searches_find_it():
    quick = TrainingConfig("adam", 0.01, epochs=1, batch_size=64)
    recipe = architecture_search.ArchitectureSearch(
        families=("mlp",), widths=(8,), depth=1, teacher_training=quick, trial_training=quick,
        student_training=quick,
    )  # fmt: skip
    found = recipe.measure(load("digits"), 0)
    arms = ["", "_random", "_labels", "_blind"]
    assert len({found[f"accuracy{arm}"] for arm in arms}) == 1
    assert {found[f"parameters{arm}"] for arm in (*arms, "_baseline")} == {75 * 8 + 10}
    assert found["divergence"] == found["divergence_random"] == found["divergence_labels"]
    assert found["accuracy"] != found["accuracy_baseline"]


def test_a_search_of_the_whole_space_finds_what_a_loop_finds():
    data, quick = load("digits"), TrainingConfig("adam", 0.01, epochs=2, batch_size=64)
    recipe = architecture_search.ArchitectureSearch(
        families=("mlp",), widths=(4, 8, 12), depth=1, trials=9, teacher_training=quick,
        trial_training=quick, student_training=quick,
    )  # fmt: skip
    found = recipe.measure(data, 6)
    few, rest, aside, _ = split(len(data.y), (100, 800, 300), 6)
    every = torch.cat([few, rest])
    teacher = learner("mlp-128-128", data.shape, 10, 6, "teacher")
    known = labelled(data.x, data.y, every)
    teacher = run(alone("teacher", known, quick), {"teacher": teacher}, generator(6, "teach"))
    divergences, losses = {}, {}
    for width in (4, 8, 12):
        start = teacher | {"student": learner(f"mlp-{width}", data.shape, 10, 6, "student")}
        follow = LossTerm(lambda own, y, other: kl(own.logits, other.logits), ("teacher",))
        often = dataclasses.replace(quick, epochs=18)  # nine times as many examples without labels
        one = run([Stage({"student": (follow,)}, known, quick)], start, generator(6, "learn"))
        scheme = alone("student", labelled(data.x, data.y, few), often)
        other = run(scheme, start, generator(6, "learn"))["student"]
        logits = [who(data.x[aside]).logits for who in (one["student"], one["teacher"])]
        log_p, log_q = (value.log_softmax(1) for value in logits)
        divergences[width] = float((log_q.exp() * (log_q - log_p)).sum(1).mean())
        labels = data.y[aside]
        losses[width] = float(
            -other(data.x[aside]).logits.log_softmax(1)[range(300), labels].mean()
        )
    best, by_labels = (min(column, key=column.get) for column in (divergences, losses))
    assert best != by_labels  # of this seed: or else one criterion would do for both
    assert found["parameters"] == found["parameters_random"] == 75 * best + 10
    assert found["parameters_labels"] == 75 * by_labels + 10
    assert found["divergence"] == pytest.approx(divergences[best], rel=1e-4)
    assert found["divergence_labels"] == pytest.approx(divergences[by_labels], rel=1e-4)
