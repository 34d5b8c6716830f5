"""A partition by hand: row numbers or examples of each client, with test sets of their own."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import kdsim
import simulations.reporting.report
from fedkd.models.modules import from_module
from kdcore.training.batches import Examples
from kdsim import settings
from simulations.cli import app
from simulations.results import run_folder
from simulations.runners import federated, objects

HOW = {"rounds": 1, "workers": 1, "models": ["mlp-8"], "progress": False}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A fresh working folder; no page is drawn, which would take seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        simulations.reporting.report, "write_report", lambda *_, **__: Path("report.html")
    )


class Net(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.norm = nn.BatchNorm1d(shape[0])
        self.last = nn.Linear(shape[0], classes)

    def forward(self, x):
        return self.last(self.norm(x))


def rows(count=120):
    """Three classes; the label is where the 1 of a row is, and the last column its number."""
    y = torch.arange(count) % 3
    x = torch.cat([torch.eye(3)[y], torch.arange(count).unsqueeze(1) / count], dim=1)
    return x, y


def federation(**given):
    """What the runner deals out of settings as `kdsim.run` takes them."""
    named, there = settings.named({"data": "digits", **given})
    e = settings.experiment("fed", "local", {"models": ["mlp-8"], **named})
    return federated.prepare(e, objects=there)


def test_each_client_trains_on_its_own_rows_and_what_nobody_has_is_tested_on():
    found = federation(data=kdsim.data(*rows()), parts=[[0, 5, 7], range(10, 20)], public=6)
    held = [sorted((client.private.x[client.private.rows][:, 3] * 120).round().int().tolist())
            for client in found.clients]  # fmt: skip
    assert held == [[0, 5, 7], list(range(10, 20))]
    assert len(found.task.public) == 6
    assert len(found.test) == 120 - 13 - 6
    tested = (found.test.x[found.test.rows][:, 3] * 120).round().int().tolist()
    assert not set(tested) & {0, 5, 7, *range(10, 20)}


def test_rows_of_a_data_set_by_name():
    found = federation(parts={"a": ([0, 1], [4]), "b": ([2, 3], [5, 6])})
    assert [client.private.rows.tolist() for client in found.clients] == [[0, 1], [2, 3]]
    assert [test.rows.tolist() for test in found.tests] == [[4], [5, 6]]
    assert len(found.test) == 1797 - 7


def test_examples_of_each_client_are_the_rows_of_one_data_set():
    """The same federation, by row numbers and by what is in these rows."""
    x, y = rows()
    whole = torch.arange(120)
    ids = {"a": (whole[:40], whole[100:110]), "b": (whole[40:100], whole[110:])}
    by_rows = federation(data=kdsim.data(x, y), parts=ids)
    as_examples = {
        name: (Examples(x, y, train), Examples(x, y, test)) for name, (train, test) in ids.items()
    }
    as_pairs = {k: ((x[a], y[a]), (x[b], y[b])) for k, (a, b) in ids.items()}
    for parts in (as_examples, as_pairs):
        found = federation(parts=parts)
        for one, other in zip(found.clients, by_rows.clients, strict=True):
            assert torch.equal(one.private.x[one.private.rows], other.private.x[other.private.rows])
            assert torch.equal(one.private.y[one.private.rows], other.private.y[other.private.rows])
            assert all(torch.equal(v, other.params[k]) for k, v in one.params.items())
        for one, other in zip(found.tests, by_rows.tests, strict=True):
            assert torch.equal(one.x[one.rows], other.x[other.rows])
        assert sorted(found.test.x[found.test.rows][:, 3]) == sorted(
            by_rows.test.x[by_rows.test.rows][:, 3]
        )


def test_clients_with_training_examples_alone():
    x, y = rows()
    with pytest.raises(ValueError, match="rows are left; give clients fewer rows, or test rows of"):
        federation(parts=[(x[:40], y[:40]), (x[40:100], y[40:100])])


def test_own_accuracy_is_that_on_a_clients_own_test_rows():
    """Of client b the test labels are wrong on purpose: it is right on none of its own."""
    x, y = rows(240)
    y = y.clone()
    y[220:] = (y[220:] + 1) % 3
    parts = {"a": (range(100), range(200, 220)), "b": (range(100, 200), range(220, 240))}
    how = {**HOW, "rounds": 5, "models": [from_module(Net, local="norm")]}
    runs = kdsim.run("fedavg", kdsim.data(x, y), parts=parts, out="runs", **how)
    last = runs.clients().query("round == 5")
    assert list(last.accuracy_local) == [1.0, 0.0]
    assert list(last.accuracy) == [0.5, 0.5]  # on the test rows of both
    said = json.loads((runs[0].path / "run.json").read_text())
    (about,) = [one for name, one in said["objects"].items() if "parts" in name]
    assert about == {"rows": [100, 100], "tests": [20, 20]}
    sent = runs[0].records[0]["traffic"]["up"]
    assert sum(sent.values()) == 2 * (4 * (4 * 3 + 3) + 8)  # the last layer, and a weight: no norm
    network = runs.model("fedavg", client=1)
    assert isinstance(network, Net)
    assert (network(x[:9]).argmax(dim=1) == y[:9]).all()
    again = kdsim.run("fedavg", kdsim.data(x, y), parts=parts, out="runs", **how)
    assert [run.path for run in again] == [run.path for run in runs]


def test_another_partition_is_another_run():
    names = {
        settings.named({"parts": parts})[0]["partition"]
        for parts in ([[0, 1], [2]], [[0], [1, 2]], [[0, 1], ([2], [3])], [[1, 0], [2]])
    }
    assert len(names) == 4
    same = settings.named({"parts": {"x": torch.tensor([0, 1]), "y": range(2, 3)}})[0]
    assert same["partition"] in names
    assert (same["clients"], same["private"]) == (2, 0)


def test_a_description_of_a_model_is_known_by_what_it_is_of_and_what_is_local():
    given = [from_module(Net), from_module(Net, local="norm"), from_module(Net, local=["last"])]
    given += [from_module(Net, local=[nn.BatchNorm1d]), from_module(Net(4 * [1], 3), local="norm")]
    names = [objects.name_of_model(one) for one in given]
    assert len(set(names)) == 5
    assert all(name.startswith("own:Net-") for name in names)
    assert names[1] == objects.name_of_model(from_module(Net, local="norm"))
    tried = from_module(Net, examples=torch.rand(4, 4), num_classes=3)
    with pytest.raises(ValueError, match=r"leave them out: from_module\(Net, local=...\)"):
        objects.name_of_model(tried)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"parts": [[0, 1], [1, 2]]}, "row 1 is dealt out 2 times, to [0, 1]"),
        ({"parts": [[0, 0], [1]]}, "row 0 is dealt out 2 times"),
        ({"parts": [[0], []]}, "client 1 has rows of shape (0,)"),
        ({"parts": [[0], [2000]]}, "client 1 has rows 2000 to 2000, and there are 0 to 1796"),
        ({"parts": [[0], [-1]]}, "client 1 has rows -1 to -1"),
        ({"parts": [([0], [1]), ([1], [2])]}, "row 1 is a test row of client 0, and is trained on"),
        ({"parts": [([0], [1, 1]), [2]]}, "client 0 has a test row twice"),
        ({"parts": [([0], [5000]), [2]]}, "client 0 has test rows 5000 to 5000"),
        ({"parts": []}, "give the rows of one client at least"),
        ({"parts": [[0.5], [1]]}, "rows of client 0 hold 0.5"),
        ({"parts": [[True, False], [1]]}, "of a mask take mask.nonzero()[0]"),
        ({"parts": [[0], [1]], "clients": 3}, "and so does clients"),
        ({"parts": [[0], [1]], "partition": "iid"}, "and so does partition"),
        ({"parts": [[0], [1]], "absent_classes": 2}, "absent_classes=2 says otherwise"),
        ({"parts": [[0], [1]], "public": 1796}, "1796 public and 0 validation examples were"),
        ({"parts": [Examples(*rows(), torch.arange(3))], "data": kdsim.data(*rows())},
         "parts hold examples, and data are given too"),
    ],
)  # fmt: skip
def test_mistakes_are_a_line(given, said):
    with pytest.raises(ValueError, match=re.escape(said)) as found:
        kdsim.run("local", **given, out="runs", **HOW)
    assert "\n" not in str(found.value)
    assert not Path("runs").exists()


@pytest.mark.slow
def test_such_runs_go_on_by_the_same_call_alone(capsys):
    kdsim.run("local", parts=[[0, 1], [2, 3]], out="runs", **HOW)
    (run,) = run_folder.load(Path("runs"))
    path = run.path / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:1]))
    assert app.main(["resume", "runs", "--workers", "1"]) == 2
    said = capsys.readouterr().err
    assert "partition own:parts-" in said
    assert "call kdsim.run again with the same objects" in said
    again = kdsim.run("local", parts=[[0, 1], [2, 3]], out="runs", **HOW)
    assert again[0].complete


def test_a_run_without_its_partition_says_so():
    named, given = settings.named({"data": "digits", "parts": [[0, 1], [2, 3]]})
    e = settings.experiment("fed", "local", {"models": ["mlp-8"], **named})
    with pytest.raises(ValueError, match="was given as a Python object"):
        federated.prepare(e)
    with pytest.raises(ValueError, match="parts are of 2 clients, and clients is 3"):
        federated.prepare(dataclasses.replace(e, clients=3), objects=given)
