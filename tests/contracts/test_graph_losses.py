"""What every graph loss promises; they are found, not listed: a new one is tested at once."""

import inspect

import pytest
import torch
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from graphkd import losses
from graphkd.graph import Graph
from graphkd.losses import chunking
from kdcore.outputs import Outputs

NODES = 6
# Node 5 has no edges; the edge from 0 to 1 runs one way.
EDGES = torch.tensor([[0, 2, 1, 3, 0, 2, 2, 4, 3, 4], [1, 1, 2, 2, 2, 0, 3, 3, 4, 2]])
GRAPH = Graph(torch.zeros(NODES, 1), EDGES, torch.zeros(NODES, dtype=torch.long), 3)


NOT_ZERO = "Not 0 where the student is the teacher"  # what a loss of another minimum has to say


def fixed_map(student, teacher, graph):
    """None for equal widths, else a linear map from the student's width to the teacher's."""
    narrow, wide = student.hidden[-1].shape[1], teacher.hidden[-1].shape[1]
    if narrow == wide:
        return None
    weight = torch.randn(narrow, wide, generator=torch.Generator().manual_seed(9))
    return lambda h: h @ weight.to(h.dtype)


# Arguments beside student, teacher and graph, by name: those without a default, and projections.
ARGUMENTS = {
    "kept": lambda student, teacher, graph: torch.arange(graph.edge_index.shape[1]) % 3 != 1,
    "project": fixed_map,
}


def call(loss, student, teacher, graph, **settings):
    """The loss, with all that it needs beside student, teacher and graph."""
    parameters = list(inspect.signature(loss).parameters.values())[3:]
    needed = [p.name for p in parameters if p.default is inspect.Parameter.empty]
    unknown = [name for name in needed if name not in ARGUMENTS]
    if unknown:
        pytest.fail(
            f"{loss.__name__} takes {unknown}, which this contract cannot make: add a maker to "
            f"ARGUMENTS in {__file__} (it knows {sorted(ARGUMENTS)})"
        )
    made = {p.name: ARGUMENTS[p.name] for p in parameters if p.name in ARGUMENTS}
    made = {name: maker(student, teacher, graph) for name, maker in made.items()}
    return loss(student, teacher, graph, **made, **settings)


def found():
    return [
        function
        for name, function in inspect.getmembers(losses, inspect.isfunction)
        if name in losses.__all__
    ]


def variants():
    """Every loss, and every kernel of those that have kernels."""
    cases = []
    for loss in found():
        kernels = losses.KERNELS if "kernel" in inspect.signature(loss).parameters else [None]
        for kernel in kernels:
            name = loss.__name__ if kernel is None else f"{loss.__name__}-{kernel}"
            settings = {} if kernel is None else {"kernel": kernel}
            cases.append(pytest.param(loss, settings, id=name))
    return cases


