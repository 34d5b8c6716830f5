"""What single methods do: the terms of their losses by hand, and what they may see."""

import dataclasses
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import graphkd
from graphkd import losses, methods
from graphkd.core import View
from graphkd.data import datasets, splits
from graphkd.graph import Graph, Part
from graphkd.inputs import labelled, positions
from graphkd.losses import reliability
from graphkd.method import DistillationContext
from graphkd.methods.cpf import Propagation
from graphkd.methods.ffg2m import Differences
from graphkd.methods.gnnsd import discrepancy, lost_discrepancy
from graphkd.methods.krd import _calm, _Reliable
from graphkd.methods.logits import squared_difference
from graphkd.methods.nosmog import adversarial
from graphkd.models import networks
from graphkd.models.teacher_ensemble import TeacherEnsemble, learn_weights
from graphkd.training import published
from graphkd.training.distillation import _value, fit_teacher
from graphkd.training.loop import finish, predict
from graphkd.training.online import MutualLearners, together
from kdcore.outputs import Outputs
from kdcore.rng import generator

FAKE = datasets.fake(size=55)
TRAIN = splits.transductive(FAKE, 0).view("distill").part("train")
WITH_LABELS = torch.cat([FAKE.x, torch.zeros(FAKE.num_nodes, FAKE.classes)], 1)
PATH = Graph(torch.eye(3), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), torch.arange(3), 3)


class Linear(nn.Module):
    """A network whose logits are W x, with features to some power as hidden state."""

    shown = 1.0

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, graph, nodes=None):
        """See the class."""
        x = graph.x if nodes is None else graph.x[nodes]
        return Outputs(x @ self.weight.T, (x**self.shown,))


def context_of(method, network, teacher=None, seed=0):
    view = splits.transductive(FAKE, 0).view("distill")
    targets = None if teacher is None else teacher(view.graph)
    return DistillationContext(network, view, teacher, view.graph, targets, seed)


def test_logit_matching_is_the_mean_square():
    student, teacher = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]])
    assert squared_difference(Outputs(student), Outputs(teacher), PATH).tolist() == [2.5]


def test_discrepancy_is_0_among_equal_neighbours_and_1_for_orthogonal_means():
    same = torch.ones(3, 2)
    torch.testing.assert_close(discrepancy(same, PATH), torch.zeros(3))
    h = torch.tensor([[1.0, 0], [-1.0, 1.0], [1.0, 0]])
    # Node 0: mean ((1,0) + (-1,1)) / 2 = (0, 1/2), orthogonal to (1, 0).
    assert discrepancy(h, PATH)[0] == pytest.approx(1.0)


def test_later_layers_learn_from_the_most_diverse_one_and_the_first_has_no_gradient():
    first = torch.tensor([[1.0, 0], [-1.0, 1.0], [1.0, 0]], requires_grad=True)
    second = torch.ones(3, 2, requires_grad=True)
    out = Outputs(torch.zeros(3, 3), (first, second))
    value = lost_discrepancy(out, out, PATH)
    torch.testing.assert_close(value, (discrepancy(first, PATH) - 0).square())
    value.sum().backward()
    assert first.grad is None
    with pytest.raises(ValueError, match="1 hidden states and one teaches the next"):
        lost_discrepancy(Outputs(out.logits, (first,)), out, PATH)


PAIR = Graph(torch.zeros(2, 1), torch.tensor([[0, 1], [1, 0]]), torch.zeros(2).long(), 2)


def apart(*degrees):
    """The hidden layers of two neighbours whose states are these angles apart.

    A state is half the angle away from the mean of both, so a rate is 1 - cos(angle / 2).
    """
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    ends = [torch.stack([angle * 0, angle]) for angle in angles]
    return Outputs(torch.zeros(2, 2), tuple(torch.stack([e.cos(), e.sin()], 1) for e in ends))


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        ((120, 0), 0.25),  # rates 1/2 and 0
        ((0, 120), 0.0),  # a layer that has lost nothing is left alone
        ((120, 0, 90), 0.25),  # from the largest on; the last has not lost what the one before has
        ((90, 0, 120, 0), 0.25),  # what was lost before the largest does not count
        ((180, 120, 0), 0.5),  # rates 1, 1/2, 0: two losses of a half
    ],
)
def test_discrepancy_is_kept_from_the_layer_of_the_largest_on_where_it_falls(degrees, expected):
    shown = apart(*degrees)
    value = lost_discrepancy(shown, shown, PAIR)
    torch.testing.assert_close(value, torch.full((2,), expected).double())


