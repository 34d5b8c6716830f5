"""Losses on labels and along edges, against Python loops; the contract is in tests/contracts."""

import math

import pytest
import torch

from graphkd import losses
from graphkd.graph import Graph
from kdcore.losses import response
from kdcore.outputs import Outputs

# Node 3 hears of one node only, node 4 of none; the edge between 0 and 1 is there one way.
EDGES = torch.tensor([[0, 2, 1, 3, 0, 2, 2], [1, 1, 2, 2, 2, 0, 3]])
NODES = 5


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


KERNELS = {
    "linear": lambda a, b, scale: dot(a, b),
    "cosine": lambda a, b, scale: dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)),
    "polynomial": lambda a, b, scale: dot(a, b) ** 2,
    "l2": lambda a, b, scale: -(math.dist(a, b) ** 2),
    "rbf": lambda a, b, scale: math.exp(-(math.dist(a, b) ** 2) / (2 * scale)),
}


def outputs(width, seed):
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    return Outputs(torch.randn(NODES, 3, **draw), (torch.randn(NODES, width, **draw),))


def graph(edges=EDGES, nodes=NODES):
    return Graph(torch.zeros(nodes, 1), edges, torch.zeros(nodes, dtype=torch.long), 3)


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


def softmax(values, temperature):
    weights = [math.exp(value / temperature) for value in values]
    return [weight / sum(weights) for weight in weights]


def kl(teacher, student, temperature):
    q, p = softmax(teacher, temperature), softmax(student, temperature)
    return temperature**2 * sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))


def naive_neighbours(student, teacher, edges, temperature):
    s, t = student.logits.tolist(), teacher.logits.tolist()
    values = [kl(t[i], s[i], temperature) for i in range(NODES)]
    for j, i in edges.T.tolist():
        values[i] += kl(t[j], s[i], temperature)
    return torch.tensor(values, dtype=torch.float64) * NODES / (NODES + edges.shape[1])


@pytest.mark.parametrize("kernel", losses.KERNELS)
def test_local_structure_is_the_formula_node_by_node(kernel):
    student, teacher = outputs(3, 0), outputs(4, 1)
    found = losses.local_structure(student, teacher, graph(), kernel, 0.7)
    torch.testing.assert_close(found, naive_local_structure(student, teacher, kernel, 0.7))
    assert found[3] == 0  # one neighbour: no structure
    assert found[4] == 0  # none


def test_local_structure_by_hand():
    # Node 0 has the neighbours 1 and 2. The linear kernel gives the student 0 and 0, so 1/2 each,
    # and the teacher log 3 and 0, so 3/4 and 1/4: KL = (log 2/3 + log 2) / 2 = log(4/3) / 2.
    three = graph(torch.tensor([[1, 2], [0, 0]]), 3)
    student = Outputs(None, (torch.zeros(3, 1),))
    teacher = Outputs(None, (torch.tensor([[1.0], [math.log(3)], [0.0]]),))
    found = losses.local_structure(student, teacher, three, "linear")
    torch.testing.assert_close(found, torch.tensor([math.log(4 / 3) / 2, 0, 0]))


def test_local_structure_without_edges_is_zero():
    student, teacher = outputs(3, 0), outputs(4, 1)
    student.hidden[0].requires_grad_()
    value = losses.local_structure(student, teacher, graph(EDGES[:, :0]))
    value.sum().backward()
    assert not value.any()
    assert not student.hidden[0].grad.any()


def test_local_structure_does_not_overflow():
    student, teacher = outputs(3, 0), outputs(4, 1)
    far = Outputs(student.logits, (1e4 * student.hidden[0],))
    for kernel in losses.KERNELS:
        assert losses.local_structure(far, teacher, graph(), kernel).isfinite().all()


@pytest.mark.parametrize("kernel", ["rbf", "l2"])
def test_local_structure_keeps_its_digits_far_from_the_origin(kernel):
    # Steps of 1/8 are exact in float32 at an offset of 4096, so nothing but the sums is rounded.
    generator = torch.Generator().manual_seed(2)
    near = torch.randint(-8, 9, (NODES, 3), generator=generator) / 8
    teacher = outputs(4, 1)
    found = []
    for h in (near.double(), near + 4096):
        h.requires_grad_()
        value = losses.local_structure(Outputs(None, (h,)), teacher, graph(), kernel)
        found.append((value.detach().double(), torch.autograd.grad(value.sum(), h)[0].double()))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


