"""LLP: its context nodes, its losses and its gain, against what a person can work out."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import tensor

import graphkd
from graphkd import methods
from graphkd.data import datasets, links
from graphkd.graph import Graph
from graphkd.method import DistillationContext
from graphkd.models import readout
from graphkd.training.links import LinkDistillation, supervised
from graphkd.training.loop import predict
from kdcore.outputs import Outputs

FAKE = datasets.fake(size=55)
SPLIT = links.split(FAKE, 0)
QUICK = {"epochs": 3, "hidden": 8, "teacher_epochs": 3, "teacher_hidden": 8}
llp = methods.get("llp")


def terms(method):
    view = SPLIT.view("distill")
    return method.terms(DistillationContext(None, view, None, view.graph, None, 0))


def value(method, student, teacher):
    shown = Outputs(torch.logit(student)), Outputs(torch.logit(teacher))
    return sum(term.weight * term.loss(*shown, FAKE).mean() for term in terms(method))


STUDENT, TEACHER = tensor([[0.5, 0.4, 0.7]]).double(), tensor([[0.9, 0.2, 0.85]]).double()


def test_rank_matching_is_the_sum_over_pairs_of_context_nodes():
    # The teacher tells 0 and 1, and 1 and 2 apart by over 0.1; 0 and 2 are alike: 0.1 whatever.
    # 0 above 1 by 0.1, which is the margin: 0; 2 above 1 by 0.3: 0. Mean over three pairs.
    assert value(llp(matching_weight=1.0), STUDENT, TEACHER) == pytest.approx(0.1 / 3)
    # The wrong way round the gaps are -0.1 and -0.3, and their hinges 0.2 and 0.4.
    assert value(llp(matching_weight=1.0), 1 - STUDENT, TEACHER) == pytest.approx(
        (0.2 + 0.4 + 0.1) / 3
    )


def test_distribution_matching_is_the_divergence_over_the_context():
    p, q = (np.exp(x[0].numpy()) / np.exp(x[0].numpy()).sum() for x in (STUDENT, TEACHER))
    expected = (q * np.log(q / p)).sum()
    assert value(
        llp(matching="distribution", matching_weight=1.0), STUDENT, TEACHER
    ) == pytest.approx(expected)
    both = value(llp(matching="both", matching_weight=2.0), STUDENT, TEACHER)
    assert both == pytest.approx(2 * (expected + 0.1 / 3))


def test_logits_are_matched_one_by_one():
    expected = (0.4**2 + 0.2**2 + 0.15**2) / 3
    assert value(llp(matching="logits", matching_weight=1.0), STUDENT, TEACHER) == pytest.approx(
        expected
    )
    ends = tensor([[0, 1], [2, 3]])
    asked = llp(matching="logits").asked(ends, FAKE, torch.Generator())
    assert asked.tolist() == [[[0], [1]], [[2], [3]]]


def test_context_nodes_are_those_that_walks_come_by_and_random_ones():
    n = 12  # on a ring a walk of one hop ends at a neighbour, one of two at the start or 2 away
    ring = torch.stack([torch.arange(n), (torch.arange(n) + 1) % n])
    pairs = links.Pairs(
        torch.ones(n, 1),
        torch.cat([ring, ring.flip(0)], 1),
        torch.ones(n, dtype=torch.long),
        1,
        pairs=ring,
    )
    draw = torch.Generator().manual_seed(0)
    anchors, context = llp(walks=2, hops=2, random_rate=3, anchors=5).asked(ring, pairs, draw)
    assert anchors.shape == context.shape == (5, 2 * 2 * (1 + 3))
    assert len(anchors[:, 0].unique()) == 5
    assert (anchors == anchors[:, :1]).all()
    away = (context - anchors).remainder(n)
    away = torch.minimum(away, n - away)
    assert (away[:, [0, 2]] == 1).all()
    assert set(away[:, [1, 3]].flatten().tolist()) == {0, 2}
    assert len(away[:, 4:].unique()) > 4
    everyone, _ = llp(anchors=0).asked(ring, pairs, draw)
    assert sorted(everyone[:, 0].tolist()) == list(range(n))


def test_a_pair_is_scored_by_the_product_of_two_embeddings():
    torch.manual_seed(0)
    graph = SPLIT.view("evaluate").graph
    network = readout.build("gcn", graph, 8, 2, 0.5).eval()
    h = network.network(graph.union).logits
    (w1, b1), (w2, b2) = ((one.weight, one.bias) for one in (network.inner, network.outer))
    i, j = graph.pairs[:, 7]
    expected = (h[i] * h[j] @ w1.T + b1).relu() @ w2.T + b2
    torch.testing.assert_close(network(graph, tensor([7])).logits[0], expected)
    torch.testing.assert_close(network(graph.x, graph.pairs, graph.edge_index), network(graph)[0])


def test_a_step_weighs_labels_and_terms_and_draws_pairs_that_training_does_not_join():
    view = SPLIT.view("distill")
    graph, train = view.graph, view.part("train")
    network, teacher = (readout.build("mlp", graph, 4, 2, 0.0) for _ in range(2))
    seen = []

    def asked(ends, graph, draw):
        seen.append(ends)
        return ends.unsqueeze(-1)

    distillation = LinkDistillation(
        teacher, graph, terms(llp(matching="logits", matching_weight=3.0)), asked
    )
    still = torch.optim.SGD(network.parameters(), 0.0)
    loss = supervised(graph, train, 0.5, 0, distillation)(network, still, torch.Generator())
    (ends,), count = seen, len(train)
    assert {tuple(pair) for pair in ends[:, :count].T.tolist()} == {
        tuple(pair) for pair in graph.pairs[:, train].T.tolist()
    }
    joined = {tuple(pair) for pair in graph.edge_index.T.tolist()}
    assert not joined & {tuple(pair) for pair in ends[:, count:].T.tolist()}
    with torch.no_grad():
        own, theirs = (
            one.logits(one.states(graph), ends)[:, 0].sigmoid() for one in (network, teacher)
        )
    y = (torch.arange(2 * count) < count).float()
    labels = -(y * own.log() + (1 - y) * (1 - own).log()).mean()
    assert loss == pytest.approx(float(0.5 * labels + 3 * (own - theirs).square().mean()), rel=1e-5)


def test_metrics_are_those_of_scikit_learn_and_of_a_count():
    *_, result = graphkd.run(llp(**QUICK), SPLIT, seed=0)
    view = SPLIT.view("evaluate")
    test = view.part("ind")
    scores = predict(result.trained["student"].network, view.graph, test).logits[:, 0]
    y = view.graph.y[test]
    assert result.metrics["auc"] == pytest.approx(roc_auc_score(y, scores))
    limit = sorted(scores[y == 0].tolist())[-20]
    expected = sum(score > limit for score in scores[y == 1].tolist()) / int(y.sum())
    assert result.metrics["hits20"] == pytest.approx(expected)


def test_a_student_without_a_teachers_word_is_the_baseline():
    epochs = list(graphkd.run(llp(**QUICK, matching_weight=0.0), SPLIT, seed=0))
    phases = {
        phase: [(e.loss, e.accuracy) for e in epochs[:-1] if e.phase == phase]
        for phase in ("baseline", "student")
    }
    assert phases["student"] == phases["baseline"]
    assert epochs[-1].metrics["auc"] == epochs[-1].metrics["auc_baseline"]


@pytest.mark.slow
def test_where_features_are_noisy_a_teacher_helps():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(FAKE.num_nodes, 40, generator=draw)
    noisy = Graph(torch.cat([FAKE.x, x], 1), FAKE.edge_index, FAKE.y, 3, "noisy")
    settings = {"epochs": 60, "teacher_epochs": 60, "teacher": "gcn", "anchors": 0}
    gains = []
    for seed in range(3):
        *_, result = graphkd.run(llp(**settings), noisy, seed=seed)
        gains.append(result.metrics["auc"] - result.metrics["auc_baseline"])
        assert result.metrics["auc_teacher"] > 0.6
    assert sum(gains) > 0


def test_a_teacher_that_is_there_already_is_refused():
    network = readout.build("mlp", SPLIT.view("train").graph, 4, 2, 0.0)
    with pytest.raises(ValueError, match="trained already says nothing of them: give its class"):
        list(graphkd.run(llp(**QUICK), SPLIT, teacher=network))
