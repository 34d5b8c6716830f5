import dataclasses

import pytest
import torch

import graphkd
from graphkd import methods
from graphkd.core import Epoch, LeakError, Result
from graphkd.data import datasets as data
from graphkd.data import splits
from graphkd.distill import carry_out, distill, planned
from graphkd.evaluation.metrics import everywhere
from graphkd.inputs import INPUTS
from graphkd.method import DistillationContext, LossTerm, Method
from graphkd.ops import dropout
from graphkd.training import published as settings
from graphkd.training.distillation import fit_one_teacher, fit_student
from graphkd.training.loop import batches, build, finish, predict
from kdcore.outputs import Outputs
from kdcore.rng import generator

GRAPH = data.fake()
GLNN, MLP = methods.get("glnn"), methods.get("mlp")
SHORT = {"epochs": 8, "hidden": 8, "teacher_hidden": 8}


def result(method, protocol="transductive", seed=0, graph=GRAPH):
    *epochs, last = graphkd.run(method, graph, protocol, seed)
    assert all(isinstance(epoch, Epoch) for epoch in epochs)
    assert isinstance(last, Result)
    return last


def student_of(method, data="fake"):
    return settings.resolve(method, data, "transductive").student


def taught(description, view, targets, terms, **settings):
    """Fit a fresh student of this description."""
    network = build(description, view.graph, settings["seed"], "student")
    return fit_student(network, description, view, targets, terms, **settings)


def terms_of(method, view):
    """The terms of a method that looks at nothing but outputs."""
    return method.terms(DistillationContext(None, view, None, view.graph, None, 0))


@dataclasses.dataclass(frozen=True)
class Silent(Method):
    """Terms that weigh nothing, and would fail if they were computed."""

    def terms(self, context):
        """One term that must not be looked at."""
        return (LossTerm(None, 0.0),)


def test_weightless_terms_are_a_student_without_a_teacher():
    metrics, alone = result(Silent(**SHORT)).metrics, result(MLP(**SHORT)).metrics
    assert alone.items() <= metrics.items()
    assert metrics["accuracy"] == metrics["accuracy_baseline"]


def test_the_baseline_is_the_student_alone_from_the_same_seed():
    alone, taught = result(MLP(**SHORT)), result(GLNN(**SHORT))
    assert taught.metrics["accuracy_baseline"] == alone.metrics["accuracy"]
    assert taught.epochs["baseline"] == alone.epochs["student"]
    assert "accuracy_teacher" not in alone.metrics


def test_nothing_to_learn_from_is_an_error():
    with pytest.raises(ValueError, match="nothing to learn from"):
        result(Silent(hard_weight=0.0))


def test_phases_come_in_order_and_stop_on_validation():
    limits = {"epochs": 60, "patience": 3, "teacher_epochs": 60, "teacher_patience": 3}
    records = list(graphkd.run(GLNN(hidden=8, **limits), GRAPH))
    phases = [record.phase for record in records[:-1]]
    assert phases == sorted(phases, key=["teacher", "baseline", "student"].index)
    for phase, chosen in records[-1].epochs.items():
        epochs = [record for record in records[:-1] if record.phase == phase]
        highest = max(epoch.accuracy for epoch in epochs)
        assert chosen == max(e.index for e in epochs if e.accuracy == highest)
        assert len(epochs) == 60 or len(epochs) == chosen + 1 + 3
        assert [e.index for e in epochs if e.best][-1] == chosen


def test_the_chosen_weights_are_those_of_the_chosen_epoch():
    split = splits.transductive(GRAPH, 0)
    method = GLNN(teacher_epochs=30, teacher_patience=5)
    (teacher,) = settings.resolve(method, "fake", "transductive").teachers
    fitted = finish(fit_one_teacher(teacher, split, seed=0))
    shorter = finish(fit_one_teacher(teacher._replace(epochs=fitted.epoch + 1), split, seed=0))
    seen = split.view("train").graph
    logits = predict(fitted.network, seen).logits
    assert torch.equal(logits, predict(shorter.network, seen).logits)
    assert not any(p.requires_grad for p in fitted.network.parameters())


def test_the_global_generator_is_left_alone_even_between_epochs():
    before = torch.random.get_rng_state()
    for record in graphkd.run(GLNN(**SHORT), GRAPH):
        assert torch.equal(torch.random.get_rng_state(), before)
        assert record
    first = result(GLNN(**SHORT))
    disturbed = []
    for record in graphkd.run(GLNN(**SHORT), GRAPH):
        torch.rand(3)
        disturbed.append(record)
    assert disturbed[-1] == first


