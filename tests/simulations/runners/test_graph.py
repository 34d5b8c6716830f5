import pytest

from graphkd import methods
from graphkd.core import StudentSpec, TeacherSpec
from graphkd.training import published
from simulations.config import identity
from simulations.config.experiments import GraphExperiment
from simulations.config.schema import leaves, unsaid, updated, values
from simulations.results.run_folder import finite
from simulations.runners import graph
from tests.simulations.conftest import read, timeless


def experiment(name="glnn", protocol="transductive", **settings):
    quick = {"epochs": 5, "teacher_epochs": 5}
    return GraphExperiment(methods.get(name)(**quick | settings), protocol=protocol)


def test_a_run_is_its_epochs_and_a_record():
    *epochs, end = graph.run(experiment())
    assert [e["phase"] for e in epochs] == ["teacher"] * 5 + ["baseline"] * 5 + ["student"] * 5
    assert {"epoch", "loss", "accuracy_validation", "seconds"} <= set(epochs[0])
    assert finite([*epochs, end]) == [*epochs, end]
    assert (end["kind"], end["method"], end["data"]) == ("graph", "glnn", "digits-knn")
    names = {"accuracy", "accuracy_baseline", "accuracy_teacher", "agreement", "calibration_error"}
    assert names <= set(end["metrics"])


def test_what_the_protocol_leaves_out_is_said_once():
    """27 of the 1,797 digits are in small components."""
    records = list(graph.run(experiment("mlp")))
    ((note,),) = [r["notes"] for r in records if "notes" in r]
    assert note.endswith("connected component, 1,770 of 1,797 nodes, and leaves out 27")
    assert records[0]["notes"] == [note]


@pytest.mark.parametrize(("name", "teachers"), [("glnn", 1), ("mutual", 2), ("gnnsd", 0)])
def test_who_learns_how_is_asked_once_in_a_run(name, teachers, monkeypatch):
    made = []

    class Student(StudentSpec):
        def __new__(cls, *given, **more):
            made.append("student")
            return super().__new__(cls, *given, **more)

    class Teacher(TeacherSpec):
        def __new__(cls, *given, **more):
            made.append("teacher")
            return super().__new__(cls, *given, **more)

    monkeypatch.setattr(published, "StudentSpec", Student)
    monkeypatch.setattr(published, "TeacherSpec", Teacher)
    list(graph.run(experiment(name, hidden=8, epochs=1, teacher_epochs=1)))
    assert sorted(made) == ["student"] + ["teacher"] * teachers


def test_the_inductive_protocol_has_its_parts():
    end = list(graph.run(experiment(protocol="inductive")))[-1]
    assert end["protocol"] == "inductive"
    assert {"accuracy_tran", "accuracy_ind", "accuracy_prod"} <= set(end["metrics"])


def test_the_same_experiment_gives_the_same_records():
    assert timeless(graph.run(experiment())) == timeless(graph.run(experiment()))


@pytest.mark.parametrize("name", methods.names())
def test_no_hyperparameter_has_the_name_of_a_setting(name):
    method = methods.get(name)()
    assert not set(leaves(method)) & set(leaves(GraphExperiment))
    flat = identity.settings(GraphExperiment(method))
    said = leaves(method).keys() - unsaid(method)  # those that were added, where they differ
    assert set(flat) == {"kind", "method", *said, *leaves(GraphExperiment)}
    assert updated(method, values(method)) == method


def test_what_cannot_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown data set"):
        graph.prepare(GraphExperiment(methods.get("mlp")(), data="digit-knn"))
    with pytest.raises(FileNotFoundError, match="--data-root"):
        graph.prepare(GraphExperiment(methods.get("mlp")(), data="cora"), tmp_path)
    with pytest.raises(ValueError, match="sagen"):
        graph.prepare(experiment(teacher="sagen"))


@pytest.mark.usefixtures("no_report")
def test_the_command(kdsim):
    flags = [
        "--epochs",
        "3",
        "--teacher-epochs",
        "3",
        "--seeds",
        "2",
        "--protocol",
        "inductive",
        "--workers",
        "1",
    ]
    status, out, _ = kdsim("graph", "glnn", *flags, "--temperature", "2", "--json")
    assert status == 0
    records = read(out)
    assert [record["record"] for record in records].count("epoch") == 2 * 3 * 3
    summary = records[-1]
    assert (summary["record"], summary["seeds"], summary["protocol"]) == (
        "summary",
        [0, 1],
        "inductive",
    )
    assert summary["metrics"]["accuracy_teacher"]["n"] == 2
    assert summary["settings"]["temperature"] == 2.0


@pytest.mark.data
def test_cora_is_found_under_the_data_root():
    _, split = graph.prepare(GraphExperiment(methods.get("mlp")(), data="cora"))
    assert len(split.parts["train"]) == 140


def test_the_console_says_of_a_graph_once_what_was_left_out(kdsim):
    flags = ["--epochs", "1", "--seeds", "2", "--workers", "1", "--out", "g"]
    status, out, said = kdsim("graph", "mlp", *flags)
    assert status == 0
    assert said.count("leaves out 27") == 1