def outputs(seed, width=4, nodes=NODES, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": dtype, "requires_grad": True}
    return Outputs(torch.randn(nodes, 3, **draw), (torch.randn(nodes, width, **draw),))


def tensors(shown):
    return [shown.logits, *shown.hidden]


def copies(shown):
    """The same numbers in tensors of their own."""
    logits, hidden = (tensor.detach().clone().requires_grad_() for tensor in tensors(shown))
    return Outputs(logits, (hidden,))


def gradients(value, shown):
    found = torch.autograd.grad(value.sum(), tensors(shown), allow_unused=True)
    return [gradient for gradient in found if gradient is not None]


class Largest(TorchDispatchMode):
    """The largest tensor that any operation gives, in numbers."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if (
            isinstance(result, torch.Tensor) and result.layout == torch.strided
        ):  # views, such as those of `expand`, hold nothing
            self.numbers = max(self.numbers, result.untyped_storage().nbytes() // 8)
        return result


every_loss = pytest.mark.parametrize(("loss", "settings"), variants())


def test_losses_are_found():
    names = {function.__name__ for function in found()}
    assert names == set(losses.__all__)
    assert {"soft_labels", "local_structure", "distance", "angle", "contrastive"} <= names


def test_an_argument_of_a_new_name_fails_and_says_what_to_add():
    def loss(student, teacher, graph, mystery):
        return student

    with pytest.raises(pytest.fail.Exception, match=r"mystery.*ARGUMENTS"):
        call(loss, outputs(0), outputs(1), GRAPH)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_finite_value_a_node_and_the_same_ones_again(loss, settings, dtype):
    student, teacher = outputs(0, dtype=dtype), outputs(1, width=5, dtype=dtype)
    state = torch.get_rng_state()
    value = call(loss, student, teacher, GRAPH, **settings)
    assert value.shape == (NODES,)
    assert value.dtype == dtype
    assert value.isfinite().all()
    assert (value >= (-1e-12 if dtype == torch.float64 else -1e-5)).all()
    assert torch.equal(value, call(loss, student, teacher, GRAPH, **settings))
    assert torch.equal(torch.get_rng_state(), state)


@every_loss
def test_no_loss_and_no_gradient_where_the_student_is_the_teacher(loss, settings):
    student = outputs(0)
    value = call(loss, student, copies(student), GRAPH, **settings)
    if NOT_ZERO in " ".join(inspect.getdoc(loss).split()):
        assert value.mean() > 0.01
        return
    torch.testing.assert_close(value, torch.zeros(NODES, dtype=torch.float64))
    for gradient in gradients(value, student):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@every_loss
def test_only_the_student_gets_a_gradient(loss, settings):
    student, teacher = outputs(0), outputs(1, width=5)
    call(loss, student, teacher, GRAPH, **settings).sum().backward()
    assert any(tensor.grad is not None and tensor.grad.any() for tensor in tensors(student))
    assert all(tensor.grad is None for tensor in tensors(teacher))


@every_loss
@pytest.mark.parametrize("block", [None, 7])
def test_the_gradient_is_that_of_the_value(loss, settings, block, monkeypatch):
    if block is not None:
        monkeypatch.setattr(chunking, "BLOCK", block)
    teacher = outputs(1, width=5)

    def value(logits, hidden):
        return call(loss, Outputs(logits, (hidden,)), teacher, GRAPH, **settings)

    assert gradcheck(value, tuple(tensors(outputs(0))))


@every_loss
@pytest.mark.parametrize("block", [1, 7, 13])
def test_blocks_of_any_size_give_the_same_value_and_gradient(loss, settings, block, monkeypatch):
    student, teacher = outputs(0), outputs(1, width=5)
    whole = call(loss, student, teacher, GRAPH, **settings)
    expected = gradients(whole, student)
    monkeypatch.setattr(chunking, "BLOCK", block)
    value = call(loss, student, teacher, GRAPH, **settings)
    torch.testing.assert_close(value, whole)
    torch.testing.assert_close(gradients(value, student), expected)


@every_loss
def test_nothing_as_large_as_the_pairs_or_the_edges_times_features_is_held(
    loss, settings, monkeypatch
):
    if loss is losses.angle:
        pytest.skip("in blocks of its own, tested with kdcore.losses.relation")
    monkeypatch.setattr(chunking, "BLOCK", 2**12)
    nodes, width, edges = 300, 16, 4000
    draw = torch.Generator().manual_seed(2)
    ends = torch.randint(nodes, (2, edges), generator=draw)
    large = Graph(torch.zeros(nodes, 1), ends, torch.zeros(nodes, dtype=torch.long), 3)
    student, teacher = outputs(0, width, nodes), outputs(1, width, nodes)
    with Largest() as largest:
        call(loss, student, teacher, large, **settings).sum().backward()
    assert largest.numbers <= 4 * (edges + nodes)  # ends of edges, both ways; N D is less


@every_loss
def test_relabelled_nodes_have_relabelled_values(loss, settings):
    student, teacher = outputs(0), outputs(1)
    order = torch.tensor([3, 5, 0, 4, 1, 2])
    moved = [Outputs(s.logits[order], (s.hidden[0][order],)) for s in (student, teacher)]
    expected = call(loss, student, teacher, GRAPH, **settings)[order]
    found = call(loss, *moved, GRAPH.subgraph(order), **settings)
    torch.testing.assert_close(found, expected)


@every_loss
def test_some_of_the_nodes_are_a_graph_of_their_own(loss, settings):
    student, teacher = outputs(0), outputs(1)
    nodes = torch.tensor([4, 2, 3, 1])
    few = [Outputs(s.logits[nodes], (s.hidden[0][nodes],)) for s in (student, teacher)]
    expected = call(loss, *few, GRAPH.subgraph(nodes), **settings)
    torch.testing.assert_close(call(loss, *few, GRAPH.take(nodes), **settings), expected)


@every_loss
@pytest.mark.parametrize("same", [0.0, 1.0])
def test_gradients_are_finite_without_edges_and_where_all_nodes_are_the_same(loss, settings, same):
    alone = Graph(GRAPH.x, EDGES[:, :0], GRAPH.y, 3)
    flat = [torch.full((NODES, width), same).requires_grad_() for width in (3, 4)]
    student, teacher = Outputs(flat[0], (flat[1],)), outputs(1, dtype=torch.float32)
    for graph in (alone, GRAPH):
        for taught in (teacher, copies(student)):
            value = call(loss, student, taught, graph, **settings)
            assert value.isfinite().all()
            if value.requires_grad:
                assert all(gradient.isfinite().all() for gradient in gradients(value, student))


@every_loss
def test_one_node_has_a_value_or_an_error_that_says_how_many_are_needed(loss, settings):
    one = Graph(torch.zeros(1, 1), EDGES[:, :0], torch.zeros(1, dtype=torch.long), 3)
    student, teacher = outputs(0, nodes=1), outputs(1, nodes=1)
    if "N >=" in inspect.getdoc(loss):
        with pytest.raises(ValueError, match=r"N = 1 .*at least [23]"):
            call(loss, student, teacher, one, **settings)
    else:
        value = call(loss, student, teacher, one, **settings)
        assert value.shape == (1,)
        assert value.isfinite().all()


@every_loss
def test_outputs_of_other_nodes_are_refused(loss, settings):
    for student, teacher in ((5, 5), (5, NODES), (NODES, 5)):
        given = [outputs(0, nodes=student), outputs(1, nodes=teacher)]
        with pytest.raises(ValueError, match="expected|have to be"):
            call(loss, *given, GRAPH, **settings)


@every_loss
def test_a_network_without_hidden_states_is_refused_where_they_are_compared(loss, settings):
    student, teacher = outputs(0), outputs(1)
    uses = gradients(call(loss, student, teacher, GRAPH, **settings), Outputs(student.logits))
    if uses:
        return
    for side in ("student", "teacher"):
        given = {"student": student, "teacher": teacher}
        given[side] = Outputs(given[side].logits)
        with pytest.raises(ValueError, match=f"{side} shows no hidden state.*2 layers"):
            loss(*given.values(), GRAPH, **settings)