def test_soft_labels_are_the_formula_node_by_node():
    student, teacher = outputs(3, 0), outputs(4, 1)
    pairs = zip(student.logits.tolist(), teacher.logits.tolist(), strict=True)
    expected = torch.tensor([kl(t, s, 2.0) for s, t in pairs], dtype=torch.float64)
    found = losses.soft_labels(student, teacher, graph(), temperature=2.0)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found, response.kl(student.logits, teacher.logits, 2.0))


@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
def test_low_frequency_is_the_formula_edge_by_edge(temperature):
    student, teacher = outputs(3, 0), outputs(4, 1)
    found = losses.low_frequency(student, teacher, graph(), temperature)
    torch.testing.assert_close(found, naive_neighbours(student, teacher, EDGES, temperature))


def test_the_mean_of_low_frequency_is_the_mean_over_edges_and_loops():
    student, teacher = outputs(3, 0), outputs(4, 1)
    loops = torch.arange(NODES).expand(2, -1)
    j, i = torch.cat([EDGES, loops], 1)
    expected = response.kl(student.logits[i], teacher.logits[j]).mean()
    found = losses.low_frequency(student, teacher, graph()).mean()
    torch.testing.assert_close(found, expected)


def test_low_frequency_by_hand():
    # Nodes 0 and 1 hear of each other. The student says 1/2 and 1/2 of both, the teacher 1 and 0
    # (to rounding), so each of the 4 pairs costs log 2 and so does their mean at each node.
    edges = torch.tensor([[0, 1], [1, 0]])
    teacher = Outputs(torch.tensor([[40.0, 0.0], [0.0, 40.0]]))
    found = losses.low_frequency(Outputs(torch.zeros(2, 2)), teacher, graph(edges, 2))
    torch.testing.assert_close(found, torch.full((2,), math.log(2)))


