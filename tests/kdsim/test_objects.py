"""Data and models that are given as Python objects: known by a hash, kept in runs, found again."""

import dataclasses
import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import kdsim
import simulations.reporting.report
from fedkd.algorithms.fedmd import FedMD
from fedkd.data import datasets
from fedkd.data.datasets import Dataset
from graphkd.data import datasets as graphs
from graphkd.graph import Graph
from kdcore.rng import generator
from kdsim import trained
from simulations.cli import app
from simulations.results import run_folder
from simulations.runners import federated, objects


class Net(nn.Module):
    """A network of the user's."""

    def __init__(self, shape, classes, width=8):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(shape[0], width), nn.Tanh(), nn.Linear(width, classes)
        )

    def forward(self, x):
        return self.layers(x)


def small(shape, classes):
    """A function that makes one."""
    return nn.Linear(shape[0], classes)


def table(rows=160, shift=0.0):
    """Three classes that differ in their means."""
    y = torch.arange(rows) % 3
    noise = torch.randn(rows, 5, generator=generator(0, "table"))
    return Dataset(noise + torch.eye(3, 5)[y] * 3 + shift, y, 3)


GIVEN = {"clients": 3, "public": 30, "test": 40, "rounds": 2, "partition": "iid", "workers": 1}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A fresh working folder; no page is drawn, which would take seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        simulations.reporting.report, "write_report", lambda *_, **__: Path("report.html")
    )


def timeless(records):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def test_the_same_numbers_have_the_same_name_and_others_another():
    name = objects.name_of_data(table())
    assert re.fullmatch(r"own:data-[0-9a-f]{12}", name)
    assert objects.name_of_data(table()) == name
    one = table()
    one.x[7, 2] += 1e-6
    others = [
        one,
        table()._replace(num_classes=4),
        table()._replace(official=10),
        table()._replace(y=table().y.flip(0)),
        table()._replace(domains=table().y),
        table()._replace(x=table().x.double()),
    ]
    assert len({objects.name_of_data(other) for other in [table(), *others]}) == 7


def test_a_model_is_known_by_its_name_its_source_and_what_it_holds():
    names = {
        objects.name_of_model(what)
        for what in (Net, small, partial(Net, width=4), partial(Net, width=5), nn.Linear(5, 3))
    }
    torch_default = nn.Linear(5, 3)
    names.add(objects.name_of_model(torch_default))
    assert len(names) == 6
    assert objects.name_of_model(torch_default) in names
    assert all(re.fullmatch(r"own:(Net|small|Linear)-[0-9a-f]{12}", name) for name in names)


def weighted(first):
    """Cross-entropy in which the first class counts more, or less."""

    def loss(outputs, y):
        each = nn.functional.cross_entropy(outputs, y, reduction="none")
        return each * torch.where(y == 0, first, 1.0)

    return loss


def test_a_loss_is_known_by_its_source_and_what_it_keeps():
    smooth = partial(nn.functional.cross_entropy, reduction="none", label_smoothing=0.1)
    several = [weighted(2.0), weighted(0.0), nn.HuberLoss("none"), nn.HuberLoss("none", 2.0)]
    names = [objects.name_of_loss(what) for what in [*several, nn.HuberLoss, smooth]]
    assert len(set(names)) == 6
    assert objects.name_of_loss(weighted(2.0)) == names[0]
    assert re.fullmatch(r"own:loss-[0-9a-f]{12}", names[0])
    with pytest.raises(ValueError, match="a loss is a name, or a function .*; got 3"):
        objects.name_of_loss(3)


def test_losses_of_the_users_are_an_axis_and_do_what_they_say():
    """A class that counts nothing is never said; one that counts 20 times is said too often."""
    given = GIVEN | {"loss": ["default", weighted(0.0), weighted(20.0)], "public": 0}
    runs = kdsim.run("local", table(), models=[small], **given, out="out")
    said = []
    for run in runs:
        test = federated.dealt(trained.experiment_of(run), table(), runs.given).test
        model = runs.model("local", client=0, loss=run.experiment.get("loss", "default"))
        said.append(float((model(test.x[test.rows]).argmax(1) == 0).double().mean()))
    assert said[1] < said[0] < said[2]
    own = [run.experiment["loss"] for run in runs if "loss" in run.experiment]
    assert own == [objects.name_of_loss(weighted(0.0)), objects.name_of_loss(weighted(20.0))]
    assert runs.frame().loss.tolist() == ["default"] * 2 + [own[0]] * 2 + [own[1]] * 2
    place = f"{__name__}:weighted.<locals>.loss"
    assert run_folder.head(runs[1].path)["objects"][own[0]] == {"loss": place}