def test_inductive_metrics_fit_together():
    metrics = result(GLNN(**SHORT), "inductive").metrics
    for name in ("accuracy", "accuracy_baseline", "accuracy_teacher"):
        assert metrics[name] == metrics[f"{name}_ind"]
        test = GRAPH.num_nodes - 150
        share = int(0.2 * test) / test
        mixed = (1 - share) * metrics[f"{name}_tran"] + share * metrics[f"{name}_ind"]
        assert metrics[f"{name}_prod"] == pytest.approx(mixed)


@pytest.mark.parametrize("inputs", INPUTS)
def test_held_out_nodes_and_test_labels_change_nothing_in_training(inputs):
    """Garbage in the held-out features, edges and in all test labels: the same epochs."""
    method = GLNN(inputs=inputs, hard_weight=0.3, **SHORT)
    clean = splits.inductive(GRAPH, 0)
    graph, ind = clean.view("evaluate").graph, clean.parts["ind"]
    x, y = graph.x.clone(), graph.y.clone()
    x[ind] = 1e3
    test = clean.view("evaluate").part("test")
    y[test] = (y[test] + 1) % 3
    touching = torch.isin(graph.edge_index, ind).any(0)
    edges = torch.cat([graph.edge_index[:, ~touching], torch.stack([ind, ind.flip(0)])], 1)
    spoilt_graph = dataclasses.replace(graph, x=x, y=y, edge_index=edges)
    spoilt = dataclasses.replace(clean, _graph=spoilt_graph)
    *first, _ = distill(method, clean, seed=0)
    *second, _ = distill(method, spoilt, seed=0)
    assert first == second


def test_targets_of_other_nodes_are_refused():
    split = splits.inductive(GRAPH, 0)
    view, whole = split.view("distill"), split.view("evaluate")
    method = GLNN(**SHORT)
    targets = Outputs(torch.zeros(whole.graph.num_nodes, 3))
    with pytest.raises(LeakError, match=f"{len(targets.logits)} rows, the view has"):
        finish(taught(student_of(method), view, targets, terms_of(method, view), seed=0))


