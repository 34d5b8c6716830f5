from dataclasses import replace

import pytest
import torch
from torch import nn

from graphkd.core import TeacherSpec
from graphkd.data import datasets
from graphkd.graph import Graph
from graphkd.training import loop, stacked
from graphkd.training.stacked import Member, Pass
from kdcore.losses import response
from kdcore.rng import generator

DENSE = datasets.fake(size=30)
SPARSE = Graph(
    torch.cat([torch.eye(90), torch.eye(3)[DENSE.y]], 1), DENSE.edge_index, DENSE.y, 3, "sparse"
)
OTHER = datasets.fake(size=25, seed=1)


def description(network, **changes):
    return TeacherSpec(network, 16, 2, 0.5, 0.01, 5e-3, 25, 6)._replace(**changes)


def nodes(graph, seed, purpose, count):
    return torch.randperm(graph.num_nodes, generator=generator(seed, purpose))[:count]


def taught(graph, train, batch=30):
    """Batches of all nodes, each with all labelled ones beside it, as students of GLNN have."""
    targets = torch.eye(3)[graph.y] * 2

    def passes(draw):
        for chosen in torch.randperm(graph.num_nodes, generator=draw).split(batch)[:-1]:

            def loss(outputs, chosen=chosen):
                own = outputs.logits[: len(chosen)]
                soft = response.kl(own, targets[chosen], 2.0).mean()
                hard = response.cross_entropy(outputs.logits[len(chosen) :], graph.y[train])
                extra = torch.rand((), generator=draw) * outputs.hidden[-1].square().mean()
                return soft + hard.mean() + 0.01 * extra

            yield Pass(torch.cat([chosen, train]), loss)

    return passes


def everywhere(graph, _):
    return lambda draw: [Pass(None, lambda out: response.cross_entropy(out.logits, graph.y).mean())]


def lessons(kind, graph, train):
    return {"labels": stacked.labels, "batches": taught, "all": everywhere}[kind](graph, train)


def members(how, graphs, kind):
    found = []
    for seed, graph in enumerate(graphs):
        network = loop.build(how, graph, seed, "student")
        train, val = nodes(graph, seed, "train", 12), nodes(graph, seed, "val", 15)
        found.append(Member(network, graph, val, lessons(kind, graph, train), seed))
    return found


def together(phase, how, chosen):
    epochs = [[] for _ in chosen]
    fitting = stacked.fit(phase, how, chosen)
    while True:
        try:
            k, epoch = next(fitting)
            epochs[k].append(epoch)
        except StopIteration as stop:
            return stop.value, epochs


def one_by_one(phase, how, chosen):
    fits, epochs = [], []
    for one in chosen:
        step = stacked.alone(one.graph, one.passes)
        fitting = loop.fit(phase, one.network, how, one.graph, one.val, step, one.seed, one.beside)
        epochs.append([])
        while True:
            try:
                epochs[-1].append(next(fitting))
            except StopIteration as stop:
                fits.append(stop.value)
                break
    return fits, epochs


def check_same(how, graphs, kind, tolerance=1e-5):
    fast, fast_epochs = together("student", how, members(how, graphs, kind))
    slow, slow_epochs = one_by_one("student", how, members(how, graphs, kind))
    for a, b in zip(fast_epochs, slow_epochs, strict=True):
        assert [(e.index, e.best) for e in a] == [(e.index, e.best) for e in b]
        assert [e.accuracy for e in a] == pytest.approx([e.accuracy for e in b], abs=1e-6)
        assert [e.loss for e in a] == pytest.approx([e.loss for e in b], abs=tolerance)
    for graph, a, b in zip(graphs, fast, slow, strict=True):
        assert a.epoch == b.epoch
        found, expected = (loop.predict(one.network, graph).logits for one in (a, b))
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    return fast_epochs


@pytest.mark.parametrize("kind", ["labels", "batches", "all"])
@pytest.mark.parametrize("graph", [DENSE, SPARSE], ids=["dense", "sparse"])
@pytest.mark.parametrize("network", ["mlp", "gcn", "sage"])
def test_each_member_is_trained_as_it_is_alone(network, graph, kind):
    check_same(description(network, epochs=12), [graph] * 3, kind)


@pytest.mark.parametrize("network", ["mlp", "gcn"])
def test_members_may_have_unlike_many_labels_and_unlike_weights(network):
    graph, how = replace(DENSE, x=DENSE.x.double()), description(network, epochs=8)

    def chosen():
        found = []
        for one, count, weight in zip(
            members(how, [graph] * 3, "labels"), (12, 5, 1), (1, 3, 0.2), strict=True
        ):
            train, val = nodes(graph, one.seed, "train", count), one.val[count:]
            passes = stacked.labels(graph, train, weight)
            found.append(one._replace(passes=passes, val=val))
        return found

    fast, fast_epochs = together("student", how, chosen())
    slow, slow_epochs = one_by_one("student", how, chosen())
    for a, b in zip(fast_epochs, slow_epochs, strict=True):
        assert [e.loss for e in a] == pytest.approx([e.loss for e in b], abs=1e-9)
        assert [e.accuracy for e in a] == [e.accuracy for e in b]
    for a, b in zip(fast, slow, strict=True):
        found, expected = (loop.predict(one.network, graph).logits for one in (a, b))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("graph", [DENSE, SPARSE], ids=["dense", "sparse"])
