"""The weights that a run ends with: kept, found again, and what was scored."""

import re
from pathlib import Path

import pytest
import torch

import kdsim
import simulations.reporting.report
from fedkd import algorithms
from fedkd.algorithms.dense import DENSE
from fedkd.storage import atomic_files, weights
from kdcore.metrics import accuracy
from kdsim import trained
from simulations.cli import app
from simulations.execution import scheduler
from simulations.results import run_folder
from simulations.runners import federated, graph
from tests.by_default import FEW_TURNS

SMALL = {"rounds": 2, "clients": 3, "private": 60, "public": 20, "test": 60, "workers": 1}
SMALL |= {"models": ["mlp-8@8", "cnn-4@8"]}
ALIKE = {"models": ["mlp-8"]}  # where all clients are averaged
SHORT = {"epochs": 3, "teacher_epochs": 3, "workers": 1}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A fresh working folder; no page is drawn, which would take seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        simulations.reporting.report, "write_report", lambda *_, **__: Path("report.html")
    )


def settings_of(name):
    properties = algorithms.get(name).properties
    alike = properties.architectures == "shared within a group"
    few = FEW_TURNS if issubclass(algorithms.get(name), DENSE) else {}
    return SMALL | (ALIKE if alike else {}) | few | {"validation": 20}


def scored(network, examples):
    with torch.no_grad():
        said = network(examples.x[examples.rows]).argmax(dim=1)
    return float((said == examples.y[examples.rows]).double().mean())


@pytest.mark.parametrize("name", algorithms.names())
def test_a_model_is_the_one_that_was_scored(name):
    runs = kdsim.run(name, out="out", seeds=[3], **settings_of(name))
    (run,) = kdsim.load("out")
    test = federated.prepare(trained.experiment_of(run)).test
    told = run.records[-2]["clients"]
    for client in range(3):
        for found in (runs, kdsim.load("out")):
            network = found.model(name, seed=3, client=client)
            assert isinstance(network, torch.nn.Module)
            assert not network.training
            assert scored(network, test) == told["accuracy"][client]
    assert sum(p.numel() for p in network.parameters()) > 500


@pytest.mark.parametrize("name", ["glnn", "mlp", "nosmog"])
def test_a_student_is_the_one_that_was_scored(name):
    (run,) = kdsim.run(name, out="out", **SHORT)
    experiment = trained.experiment_of(run)
    plan, split = graph.prepare(experiment)
    network = kdsim.load("out").model(name)
    view = split.view("evaluate")
    seen = plan.method.encoder(split.view("distill"), 0)(view)
    test = view.part("test")
    with torch.no_grad():
        logits = network(seen).logits[test]
    assert accuracy(logits, view.graph.y[test]) == run.records[-1]["metrics"]["accuracy"]
    with pytest.raises(ValueError, match="has one student and no clients; leave client out"):
        kdsim.load("out").model(name, client=0)


def test_clients_who_share_a_model_share_the_copy_in_the_file():
    kdsim.run(["fedavg", "local"], out="out", **SMALL | ALIKE | {"rounds": 1})
    numbers = {}
    for run in kdsim.load("out"):
        path = run.path / run_folder.WEIGHTS
        found, about = weights.load(path)
        assert list(found) == ["0", "1", "2"]
        assert about == {
            "shape": [1, 8, 8],
            "inputs": [[[1, 8, 8], "float32"]],
            "several": False,
            "num_classes": 10,
            "groups": dict.fromkeys("012", "mlp-8"),
        }
        assert [list(one) for one in found.values()] == [
            ["layer0.weight", "layer0.bias", "layer1.weight", "layer1.bias"]
        ] * 3
        arrays, _ = atomic_files.load(path)
        numbers[run.experiment["algorithm"]] = sum(array.size for array in arrays.values())
    one = 64 * 8 + 8 + 8 * 10 + 10
    assert numbers == {"fedavg": one, "local": 3 * one}