def test_a_relabelled_view_trains_the_same_student():
    """Nodes in another order, all at once and without dropout: the same predictions."""
    split = splits.transductive(GRAPH, 0)
    view = split.view("distill")
    method = methods.get("lsp")(dropout=0.0, **SHORT)
    student, terms = student_of(method), terms_of(method, view)
    order = torch.randperm(view.graph.num_nodes, generator=torch.Generator().manual_seed(0))
    place = order.argsort()
    moved = dataclasses.replace(
        view,
        graph=view.graph.subgraph(order),
        ids=view.ids[order],
        parts={name: place[nodes] for name, nodes in view.parts.items()},
    )
    draw = torch.Generator().manual_seed(1)
    hidden = torch.randn(view.graph.num_nodes, 8, generator=draw)
    targets = Outputs(hidden[:, :3], (hidden,))
    turned = Outputs(targets.logits[order], (hidden[order],))
    plain = finish(taught(student, view, targets, terms, seed=0)).network
    other = finish(taught(student, moved, turned, terms, seed=0)).network
    torch.testing.assert_close(
        predict(other, moved.graph).logits,
        predict(plain, view.graph).logits[order],
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("student", ["mlp", "gcn"])
@pytest.mark.parametrize("batch", [0, -1], ids=["all nodes", "a batch"])
def test_the_first_loss_is_the_formula(student, batch):
    """hard_weight * mean CE on the training nodes + sum of weight * mean loss on the batch."""
    split = splits.inductive(GRAPH, 0)
    view, method = split.view("distill"), GLNN(student=student, **SHORT)
    graph, train = view.graph, view.part("train")
    n = graph.num_nodes
    description = student_of(method)._replace(
        dropout=0.0, batch=n + batch if batch else 0, epochs=1
    )
    teacher = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    (soft,) = terms_of(method, view)
    terms = (soft._replace(weight=0.7), soft._replace(weight=2.0))
    (epoch,) = taught(description, view, Outputs(teacher), terms, hard_weight=0.3, seed=4)

    logits = predict(build(description, graph, 4, "student"), graph).logits
    draw = generator(4, "student", "draw", 0)
    nodes = torch.randperm(n, generator=draw)[: n + batch] if batch else torch.arange(n)
    q, log_p = teacher.softmax(1), logits.log_softmax(1)
    kl = (q * (q.log() - log_p)).sum(1)[nodes].mean()
    hard = -log_p[train, graph.y[train]].mean()
    assert epoch.loss == pytest.approx(float(0.3 * hard + 2.7 * kl), rel=1e-5)


def test_observed_nodes_are_scored_from_the_observed_graph():
    split = splits.inductive(GRAPH, 0)
    whole, seen = split.view("evaluate"), split.view("distill")
    (teacher,) = settings.resolve(GLNN(), "fake", "transductive").teachers
    network = build(teacher, seen.graph, 0, "teacher")
    logits = everywhere(network, split)
    ind = split.parts["ind"]
    assert torch.equal(logits[seen.ids], predict(network, seen.graph).logits)
    assert torch.equal(logits[ind], predict(network, whole.graph).logits[ind])
    assert not torch.equal(logits, predict(network, whole.graph).logits)


def test_batches_are_full_and_fresh():
    draw = torch.Generator().manual_seed(0)
    first = batches(10, 3, draw)
    assert [len(nodes) for nodes in first] == [3, 3, 3]
    assert len(torch.cat(first).unique()) == 9
    assert not torch.equal(torch.cat(first), torch.cat(batches(10, 3, draw)))
    assert batches(10, 0, draw) == batches(10, 10, draw) == [None]


@pytest.mark.parametrize("student", ["mlp", "gcn"])
def test_a_term_that_draws_all_nodes_is_one_that_draws_none(student):
    view, method = splits.transductive(GRAPH, 0).view("distill"), methods.get("lsp")(**SHORT)
    description = student_of(method)._replace(network=student)
    everything = torch.arange(view.graph.num_nodes)
    hidden = torch.randn(len(everything), 5, generator=torch.Generator().manual_seed(0))
    targets = Outputs(hidden[:, :3], (hidden,))
    (term,) = terms_of(method, view)
    drawn = term._replace(nodes=lambda n, draw: everything)
    first, second = (
        [epoch.loss for epoch in taught(description, view, targets, (t,), seed=0)]
        for t in (term, drawn)
    )
    assert first == pytest.approx(second, rel=1e-4)


def test_divergence_says_the_way_out():
    with pytest.raises(ValueError, match="training diverged: lower its learning rate"):
        result(MLP(lr=1e30, epochs=5))


def test_a_teacher_helps_on_the_fake_graph():
    gains = []
    for seed in range(3):
        metrics = result(GLNN(), seed=seed).metrics
        assert metrics["accuracy_teacher"] > metrics["accuracy_baseline"]
        gains.append(metrics["accuracy"] - metrics["accuracy_baseline"])
    assert sum(gains) / 3 > 0


@pytest.mark.data
def test_glnn_brings_an_mlp_close_to_its_teacher_on_cora():
    # docs/reproductions.md: 80.7 for the teacher, 58.1 for the MLP, 80.2 for GLNN over ten seeds.
    *_, last = graphkd.run("glnn", "cora", seed=0)
    assert last.metrics["accuracy_teacher"] > 0.77
    assert last.metrics["accuracy"] - last.metrics["accuracy_baseline"] > 0.15


@pytest.mark.gpu
def test_a_run_on_a_gpu_is_a_run():
    *_, last = graphkd.run(GLNN(**SHORT), GRAPH, "inductive", device="cuda")
    assert 0 <= last.metrics["accuracy"] <= 1


def test_a_run_is_its_plan_carried_out():
    method, split = GLNN(**SHORT), splits.inductive(GRAPH, 0)
    plan = planned(method, GRAPH, "inductive")
    assert plan.student.dropout == 0.5
    assert [one.hidden for one in plan.teachers] == [8]
    expected = list(distill(method, split, seed=3))
    assert list(carry_out(plan, split, seed=3)) == expected
    thin = plan._replace(student=plan.student._replace(epochs=1))
    *epochs, _ = carry_out(thin, split, seed=3)
    assert [e.phase for e in epochs if e.phase != "teacher"] == ["baseline", "student"]


def test_on_a_cpu_it_is_all_the_same_where_dropout_is_drawn():
    method = GLNN(teacher="gcn", dropout=0.5, teacher_dropout=0.5, teacher_epochs=3, **SHORT)
    asked = dataclasses.replace(method, device_dropout=True)
    for one, other in zip(*(graphkd.run(m, GRAPH) for m in (method, asked)), strict=True):
        if isinstance(one, Epoch):
            assert one == other
        else:
            assert one.metrics == other.metrics


def test_dropout_is_not_drawn_on_the_device_by_whoever_takes_the_steps(monkeypatch):
    asked = []
    monkeypatch.setattr(graphkd.distill, "_carried_out", lambda *_: iter(seen()))

    def seen():
        for _ in range(2):
            asked.append(dropout._on_device.get())
            yield "a step"

    plan = planned(GLNN(device_dropout=True), GRAPH, "transductive")
    for _ in carry_out(plan, splits.split(GRAPH, "transductive", 0), seed=0):
        asked.append(dropout._on_device.get())
    assert asked == [True, False, True, False]


def test_dropout_is_not_drawn_where_no_seed_decides_it():
    with pytest.raises(ValueError, match="device_dropout with the device mps: no seed decides"):
        graphkd.distill.check_device(GLNN(device_dropout=True), torch.device("mps"))
    graphkd.distill.check_device(GLNN(), torch.device("mps"))
