import threading
from dataclasses import replace
from functools import partial

import pytest
import torch

from graphkd.data import datasets, splits
from graphkd.methods import get
from graphkd.training import distillation, published
from graphkd.training.loop import finish, predict
from simulations.config.experiments import GraphExperiment
from simulations.runners import graph, teacher_cache
from tests.simulations.conftest import timeless

QUICK = {"epochs": 4, "teacher_epochs": 12, "teacher_hidden": 8, "hidden": 8}
SPLIT = splits.inductive(datasets.fake(), 0)


def run(name="glnn", seed=0, shared=None, **changes):
    method = get(name)(**QUICK | changes)
    experiment = GraphExperiment(method, protocol="inductive", seed=seed)
    return timeless(graph.run(experiment, shared=shared))


def only(folder):
    (path,) = folder.glob("*.safetensors")
    return path


@pytest.mark.parametrize("teacher", ["sage", "gat", "sage+gcn"])
def test_a_teacher_from_a_file_gives_the_same_records(tmp_path, monkeypatch, teacher):
    alone = run(teacher=teacher)
    assert run(teacher=teacher, shared=tmp_path) == alone
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 + teacher.count("+")
    monkeypatch.setattr(teacher_cache, "fit_one_teacher", None)  # nobody is trained again
    assert run(teacher=teacher, shared=tmp_path) == alone


def test_methods_share_a_teacher_and_seeds_do_not(tmp_path, monkeypatch):
    expected = run("krd")
    run("glnn", shared=tmp_path)
    with monkeypatch.context() as here:
        here.setattr(teacher_cache, "fit_one_teacher", None)
        assert run("krd", shared=tmp_path) == expected
    assert run("glnn", seed=1, shared=tmp_path) == run("glnn", seed=1)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_what_a_method_makes_its_teacher_of_is_not_taken_for_the_network_of_that_name(tmp_path):
    made = partial(run, "vqgraph", codes=20)
    run("glnn", shared=tmp_path, teacher="gcn", teacher_layers=3)
    kept = only(tmp_path)
    assert made(shared=tmp_path) == made()
    assert only(tmp_path) == kept
    experiment = GraphExperiment(get("vqgraph")(**QUICK), protocol="inductive", seed=0)
    assert graph.teachers_of(experiment) == frozenset()
    assert graph.teachers_of(replace(experiment, method=get("glnn")(**QUICK, teacher="gcn")))


def test_of_two_runs_that_need_a_teacher_at_once_one_trains_it(tmp_path, monkeypatch):
    (how,) = published.resolve(get("glnn")(**QUICK), "fake", "inductive").teachers
    trained, found = [], []

    def train(*given, **more):
        trained.append(given)
        return distillation.fit_one_teacher(*given, **more)

    monkeypatch.setattr(teacher_cache, "fit_one_teacher", train)
    first = teacher_cache.fit(tmp_path, how, SPLIT, seed=0)
    epochs = [next(first)]  # it is at it
    other = threading.Thread(
        target=lambda: found.extend(teacher_cache.fit(tmp_path, how, SPLIT, seed=0))
    )
    other.start()
    other.join(timeout=0.5)  # in which the other would train one of its own
    assert not found
    epochs += first
    other.join()
    assert len(trained) == 1
    assert found == epochs


def test_its_outputs_are_the_same_to_the_last_bit(tmp_path):
    (how,) = published.resolve(get("glnn")(**QUICK), "fake", "inductive").teachers
    first, second = (finish(teacher_cache.fit(tmp_path, how, SPLIT, seed=0)) for _ in range(2))
    fresh = finish(distillation.fit_one_teacher(how, SPLIT, seed=0))
    seen = SPLIT.view("train").graph
    for one in (first, second):
        assert one.epoch == fresh.epoch
        assert not one.network.training
        assert not any(weight.requires_grad for weight in one.network.parameters())
        found, expected = predict(one.network, seen), predict(fresh.network, seen)
        assert torch.equal(found.logits, expected.logits)
        assert torch.equal(found.hidden[0], expected.hidden[0])


def test_all_that_determines_a_teacher_is_in_its_name():
    (how,) = published.resolve(get("glnn")(**QUICK), "fake", "inductive").teachers
    view = SPLIT.view("train")
    x, y, edges = view.graph.x.clone(), view.graph.y.clone(), view.graph.edge_index
    x[0, 0] += 1e-6
    y[view.part("val")[0]] = (y[view.part("val")[0]] + 1) % 3
    others = [replace(view, graph=replace(view.graph, x=x)), splits.inductive(datasets.fake(), 1)]
    others += [replace(view, graph=replace(view.graph, y=y))]
    others += [replace(view, graph=replace(view.graph, edge_index=edges[:, :-2]))]
    others += [replace(view, parts={**view.parts, "val": view.part("val")[:-1]})]
    others = [other if hasattr(other, "graph") else other.view("train") for other in others]
    names = [teacher_cache.identity(how, other, "teacher", 0) for other in (view, *others)]
    names += [teacher_cache.identity(how._replace(lr=0.02), view, "teacher", 0)]
    names += [teacher_cache.identity(how, view, "teacher gcn", 0)]
    names += [teacher_cache.identity(how, view, "teacher", 1)]
    names += [teacher_cache.identity(how, view, "teacher", 0, device_dropout=True)]
    assert len(set(names)) == len(names)
    again = splits.inductive(datasets.fake(), 0).view("train")
    assert teacher_cache.identity(how, again, "teacher", 0) == names[0]


def test_two_that_train_it_at_once_do_no_harm(tmp_path):
    (how,) = published.resolve(get("glnn")(**QUICK), "fake", "inductive").teachers
    fit = partial(teacher_cache.fit, tmp_path, how, SPLIT, seed=0)
    slow = fit()
    for _ in range(3):
        next(slow)
    finish(fit())
    before = only(tmp_path).read_bytes()
    finish(slow)
    assert only(tmp_path).read_bytes() == before  # and no draft is left


def test_what_cannot_be_read_is_written_anew(tmp_path):
    expected = run(shared=tmp_path)
    path = only(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert run(shared=tmp_path) == expected
    assert path.read_bytes() == whole


def test_a_teacher_whose_bits_have_changed_is_trained_again(tmp_path):
    """Every 400th value has the other sign: a file in order, and another teacher."""
    expected = run(shared=tmp_path)
    path = only(tmp_path)
    whole = path.read_bytes()
    bad = bytearray(whole)
    start = 8 + int.from_bytes(whole[:8], "little")
    for place in range(start + 3, len(bad), 1600):
        bad[place] ^= 0x80
    path.write_bytes(bytes(bad))
    assert run(shared=tmp_path) == expected
    assert path.read_bytes() == whole


def test_a_run_that_is_stopped_leaves_no_teacher(tmp_path):
    (how,) = published.resolve(get("glnn")(**QUICK), "fake", "inductive").teachers
    fitting = teacher_cache.fit(tmp_path, how, SPLIT, seed=0)
    next(fitting)
    fitting.close()
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