@pytest.mark.parametrize("network", ["mlp", "gcn", "sage"])
def test_a_stack_of_one_is_a_network_alone(network, graph):
    check_same(description(network, layers=3), [graph], "labels")
    check_same(description(network), [graph], "batches")


@pytest.mark.parametrize("members", [1, 2])
def test_real_targets_are_learnt_and_judged_as_such(members):
    y = DENSE.x[:, :1].sin().squeeze(1)
    real = replace(DENSE, y=y, classes=1)
    epochs = check_same(description("mlp", dropout=0.0), [real] * members, "labels")
    assert epochs[0][-1].accuracy != round(epochs[0][-1].accuracy * 15) / 15  # no share of nodes


@pytest.mark.parametrize("network", ["mlp", "gcn"])
def test_each_member_stops_at_its_own_time(network):
    epochs = check_same(description(network, epochs=80, patience=2), [DENSE] * 4, "labels")
    lengths = {len(own) for own in epochs}
    assert len(lengths) > 1
    assert min(lengths) < 80


@pytest.mark.parametrize("network", ["mlp", "gcn", "sage"])
def test_in_double_precision_they_agree_to_nine_digits(network):
    graph = replace(DENSE, x=DENSE.x.double())
    check_same(description(network, epochs=20), [graph] * 3, "labels", tolerance=1e-9)


@pytest.mark.parametrize("network", ["mlp", "gcn"])
def test_graphs_may_differ_and_networks_be_deep(network):
    check_same(description(network, layers=3), [DENSE, OTHER, DENSE], "labels")


@pytest.mark.parametrize("network", ["mlp", "gcn"])
def test_without_dropout_or_patience(network):
    check_same(description(network, dropout=0.0, patience=100), [SPARSE] * 2, "labels")


def test_what_cannot_be_stacked_is_trained_one_after_the_other(monkeypatch):
    check_same(description("gat", epochs=4), [DENSE] * 2, "labels", tolerance=0)
    monkeypatch.setattr(stacked, "LARGE", 0)
    monkeypatch.setattr(stacked, "_Stack", None)
    check_same(description("gcn", epochs=4), [DENSE] * 2, "labels", tolerance=0)


def test_modules_beside_the_network_are_trained_too():
    how = description("mlp", epochs=5)

    def chosen():
        found = members(how, [DENSE] * 2, "labels")
        for k, one in enumerate(found):
            with loop.seeded(k, torch.device("cpu"), "beside"):
                head = nn.Linear(16, 3)

            def loss(outputs, head=head, one=one):
                return response.cross_entropy(head(outputs.hidden[-1]), one.graph.y).mean()

            found[k] = one._replace(passes=lambda _, loss=loss: [Pass(None, loss)], beside=[head])
        return found

    for run in (together, one_by_one):
        before = [one.beside[0].weight.clone() for one in chosen()]
        own = chosen()
        fits, _ = run("student", how, own)
        after = [one.beside[0].weight for one in own]
        assert not torch.equal(before[0], after[0])
        if run is together:
            kept = after, [loop.predict(f.network, DENSE).hidden[0] for f in fits]
    torch.testing.assert_close(kept[0], after)
    torch.testing.assert_close(kept[1], [loop.predict(f.network, DENSE).hidden[0] for f in fits])


def test_the_global_stream_is_left_alone():
    before = torch.random.get_rng_state()
    how = description("gcn", epochs=3)
    together("teacher", how, members(how, [DENSE] * 2, "labels"))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_divergence_names_the_seed_and_the_way_out():
    how = description("mlp", epochs=3)
    chosen = members(how, [DENSE] * 2, "labels")
    bad = chosen[1]._replace(
        passes=lambda _: [Pass(None, lambda out: out.logits.sum() * torch.nan)]
    )
    with pytest.raises(ValueError, match="student is nan in epoch 0 of seed 1.*learning rate"):
        together("student", how, [chosen[0], bad])


def test_epochs_of_different_length_are_refused():
    how = description("mlp", epochs=3)
    chosen = members(how, [DENSE, datasets.fake(size=50)], "batches")
    with pytest.raises(ValueError, match=r"take \[2, 4\] steps.*stacks of their own"):
        together("student", how, chosen)