def test_mixture_weights_find_the_teacher_that_is_right():
    labels = torch.tensor([0, 1, 0, 1])
    right = torch.eye(2)[labels] * 0.8 + 0.1
    said = torch.stack([right, 1 - right, torch.full((4, 2), 0.5)])
    weights = learn_weights(said, labels)
    assert weights.sum() == pytest.approx(1.0)
    assert weights[0] > 0.99
    torch.testing.assert_close(learn_weights(said[:1], labels), torch.ones(1).double())
    # Two teachers, each right on half of the nodes, by symmetry weigh the same.
    half = right.clone()
    half[:2] = 1 - half[:2]
    both = learn_weights(torch.stack([half, 1 - half]), labels)
    torch.testing.assert_close(both, torch.full((2,), 0.5).double())


def test_a_crowd_says_the_weighted_mean_of_probabilities():
    one, two = Linear(torch.eye(3)), Linear(-torch.eye(3))
    ensemble = TeacherEnsemble([one, two], torch.tensor([0.25, 0.75]))
    said = ensemble(PATH).logits.softmax(1)
    expected = 0.25 * torch.eye(3).softmax(1) + 0.75 * (-torch.eye(3)).softmax(1)
    torch.testing.assert_close(said, expected)
    torch.testing.assert_close(ensemble(PATH, torch.tensor([2])).logits.softmax(1), expected[2:])


def test_the_weights_of_a_crowd_are_learnt_on_the_validation_nodes():
    split = splits.transductive(FAKE, 0)
    method = methods.get("multiteacher")(teacher="sage+gcn", teacher_epochs=2, teacher_hidden=8)
    plan = published.resolve(method, "fake", "transductive")
    ensemble = finish(fit_teacher(plan.teachers, split, seed=0)).network
    view = split.view("train")

    def learnt(part):
        nodes = view.part(part)
        said = [predict(one, view.graph, nodes).logits.softmax(-1) for one in ensemble.teachers]
        return learn_weights(torch.stack(said), view.graph.y[nodes])

    torch.testing.assert_close(ensemble.weights, learnt("val"), rtol=1e-6, atol=0)
    assert not torch.allclose(ensemble.weights, learnt("train"), rtol=0.1, atol=0)


def test_krd_keeps_all_edges_in_the_first_epochs_and_moves_its_power_after():
    draw = torch.Generator().manual_seed(0)
    student, teacher = (Linear(torch.randn(3, 12, generator=draw)) for _ in range(2))
    method = methods.get("krd")(warmup=2, temperature=1.0, hard_weight=0.0, momentum=0.5)
    start = context_of(method, student, teacher)
    loss, graph = _Reliable(method, start), start.view.graph
    own, taught = student(graph), teacher(graph)
    everything = graphkd.losses.low_frequency(own, taught, graph)
    for _ in range(2):
        torch.testing.assert_close(loss(own, taught, graph), everything)
        assert loss.power == 1.0
    later = loss(own, taught, graph)
    assert loss.power != 1.0
    assert not torch.allclose(later, everything)
    assert not list(loss.parameters())


@pytest.mark.parametrize("layers", [2, 3])
def test_what_a_student_says_without_dropout_follows_from_what_it_shows_with_it(layers):
    student = networks.build("mlp", FAKE, 16, layers, dropout=0.5)
    shown = student.train()(FAKE)
    assert torch.equal(_calm(student, FAKE, shown), student.eval()(FAKE).logits)
    some = student.train()(FAKE, torch.arange(9))
    assert torch.equal(_calm(student, FAKE, some), student.eval()(FAKE).logits)
    other = networks.build("gcn", FAKE, 16, layers, dropout=0.5)
    shown = other.train()(FAKE)
    assert torch.equal(_calm(other, FAKE, shown), other.eval()(FAKE).logits)
    _calm(student.train(), FAKE, shown)
    assert student.training


def test_differences_have_the_mean_of_the_high_frequencies_with_and_without_a_new_graph():
    draw = torch.Generator().manual_seed(0)
    fast = Differences(1.3)
    for graph in (FAKE, FAKE, FAKE.take(torch.arange(40)), PATH):
        n = graph.num_nodes
        own = torch.randn(n, 3, generator=draw, requires_grad=True)
        taught = Outputs(torch.randn(n, 3, generator=draw))
        if graph is FAKE:
            taught = Outputs(torch.linspace(-1, 1, 3 * n).view(n, 3).sin())
        value = fast(Outputs(own), taught, graph).mean()
        slow = graphkd.losses.high_frequency(Outputs(own), taught, graph, 1.3).mean()
        torch.testing.assert_close(value, slow)
        (one,) = torch.autograd.grad(value, own)
        (two,) = torch.autograd.grad(slow, own)
        torch.testing.assert_close(one, two)


