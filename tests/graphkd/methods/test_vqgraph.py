"""VQGraph against dense formulas over all pairs of nodes, and loops over nodes and codes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import graphkd
from graphkd import methods
from graphkd.data import datasets, splits
from graphkd.graph import Graph
from graphkd.method import DistillationContext
from graphkd.methods.vqgraph import Tokenizer, edge_error
from graphkd.models import networks
from graphkd.training.loop import predict, seeded

FAKE = replace(datasets.fake(size=55), x=datasets.fake(size=55).x.double())
VQGRAPH = methods.get("vqgraph")


def tokenizer(codes=6, width=4, dropout=0.0, graph=FAKE):
    with seeded(0, torch.device("cpu"), "test"):
        return Tokenizer([graph.x.shape[1], width, width, graph.classes], dropout, codes).double()


def adjacency(graph):
    a = torch.eye(graph.num_nodes, dtype=graph.x.dtype)
    a[graph.edge_index[0], graph.edge_index[1]] = 1
    return a


def dense(network, graph):
    """(logits, own losses) as the authors' code has them, with a row and a column for each node."""
    a = adjacency(graph)
    root = a.sum(1).rsqrt()
    a_hat = root[:, None] * a * root
    one, two = network.layers
    h = (a_hat @ graph.x @ one.lin.weight.T + one.bias).relu()
    codes = network.codebook / network.codebook.norm(dim=1, keepdim=True)
    code = network.codebook[(h @ codes.T).argmax(1)]
    e = h + (code - h).detach()
    q = network.of_edges(e)
    s = q @ q.T
    low, high = (s[(s - end).abs() < 1e-12].mean() for end in (s.min(), s.max()))  # of all ties
    s = (s - low) / (high - low)
    own = network.node_weight * (h - network.of_nodes(e)).square().mean()
    own = own + network.edge_weight * (a - s).square().mean().sqrt()
    own = own + 0.25 * (code - h).square().mean()
    return network.outputs((a_hat @ q @ two.lin.weight.T + two.bias).relu()), own


def test_what_it_learns_are_the_losses_over_all_pairs_and_their_gradients():
    network = tokenizer()
    logits, own = dense(network, FAKE)
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).double()
    expected = torch.autograd.grad((logits * weight).sum() + own, list(network.parameters()))
    outputs, found = network.learning(FAKE)
    assert 1 < len(network._nearest(outputs.hidden[0]).unique()) < 6  # codes are shared
    torch.testing.assert_close(outputs.logits, logits)
    torch.testing.assert_close(found, own)
    slopes = torch.autograd.grad((outputs.logits * weight).sum() + found, network.parameters())
    torch.testing.assert_close(slopes, expected)


def test_edges_made_of_three_codes_by_hand():
    # q = 0, 0, 1, 2 on a path: s = q_i q_j / 4 is 1/4, 1/2, 1 at (2, 2), (2, 3), (3, 3), else 0.
    path = Graph(torch.zeros(4, 1), torch.tensor([[0, 1, 2], [1, 2, 3]]), torch.zeros(4), 2)
    path = replace(path, edge_index=torch.cat([path.edge_index, path.edge_index.flip(0)], 1))
    q = torch.tensor([[0.0], [0.0], [1.0], [2.0]])
    # Squared errors: of nodes 1, 1, 9/16, 0; of the edges 1, 1, 1/4, each twice; of others 0.
    expected = ((1 + 1 + 9 / 16 + 2 * (1 + 1 + 1 / 4)) / 16) ** 0.5
    assert float(edge_error(path, q, torch.tensor([5, 5, 0, 2]))) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(8))  # products of one code differ from their sum by rounding
