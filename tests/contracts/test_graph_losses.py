"""What every graph loss and every graph method promises; they are found, not listed."""

import dataclasses
import inspect
import re

import pytest
import torch
from torch.autograd import gradcheck

import graphkd
from graphkd import data, losses, methods
from graphkd.core import Epoch
from graphkd.graph import Graph
from knowledge.outputs import Outputs

NODES = 6
# Node 5 has no edges; the edge from 0 to 1 runs one way.
EDGES = torch.tensor([[0, 2, 1, 3, 0, 2, 2, 4, 3, 4], [1, 1, 2, 2, 2, 0, 3, 3, 4, 2]])
GRAPH = Graph(torch.zeros(NODES, 1), EDGES, torch.zeros(NODES, dtype=torch.long), 3)
FAKE = data.fake()


def found():
    return [
        function
        for name, function in inspect.getmembers(losses, inspect.isfunction)
        if function.__module__ == losses.__name__ and name in losses.__all__
    ]


def variants():
    """Every loss, and every kernel of the one that has kernels."""
    cases = []
    for loss in found():
        kernels = losses.KERNELS if "kernel" in inspect.signature(loss).parameters else [None]
        for kernel in kernels:
            name = loss.__name__ if kernel is None else f"{loss.__name__}-{kernel}"
            settings = {} if kernel is None else {"kernel": kernel}
            cases.append(pytest.param(loss, settings, id=name))
    return cases


def outputs(seed, width=4):
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64, "requires_grad": True}
    return Outputs(torch.randn(NODES, 3, **draw), (torch.randn(NODES, width, **draw),))


def tensors(shown):
    return [shown.logits, *shown.hidden]


every_loss = pytest.mark.parametrize(("loss", "settings"), variants())
every_method = pytest.mark.parametrize("name", methods.names())


def test_losses_are_found():
    assert {"soft_labels", "local_structure", "distance", "angle"} <= {f.__name__ for f in found()}


@every_loss
def test_one_finite_value_a_node_and_the_same_ones_again(loss, settings):
    student, teacher = outputs(0), outputs(1, width=5)
    value = loss(student, teacher, GRAPH, **settings)
    assert value.shape == (NODES,)
    assert value.isfinite().all()
    assert (value >= -1e-12).all()
    assert torch.equal(value, loss(student, teacher, GRAPH, **settings))


@every_loss
def test_no_loss_and_no_gradient_where_the_student_is_the_teacher(loss, settings):
    student = outputs(0)
    teacher = Outputs(*(value.detach().clone() for value in [student.logits]), student.hidden)
    value = loss(student, teacher, GRAPH, **settings)
    torch.testing.assert_close(value, torch.zeros(NODES, dtype=torch.float64))
    value.sum().backward()
    for tensor in tensors(student):
        if tensor.grad is not None:
            torch.testing.assert_close(tensor.grad, torch.zeros_like(tensor))


@every_loss
def test_only_the_student_gets_a_gradient(loss, settings):
    student, teacher = outputs(0), outputs(1)
    loss(student, teacher, GRAPH, **settings).sum().backward()
    assert any(tensor.grad is not None and tensor.grad.any() for tensor in tensors(student))
    assert all(tensor.grad is None for tensor in tensors(teacher))


@every_loss
def test_the_gradient_is_that_of_the_value(loss, settings):
    teacher = outputs(1, width=5)

    def value(logits, hidden):
        return loss(Outputs(logits, (hidden,)), teacher, GRAPH, **settings)

    assert gradcheck(value, tuple(tensors(outputs(0))))


@every_loss
def test_relabelled_nodes_have_relabelled_values(loss, settings):
    student, teacher = outputs(0), outputs(1)
    order = torch.tensor([3, 5, 0, 4, 1, 2])
    moved = [Outputs(s.logits[order], (s.hidden[0][order],)) for s in (student, teacher)]
    expected = loss(student, teacher, GRAPH, **settings)[order]
    torch.testing.assert_close(loss(*moved, GRAPH.subgraph(order), **settings), expected)


@every_loss
def test_some_of_the_nodes_are_a_graph_of_their_own(loss, settings):
    student, teacher = outputs(0), outputs(1)
    nodes = torch.tensor([4, 2, 3, 1])
    few = [Outputs(s.logits[nodes], (s.hidden[0][nodes],)) for s in (student, teacher)]
    expected = loss(*few, GRAPH.subgraph(nodes), **settings)
    torch.testing.assert_close(loss(*few, GRAPH.take(nodes), **settings), expected)


@every_method
def test_methods_link_their_paper_and_give_the_loss(name):
    text = inspect.getdoc(methods.get(name))
    assert re.search(r"https?://\S+", text)
    assert re.search(r"^\s+L = ", text, re.MULTILINE)


@every_method
@pytest.mark.parametrize("protocol", graphkd.splits.PROTOCOLS)
def test_a_method_runs_and_the_same_seed_gives_the_same_run(name, protocol):
    method = methods.get(name)(epochs=6, hidden=8, teacher_hidden=8)
    records = list(graphkd.run(method, FAKE, protocol, seed=5))
    assert all(isinstance(record, Epoch) for record in records[:-1])
    result = records[-1]
    assert (result.method, result.data, result.protocol, result.seed) == (name, "fake", protocol, 5)
    assert all(0 <= value <= 1 for value in result.metrics.values())
    assert {"accuracy", "accuracy_baseline", "calibration_error"} <= set(result.metrics)
    assert records == list(graphkd.run(method, FAKE, protocol, seed=5))
    assert records != list(graphkd.run(method, FAKE, protocol, seed=6))


@every_method
def test_a_method_teaches_every_kind_of_student(name):
    for student in graphkd.networks.names():
        method = methods.get(name)(student=student, epochs=2, hidden=8, teacher_hidden=8)
        *_, last = graphkd.run(method, FAKE)
        assert last.metrics["accuracy"] > 0


@pytest.mark.parametrize("name", [n for n in methods.names() if methods.get(n)().terms()])
def test_a_method_with_a_teacher_reports_it_and_the_student_alone(name):
    *_, last = graphkd.run(name, FAKE)
    metrics = last.metrics
    assert {"accuracy_teacher", "agreement"} <= set(metrics)
    assert metrics["accuracy_teacher"] > metrics["accuracy_baseline"]


@every_method
def test_a_method_cannot_be_changed(name):
    with pytest.raises(dataclasses.FrozenInstanceError):
        methods.get(name)().epochs = 3