def test_adversarial_features_raise_the_loss_and_stay_within_the_radius():
    draw = torch.Generator().manual_seed(0)
    student, teacher = (Linear(torch.randn(3, 12, generator=draw)) for _ in range(2))
    seen = []

    class Spy(Linear):
        def forward(self, graph, nodes=None):
            seen.append(graph.x.detach().clone())
            return super().forward(graph, nodes)

    spy = Spy(student.weight.detach())
    own, taught = student(FAKE), teacher(FAKE)
    plain = graphkd.losses.soft_labels(own, taught, FAKE)
    noise = torch.Generator().manual_seed(1)
    moved = adversarial(spy, FAKE, 0.3, own, taught, FAKE, steps=5, draw=noise)
    assert (moved >= plain).float().mean() > 0.9
    assert (seen[-1] - FAKE.x).abs().max() <= 0.3 + 1e-6
    assert len(seen) == 6
    steps = torch.stack([(b - a).abs() for a, b in zip(seen, seen[1:], strict=False)])
    assert float(steps.max()) == pytest.approx(0.3 / 4, rel=1e-3)  # a quarter of the radius
    some = torch.tensor([5, 2])
    part = adversarial(
        spy, FAKE, 0.0, own, Outputs(taught.logits[some]), Part(FAKE, some), steps=1, draw=noise
    )
    torch.testing.assert_close(part, plain[some])


@pytest.mark.parametrize("student", ["mlp", "gcn", "gat"])
def test_a_radius_of_0_is_the_plain_loss_for_every_kind_of_student(student):
    network = graphkd.networks.build(student, FAKE, 8, 2, 0.0)
    own = network(FAKE)
    taught = Outputs(own.logits.detach().flip(1))
    noise = torch.Generator()
    value = adversarial(network, FAKE, 0.0, own, taught, FAKE, steps=1, draw=noise)
    torch.testing.assert_close(value, graphkd.losses.soft_labels(own, taught, FAKE))


def test_positions_of_new_nodes_are_the_mean_of_their_known_neighbours():
    split = splits.inductive(FAKE, 0)
    seen, whole = split.view("distill"), split.view("evaluate")
    encode = positions(seen, 0, dimensions=4)
    own, all_ = encode(seen).x[:, 12:], encode(whole).x[:, 12:]
    torch.testing.assert_close(all_[seen.ids], own)
    node = int(split.parts["ind"][0])
    source, target = whole.graph.edge_index
    near = [int(j) for j in source[target == node] if int(j) in set(seen.ids.tolist())]
    expected = own[seen.local(torch.tensor(near))].mean(0) if near else torch.zeros(4)
    torch.testing.assert_close(all_[node], expected)


def test_labels_as_inputs_are_those_of_the_training_nodes_alone():
    split = splits.inductive(FAKE, 0)
    whole = split.view("evaluate")
    columns = labelled(split.view("distill"), 0)(whole).x[:, -3:]
    train = split.parts["train"]
    assert torch.equal(columns[train].argmax(1), whole.graph.y[train])
    assert columns.sum() == len(train)


def test_propagation_holds_labels_and_spreads_them():
    # A path 0 - 1 - 2; node 0 has label 0, and the network knows nothing.
    columns = torch.tensor([[1.0, 0], [0, 0], [0, 0]])
    graph = Graph(torch.cat([torch.ones(3, 1), columns], 1), PATH.edge_index, PATH.y, 2)
    student = Propagation(Linear(torch.zeros(2, 3)), 1, rounds=1)
    nn.init.zeros_(student.score.weight)
    p = student(graph).logits.exp()
    assert p[0].tolist() == pytest.approx([1, 0], abs=1e-5)
    nn.init.constant_(student.share.bias, math.log(3))
    leaning = student(graph).logits.exp()
    # Node 1: half of the mean of (1, 0), (1/2, 1/2) and itself, half of what the network says.
    assert p[1].tolist() == pytest.approx([0.5 * (2 / 3) + 0.25, 0.5 * (1 / 3) + 0.25], abs=1e-5)
    assert p[2].tolist() == pytest.approx([0.5, 0.5], abs=1e-5)
    # And with a share of 3/4 for the neighbours, three quarters of the mean.
    assert leaning[1].tolist() == pytest.approx([0.5 + 0.125, 0.25 + 0.125], abs=1e-5)


