"""Each loss against Python loops over the paper's formula; the contract is in tests/contracts."""

import math

import pytest
import torch

from graphkd import losses
from graphkd.graph import Graph
from knowledge import relation, response
from knowledge.outputs import Outputs

# Node 3 hears of one node only, node 4 of none; the edge between 0 and 1 is there one way.
EDGES = torch.tensor([[0, 2, 1, 3, 0, 2, 2], [1, 1, 2, 2, 2, 0, 3]])
NODES = 5

KERNELS = {
    "linear": lambda a, b, scale: sum(x * y for x, y in zip(a, b, strict=True)),
    "polynomial": lambda a, b, scale: sum(x * y for x, y in zip(a, b, strict=True)) ** 2,
    "l2": lambda a, b, scale: -(math.dist(a, b) ** 2),
    "rbf": lambda a, b, scale: math.exp(-(math.dist(a, b) ** 2) / (2 * scale)),
}


def outputs(width, seed):
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    return Outputs(torch.randn(NODES, 3, **draw), (torch.randn(NODES, width, **draw),))


def graph():
    return Graph(torch.zeros(NODES, 1), EDGES, torch.zeros(NODES, dtype=torch.long), 3)


def structure(h, neighbours, i, kernel, scale):
    weights = {j: math.exp(kernel(h[i], h[j], scale)) for j in neighbours}
    return {j: weight / sum(weights.values()) for j, weight in weights.items()}


def naive_local_structure(student, teacher, kernel, scale):
    s, t = student.hidden[-1].tolist(), teacher.hidden[-1].tolist()
    values = []
    for i in range(NODES):
        neighbours = [j for j, to in EDGES.T.tolist() if to == i]
        own = structure(s, neighbours, i, KERNELS[kernel], scale)
        taught = structure(t, neighbours, i, KERNELS[kernel], scale)
        values.append(sum(own[j] * math.log(own[j] / taught[j]) for j in neighbours))
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("kernel", losses.KERNELS)
@pytest.mark.parametrize("chunk", [1, 9, 2**16])
def test_local_structure_is_the_formula_node_by_node(kernel, chunk, monkeypatch):
    monkeypatch.setattr(losses, "CHUNK", chunk)
    student, teacher = outputs(3, 0), outputs(4, 1)
    found = losses.local_structure(student, teacher, graph(), kernel, 0.7)
    torch.testing.assert_close(found, naive_local_structure(student, teacher, kernel, 0.7))
    assert found[3] == 0  # one neighbour: no structure
    assert found[4] == 0  # none


def test_local_structure_by_hand():
    # Node 0 has the neighbours 1 and 2. The linear kernel gives the student 0 and 0, so 1/2 each,
    # and the teacher log 3 and 0, so 3/4 and 1/4: KL = (log 2/3 + log 2) / 2 = log(4/3) / 2.
    edges = torch.tensor([[1, 2], [0, 0]])
    three = Graph(torch.zeros(3, 1), edges, torch.zeros(3, dtype=torch.long), 3)
    student = Outputs(None, (torch.zeros(3, 1),))
    teacher = Outputs(None, (torch.tensor([[1.0], [math.log(3)], [0.0]]),))
    found = losses.local_structure(student, teacher, three, "linear")
    torch.testing.assert_close(found, torch.tensor([math.log(4 / 3) / 2, 0, 0]))


def test_local_structure_without_edges_is_zero():
    student, teacher = outputs(3, 0), outputs(4, 1)
    student.hidden[0].requires_grad_()
    alone = Graph(torch.zeros(NODES, 1), EDGES[:, :0], torch.zeros(NODES).long(), 3)
    value = losses.local_structure(student, teacher, alone)
    value.sum().backward()
    assert not value.any()
    assert not student.hidden[0].grad.any()


def test_local_structure_does_not_overflow():
    student, teacher = outputs(3, 0), outputs(4, 1)
    far = Outputs(student.logits, (1e4 * student.hidden[0],))
    for kernel in losses.KERNELS:
        assert losses.local_structure(far, teacher, graph(), kernel).isfinite().all()


def test_soft_labels_are_the_formula_node_by_node():
    student, teacher = outputs(3, 0), outputs(4, 1)
    expected = []
    for s, t in zip(student.logits.tolist(), teacher.logits.tolist(), strict=True):
        p = [math.exp(v / 2) / sum(math.exp(w / 2) for w in s) for v in s]
        q = [math.exp(v / 2) / sum(math.exp(w / 2) for w in t) for v in t]
        expected.append(4 * sum(b * math.log(b / a) for a, b in zip(p, q, strict=True)))
    found = losses.soft_labels(student, teacher, graph(), temperature=2.0)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(found, response.kl(student.logits, teacher.logits, 2.0))


@pytest.mark.parametrize("name", ["distance", "angle", "similarity_preserving"])
def test_relations_are_those_of_the_last_hidden_states(name):
    student, teacher = outputs(3, 0), outputs(4, 1)
    found = getattr(losses, name)(student, teacher, graph())
    expected = getattr(relation, name)(student.hidden[-1], teacher.hidden[-1])
    torch.testing.assert_close(found, expected)


def test_errors_say_the_way_out():
    student, bare = outputs(3, 0), Outputs(torch.zeros(NODES, 3))
    with pytest.raises(ValueError, match="teacher shows no hidden state"):
        losses.distance(student, bare, graph())
    with pytest.raises(ValueError, match="unknown kernel 'rbff'.*did you mean rbf"):
        losses.local_structure(student, student, graph(), kernel="rbff")
    with pytest.raises(ValueError, match="scale is 0"):
        losses.local_structure(student, student, graph(), scale=0)
