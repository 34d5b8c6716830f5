"""What can be done with one call in Python, held to what the command does."""

import copy
import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import kdsim
import simulations.reporting.report
from fedkd.algorithms.dsfl import DSFL
from graphkd.methods.glnn import GLNN
from kdcore.training.optimizers import TrainingConfig
from kdsim import settings
from simulations.cli import app
from simulations.config import files, grid
from simulations.config.identity import digest
from simulations.execution import console
from simulations.results import run_folder
from simulations.runners import federated

SMALL = {"rounds": 2, "clients": 3, "private": 60, "public": 20, "test": 40, "models": ["mlp-8"]}
FILE = """# Two methods.
[fed]
algorithm = ["local", "fd"]
rounds = 2
clients = 3
private = 60
public = 20
test = 40
models = ["mlp-8"]
"""


def page(runs, out=None, select=None):
    path = Path(out) / "report.html"
    path.write_text("")
    return path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A fresh working folder without data sets; figures take seconds, and are not drawn here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KDSIM_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("ex.toml").write_text(FILE)
    monkeypatch.setattr(simulations.reporting.report, "write_report", page)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """An algorithm of the user's, in a module in the working folder; DS-FL under another name."""
    (tmp_path / "my_methods.py").write_text(
        "from dataclasses import dataclass\n"
        "from fedkd.algorithms.dsfl import DSFL\n"
        "@dataclass(frozen=True)\n"
        "class Mine(DSFL):\n    extra: float = 2.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_methods:Mine"
    sys.modules.pop("my_methods", None)


def timeless(records):
    """Without how long they took, and how clients ran, which a folder has in its `run.json`."""
    return [
        {k: v for k, v in record.items() if k not in ("seconds", "engine")} for record in records
    ]


def stored(folder):
    return {run.path.name: timeless(run.records) for run in run_folder.load(Path(folder))}


# As the command does it


def test_a_file_runs_as_the_command_runs_it_and_says_nothing(capfd):
    assert app.main(["run", "ex.toml", "--set", "fed.alpha=0.5", "--workers", "1"]) == 0
    (theirs,) = Path("runs").iterdir()
    theirs.rename("theirs")
    capfd.readouterr()
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # a run has one; the caller keeps what it had
    ours = kdsim.run("ex.toml", set={"fed.alpha": 0.5}, workers=1)
    kept = torch.get_num_threads()
    torch.set_num_threads(before)
    assert (kept, *capfd.readouterr()) == (2, "", "")
    assert ours.folder == theirs
    assert stored(ours.folder) == stored("theirs")
    assert len(stored("theirs")) == 2
    text = (ours.folder / "experiment.toml").read_text()
    assert text == (Path("theirs") / "experiment.toml").read_text()
    assert ours.report == ours.folder / "report.html"


def test_a_file_without_changes_is_kept_with_its_comments():
    out = kdsim.run("ex.toml", out="out", workers=1).folder
    assert (out / "experiment.toml").read_text() == FILE
    assert run_folder.head(kdsim.load(out)[0].path)["command"] == "'kdsim.run(\"ex.toml\")'"


def test_what_is_done_is_not_done_again(monkeypatch):
    first = kdsim.run("ex.toml", out="out", workers=1)
    monkeypatch.setattr(federated, "run", lambda *_, **__: pytest.fail("ran again"))
    again = kdsim.run("ex.toml", out="out")
    assert again.final().equals(first.final())
    assert len(first) == 2
    with pytest.raises(ValueError, match="out holds a different experiment"):
        kdsim.run("ex.toml", out="out", alpha=0.1)


def test_simulate_gives_the_records_that_a_run_keeps():
    heard = []
    runs = kdsim.run(
        "fd", **SMALL, out="out", workers=1, listener=lambda job, r: heard.append((job.folder, r))
    )
    (run,) = runs
    records = list(kdsim.simulate("fd", **SMALL))
    assert [record["record"] for record in records] == ["round", "round", "run"]
    assert records[0].engine == run_folder.head(run.path)["engine"]
    assert timeless(run_folder.finite(records)) == timeless(run.records)
    assert timeless(run_folder.finite([r for _, r in heard])) == timeless(run.records)
    assert {folder for folder, _ in heard} == {run.path}


def test_distill_gives_the_records_of_the_runner():
    records = list(kdsim.distill("glnn", epochs=2, teacher_epochs=2, seed=1))
    assert records[-1]["record"] == "run"
    assert records[-1]["method"] == "glnn"
    assert records[-1]["seed"] == 1
    assert sum(r["record"] == "epoch" and r["phase"] == "teacher" for r in records) == 2


def test_records_have_attributes_and_are_dicts():
    *rounds, end = kdsim.simulate("fd", **SMALL | {"validation": 20})
    assert [record.accuracy for record in rounds] == [record["accuracy"] for record in rounds]
    assert end.accuracy == end.metrics["accuracy"] == end["metrics"]["accuracy"]
    assert rounds[1].accuracy == end.accuracy
    assert dict(rounds[0]) == rounds[0]
    assert {"accuracy", "record", "round"} <= set(dir(rounds[0]))
    with pytest.raises(AttributeError, match="no 'acuracy'; did you mean 'accuracy'"):
        _ = rounds[0].acuracy
    heard = []
    (run,) = kdsim.run("fd", **SMALL, out="out", workers=1, listener=lambda _, r: heard.append(r))
    assert [r.bytes_up for r in heard] == [r.bytes_up for r in run.records]
    again = copy.deepcopy(end)
    assert again == end
    assert again.accuracy == end.accuracy


def test_a_recipe_is_run_by_its_name(capsys):
    runs = kdsim.run("kernel_self", seeds=1, out="out", workers=1)
    assert [run.experiment["recipe"] for run in runs] == ["kernel_self"]
    assert (
        app.main(["recipe", "kernel_self", "--seeds", "1", "--out", "theirs", "--workers", "1"])
        == 0
    )
    assert stored("out") == stored("theirs")
    said = capsys.readouterr().out.splitlines()
    assert runs.verdicts()
    assert said[-len(runs.verdicts()) :] == runs.verdicts()
    (row,) = runs.frame().to_dict("records")
    assert row["method"] == "kernel_self"
    assert {name: row[name] for name in runs[0].records[-1].metrics} == runs[0].records[-1].metrics


def test_a_method_comes_before_a_recipe_of_its_name():
    assert "graph" in settings.source("mutual", {}, {}).document
    assert settings.source("survey/mutual", {"seeds": [4]}, {}).document["recipe"]["mutual"] == {
        "seeds": [4]
    }


# A user's own


def test_an_own_class_has_a_name_by_which_its_runs_are_found_again(mine):
    (run,) = kdsim.run(mine, **SMALL, temperature=0.3, out="out", workers=1)
    assert run.experiment["algorithm"] == mine
    assert run.experiment["extra"] == 2.0
    assert run.path.name.startswith("my_methods.Mine-digits-s0-")
    assert (
        kdsim.run("out/experiment.toml", out="again", workers=1)[0].records[-1]["metrics"]
        == (run.records[-1]["metrics"])
    )
    shipped = list(kdsim.simulate("dsfl", **SMALL, temperature=0.3))
    assert run.records[-1]["metrics"] == run_folder.finite(shipped[-1]["metrics"])


def test_an_own_class_may_be_simulated_by_name_class_or_instance(mine):
    named = list(kdsim.simulate(mine, **SMALL, extra=3.0))
    cls = sys.modules["my_methods"].Mine
    for given, more in ((cls, {"extra": 3.0}), (cls(extra=3.0), {})):
        assert timeless(kdsim.simulate(given, **SMALL, **more)) == timeless(named)
    assert named[-1]["method"] == mine


def test_a_file_of_the_users_that_is_called_as_ours_keeps_its_own_name(tmp_path, monkeypatch):
    (tmp_path / "own_code").mkdir()
    (tmp_path / "own_code" / "__init__.py").write_text("")
    (tmp_path / "own_code" / "dsfl.py").write_text(
        "from fedkd.algorithms.dsfl import DSFL\nclass Mine(DSFL):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = settings.experiment("fed", "own_code.dsfl:Mine", {})
    assert found.name == "own_code.dsfl:Mine"
    assert digest(found) != digest(settings.experiment("fed", "dsfl", {}))


# Settings


@pytest.mark.parametrize(
    "given",
    [
        {"local": {"epochs": 5, "batch_size": 16}},
        {"local__epochs": 5, "local": {"batch_size": 16}},
        {"local.epochs": 5, "local.batch_size": 16},
        {"local": TrainingConfig(epochs=5, batch_size=16)},
    ],
)
def test_nested_settings_may_be_written_in_several_ways(given):
    found = settings.experiment("fed", DSFL, {"models": ("mlp-8",), **given})
    assert found.algorithm == DSFL(local=TrainingConfig(epochs=5, batch_size=16))
    assert found.models == ("mlp-8",)


def test_numbers_of_numpy_and_torch_are_numbers():
    given = {"alpha": torch.tensor(0.5), "rounds": torch.arange(4)[3]}
    found = settings.experiment("fed", "fd", given)
    assert (found.alpha, found.rounds) == (0.5, 3)


def test_an_instance_is_what_its_settings_are():
    document = settings.source([DSFL(temperature=0.2), "local"], {"rounds": 3}, {}).document
    assert document == {
        "fed": {"algorithm": ["dsfl", "local"], "rounds": 3},
        "algorithm": {"dsfl": {"temperature": 0.2}},
    }
    named = settings.source(["dsfl", "local"], {"rounds": 3}, {"algorithm.dsfl.temperature": 0.2})
    assert grid.expand(named.document, "") == grid.expand(document, "")


def test_what_is_shared_goes_to_those_who_have_it():
    found = settings.source(["fd", GLNN], {"rounds": 3, "epochs": 7, "seeds": [1, 2]}, {}).document
    assert found == {
        "fed": {"algorithm": ["fd"], "rounds": 3, "seeds": [1, 2]},
        "graph": {"method": ["glnn"], "epochs": 7, "seeds": [1, 2]},
    }


def test_settings_of_a_file_are_changed_as_by_the_command():
    found = settings.source("demo", {"rounds": 3, "seeds": 2}, {"graph.seeds": 1})
    shipped = files.read(Path(app.__file__).parents[1] / "experiments" / "demo.toml")
    assert found.document == files.override(shipped, ["rounds=3", "seeds=2", "graph.seeds=1"])
    assert (found.said, found.name, found.text) == ("demo.toml", "demo", "")


WRONG = {
    "setting": (lambda: kdsim.simulate("dsfl", aplha=1), "dsfl has no setting 'aplha'; did you me"),
    "two": (lambda: kdsim.simulate("dsfl", aplha=1, b=2), "no setting 'aplha', 'b'; did you mean"),
    "twice": (lambda: kdsim.simulate("fd", local__epochs=1, local={"epochs": 2}), "given twice"),
    "value": (lambda: kdsim.simulate("dsfl", alpha=-1), "alpha must be > 0 and finite"),
    "type": (lambda: kdsim.simulate("dsfl", rounds="x"), "rounds is 'x': input should be a valid"),
    "name": (lambda: kdsim.simulate("dsfll"), "unknown algorithm 'dsfll'; did you mean 'dsfl'?"),
    "method": (lambda: kdsim.distill("glnm"), "unknown method 'glnm'; did you mean 'glnn'?"),
    "kind": (lambda: kdsim.simulate(GLNN), "is no algorithm: give a name, module:Class"),
    "module": (lambda: kdsim.simulate("no_such:Mine"), "there is no module 'no_such'"),
    "local class": (
        lambda: kdsim.run(type("Own", (DSFL,), {})),
        "unknown name 'Own'",
    ),
    "run name": (lambda: kdsim.run("dsfll"), "unknown algorithm or method 'dsfll'; did you mean"),
    "run file": (lambda: kdsim.run("nowhere.toml"), "no experiment file nowhere.toml"),
    "run renamed": (lambda: kdsim.run("graph-recipes"), "it is 'graph-methods' now"),
    "run folder": (lambda: kdsim.run("a/b"), "no experiment file a/b"),
    "run key": (lambda: kdsim.run("ex.toml", aplha=1), "ex.toml: unknown key 'aplha' in [fed]"),
    "run setting": (lambda: kdsim.run(["fd"], aplha=1), "fd has no setting 'aplha'; did you mean"),
    "recipe": (lambda: kdsim.run("survey/nothing"), "no experiment file survey/nothing"),
    "run none": (lambda: kdsim.run([]), "the list is empty"),
    "run twice": (lambda: kdsim.run([DSFL(), "dsfl"]), "dsfl is there more than once"),
    "resources": (lambda: kdsim.run("fd", resources={"cpu": 1}), "did you mean 'cpus'?"),
    "None": (lambda: kdsim.run("fd", rounds=None), "rounds=None cannot be kept"),
    "load": (lambda: kdsim.load("nowhere"), "nowhere is no folder; name one that"),
    "load none": (lambda: kdsim.load("."), ". holds no run"),
    "load nothing": (lambda: kdsim.load(), "name at least one folder"),
    "report nothing": (lambda: kdsim.report(), "name at least one folder"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_and_leaves_no_trace(case, tmp_path):
    call, message = WRONG[case]
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["ex.toml"]


def test_a_run_that_fails_is_an_error_after_the_others_are_done(monkeypatch):
    good = federated.run

    def sometimes(experiment, root=None, **more):
        if experiment.name == "local":
            raise RuntimeError("out of luck")
        return good(experiment, root, **more)

    monkeypatch.setattr(federated, "run", sometimes)
    with pytest.raises(RuntimeError, match="1 of 2 runs failed, the first local-.*out of luck.*in"):
        kdsim.run("ex.toml", out="out", workers=1)
    assert list(kdsim.load("out").final()["method"]) == ["fd"]


# Runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "out"
    few = {**SMALL, "rounds": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulations.reporting.report, "write_report", page)
        return kdsim.run(["local", "fd"], **few, alpha=[0.1, 1.0], seeds=2, out=out, workers=1)


def test_columns_do_not_depend_on_the_order_of_the_runs(runs):
    def with_own(run, name):
        end = {**run.records[-1], "metrics": {**run.records[-1]["metrics"], name: 1.0}}
        return replace(run, records=[*run.records[:-1], end])

    first, second, *_ = runs.runs
    pair = with_own(first, "one"), with_own(second, "other")
    one, other = (replace(runs, runs=several) for several in (pair, pair[::-1]))
    for name in ("frame", "final", "summary"):
        assert list(getattr(one, name)().columns) == list(getattr(other, name)().columns)


def test_settings_of_some_runs_alone_have_their_columns_before_the_round(runs):
    def with_own(run, name, value):
        return replace(run, experiment={**run.experiment, name: value})

    own = (("one", 1), ("one", 2), ("other", 1), ("other", 2))
    by_folder = sorted(runs, key=lambda run: run.path)
    several = [with_own(run, *setting) for run, setting in zip(by_folder, own, strict=False)]
    for given in (several, several[::-1]):
        reordered = replace(runs, runs=tuple(given))
        frame, final, clients = (
            list(getattr(reordered, name)().columns) for name in ("frame", "final", "clients")
        )
        before = clients[: clients.index("round")]
        assert before == frame[: frame.index("round")]
        assert before[-2:] == ["one", "other"]
        assert [name for name in final if name in ("one", "other")] == ["one", "other"]
        assert "folder" not in clients


def test_final_has_a_row_for_each_run(runs):
    frame = runs.final()
    assert len(frame) == len(runs) == 8
    assert list(frame.columns[:6]) == ["method", "kind", "data", "protocol", "seed", "alpha"]
    assert "rounds" not in frame  # which are the same in all
    for run, (_, row) in zip(runs, frame.iterrows(), strict=True):
        end = run.records[-1]
        assert (row["method"], row["seed"]) == (end["method"], end["seed"])
        assert row["alpha"] == run.experiment["alpha"]
        assert {name: row[name] for name in end["metrics"]} == end["metrics"]
        assert row["folder"] == str(run.path)
    assert set(zip(frame["method"], frame["alpha"], frame["seed"], strict=True)) == {
        (method, alpha, seed)
        for method in ("local", "fd")
        for alpha in (0.1, 1.0)
        for seed in (0, 1)
    }
    again = kdsim.load(runs.folder).final().sort_values("folder", ignore_index=True)
    assert again.equals(frame.sort_values("folder", ignore_index=True))


def test_a_frame_has_a_row_for_each_round_of_each_run(tmp_path):
    more = SMALL | {"rounds": 3, "eval_every": 2}
    out = tmp_path / "out"
    runs = kdsim.run(["local", "fd"], **more, alpha=[0.1, 1.0], seeds=2, out=out, workers=1)
    frame = runs.frame()
    first = ["method", "kind", "data", "seed", "alpha", "round", "accuracy", "accuracy_local"]
    assert list(frame.columns[:8]) == first
    assert len(frame) == 2 * 2 * 2 * 3
    told = {
        (r.experiment["algorithm"], r.experiment["alpha"], r.experiment["seed"], x["round"]): x
        for r in runs
        for x in r.records[:-1]
    }
    for _, row in frame.iterrows():
        record = told.pop((row["method"], row["alpha"], row["seed"], row["round"]))
        assert row["bytes_up"] == record["bytes_up"]
        if row["round"] == 1:  # not evaluated
            assert math.isnan(row["accuracy"])
        else:
            assert row["accuracy"] == record.accuracy
            assert row["accuracy_local"] == record.accuracy_local
    assert not told
    clients = runs.clients()
    assert len(clients) == 8 * 2 * 3
    for (method, alpha, seed, round_), group in clients.groupby(
        ["method", "alpha", "seed", "round"]
    ):
        where = frame["method"].eq(method) & frame["alpha"].eq(alpha) & frame["seed"].eq(seed)
        (row,) = frame[where & frame["round"].eq(round_)].to_dict("records")
        assert list(group["client"]) == [0, 1, 2]
        assert group["accuracy"].mean() == pytest.approx(row["accuracy"])


def test_a_frame_has_the_rounds_of_runs_that_were_stopped_and_the_epochs_of_graphs(tmp_path):
    def stop(job, record):
        if record["record"] == "round" and record.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kdsim.run("fd", **SMALL | {"rounds": 4}, out="stopped", workers=1, listener=stop)
    frame = kdsim.load("stopped").frame()
    assert list(frame["round"]) == [1, 2]
    assert len(kdsim.load("stopped").final()) == 0
    runs = kdsim.run("glnn", epochs=3, teacher_epochs=2, out="graph", workers=1)
    frame = runs.frame()
    assert list(zip(frame["phase"], frame["epoch"], strict=True)) == [
        *(("teacher", i) for i in range(2)),
        *((phase, i) for phase in ("baseline", "student") for i in range(3)),
    ]
    assert len(runs.clients()) == 0


def test_tables_are_printed_as_the_command_prints_them(runs, capsys):
    said = str(runs.table())
    console.print_tables(runs.complete)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == said.splitlines()
    assert "±" in said
    assert "<td>fd" in runs.table()._repr_html_()


def test_a_summary_has_mean_and_spread_over_seeds(runs):
    table = runs.summary().reset_index()
    assert len(table) == 4
    for _, row in table.iterrows():
        same = [
            run.records[-1]["metrics"]["accuracy"]
            for run in runs
            if run.records[-1]["method"] == row[("method", "")]
            and run.experiment["alpha"] == row[("alpha", "")]
        ]
        assert row[("seeds", "n")] == len(same) == 2
        assert row[("accuracy", "mean")] == pytest.approx(statistics.mean(same))
        assert row[("accuracy", "std")] == pytest.approx(statistics.stdev(same))


def test_a_notebook_shows_the_tables_of_the_report(runs):
    from simulations.results.tables import tables

    shown = runs._repr_html_()
    for table in tables(runs):
        assert table.title in shown
        assert all(f"<td>{cell}</td>" in shown for row in table.body for cell in row)
    assert "fd" in repr(runs)
    assert f"8 runs in {runs.folder}" in repr(runs)


def test_runs_of_several_folders_are_one(runs):
    again = kdsim.load(runs[0].path, runs[1].path, runs[0].path)
    assert [run.path for run in again] == [runs[0].path, runs[1].path]
    assert again.folder == runs.folder.resolve()


def test_the_page_is_that_of_exactly_these_runs(runs, monkeypatch):
    written = []

    def noted(folders, out=None, select=None):
        written.append((sorted(folders), out, select))
        return Path("page")

    monkeypatch.setattr(simulations.reporting.report, "write_report", noted)
    paths, out = sorted(run.path for run in runs), runs.folder
    assert runs.report == kdsim.load(out).report == out / "report.html"
    assert written == []  # it is there already, and about all of them
    some = kdsim.load(paths[0], paths[1])
    assert some.report == Path("page")  # that one is about more
    assert written.pop() == (paths[:2], out, None)
    assert kdsim.report(runs, select="accuracy") == Path("page")
    assert written.pop() == (paths, out, "accuracy")
    kdsim.report(out, out="page.html")
    assert written.pop() == ([out], Path("page.html"), None)
