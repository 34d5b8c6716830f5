"""TINED against loops over edges and nodes."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import graphkd
from graphkd import methods
from graphkd.core import StudentSpec
from graphkd.data import datasets, splits
from graphkd.method import DistillationContext
from graphkd.methods import tined
from graphkd.models import networks
from graphkd.ops.edges import simple
from graphkd.training.loop import descend, finish, fit, predict, seeded

FAKE = replace(datasets.fake(size=25), x=datasets.fake(size=25).x.double())
SPLIT = splits.withheld(FAKE, 0, 5, 5)
VIEW = SPLIT.view("distill")
SOFT = VIEW.part("soft")
SIZES = {"hidden": 8, "teacher_hidden": 8}


def context(teacher="sage", width=8, **settings):
    method = methods.get("tined")(
        **{"hidden": width, "teacher_hidden": width, "teacher": teacher, "energy_weight": 1.0}
        | {"edge_share": 1.0, "injected_share": 0.5, "hard_weight": 0.25, "start": "identity"}
        | settings
    )
    with seeded(0, torch.device("cpu"), "test"):
        known = networks.build(teacher, FAKE, width, 2, 0.0).eval()
        student = method.build(networks.build("mlp", FAKE, width, 2, 0.0), FAKE).to(FAKE.x)
    targets = predict(known, VIEW.graph)
    return method, DistillationContext(student, VIEW, known, VIEW.graph, targets, 0)


def unit(row):
    """A row as a direction; of zeros nothing can be made."""
    return row.detach() / row.detach().norm() if row.any() else row.detach()


def energy(h):
    """The sum over the edges among nodes that are taught, as the definition has it."""
    taught, total = set(SOFT.tolist()), 0.0
    for i, j in simple(VIEW.graph.edge_index, len(h)).T.tolist():
        if i < j and i in taught and j in taught:
            total += float((unit(h[i]) - unit(h[j])).square().sum())
    return total


def propagated(h, teacher):
    """A mean over neighbours and the node itself, or the sum that a GCN weighs by degrees."""
    near = [{i} for i in range(len(h))]
    for j, i in VIEW.graph.edge_index.T.tolist():
        near[i].add(j)
    rows = []
    for around in near:
        own = [
            1 / len(around) if teacher == "sage" else (len(around) * len(near[j])) ** -0.5
            for j in around
        ]
        rows.append(sum(w * h[j] for w, j in zip(own, around, strict=True)))
    return torch.stack(rows)


@pytest.mark.parametrize(("teacher", "width"), [("sage", 8), ("gcn", 8), ("sage", 16)])
def test_the_energies_are_those_of_loops_over_edges(teacher, width):
    method, given = context(teacher, width)
    method.begin(given)
    _, smoothing = method.terms(given)
    assert smoothing.weight == 1.0
    network = given.teacher
    maps = [
        (one.lin_l.weight, one.lin_l.bias) if teacher == "sage" else (one.lin.weight, one.bias)
        for one in network.layers
    ]
    h, theirs = VIEW.graph.x, []
    for weight, bias in maps:
        narrows = weight.shape[1] > weight.shape[0]
        inner = h @ weight.T if narrows else propagated(h, teacher)
        outer = propagated(inner, teacher) if narrows else inner @ weight.T
        theirs += [energy(inner) / energy(h), energy(outer) / energy(inner)]
        h = (outer + bias).relu()
    torch.testing.assert_close(outer + bias, predict(network, VIEW.graph).logits)
    h, ours = VIEW.graph.x, []
    for layer in given.student.layers:
        after = h @ layer.weight.T + layer.bias
        ours.append(energy(after) / energy(h))
        h = after.relu()
    expected = sum(
        (math.log(math.sqrt(a)) - math.log(math.sqrt(b))) ** 2
        for a, b in zip(ours, theirs, strict=True)
    )
    value = smoothing.loss(None, None, None).detach()
    assert float(value) == pytest.approx(expected, rel=1e-9)
    assert expected > 0.01


def test_the_student_has_the_teachers_maps_in_their_place_and_identities_for_the_rest():
    method, given = context(width=8)
    assert [tuple(layer.weight.shape) for layer in given.student.layers] == [
        (8, 12),
        (8, 8),
        (3, 8),
        (3, 3),
    ]
    wide = context(width=16)[1].student  # does not narrow at first: the propagation comes before
    assert [tuple(layer.weight.shape) for layer in wide.layers] == [
        (12, 12),
        (16, 12),
        (3, 16),
        (3, 3),
    ]
    method.begin(given)
    first, mean, second, last = given.student.layers
    for own, theirs in zip((first, second), given.teacher.layers, strict=True):
        assert torch.equal(own.weight, theirs.lin_l.weight)
        assert torch.equal(own.bias, theirs.lin_l.bias)
    for own in (mean, last):
        assert torch.equal(own.weight, torch.eye(len(own.weight)).double())
        assert not own.bias.any()
    drawn = context(start="random")[1].student.layers[1]
    assert not torch.equal(drawn.weight, torch.eye(8).double())


def test_a_share_of_the_edges_is_drawn_anew_for_each_step():
    method, given = context(edge_share=0.5)
    _, smoothing = method.terms(given)
    assert smoothing.loss.count == len(smoothing.loss.places) // 2
    found = {float(smoothing.loss(None, None, None).detach()) for _ in range(5)}
    assert len(found) == 5
    whole = context()[0].terms(given)[1].loss
    assert sum(found) / 5 == pytest.approx(float(whole(None, None, None).detach()), rel=0.5)


def test_a_layer_without_energy_counts_as_one_that_does_not_smooth():
    none = torch.tensor(0.0)
    assert float(tined._log_ratio(none, none + 1)) == 0
    assert float(tined._log_ratio(none + 2, none)) == 0
    assert float(tined._log_ratio(none + 2, none + 1)) == pytest.approx(math.log(1 / 2))


def test_the_teachers_maps_learn_at_their_share_of_the_rate():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).double()
    network[0].rate_share = 0.25
    start = [one.weight.detach().clone() for one in network]
    spec = StudentSpec("mlp", 2, 2, 0.0, 0.1, 0.0, epochs=1, patience=1, batch=0)

    def step(module, optimiser, draw):
        return descend(sum(p.sum() for p in module.parameters()), optimiser)

    class Shown(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, graph, nodes=None):
            return predict(networks.build("mlp", FAKE, 2, 2, 0.0), FAKE)

    finish(fit("student", Shown(), spec, FAKE, torch.arange(len(FAKE.y)), step, 0))
    moved = [(before - one.weight.detach()) for before, one in zip(start, network, strict=True)]
    torch.testing.assert_close(moved[0], torch.full((2, 2), 0.025).double())  # a step of Adam's
    torch.testing.assert_close(moved[1], torch.full((2, 2), 0.1).double())


def test_networks_that_do_not_fit_are_refused_before_any_training():
    make = methods.get("tined")
    for settings, message in (
        ({"student": "gcn"}, "teacher is sage and the student gcn; .* into an mlp"),
        ({"teacher": "gat"}, "teacher is gat .* of a gcn or sage"),
        ({"teacher": "sage+gcn"}, "teacher is sage"),
        ({"hidden": 64}, "hidden is 64 and teacher_hidden 128; .*give both"),
        ({"layers": 3}, "layers is 3 and teacher_layers 2; .*give both"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**settings)
    with pytest.raises(ValueError, match="hidden is 128 and teacher_hidden 64"):
        list(graphkd.run(make(teacher_hidden=64), SPLIT))
    table = graphkd.TeacherLogits(torch.zeros(len(FAKE.y), 3))
    with pytest.raises(ValueError, match="copies the linear maps of a gcn or sage"):
        list(graphkd.run(make(**SIZES), SPLIT, teacher=table))
    with pytest.raises(ValueError, match="needs the inputs 'features'"):
        list(graphkd.run(make(inputs="positions", epochs=1, teacher_epochs=1, **SIZES), SPLIT))