def test_own_data_and_models_run_and_are_what_was_scored():
    data = table()
    runs = kdsim.run([FedMD(public_size=20), "fedavg"], data, models=[Net], **GIVEN, out="out")
    assert [run.experiment["algorithm"] for run in runs] == ["fedmd", "fedavg"]
    again = kdsim.load("out", data=data, models=[Net])
    for run in runs:
        assert run.experiment["data"] == objects.name_of_data(data)
        assert run.experiment["models"] == [objects.name_of_model(Net)]
        assert run.experiment["private"] == 0
        head = run_folder.head(run.path)
        assert head["objects"] == {
            objects.name_of_data(data): {"x": [160, 5], "y": [160]},
            objects.name_of_model(Net): {"model": f"{Net.__module__}:Net"},
        }
        told = run.records[-2]["clients"]
        assert min(told["accuracy"]) > 0.6  # chance is a third
        name = run.experiment["algorithm"]
        experiment = again[0].experiment | {"algorithm": name}
        assert experiment["seed"] == 0
        test = federated.dealt(
            trained.experiment_of(run), data, objects.Objects({}, runs.given.models)
        ).test
        for found in (runs, again):
            network = found.model(name, client=1)
            with torch.no_grad():
                right = network(test.x[test.rows]).argmax(1) == test.y[test.rows]
            assert float(right.double().mean()) == told["accuracy"][1]
    assert len(test) == 40


def test_all_that_is_nothing_else_is_private():
    (record, _) = kdsim.simulate("local", data=table(), models=[Net], **sized(rounds=1))
    given = sized(rounds=1, private=90)
    (other, _) = kdsim.simulate("local", data=table(), models=[Net], **given)
    assert record["accuracy"] == other["accuracy"]  # 160 - 30 - 40 = 90


