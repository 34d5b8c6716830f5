"""Losses on all pairs of nodes, against Python loops and the batch losses of `kdcore`."""

import math

import pytest
import torch

from graphkd import losses
from graphkd.graph import Graph
from graphkd.losses import chunking
from kdcore.losses import relation
from kdcore.outputs import Outputs

NODES = 6


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


KERNELS = {
    "linear": lambda a, b, scale: dot(a, b),
    "cosine": lambda a, b, scale: dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)),
    "polynomial": lambda a, b, scale: dot(a, b) ** 2,
    "l2": lambda a, b, scale: -(math.dist(a, b) ** 2),
    "rbf": lambda a, b, scale: math.exp(-(math.dist(a, b) ** 2) / (2 * scale)),
}


def embedding(width, seed, nodes=NODES):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(nodes, width, generator=generator, dtype=torch.float64)


def outputs(hidden):
    return Outputs(torch.zeros(len(hidden), 3), (hidden,))


def graph(nodes=NODES):
    edges = torch.tensor([[0, 1], [1, 0]])
    return Graph(torch.zeros(nodes, 1), edges, torch.zeros(nodes, dtype=torch.long), 3)


def naive_global_structure(student, teacher, kernel, scale):
    s, t, between = student.tolist(), teacher.tolist(), KERNELS[kernel]
    n = len(s)
    values = [
        sum((between(t[i], t[j], scale) - between(s[i], s[j], scale)) ** 2 for j in range(n)) / n
        for i in range(n)
    ]
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("name", ["distance", "angle", "similarity_preserving"])
@pytest.mark.parametrize("block", [1, 2**22])
def test_relations_are_those_of_the_last_hidden_states(name, block, monkeypatch):
    monkeypatch.setattr(chunking, "BLOCK", block)
    s, t = embedding(3, 0).requires_grad_(), embedding(4, 1)
    s.data[2] = s.data[5]  # rows that coincide
    found = getattr(losses, name)(outputs(s), outputs(t), graph())
    expected = getattr(relation, name)(s, t)
    torch.testing.assert_close(found, expected)
    weights = torch.arange(1.0, NODES + 1)
    torch.testing.assert_close(
        torch.autograd.grad(found @ weights.double(), s),
        torch.autograd.grad(expected @ weights.double(), s),
    )


@pytest.mark.parametrize("kernel", losses.KERNELS)
@pytest.mark.parametrize("block", [1, 8, 2**22])
def test_global_structure_is_the_formula_pair_by_pair(kernel, block, monkeypatch):
    monkeypatch.setattr(chunking, "BLOCK", block)
    s, t = embedding(3, 0), embedding(4, 1)
    found = losses.global_structure(outputs(s), outputs(t), graph(), kernel, 0.7)
    torch.testing.assert_close(found, naive_global_structure(s, t, kernel, 0.7))


def test_global_structure_by_hand():
    # The teacher's two nodes are at right angles, the student's are parallel: of the cosines
    # 1, 0 and 1, 1 of each node one differs by 1, and the mean of the squares is 1/2.
    student = outputs(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    teacher = outputs(torch.tensor([[1.0, 0.0], [0.0, 5.0]]))
    found = losses.global_structure(student, teacher, graph(2))
    torch.testing.assert_close(found, torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize(
    ("kernel", "change"),
    [
        ("cosine", lambda h: 3 * h),
        ("rbf", lambda h: h + 7),
        ("l2", lambda h: h - 2),
        ("linear", lambda h: -h),
        ("polynomial", lambda h: h.flip(1)),
    ],
)
def test_global_structure_does_not_see_what_its_kernel_does_not(kernel, change):
    s, t = embedding(3, 0), embedding(4, 1)
    expected = losses.global_structure(outputs(s), outputs(t), graph(), kernel)
    found = losses.global_structure(outputs(change(s)), outputs(change(t)), graph(), kernel)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("loss", [losses.distance, losses.global_structure])
def test_distances_keep_their_digits_far_from_the_origin(loss):
    # Steps of 1/8 are exact in float32 at an offset of 4096; |a|^2 + |b|^2 - 2ab is not.
    settings = {"kernel": "rbf"} if loss is losses.global_structure else {}
    nodes = 40  # torch's cdist takes the formula of the products from 25 rows on, if it may
    near = torch.randint(-8, 9, (nodes, 3), generator=torch.Generator().manual_seed(2)) / 8
    teacher = outputs(embedding(4, 1, nodes))
    expected = loss(outputs(near.double()), teacher, graph(nodes), **settings)
    found = loss(outputs(near + 4096), teacher, graph(nodes), **settings)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [2, 4])
def test_structural_similarity_is_the_formula_pair_by_pair(width):
    s, t, weight = embedding(3, 0), embedding(4, 1), embedding(width, 2, 3)
    found = losses.structural_similarity(
        outputs(s), outputs(t), graph(), lambda h: (h @ weight).relu()
    )
    expected = naive_global_structure((s @ weight).relu(), t, "linear", 1.0)
    torch.testing.assert_close(found, expected)


def test_structural_similarity_without_a_projection_is_linear_global_structure():
    given = outputs(embedding(3, 0)), outputs(embedding(4, 1)), graph()
    expected = losses.global_structure(*given, kernel="linear")
    torch.testing.assert_close(losses.structural_similarity(*given), expected)


def test_structural_similarity_by_hand():
    # Inner products: the teacher's 4, 0, 9, the student's 1, 0, 1, so 3^2 / 2 and 8^2 / 2.
    student, teacher = outputs(torch.eye(2)), outputs(torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
    found = losses.structural_similarity(student, teacher, graph(2))
    torch.testing.assert_close(found, torch.tensor([4.5, 32.0]))


def test_the_rectified_projection_learns_and_the_teacher_does_not():
    s, t = (embedding(w, w).float().requires_grad_() for w in (3, 4))
    made = losses.projectors.rectified(3, 4, dropout=0.5)
    assert [type(layer).__name__ for layer in made["project"]] == ["Linear", "ReLU", "Dropout"]
    losses.structural_similarity(outputs(s), outputs(t), graph(), **made).sum().backward()
    assert all(p.grad is not None for p in made["project"].parameters())
    assert s.grad.any()
    assert t.grad is None
