import json
import subprocess
import sys
from pathlib import Path

import pytest

from simulations.results import run_folder
from simulations.results.summary import spread, summaries

SETTINGS = {"kind": "fed", "algorithm": "fd", "seed": 0}
HEADER = run_folder.header(SETTINGS, "abc", "cpu", 1, ["kdsim", "fed", "a b"])
END = {"record": "run", "kind": "fed", "method": "fd", "data": "d", "protocol": "p"}
END |= {"seed": 0, "metrics": {}}


def holder(folder):
    """Another process that holds a folder until its standard input is closed."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom simulations.results.run_folder import locked\n"
    )
    code += f"with locked(Path({str(folder)!r})):\n    print('held', flush=True); sys.stdin.read()"
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_records_are_on_disk_before_they_are_passed_on(tmp_path):
    records = run_folder.write(
        tmp_path / "run", HEADER, iter([{"record": "round", "round": 1}, END])
    )
    assert next(records)["round"] == 1
    (run,) = run_folder.load(tmp_path)
    assert (run.hash, run.experiment, run.complete) == ("abc", SETTINGS, False)
    assert [record["round"] for record in run.records] == [1]
    assert list(records) == [END]
    assert run_folder.load(tmp_path)[0].complete


def test_a_run_is_started_over(tmp_path):
    list(run_folder.write(tmp_path, HEADER, [{"record": "round", "round": i} for i in (1, 2, 3)]))
    list(run_folder.write(tmp_path, HEADER, [END]))
    assert run_folder.load(tmp_path)[0].records == [END]


def test_the_header_says_how(tmp_path):
    list(run_folder.write(tmp_path, HEADER, []))
    head = json.loads((tmp_path / "run.json").read_text())
    assert head["command"] == "kdsim fed 'a b'"
    assert (head["device"], head["threads"], head["seed"]) == ("cpu", 1, 0)
    assert {"python", "torch"} <= set(head["versions"])


def test_a_line_cut_off_in_a_crash_is_left_out(tmp_path):
    list(run_folder.write(tmp_path, HEADER, [{"record": "round", "round": 1}]))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"record": "rou')
    assert [record["round"] for record in run_folder.load(tmp_path)[0].records] == [1]


DAMAGE = {  # what is written where, and what is said of it
    "no JSON": (run_folder.HEAD, "{", "Expecting property name"),
    "no text": (run_folder.HEAD, b"\xff\xfe\x00", "run.json is damaged"),
    "no object": (run_folder.HEAD, "[]", "no object"),
    "no experiment": (run_folder.HEAD, "{}", "does not say which experiment"),
    "no hash": (run_folder.HEAD, '{"experiment": {"kind": "fed", "seed": 0}}', "no hash"),
    "true for a seed": (
        run_folder.HEAD,
        '{"experiment": {"kind": "fed", "seed": true}}',
        "which exp",
    ),
    "no JSON in a line": (
        run_folder.METRICS,
        '{"record": "round", "round": 1}\n{"re\n',
        "line 2: ",
    ),
    "no number": (
        run_folder.METRICS,
        '{"record": "round", "round": null}\n',
        "line 1 is no record",
    ),
    "no kind": (run_folder.METRICS, '{"record": []}\n', "line 1 is no record"),
    "no metrics": (run_folder.METRICS, '{"record": "run", "metrics": 1}\n', "line 1 is no record"),
    "a text for an accuracy": (
        run_folder.METRICS,
        '{"record": "round", "round": 1, "accuracy": "x"}\n',
        "line 1: accuracy is 'x' and no number",
    ),
    "true for a metric": (
        run_folder.METRICS,
        json.dumps(END | {"metrics": {"loss": None, "agreement": True}}) + "\n",
        "line 1: agreement is True and no number",
    ),
    "deep": (run_folder.METRICS, "[" * 100_000 + "\n", "line 1"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_file_is_named(tmp_path, case):
    list(run_folder.write(tmp_path, HEADER, [END]))
    name, content, said = DAMAGE[case]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=said) as error:
        run_folder.load(tmp_path)
    assert str(tmp_path / name) in str(error.value)
    assert f"delete {tmp_path} to run it again" in str(error.value)


def test_rounds_count_as_written_up_to_the_first_gap(tmp_path):
    assert run_folder.written(tmp_path) == 0
    rounds = [{"record": "round", "round": i} for i in (1, 2, 4, 5)]
    list(run_folder.write(tmp_path, HEADER, rounds))
    assert run_folder.written(tmp_path) == 2
    list(run_folder.write(tmp_path, HEADER, [], kept=4))  # those that stay
    assert [record["round"] for record in run_folder.load(tmp_path)[0].records] == [1, 2, 4]


def test_json_has_no_nan():
    assert json.loads(run_folder.line({"a": float("nan"), "b": [float("inf"), 1.5]})) == {
        "a": None,
        "b": [None, 1.5],
    }


def test_a_folder_in_use_names_the_process(tmp_path):
    process = holder(tmp_path)
    with (
        pytest.raises(ValueError, match=f"in use by process {process.pid}; .* --out"),
        run_folder.locked(tmp_path),
    ):
        pass
    process.communicate()
    with run_folder.locked(tmp_path):
        pass


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    run_folder.check(tmp_path / "new", ["abc"])
    run_folder.check(tmp_path, ["abc"])  # an empty one will do
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="holds no experiment; name a new folder"):
        run_folder.check(tmp_path, ["abc"])
    with pytest.raises(ValueError, match="is no folder"):
        run_folder.check(tmp_path / "thesis.tex", ["abc"])
    (tmp_path / "thesis.tex").unlink()
    (tmp_path / run_folder.LOCK).write_text(
        "1\n"
    )  # of one that was stopped before it wrote anything
    (tmp_path / ".draft-experiment.toml-1").write_text("[fe")
    run_folder.check(tmp_path, ["abc"])
    (tmp_path / run_folder.EXPERIMENT).write_text("")
    list(run_folder.write(tmp_path / "fd", HEADER, []))
    run_folder.check(tmp_path, ["abc", "def"])  # an experiment may grow
    with pytest.raises(ValueError, match="holds a different experiment .its run fd is none"):
        run_folder.check(tmp_path, ["def"])


def run(name, seed, accuracy, **settings):
    experiment = {"kind": "fed", "algorithm": name, "data": "d", "seed": seed, "alpha": 1.0}
    experiment |= {"local.epochs": 1} | settings
    end = END | {"method": name, "seed": seed, "metrics": {"accuracy": accuracy}}
    return run_folder.Run(Path(), experiment, "", [end])


def test_a_summary_has_mean_spread_and_number():
    assert spread([1.0, 2.0, 3.0]) == {"mean": 2.0, "std": 1.0, "n": 3}
    assert spread([1.0, None]) == {"mean": 1.0, "std": None, "n": 1}
    assert spread([8.0, 8.0 + 2e-15]) == {"mean": 8.0, "std": 0.0, "n": 2}
    assert spread([0.0, 2e-15])["std"] > 0
    assert spread([None]) == {"mean": None, "std": None, "n": 0}


def test_the_baseline_is_local_training_with_the_same_setting():
    runs = [run("fd", 1, 0.8), run("fd", 0, 0.6), run("local", 0, 0.5), run("local", 1, 0.3)]
    runs += [run("local", 0, 0.1, alpha=2.0), run("fd", 0, 0.9, alpha=3.0)]
    fd, local, _, alone = summaries(runs)
    assert fd["seeds"] == [0, 1]
    assert fd["metrics"]["accuracy"]["mean"] == pytest.approx(0.7)
    assert fd["metrics"]["accuracy_baseline"]["mean"] == pytest.approx(0.4)
    assert fd["metrics"]["accuracy_baseline"]["n"] == 2
    assert local["metrics"]["accuracy_baseline"] == local["metrics"]["accuracy"]
    assert "accuracy_baseline" not in alone["metrics"]


def test_of_several_baselines_the_one_with_the_same_training_counts():
    runs = [run("fd", 0, 0.6), run("local", 0, 0.5), run("local", 0, 0.1, **{"local.epochs": 2})]
    assert summaries(runs)[0]["metrics"]["accuracy_baseline"]["mean"] == 0.5