def test_low_frequency_of_the_teacher_itself_is_zero_where_neighbours_agree():
    one = outputs(3, 0).logits[:1].expand(NODES, 3)
    found = losses.low_frequency(Outputs(one), Outputs(one), graph())
    torch.testing.assert_close(found, torch.zeros(NODES, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_high_frequency_is_the_formula_edge_by_edge(temperature):
    student, teacher = outputs(3, 0), outputs(4, 1)
    s, t = student.logits.tolist(), teacher.logits.tolist()
    values = [0.0] * NODES
    for j, i in EDGES.T.tolist():
        own = [abs(a - b) for a, b in zip(s[i], s[j], strict=True)]
        taught = [abs(a - b) for a, b in zip(t[i], t[j], strict=True)]
        values[i] += kl(taught, own, temperature) * NODES / EDGES.shape[1]
    found = losses.high_frequency(student, teacher, graph(), temperature)
    torch.testing.assert_close(found, torch.tensor(values, dtype=torch.float64))
    assert found[4] == 0  # no neighbours


def test_high_frequency_does_not_see_what_all_nodes_have_in_common():
    student, teacher = outputs(3, 0), outputs(4, 1)
    moved = Outputs(student.logits + torch.tensor([5.0, -1.0, 2.0]), student.hidden)
    expected = losses.high_frequency(student, teacher, graph())
    torch.testing.assert_close(losses.high_frequency(moved, teacher, graph()), expected)
    assert not losses.high_frequency(student, teacher, graph(EDGES[:, :0])).any()


def test_reliable_labels_are_the_formula_over_the_kept_edges():
    student, teacher = outputs(3, 0), outputs(4, 1)
    kept = torch.tensor([True, False, True, True, False, False, True])
    found = losses.reliable_labels(student, teacher, graph(), kept, 0.8)
    torch.testing.assert_close(found, naive_neighbours(student, teacher, EDGES[:, kept], 0.8))


def test_reliable_labels_lie_between_soft_labels_and_low_frequency():
    student, teacher = outputs(3, 0), outputs(4, 1)
    for kept, same in ((True, losses.low_frequency), (False, losses.soft_labels)):
        edges = torch.full((EDGES.shape[1],), kept)
        found = losses.reliable_labels(student, teacher, graph(), edges, 1.3)
        torch.testing.assert_close(found, same(student, teacher, graph(), 1.3))


def test_labels_that_are_certain_give_finite_values():
    student, teacher = outputs(3, 0), outputs(4, 1)
    sure = [Outputs(1e4 * shown.logits) for shown in (student, teacher)]
    for loss in (losses.soft_labels, losses.low_frequency, losses.high_frequency):
        assert loss(*sure, graph()).isfinite().all()


def test_what_a_teacher_rules_out_around_a_node_costs_nothing():
    """Nodes 0 and 1 hear of each other; nobody believes in class 2, and the teacher is sure."""
    never, edges = -math.inf, torch.tensor([[0, 1], [1, 0]])
    student = torch.tensor([[0.0, 0.0, never], [0.0, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, never, never], [0.0, 0.0, never]])
    given, both = (Outputs(student), Outputs(teacher)), torch.ones(2, dtype=torch.bool)
    # KL of (1, 0) and (1/2, 1/2) from (1/2, 1/2) is log 2 and 0; from thirds, log 3 and log 3/2.
    own = torch.tensor([math.log(2), math.log(1.5)])
    around = torch.tensor([math.log(2), math.log(3) + math.log(1.5)]) / 2
    for value, expected in (
        (losses.soft_labels(*given, graph(edges, 2)), own),
        (losses.low_frequency(*given, graph(edges, 2)), around),
        (losses.reliable_labels(*given, graph(edges, 2), both), around),
        (losses.reliable_labels(*given, graph(edges, 2), ~both), own),
    ):
        torch.testing.assert_close(value, expected)
        (gradient,) = torch.autograd.grad(value.sum(), student)
        assert gradient.isfinite().all()
    denied = Outputs(torch.tensor([[never, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    assert losses.low_frequency(denied, given[1], graph(edges, 2))[0] == math.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_on_16_bits_are_those_in_float32_rounded(dtype):
    both = outputs(3, 0), outputs(4, 1)
    half = [Outputs(shown.logits.to(dtype), (shown.hidden[0].to(dtype),)) for shown in both]
    wide = [Outputs(o.logits.float(), (o.hidden[0].float(),)) for o in half]
    for loss in (losses.soft_labels, losses.low_frequency, losses.high_frequency):
        found = loss(*half, graph(), 20.0)
        assert found.dtype == dtype
        assert torch.equal(found, loss(*wide, graph(), 20.0).to(dtype))
    found = losses.local_structure(*half, graph())
    assert torch.equal(found, losses.local_structure(*wide, graph()).to(dtype))


def test_errors_say_the_way_out():
    student, bare = outputs(3, 0), Outputs(torch.zeros(NODES, 3))
    with pytest.raises(ValueError, match="teacher shows no hidden state"):
        losses.distance(student, bare, graph())
    for loss in (losses.local_structure, losses.global_structure):
        with pytest.raises(ValueError, match="unknown kernel 'rbff'; did you mean 'rbf'"):
            loss(student, student, graph(), kernel="rbff")
        with pytest.raises(ValueError, match="scale is 0"):
            loss(student, student, graph(), scale=0)
    for loss in (losses.soft_labels, losses.low_frequency, losses.high_frequency):
        with pytest.raises(ValueError, match="temperature is 0"):
            loss(student, student, graph(), temperature=0)
        with pytest.raises(ValueError, match=r"shape \(5, 3\) and teacher \(5, 2\).*same classes"):
            loss(student, Outputs(torch.zeros(NODES, 2)), graph())
    for kept in (torch.ones(7), torch.ones(6, dtype=torch.bool)):
        with pytest.raises(ValueError, match="expected a truth value for each of the 7 edges"):
            losses.reliable_labels(student, student, graph(), kept)