def test_a_fifth_is_tested_on_where_nothing_is_said():
    given = {k: v for k, v in GIVEN.items() if k not in ("test", "workers")} | {"rounds": 1}
    (untold, _) = kdsim.simulate("local", data=table(), models=[Net], **given)
    (told, _) = kdsim.simulate("local", data=table(), models=[Net], **given, test=160 // 5)
    assert untold["accuracy"] == told["accuracy"]


def sized(**more):
    return {k: v for k, v in GIVEN.items() if k != "workers"} | more


def test_what_is_done_is_not_done_again_and_other_data_are_another_run(monkeypatch):
    kdsim.run("local", table(), models=[Net], **GIVEN, out="out")
    with pytest.raises(ValueError, match="out holds a different experiment"):
        kdsim.run("local", table(shift=1.0), models=[Net], **GIVEN, out="out")
    with pytest.raises(ValueError, match="out holds a different experiment"):
        kdsim.run("local", table(), models=[small], **GIVEN, out="out")
    monkeypatch.setattr(federated, "run", lambda *_, **__: pytest.fail("ran again"))
    kdsim.run("local", table(), models=[Net], **GIVEN, out="out")


def test_a_stopped_run_goes_on_from_python_and_not_from_the_file(capsys):
    heard = []

    class EnoughError(Exception):
        pass

    def stop(job, record):
        heard.append(record)
        if record.get("round") == 2:
            raise EnoughError

    given = GIVEN | {"rounds": 3, "resources": {"checkpoint_every": 1}, "out": "out"}
    with pytest.raises(EnoughError):
        kdsim.run("fedmd", table(), models=[Net], **given, listener=stop)
    for command in (["resume", "out"], ["run", "out/experiment.toml", "--out", "again"]):
        assert app.main(command) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "was given as a Python object, which no file can name; call kdsim.run again" in said
    assert not Path("again").exists()
    (run,) = kdsim.run("fedmd", table(), models=[Net], **given)
    straight = list(kdsim.simulate("fedmd", data=table(), models=[Net], **sized(rounds=3)))
    assert run.records[-1]["state"] == straight[-1]["state"]


def test_names_and_objects_may_stand_beside_each_other():
    runs = kdsim.run("local", table(), models=[Net, "mlp-4", small], **GIVEN, out="out")
    (run,) = runs
    groups = run.records[-2]["clients"]["group"]
    assert groups == [objects.name_of_model(Net), "mlp-4", objects.name_of_model(small)]
    assert [type(runs.model("local", client=k)).__module__ for k in range(3)]
    digits = datasets.load("digits")
    both = kdsim.run(
        "local", ["digits", digits], **GIVEN | {"private": 60, "models": ["mlp-8"]}, out="both"
    )
    ends = [run.records[-1]["metrics"]["accuracy"] for run in both]
    assert ends[0] == ends[1]
    assert [run.experiment["data"] for run in both] == ["digits", objects.name_of_data(digits)]


def test_models_that_were_objects_have_to_be_given_again():
    kdsim.run("local", table(), models=[Net], **GIVEN, out="out")
    with pytest.raises(ValueError, match="was given as a Python object"):
        kdsim.load("out").model("local", client=0)
    assert kdsim.load("out", models=[Net]).model("local", client=0)(torch.zeros(2, 5)).shape == (
        2,
        3,
    )


def test_a_graph_of_ones_own_is_distilled_and_its_student_found_again():
    digits = graphs.load("digits-knn")
    graph = dataclasses.replace(digits)
    short = {"epochs": 3, "teacher_epochs": 3, "workers": 1}
    runs = kdsim.run(["glnn"], data=graph, **short, out="out")
    (named,) = kdsim.run("glnn", data="digits-knn", **short, out="named")
    assert isinstance(graph, Graph)
    assert runs[0].records[-1]["metrics"] == named.records[-1]["metrics"]
    one = runs.model("glnn").state_dict()
    assert all(
        torch.equal(v, kdsim.load("named").model("glnn").state_dict()[k]) for k, v in one.items()
    )
    with pytest.raises(ValueError, match="was given as a Python object"):
        kdsim.load("out").model("glnn")
    *_, end = kdsim.distill("glnn", data=graph, epochs=3, teacher_epochs=3)
    assert timeless([end])[0]["metrics"] == named.records[-1]["metrics"]


class Normed(nn.Module):
    """Takes columns near zero alone, and normalises over its mini-batches."""

    def __init__(self, shape, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.LazyBatchNorm1d(), nn.Linear(shape[0], classes))

    def forward(self, x):
        if float(x.abs().max()) > 50:
            raise ValueError("columns that are not standardised")
        return self.layers(x)


def test_models_are_tried_with_what_clients_get_and_what_is_left_out_is_said():
    """Of 90 private rows each client has 30: the last mini-batch has two of four, or one of 29."""
    data = table(shift=1000.0)._replace(standardise=(0, 1, 2, 3, 4))
    more = {"data": data, "models": [Normed], "rounds": 1}
    first, _ = kdsim.simulate("fedavg", **sized(**more), local={"batch_size": 4})
    notes = ["5 columns have mean 0 and standard deviation 1 over the 90 private examples"]
    assert first["notes"] == notes
    first, _ = kdsim.simulate("fedavg", **sized(**more), local={"batch_size": 29})
    assert first["notes"][1].startswith("own:Normed-")
    assert "the last mini-batch of client 0, client 1, client 2 has one" in first["notes"][1]


WRONG = {
    "arrays": (
        lambda: kdsim.run("local", (table().x, table().y)),
        "got a Tensor; kdsim.data makes data of it: kdsim.data(x, y), or of a table or a file",
    ),
    "data": (lambda: kdsim.run("local", 7), "data must be a name, what kdsim.data gives, or"),
    "model": (lambda: kdsim.run("local", table(), models=[7]), "a model is a name, a class or"),
    "source": (
        lambda: kdsim.run("local", table(), models=[eval("lambda: 0")], **GIVEN),
        "the source of tests.kdsim.test_objects:<lambda> cannot be read",
    ),
    "too many": (
        lambda: kdsim.run("local", table(), models=[Net], public=100, test=60),
        "100 public, 0 validation and 60 test examples leave none of 160 to train on",
    ),
    "graph": (
        lambda: kdsim.run("local", graphs.load("digits-knn"), models=["cnn"]),
        "unknown model 'cnn' on a graph; did you mean 'gcn'?",
    ),
    "table": (
        lambda: kdsim.run("glnn", datasets.load("digits")),
        "glnn learns from a Graph, got Dataset",
    ),
    "labels": (
        lambda: kdsim.run("local", table()._replace(num_classes=2), models=[Net], **GIVEN),
        "labels",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_objects_are_refused_in_one_line(case, tmp_path):
    call, message = WRONG[case]
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_head_says_what_was_converted():
    noted = Noted(table().x, table().y, 3)
    said = objects.Objects({"own:x": noted}).said(["own:x", "digits"])
    assert json.loads(json.dumps(said)) == {
        "own:x": {"x": [160, 5], "y": [160], "notes": ["column town is coded one-hot"]}
    }


@dataclasses.dataclass
class Noted:
    x: torch.Tensor
    y: torch.Tensor
    num_classes: int
    notes: tuple[str, ...] = ("column town is coded one-hot",)