def test_propagation_is_scored_by_the_features_and_not_by_the_labels():
    # The same path, where node 0 has the feature 1 and so twice the weight of the others.
    inputs = torch.tensor([[1.0, 1, 0], [0, 0, 0], [0, 0, 0]])
    student = Propagation(Linear(torch.zeros(2, 3)), 1, rounds=1)
    nn.init.constant_(student.score.weight, math.log(2))
    p = student(Graph(inputs, PATH.edge_index, PATH.y, 2)).logits.exp()
    # Node 1 hears of (1, 0) twice and of (1/2, 1/2) twice: (3/4, 1/4), mixed with (1/2, 1/2).
    assert p[1].tolist() == pytest.approx([5 / 8, 3 / 8], abs=1e-5)
    network = methods.get("cpf")().build(Linear(torch.zeros(3, 15)), replace(FAKE, x=WITH_LABELS))
    assert network.score.weight.shape == network.share.weight.shape == (1, 12)


def whole_of(method, student, teacher):
    """What the terms of a method add to the loss of a step on all nodes."""
    start = context_of(method, student, teacher)
    graph, draw = start.view.graph, torch.Generator().manual_seed(0)
    own, taught = student(graph), teacher(graph)
    total = sum(_value(term, own, taught, graph, draw) for term in method.terms(start))
    return total, own.logits, taught.logits, graph.edge_index


def softened(student, teacher, temperature):
    """The mean over rows of KL(teacher || student), without T^2."""
    return nn.functional.kl_div(
        (student / temperature).log_softmax(1),
        (teacher / temperature).softmax(1),
        reduction="batchmean",
    )


def two_linear():
    draw = torch.Generator().manual_seed(0)
    return [Linear(torch.randn(3, 12, generator=draw)) for _ in range(2)]


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        (
            "logits",
            {"hard_weight": 0.3},
            lambda s, t, g: 0.7 * (s.logits - t.logits).square().mean(),
        ),
        (
            "lsp",
            {"structure_weight": 3.0, "kernel": "l2"},
            lambda *of: 3 * losses.local_structure(*of, kernel="l2").mean(),
        ),
        (
            "gsp",
            {"structure_weight": 3.0, "kernel": "rbf", "scale": 2.0},
            lambda *of: 3 * losses.global_structure(*of, kernel="rbf", scale=2.0).mean(),
        ),
        (
            "rkd",
            {"distance_weight": 2.0, "angle_weight": 3.0, "sample": 165},
            lambda *of: 2 * losses.distance(*of).mean() + 3 * losses.angle(*of).mean(),
        ),
        (
            "privileged",
            {"hard_weight": 0.3, "temperature": 2.0},
            lambda s, t, g: 0.7 * 4 * softened(s.logits[TRAIN], t.logits[TRAIN], 2.0),
        ),
        (
            "nosmog",  # nothing is moved by a radius of 0
            {"similarity_weight": 0.0, "adversarial_weight": 0.25, "radius": 0.0, "moved": 0},
            lambda s, t, g: 1.25 * softened(s.logits, t.logits, 1.0),
        ),
    ],
)
def test_terms_have_the_weights_and_the_kernels_of_their_settings(name, given, expected):
    student, teacher = two_linear()
    teacher.shown = 2.0  # a hidden state of its own
    method = methods.get(name)(**given)
    total, *_ = whole_of(method, student, teacher)
    graph = context_of(method, student).view.graph
    torch.testing.assert_close(total, expected(student(graph), teacher(graph), graph))


def test_the_weight_of_gnnsd_is_that_of_its_only_term():
    network = networks.build("gcn", FAKE, 8, 3, 0.0)
    start = context_of(methods.get("gnnsd")(), network)
    (term,) = methods.get("gnnsd")(discrepancy_weight=3.0).terms(start)
    assert (term.loss, term.weight) == (lost_discrepancy, 3.0)


def test_gcrd_contrasts_its_maps_at_its_temperature():
    student, teacher = two_linear()
    method = methods.get("gcrd")(temperature=0.5, contrast_weight=3.0, width=4)
    start = context_of(method, student, teacher)
    (term,) = method.terms(start)
    of = student(start.view.graph), teacher(start.view.graph), start.view.graph
    maps = dict(term.loss.maps.items())
    assert term.weight == 3.0
    torch.testing.assert_close(term.loss(*of), losses.contrastive(*of, **maps, temperature=0.5))