def test_weights_are_read_as_they_were_written(tmp_path):
    place = weights.Place(tmp_path / "w.safetensors", 1)
    network = {"b": torch.ones(2, 3), "a": torch.tensor(7), "c": torch.rand(4).bfloat16()}
    assert weights.save(place, {"x": network, "y": network}, {"said": 1}) == []
    found, about = weights.load(place.path)
    assert about == {"said": 1}
    for one in found.values():
        assert list(one) == ["b", "a", "c"]
        assert all(torch.equal(one[name], network[name].to(one[name].dtype)) for name in one)
    place.path.write_bytes(place.path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(ValueError, match=r"w\.safetensors is damaged"):
        weights.load(place.path)


def test_what_is_too_large_is_said_and_not_kept():
    # 3 clients x 610 numbers x 4 bytes = 7.3 kB
    small = SMALL | ALIKE | {"rounds": 1}
    (run,) = kdsim.run("local", out="out", resources={"weights": 0.007}, **small)
    note = "the final weights take 0.00732 MB and are not kept; to keep so much, give --weights 1"
    assert run.records[-1]["notes"] == [f"{note} or resources.weights"]
    with pytest.raises(ValueError, match=r"has no weights\.safetensors: its final weights were"):
        kdsim.load("out").model("local", client=0)
    (kept,) = kdsim.run("local", out="enough", resources={"weights": 0.0074}, **small)
    assert "notes" not in kept.records[-1]
    kept_models = kdsim.load("enough").model("local", client=0)
    assert kept_models(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    (none,) = kdsim.run("local", out="none", resources={"weights": 0}, **small)
    assert not (none.path / run_folder.WEIGHTS).exists()
    assert "notes" not in none.records[-1]


def test_the_command_keeps_weights_says_how_many_and_may_leave_them_out(capfd):
    command = ["fed", "local", "--rounds", "1", "--clients", "2", "--private", "40", "--models"]
    command += ["mlp-8", "--workers", "1"]
    assert app.main([*command, "--out", "with"]) == 0
    (run,) = kdsim.load("with")
    size = (run.path / run_folder.WEIGHTS).stat().st_size
    assert 1e3 < size < 1e6
    assert f"final weights: {size / 1e3:.2f} kB in with;" in capfd.readouterr().err
    assert kdsim.load("with").model("local", client=1)(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    assert app.main([*command, "--out", "without", "--weights", "0"]) == 0
    assert "final weights" not in capfd.readouterr().err
    assert not list(Path("without").rglob(run_folder.WEIGHTS))
    assert app.main([*command, "--out", "wrong", "--weights", "-1"]) == 2
    assert "weights must be >= 0" in capfd.readouterr().err


def test_a_run_that_was_stopped_ends_with_the_same_weights():
    more = SMALL | {"rounds": 4, "resources": {"checkpoint_every": 1}}

    class EnoughError(Exception):
        pass

    def stop(job, record):
        if record.get("round") == 3:
            raise EnoughError

    with pytest.raises(EnoughError):
        kdsim.run("fedmd", out="stopped", listener=stop, **more)
    assert not list(Path("stopped").rglob(run_folder.WEIGHTS))
    (folder,) = [path for path in Path("stopped").iterdir() if path.is_dir()]
    assert scheduler.checkpoint.reached(folder / scheduler.CHECKPOINT) == 2
    stopped = kdsim.run("fedmd", out="stopped", **more)
    straight = kdsim.run("fedmd", out="straight", **more)
    for client in range(3):
        one, other = (runs.model("fedmd", client=client) for runs in (stopped, straight))
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name])


@pytest.fixture
def several(tmp_path):
    return kdsim.run("local", out="several", alpha=[0.1, 1.0], **SMALL | ALIKE | {"rounds": 1})


WRONG = {
    "method": (("lokal", {}), "no complete run of 'lokal' with seed 0; there are local with seed"),
    "seed": (("local", {"seed": 5}), "no complete run of 'local' with seed 5"),
    "several": (("local", {"client": 0}), "2 runs of local with seed 0 fit; they differ in alpha"),
    "none": (
        ("local", {"client": 0, "alpha": 0.5}),
        "none of the 2 runs of local with seed 0 fits; they differ in alpha (0.1, 1.0)",
    ),
    "nobody": (("local", {"alpha": 0.1}), "has 3 clients; say whose model, client=0 to client=2"),
    "client": (("local", {"alpha": 0.1, "client": 3}), "got client=3"),
}


def test_a_model_that_is_not_there_is_said_in_one_line(several):
    for (method, asked), message in WRONG.values():
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            several.model(method, **asked)
        assert "\n" not in str(caught.value)
    assert several.model("local", client=0, alpha=1.0)
