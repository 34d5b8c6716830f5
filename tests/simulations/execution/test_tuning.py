"""A search of settings: by validation data, as widely for each, and the same after a stop."""

import csv
import importlib.util
import itertools
import math
import tomllib
from pathlib import Path
from statistics import fmean

import pytest

from simulations.config import files, search
from simulations.execution import batch as batches
from simulations.execution import tuning
from simulations.execution.batch import Options
from simulations.results import run_folder
from simulations.results.columns import is_lower
from simulations.runners import federated_scores
from tests.simulations.conftest import read

FILE = """
[fed]
algorithm = ["fd", "local"]
clients = 2
public = 0
private = 40
validation = 60
test = 40
rounds = 1
models = ["mlp-8"]
seeds = 2

[tune]
trials = 3
seeds = [100]

[tune.search]
local.learning_rate = "log(1e-9, 1)"
fd.local.batch_size = [4, 8]
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tune.toml").write_text(FILE)


def document(**tune):
    found = tomllib.loads(FILE)
    return {**found, "tune": found["tune"] | tune}


def trials(found, out, ran=None):
    """All trials; `ran` gets the folders of the runs that were run now."""

    def listen(batch):
        for job, record in batches.run(batch):
            if record["record"] == "run" and ran is not None:
                ran.append(job.folder.relative_to(out))

    with tuning.opened(found, "tune.toml", "tune", Options(out, workers=1)) as opened:
        done = list(opened.run(listen))
        opened.keep(done)
    return done


def values(out):
    """(method, trial) -> what `trials.csv` says."""
    with (out / tuning.TABLE).open() as file:
        return {(row["method"], int(row["trial"])): row for row in csv.DictReader(file)}


@pytest.mark.usefixtures("no_report")
def test_what_is_best_by_validation_is_an_experiment_that_runs(kdsim):
    status, out, err = kdsim("tune", "tune.toml", "--out", "found", "--workers", "1")
    assert status == 0, err
    assert "fd, trial 2: " in err
    assert "local.learning_rate=" in out
    rows = values(Path("found"))
    assert rows.keys() == set(itertools.product(["fd", "local"], range(3)))
    best = tomllib.loads(Path("found/best.toml").read_text())
    assert "tune" not in best
    assert best["fed"] == tomllib.loads(FILE)["fed"]
    for name in ("fd", "local"):
        own = [rows[name, number] for number in range(3)]
        highest = max(own, key=lambda row: float(row["value"]))
        found = best["algorithm"][name]["local"]
        assert found["learning_rate"] == float(highest["local.learning_rate"])
        assert str(found.get("batch_size", "")) == highest["local.batch_size"]
    assert kdsim("run", "found/best.toml", "--out", "runs", "--workers", "1")[0] == 0
    ran = run_folder.load(Path("runs"))
    assert [(r.experiment["algorithm"], r.experiment["seed"]) for r in ran] == [
        ("fd", 0), ("fd", 1), ("local", 0), ("local", 1)
    ]  # fmt: skip
    rates = {r.experiment["algorithm"]: r.experiment["local.learning_rate"] for r in ran}
    assert rates == {k: best["algorithm"][k]["local"]["learning_rate"] for k in rates}


@pytest.mark.slow
def test_a_trial_is_a_folder_of_runs_on_the_seeds_of_the_search(tmp_path):
    done = trials(document(trials=1, seeds=[7, 8]), tmp_path / "out")
    assert [one.method for one in done] == ["fd", "local"]
    for one in done:
        assert one.folder == tmp_path / "out/trials/000"
        assert one.settings["local.learning_rate"] == 0.1  # trial 0 is the default
        runs = [r for r in run_folder.load(one.folder) if r.experiment["algorithm"] == one.method]
        assert [run.experiment["seed"] for run in runs] == [7, 8]
        ends = [run.records[-1]["metrics"]["accuracy_validation"] for run in runs]
        assert one.values == tuple(ends)
        assert one.value == sum(ends) / 2


@pytest.mark.slow
def test_test_examples_have_no_say(tmp_path, monkeypatch):
    """The same search, with all test accuracies turned upside down, finds the same."""
    first = trials(document(), tmp_path / "one")
    plain = federated_scores.scored

    def turned(*given):
        scores = plain(*given)
        return scores | {"accuracy": 1 - scores["accuracy"], "accuracy_local": 0.5}

    monkeypatch.setattr(federated_scores, "scored", turned)
    second = trials(document(), tmp_path / "two")
    assert [(o.settings, o.values) for o in first] == [(o.settings, o.values) for o in second]
    best = [(tmp_path / name / "best.toml").read_text() for name in ("one", "two")]
    assert best[0] == best[1]


@pytest.mark.slow
def test_a_search_that_was_stopped_ends_like_one_that_was_not(tmp_path):
    whole = trials(document(trials=4), tmp_path / "whole")
    ran = []
    trials(document(trials=2), tmp_path / "parts", ran)
    assert len(ran) == 4
    ran.clear()
    parts = trials(document(trials=4), tmp_path / "parts", ran)
    assert {path.parts[1] for path in ran} == {"002", "003"}  # the others were only read
    assert [(o.settings, o.values) for o in whole] == [(o.settings, o.values) for o in parts]
    said = [(tmp_path / name / "trials.csv").read_text() for name in ("whole", "parts")]
    assert said[0] == said[1]


@pytest.mark.slow
def test_other_seeds_search_elsewhere(tmp_path):
    tried = [
        [o.settings for o in trials(document(trials=2, seeds=[seed]), tmp_path / str(seed))]
        for seed in (100, 101)
    ]
    assert tried[0][:2] == tried[1][:2]  # the defaults
    assert tried[0][2:] != tried[1][2:]


@pytest.mark.slow
def test_later_trials_are_where_the_better_ones_were():
    """On a hill the last of 50 trials are nearer to its top than the first ten, drawn at random."""
    space = {"x": search.Span(1e-4, 1.0, log=True, whole=False)}
    first, last = [], []
    for seed in (100, 101, 102):
        study = tuning.Study(search.Learner("fed", "hill", space, {"x": None}), seed)
        far = []
        for number in range(50):
            asked, settings = study.ask(number)
            far.append(abs(math.log10(settings["x"] / 0.01)))
            study.tell(
                asked, tuning.Trial("hill", number, settings, "rmse_validation", far[-1:], None)
            )
        first += far[:10]
        last += far[-20:]
    assert fmean(last) < 0.75 * fmean(first)


def test_what_has_no_number_is_worse_than_all_that_have_one(tmp_path):
    done = [
        tuning.Trial("fd", 0, {"x": 1}, "accuracy_validation", (None, 0.9), tmp_path),
        tuning.Trial("fd", 1, {"x": 2}, "accuracy_validation", (0.1, 0.2), tmp_path),
    ]
    assert done[0].value is None
    assert tuning._best("fd", done) is done[1]
    with pytest.raises(ValueError, match="no trial of fd came to its end with a number"):
        tuning._best("fd", done[:1])


def test_of_errors_less_is_better(tmp_path):
    assert not is_lower("accuracy_validation")
    assert is_lower("rmse_validation")
    tried = [
        tuning.Trial("fd", n, {"x": n}, "rmse_validation", (value,), tmp_path)
        for n, value in enumerate((0.5, 0.2, 0.9))
    ]
    assert tuning._best("fd", tried) is tried[1]


@pytest.mark.slow
def test_graphs_are_tuned_on_the_validation_nodes(tmp_path):
    text = '[graph]\nmethod = "mlp"\n[tune]\ntrials = 1\nseeds = [100]\n[tune.search]\n'
    found = files.override(tomllib.loads(text), ["tune.search.dropout=range(0.0, 0.9)"])
    found = files.override(found, ["method.mlp.epochs=3"])
    (one,) = trials(found, tmp_path / "out")
    (run,) = run_folder.load(one.folder)
    best = [r for r in run.records if r["record"] == "epoch" and r["best"]]
    assert one.values == (best[-1]["accuracy_validation"],)
    assert "accuracy_validation" not in run.records[-1]["metrics"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--search", "a"], "--search takes KEY=RANGE"),
        (["--search", "alpha=log(0.1, 1)"], "alpha: it says what is to be learnt"),
        (["--search", "local.learning_rat=log(1, 2)"], "did you mean 'local.learning_rate'?"),
        (["--search", "local.learning_rate=log(0, 1)"], "expected 0 < LOW < HIGH"),
        (["--search", "local.learning_rate=range(-1, 1)"], "must be > 0 and finite, got -1.0"),
        (["--search", "local.learning_rate=0.1"], "expected log(LOW, HIGH), range(LOW, HIGH)"),
        (["--search", "local.batch_size=range(1.5, 3)"], "expected log(LOW, HIGH)"),
        (["--search", "local.optimizer=log(1, 2)"], "it is no number; give a list"),
        (["--search", "local.optimizer=['adm']"], "must be sgd, momentum or adam, got 'adm'"),
        (["--search", "local.optimizer=[]"], "expected log(LOW, HIGH)"),
        (["--seeds", "0,100"], "seed 0 is one that results are of"),
        (["--set", "tune.seeds=[]"], "seeds is an empty list"),
        (["--metric", "accuracy"], "accuracy is measured on test examples"),
        (["--metric", "rmse_validation"], "has rmse_validation; there are accuracy_validation"),
        (["--set", "fed.validation=0"], "such as --set fed.validation=200"),
        (["--set", "tune.tials=3"], "did you mean 'trials'?"),
        (["--set", "fed.algorithm=['fd', 'local', 'fedavg', 'mlp']"], "unknown algorithm 'mlp'"),
    ],
)
def test_mistakes_are_a_line(kdsim, given, said):
    status, out, err = kdsim("tune", "tune.toml", "--out", "found", "--workers", "1", *given)
    assert status == 2, err
    assert out == ""
    assert said in err.splitlines()[-1]


def test_all_are_tuned_or_none(kdsim):
    text = FILE.replace('local.learning_rate = "log(1e-9, 1)"\n', "")
    Path("tune.toml").write_text(text)
    status, _, err = kdsim("tune", "tune.toml")
    assert status == 2
    assert "nothing is searched for local, and all are tuned as widely" in err


@pytest.mark.slow
def test_folders_of_others_are_left_alone(kdsim):
    more = ["--workers", "1", "--trials", "1", "--out", "found"]
    assert kdsim("tune", "tune.toml", *more)[0] == 0
    before = Path("found/best.toml").read_text()
    status, _, err = kdsim("tune", "tune.toml", *more, "--search", "local.learning_rate=[1, 2]")
    assert status == 2
    assert "found holds another search" in err
    assert Path("found/best.toml").read_text() == before
    Path("mine").mkdir()
    Path("mine/thesis.tex").touch()
    status, _, err = kdsim("tune", "tune.toml", "--out", "mine")
    assert status == 2
    assert "mine is there and holds no search" in err


@pytest.mark.slow
def test_trials_are_told_as_records(kdsim):
    *_, out, _ = kdsim("tune", "tune.toml", "--trials", "1", "--workers", "1", "--json")
    told = read(out)
    assert [(one["record"], one["method"], one["number"]) for one in told] == [
        ("trial", "fd", 0),
        ("trial", "local", 0),
    ]
    assert told[0]["value"] == told[0]["values"][0]


def test_without_optuna_it_says_what_to_install(kdsim, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(tuning, "find_spec", lambda name: None if name == "optuna" else find(name))
    status, _, err = kdsim("tune", "tune.toml")
    assert status == 2
    assert err.splitlines()[-1].endswith("pip install kdsim[tune]")


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_a_run_passes_the_search_by(kdsim):
    assert kdsim("run", "tune.toml", "--workers", "1", "--out", "runs")[0] == 0
    assert len(run_folder.load(Path("runs"))) == 4