def test_nosmog_compares_a_learned_map_of_the_student_with_the_teacher():
    student, teacher = two_linear()
    given = {"similarity_weight": 3.0, "adversarial_weight": 0.0, "radius": 0.0}
    start = context_of(methods.get("nosmog")(**given), student, teacher)
    _, term = methods.get("nosmog")(**given).terms(start)
    own, taught = student(start.view.graph), teacher(start.view.graph)
    mapped = term.loss.maps["project"](own.hidden[-1])
    gap = taught.hidden[-1] @ taught.hidden[-1].T - mapped @ mapped.T
    assert term.weight == 3.0
    value = term.loss(own, taught, start.view.graph)
    torch.testing.assert_close(value, gap.square().mean(1), rtol=1e-4, atol=1e-4)


def test_cpf_compares_probabilities_of_all_nodes_but_those_that_train():
    student, teacher = two_linear()
    start = context_of(methods.get("cpf")(), student, teacher)
    (term,) = methods.get("cpf")().terms(start)
    own, taught = student(start.view.graph), teacher(start.view.graph)
    expected = (own.logits.softmax(1) - taught.logits.softmax(1)).square().sum(1)
    expected[start.view.part("train")] = 0
    assert term.weight == 1.0
    assert (expected > 0).any()
    torch.testing.assert_close(term.loss(own, taught, start.view.graph), expected)
    some = torch.cat([start.view.part("train")[-2:], expected.nonzero()[-2:, 0]])
    few = [Outputs(shown.logits[some]) for shown in (own, taught)]
    torch.testing.assert_close(term.loss(*few, start.view.graph.take(some)), expected[some])


def test_krd_shakes_its_teacher_by_standard_normal_noise():
    student, teacher = two_linear()
    method = methods.get("krd")(temperature=1.0, hard_weight=0.0)
    start = context_of(method, student, teacher, seed=3)
    x = start.seen.x
    noisy = x + torch.randn(x.shape, generator=generator(3, "noise"))
    said, shaken = (teacher(replace(start.seen, x=seen)).logits for seen in (x, noisy))
    expected = reliability.unreliability(said, shaken)
    torch.testing.assert_close(_Reliable(method, start).unreliable, expected)


def test_glnn_gives_soft_labels_what_the_hard_ones_leave():
    total, own, taught, _ = whole_of(methods.get("glnn")(hard_weight=0.3), *two_linear())
    torch.testing.assert_close(total, 0.7 * softened(own, taught, 1.0))


def test_krd_is_the_mean_over_edges_and_nodes_without_the_square_of_the_temperature():
    method = methods.get("krd")(hard_weight=0.3, temperature=2.0, warmup=1)
    total, own, taught, edges = whole_of(method, *two_linear())
    j, i = torch.cat([edges, torch.arange(len(own)).expand(2, -1)], 1)
    torch.testing.assert_close(total, 0.7 * softened(own[i], taught[j], 2.0))


def test_ffg2m_softens_the_high_frequencies_alone_without_the_square():
    method = methods.get("ffg2m")(hard_weight=0.3, temperature=2.0)
    total, own, taught, edges = whole_of(method, *two_linear())
    j, i = torch.cat([edges, torch.arange(len(own)).expand(2, -1)], 1)
    low = softened(own[i], taught[j], 1.0)
    j, i = edges
    high = softened((own[i] - own[j]).abs(), (taught[i] - taught[j]).abs(), 2.0)
    torch.testing.assert_close(total, 0.7 * (low + high))


def test_the_power_of_krd_moves_by_what_momentum_leaves():
    student, teacher = two_linear()
    method = methods.get("krd")(warmup=0, temperature=1.0, hard_weight=0.0, momentum=0.9)
    start = context_of(method, student, teacher)
    loss, graph = _Reliable(method, start), start.view.graph
    own, taught = student(graph), teacher(graph)
    agree = own.logits.argmax(1) == taught.logits.argmax(1)
    fitted = reliability.fit_power(loss.unreliable, agree, method.bins)
    assert abs(fitted - 1) > 0.1
    some = torch.arange(graph.num_nodes).flip(0)[:80]
    few = [Outputs(shown.logits[some], (shown.hidden[0][some],)) for shown in (own, taught)]
    draw = generator(0, "kept edges")
    for power, of, nodes in (
        (0.9 + 0.1 * fitted, (own, taught, graph), slice(None)),  # from 1 on
        (0.81 + 0.19 * fitted, (*few, graph.take(some)), some),
    ):
        value = loss(*of)
        assert loss.power == pytest.approx(power)
        kept = reliability.keep(loss.unreliable[nodes], loss.power, of[2], draw)
        assert kept.any()
        assert not kept.all()
        torch.testing.assert_close(value, losses.reliable_labels(*of, kept, 1.0))


