"""Losses on embeddings and what they say of each other, against loops, torch and theory."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from graphkd import losses
from graphkd.graph import Graph
from graphkd.losses import chunking
from graphkd.losses.information import information_bound
from kdcore.outputs import Outputs

NODES = 6


def embedding(width, seed, nodes=NODES, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(nodes, width, generator=generator, dtype=dtype)


def outputs(hidden):
    return Outputs(torch.zeros(len(hidden), 3), (hidden,))


def graph(nodes=NODES):
    edges = torch.tensor([[0, 1], [1, 0]])
    return Graph(torch.zeros(nodes, 1), edges, torch.zeros(nodes, dtype=torch.long), 3)


def test_hint_is_the_formula_node_by_node():
    s, t, weight = embedding(3, 0), embedding(4, 1), embedding(4, 2, 3)
    found = losses.hint(outputs(s), outputs(t), graph(), lambda h: h @ weight)
    pairs = zip((s @ weight).tolist(), t.tolist(), strict=True)
    expected = [math.dist(a, b) ** 2 / 2 for a, b in pairs]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_a_hint_that_is_learned_finds_the_linear_map():
    s = embedding(3, 0, 50)
    t = s @ embedding(4, 1, 3) + 1
    torch.manual_seed(0)
    made = losses.projectors.regressor(3, 4)
    project = made["project"].double()
    optimiser = torch.optim.Adam(project.parameters(), 0.1)
    for _ in range(300):
        value = losses.hint(outputs(s), outputs(t), graph(50), **made).mean()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    assert value < 1e-5


def test_attention_transfer_is_the_formula_node_by_node():
    s, t = embedding(3, 0), embedding(4, 1)
    maps = []
    for h in (s.tolist(), t.tolist()):
        a = [sum(x * x for x in row) for row in h]
        maps.append([x / math.sqrt(sum(y * y for y in a)) for x in a])
    expected = [NODES * (a - b) ** 2 for a, b in zip(*maps, strict=True)]
    found = losses.attention_transfer(outputs(s), outputs(t), graph())
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_attention_transfer_by_hand():
    # Squared norms 3, 4 and 4, 3 make the maps .6, .8 and .8, .6; each differs by .2 from 2 nodes.
    student = outputs(torch.tensor([[3.0], [4.0]]).sqrt())
    teacher = outputs(torch.tensor([[0.0, 2.0], [math.sqrt(3), 0.0]]))
    found = losses.attention_transfer(student, teacher, graph(2))
    torch.testing.assert_close(found, torch.tensor([0.08, 0.08]))


def test_attention_transfer_is_bounded_and_does_not_see_the_scale():
    apart = torch.diag(torch.tensor([1.0, 0, 0])), torch.diag(torch.tensor([0, 1.0, 0]))
    value = losses.attention_transfer(*(outputs(h) for h in apart), graph(3)).mean()
    torch.testing.assert_close(value, torch.tensor(2.0))  # two maps of length 1 at right angles
    s, t = embedding(3, 0), embedding(4, 1)
    expected = losses.attention_transfer(outputs(s), outputs(t), graph())
    found = losses.attention_transfer(outputs(100 * s), outputs(t), graph())
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("block", [1, 13, 2**22])
def test_contrastive_is_cross_entropy_over_cosines(block, monkeypatch):
    monkeypatch.setattr(chunking, "BLOCK", block)
    s, t, left, right = (
        embedding(w, i, n) for i, (w, n) in enumerate([(3, 6), (4, 6), (2, 3)] + [(2, 4)])
    )
    found = losses.contrastive(
        outputs(s), outputs(t), graph(), lambda h: h @ left, lambda h: h @ right, 0.2
    )
    cosines = F.cosine_similarity((s @ left)[:, None], (t @ right)[None], dim=-1)
    expected = F.cross_entropy(cosines / 0.2, torch.arange(NODES), reduction="none")
    torch.testing.assert_close(found, expected)


def test_contrastive_where_all_nodes_are_alike_is_log_n_and_where_all_differ_nothing():
    flat = outputs(torch.ones(NODES, 3))
    found = losses.contrastive(flat, flat, graph())
    torch.testing.assert_close(found, torch.full((NODES,), math.log(NODES)))
    apart = outputs(torch.eye(NODES))
    found = losses.contrastive(apart, apart, graph(), temperature=0.01)
    torch.testing.assert_close(found, torch.zeros(NODES))


def test_heads_learn_on_both_sides_and_the_teacher_does_not():
    s, t = (embedding(w, w, dtype=torch.float32).requires_grad_() for w in (3, 4))
    made = losses.projectors.heads(3, 4, width=8)
    losses.contrastive(outputs(s), outputs(t), graph(), **made).sum().backward()
    for head in made.values():
        assert all(p.grad is not None for p in head.parameters())
    assert s.grad.any()
    assert t.grad is None


@pytest.mark.parametrize("block", [1, 2**22])
def test_mutual_information_is_cross_entropy_over_scores(block, monkeypatch):
    monkeypatch.setattr(chunking, "BLOCK", block)
    s, t, weight = embedding(3, 0), embedding(4, 1), embedding(4, 2, 3)
    found = losses.mutual_information(outputs(s), outputs(t), graph(), lambda h: h @ weight)
    scores = s @ weight @ t.T
    expected = F.cross_entropy(scores, torch.arange(NODES), reduction="none")
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_the_bound_of_the_best_critic_is_the_information_of_two_gaussians(correlation):
    # log p(y | x) / p(y) = (r x y - r^2 (x^2 + y^2) / 2) / (1 - r^2) up to a constant; what depends
    # on x alone cancels. So the teacher shows y and y^2, and the projection weighs them.
    nodes, r = 3000, correlation
    x, noise = embedding(1, 0, nodes), embedding(1, 1, nodes)
    y = r * x + math.sqrt(1 - r * r) * noise

    def project(h):
        return torch.cat([r * h, torch.full_like(h, -r * r / 2)], 1) / (1 - r * r)

    teacher = outputs(torch.cat([y, y * y], 1))
    values = losses.mutual_information(outputs(x), teacher, graph(nodes), project)
    truth = -math.log(1 - r * r) / 2
    assert information_bound(values) == pytest.approx(truth, abs=0.04)


def test_the_bound_is_at_most_log_n():
    apart = outputs(50 * torch.eye(NODES))
    for loss in (losses.mutual_information, losses.contrastive):
        bound = information_bound(loss(apart, apart, graph()))
        assert bound <= math.log(NODES) + 1e-6
        assert bound == pytest.approx(math.log(NODES), abs=1e-3)
    assert information_bound(torch.full((NODES,), math.log(NODES))) == pytest.approx(0, abs=1e-6)


def test_a_loss_with_layers_of_its_own_is_a_loss_and_a_module():
    student, teacher = (outputs(embedding(w, w, dtype=torch.float32)) for w in (3, 4))
    layers = losses.projectors.regressor(3, 4)
    loss = losses.projectors.Learned(losses.hint, layers)
    found = loss(student, teacher, graph())
    torch.testing.assert_close(found, losses.hint(student, teacher, graph(), **layers))
    assert {id(p) for p in loss.parameters()} == {id(p) for p in layers["project"].parameters()}
    assert [p.shape for p in loss.parameters()] == [(4, 3), (4,)]


def test_errors_say_the_way_out():
    narrow, wide = outputs(embedding(3, 0)), outputs(embedding(4, 1))
    for loss in (losses.hint, losses.contrastive, losses.mutual_information):
        with pytest.raises(ValueError, match="3 wide, the teacher's 4.*project"):
            loss(narrow, wide, graph())
    with pytest.raises(ValueError, match="temperature is -1"):
        losses.contrastive(narrow, narrow, graph(), temperature=-1)