def test_a_graph_with_one_code_has_edges_and_no_nan(seed):
    state = torch.randn(8, generator=torch.Generator().manual_seed(seed))
    q = state.repeat(50, 1).requires_grad_()
    here = torch.arange(50)
    ring = torch.stack([torch.cat([here, here.roll(1)]), torch.cat([here.roll(1), here])])
    graph = Graph(torch.zeros(50, 1), ring, torch.zeros(50), 2)
    error = edge_error(graph, q, torch.full((50,), 4))  # s is 0: 150 entries of 2500 are 1
    error.backward()
    assert error.item() == pytest.approx((150 / 2500) ** 0.5)
    assert (q.grad == 0).all()


def test_codes_follow_those_who_chose_them():
    network = tokenizer(codes=3, width=2)
    network.codebook = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-2.0, 0.0]]).double()
    h = torch.tensor([[3.0, 4.0], [5.0, 0.0], [0.0, 2.0], [0.0, 0.0]]).double()
    chosen = network._nearest(h)
    assert chosen.tolist() == [1, 0, 1, 0]  # a node without a direction: the first
    network._follow(h, chosen)
    mean = np.array([0.6, 1.8]) / np.hypot(0.6, 1.8)  # of (3, 4) / 5 and (0, 2) / 2
    expected = [[1.6 + 0.2, 0.0], 0.8 * np.array([0, 1]) + 0.2 * mean, [-1.6 - 0.2, 0.0]]
    np.testing.assert_allclose(network.codebook, np.array(expected))


def test_codes_move_in_training_alone():
    network = tokenizer()
    before = network.codebook.clone()
    predict(network.train(), FAKE)
    assert torch.equal(network.codebook, before)
    network.learning(FAKE)
    assert not torch.equal(network.codebook, before)


def test_assignments_are_compared_by_cosine_at_every_node():
    teacher, view = tokenizer(), splits.transductive(FAKE, 0).view("distill")
    with seeded(0, torch.device("cpu"), "test"):
        student = networks.build("mlp", view.graph, 5, 2, 0.0)
    targets = predict(teacher, view.graph)
    context = DistillationContext(student, view, teacher, view.graph, targets, 0)
    labels, codes = VQGRAPH(code_weight=0.5, temperature=0.25, hard_weight=0.2).terms(context)
    assert (labels.weight, codes.weight) == (0.8, 0.5)
    loss = codes.loss.double()
    shown = predict(student, view.graph)
    found = loss(shown, targets, view.graph)

    def softmax(h):
        e = teacher.codebook.numpy()
        rows = [[h_i @ e_m / np.linalg.norm(h_i) / np.linalg.norm(e_m) for e_m in e] for h_i in h]
        powers = np.exp(np.array(rows) / 0.25)
        return powers / powers.sum(1, keepdims=True)

    own = loss.project(shown.hidden[0]).detach()
    p, q = softmax(targets.hidden[0].numpy()), softmax(own.numpy())
    np.testing.assert_allclose(found.detach(), (p * np.log(p / q)).sum(1) * 0.25**2)
    assert [name for name, _ in loss.named_parameters()] == ["project.weight", "project.bias"]


def test_a_run_trains_the_tokenizer_and_a_student_without_it():
    method = VQGRAPH(epochs=6, hidden=8, teacher_epochs=20, teacher_hidden=16, codes=40)
    *_, result = graphkd.run(method, FAKE, seed=0)
    teacher = result.trained["teacher"].network
    assert isinstance(teacher, Tokenizer)
    assert teacher.codebook.shape == (40, 16)
    assert result.teacher == "gcn"
    assert result.metrics["accuracy_teacher"] > 0.8
    parts = [type(one).__name__ for one in result.trained["student"].network.modules()]
    assert "Tokenizer" not in parts


def test_other_teachers_are_refused():
    with pytest.raises(ValueError, match="the teacher is sage; vqgraph has a gcn with codes"):
        VQGRAPH(teacher="sage")
    with pytest.raises(
        ValueError, match="vqgraph makes a teacher of its own, and another is given"
    ):
        list(graphkd.run(VQGRAPH(), FAKE, teacher=nn.Linear(2, 2)))