def test_each_of_three_peers_hears_the_mean_of_the_others_where_they_may_speak():
    view = splits.withheld(FAKE, 0).view("distill")
    soft = view.part("soft")
    assert len(soft) < view.graph.num_nodes
    draw = torch.Generator().manual_seed(0)
    peers = MutualLearners([Linear(torch.randn(3, 12, generator=draw)) for _ in range(3)])
    said = [peer(view.graph).logits.detach() for peer in peers.networks]
    train, y = view.part("train"), view.graph.y
    hard = sum(nn.functional.cross_entropy(z[train], y[train]) for z in said)
    pairs = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    heard = sum(4 * softened(said[k][soft], said[j][soft], 2.0) for k, j in pairs) / 2
    step = together(peers, [view.graph] * 3, view, weight=0.5, temperature=2.0)
    loss = step(peers, torch.optim.SGD(peers.parameters(), 0.0), draw)
    assert loss == pytest.approx(float(hard + 0.5 * heard), rel=1e-5)


def test_peers_learn_the_labels_and_what_the_others_say():
    view = splits.transductive(FAKE, 0).view("distill")
    draw = torch.Generator().manual_seed(0)
    one, two = (Linear(torch.randn(3, 12, generator=draw)) for _ in range(2))
    peers = MutualLearners([one, two])
    optimiser = torch.optim.SGD(peers.parameters(), 0.0)
    step = together(peers, [view.graph] * 2, view, weight=0.5, temperature=2.0)
    train, y = view.part("train"), view.graph.y
    said = [peer(view.graph).logits.detach() for peer in (one, two)]
    hard = sum(nn.functional.cross_entropy(z[train], y[train]) for z in said)
    kl = sum(
        4 * (q * (q.log() - (a / 2).log_softmax(1))).sum(1).mean()
        for a, q in ((said[0], (said[1] / 2).softmax(1)), (said[1], (said[0] / 2).softmax(1)))
    )
    assert step(peers, optimiser, draw) == pytest.approx(float(hard + 0.5 * kl), rel=1e-5)
    assert torch.equal(peers(view.graph).logits, said[0])


def test_privileged_labels_come_from_the_training_nodes_alone():
    """Another teacher on the unlabelled nodes changes nothing; on a labelled one it does."""
    method = methods.get("privileged")(hard_weight=0.3)
    network = Linear(torch.zeros(3, 12))
    start = context_of(method, network, Linear(torch.ones(3, 12)))
    (term,) = method.terms(start)
    chosen = term.nodes(start.view.graph.num_nodes, torch.Generator())
    assert torch.equal(chosen, start.view.part("train"))
    assert term.weight == pytest.approx(0.7)


def test_a_mutual_run_reports_the_first_of_the_others():
    *records, last = graphkd.run(methods.get("mutual")(epochs=4), FAKE)
    assert {r.phase for r in records} == {"baseline", "student"}
    assert set(last.epochs) == {"baseline", "student"}
    assert "accuracy_teacher" in last.metrics


def test_several_teachers_are_trained_one_after_another():
    method = methods.get("glnn")(teacher="sage+gcn", epochs=2, teacher_epochs=3)
    *records, _ = graphkd.run(method, FAKE)
    phases = list(dict.fromkeys(record.phase for record in records))
    assert phases == ["teacher sage", "teacher gcn", "baseline", "student"]
    with pytest.raises(ValueError, match="unknown network 'gcnn'"):
        list(graphkd.run(methods.get("glnn")(teacher="sage+gcnn"), FAKE))


def test_an_encoder_knows_its_nodes_by_their_ids():
    split = splits.transductive(FAKE, 0)
    view = split.view("distill")
    order = torch.randperm(len(view.ids), generator=torch.Generator().manual_seed(0))
    turned = View("evaluate", view.graph.subgraph(order), view.ids[order], {})
    encode = positions(view, 0, dimensions=3)
    assert torch.equal(encode(turned).x, encode(view).x[order])
    assert dataclasses.is_dataclass(turned)
