"""AdaGMLP against loops over nodes and students, as the authors' code goes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import graphkd
from graphkd import methods
from graphkd.data import datasets, splits
from graphkd.method import DistillationContext
from graphkd.methods.adagmlp import Boosted
from graphkd.models import networks
from graphkd.training.loop import seeded
from kdcore.outputs import Outputs

FAKE = replace(datasets.fake(size=55), x=datasets.fake(size=55).x.double())
SPLIT = splits.withheld(FAKE, 0)
VIEW = SPLIT.view("distill")
SOFT, TRAIN = VIEW.part("soft"), VIEW.part("train")
SETTINGS = {"students": 3, "beta": 0.3, "label_weight": 0.3, "temperature": 0.5, "masked": 0.25}
METHOD = methods.get("adagmlp")(**SETTINGS, output_share=0.4)


def boosted(count=3):
    with seeded(0, torch.device("cpu"), "test"):
        return Boosted(networks.build("mlp", FAKE, 8, 3, 0.0), count)


def softmax(rows):
    e = np.exp(rows - rows.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(teacher, student):
    p, q = softmax(teacher), softmax(student)
    return (p * np.log(p / q)).sum(-1)


def test_students_have_weights_of_their_own_and_are_mixed_by_alpha():
    network = boosted()
    first, second, third = (one.layers[0].weight for one in network.students)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    network.alpha = torch.tensor([0.5, 0.2, 0.3]).double()
    said = [one(FAKE).logits for one in network.students]
    expected = sum(a * s.softmax(1) for a, s in zip(network.alpha, said, strict=True))
    outputs = network(FAKE)
    torch.testing.assert_close(outputs.logits.exp(), expected)
    torch.testing.assert_close(outputs.hidden[0], torch.cat(said, 1))
    torch.testing.assert_close(network(FAKE.x), outputs.logits)


def test_weights_of_nodes_and_students_are_those_of_a_loop(monkeypatch):
    network = boosted()
    teacher = torch.randn(len(SOFT), 3, generator=torch.Generator().manual_seed(1)).double()
    context = DistillationContext(network, VIEW, None, VIEW.graph, None, 0)
    (term,) = METHOD.terms(context)
    monkeypatch.setattr(term.loss, "_on_labels", lambda k, count: torch.zeros(()).double())
    weight = np.full(len(SOFT), 1 / len(SOFT))
    said = [one(FAKE, SOFT).logits.detach().numpy() for one in network.students]
    for _ in range(2):  # the second step goes on with the weights of the first
        total, alphas = 0.0, []
        for logits in said:
            soft = kl(teacher.numpy() / 0.5, logits / 0.5)
            total += (1 - 0.3) * (weight * soft).sum()
            error = 1 - np.exp(-0.3 * kl(teacher.numpy(), logits))
            mean = (weight * error).sum() / weight.sum()
            assert mean < 0.5
            alphas.append(np.log((1 - mean) / mean))
            weight = weight * np.exp(alphas[-1] * error)
            weight = weight / weight.sum()
        value = term.loss(network(FAKE, SOFT), Outputs(teacher), FAKE.take(SOFT)).mean().detach()
        assert float(value) == pytest.approx(total / 3)
        np.testing.assert_allclose(network.alpha, np.array(alphas) / sum(alphas), rtol=1e-9)
        np.testing.assert_allclose(term.loss.weight, weight, rtol=1e-9)


def test_labels_are_of_a_part_of_the_nodes_and_masked_ones_are_kept_near():
    network = boosted()
    context = DistillationContext(network, VIEW, None, VIEW.graph, None, 0)
    (term,) = METHOD.terms(context)
    state = term.loss.draw.get_state()
    found = term.loss._on_labels(1, 3)
    term.loss.draw.set_state(state)
    nodes = TRAIN[torch.randperm(len(TRAIN), generator=term.loss.draw)[: len(TRAIN) // 3]]
    masked = term.loss._masked(nodes)
    whole, part = (network.students[1](g, n) for g, n in ((VIEW.graph, nodes), (masked, None)))
    log_p = whole.logits.log_softmax(1)
    labels = -log_p[torch.arange(len(nodes)), VIEW.graph.y[nodes]].mean()
    outputs = (log_p - part.logits.log_softmax(1)).square().mean()
    hidden = sum((a - b).square().mean() for a, b in zip(whole.hidden, part.hidden, strict=True))
    expected = 0.3 * labels + 0.4 * outputs + 0.6 * hidden / 2
    torch.testing.assert_close(found, expected)


def test_a_masked_row_has_lost_its_share_of_features_and_keeps_its_sum():
    context = DistillationContext(boosted(), VIEW, None, VIEW.graph, None, 0)
    (term,) = METHOD.terms(context)
    masked = term.loss._masked(TRAIN).x
    lost = int(FAKE.x.shape[1] * 0.25)
    assert ((masked == 0).sum(1) == lost).all()
    torch.testing.assert_close(masked.sum(1), VIEW.graph.x[TRAIN].sum(1))


def test_a_run_keeps_the_mixture_that_validation_chose():
    method = methods.get("adagmlp")(epochs=6, hidden=8, teacher_epochs=6, teacher_hidden=8)
    *_, result = graphkd.run(method, SPLIT, seed=0)
    student = result.trained["student"].network
    assert float(student.alpha.sum()) == pytest.approx(1)
    assert "alpha" in student.state_dict()
    with pytest.raises(ValueError, match="hard_weight must be from 0 to 0"):
        methods.get("adagmlp")(hard_weight=0.5)
