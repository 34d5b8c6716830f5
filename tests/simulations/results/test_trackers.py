"""TensorBoard, Weights & Biases and MLflow hear of runs, and so does a user's own; read back."""

import csv
import json
import struct
import time
from pathlib import Path

import pytest

import kdsim as kd
from simulations.reporting import report
from simulations.results import metrics_table, run_folder, trackers

RECORDS = [
    {"record": "round", "round": 1, "accuracy": 0.5, "bytes_up": 7, "clients": {"accuracy": [1.0]}},
    {"record": "round", "round": 2, "accuracy": 0.75, "bytes_up": 14, "notes": ["x"], "lost": None},
    {"record": "run", "metrics": {"accuracy": 0.75, "bytes_up": 14}},
]
EPOCHS = [
    {"record": "epoch", "phase": "teacher", "epoch": 1, "loss": 2.0, "best": True},
    {"record": "epoch", "phase": "student", "epoch": 1, "loss": 1.0},
]
ABOUT = {"experiment": {"kind": "fed", "alpha": 0.3, "source a.py:X": "ab"}, "hash": "ab" * 32}


def track(name, folder, records=RECORDS, before=()):
    folder.mkdir(parents=True, exist_ok=True)
    return list(trackers.track([name], folder, ABOUT, before, iter(records)))


def scalars(folder):
    """What TensorBoard itself reads: tag -> (step, value) of each."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    tags = found.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in tags}


SCALARS = {
    "accuracy": [(1, 0.5), (2, 0.75)],
    "bytes_up": [(1, 7), (2, 14)],
    "final/accuracy": [(2, 0.75)],
    "final/bytes_up": [(2, 14)],
}


def test_the_numbers_of_a_record():
    assert trackers.numbers(RECORDS[1]) == {"accuracy": 0.75, "bytes_up": 14}
    assert trackers.numbers(RECORDS[2]) == {"final/accuracy": 0.75, "final/bytes_up": 14}
    assert trackers.numbers(EPOCHS[0]) == {"teacher/loss": 2.0}


def test_tensorboard_reads_what_it_was_told(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    assert track("tensorboard", tmp_path / "run") == RECORDS
    assert scalars(tmp_path / "run") == SCALARS


def test_a_run_that_goes_on_is_told_from_its_start(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    track("tensorboard", tmp_path / "run", RECORDS[:2])  # of which the second round was lost
    track("tensorboard", tmp_path / "run", RECORDS[1:], before=RECORDS[:1])
    assert scalars(tmp_path / "run") == SCALARS


def test_epochs_are_told_by_phase(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    track("tensorboard", tmp_path / "run", EPOCHS)
    assert scalars(tmp_path / "run") == {"teacher/loss": [(1, 2.0)], "student/loss": [(1, 1.0)]}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_mlflow_reads_what_it_was_told(tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    track("mlflow", tmp_path / "all" / "run", RECORDS[:1])
    assert track("mlflow", tmp_path / "all" / "run") == RECORDS  # in the place of what there was
    client = mlflow.MlflowClient((tmp_path / "all" / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("all").experiment_id
    (run,) = client.search_runs([experiment])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params == {"kind": "fed", "alpha": "0.3", "source a.py_X": "ab"}
    history = client.get_metric_history(run.info.run_id, "accuracy")
    assert [(one.step, one.value) for one in history] == [(1, 0.5), (2, 0.75)]
    assert run.data.metrics["final/bytes_up"] == 14


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_wandb_keeps_what_it_was_told_and_sends_nothing(tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed")
    track("wandb", tmp_path / "all" / "run", RECORDS[:1])
    assert track("wandb", tmp_path / "all" / "run") == RECORDS
    (path,) = (tmp_path / "all" / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    rows, config = kept_by_wandb(path)
    assert [(row["step"], row.get("accuracy")) for row in rows] == [(1, 0.5), (2, 0.75), (2, None)]
    assert rows[-1]["final/bytes_up"] == 14
    assert config["alpha"] == 0.3


def kept_by_wandb(path):
    """The rows and the settings in the file of an offline run, by wandb's own description of it."""
    from wandb.proto.wandb_internal_pb2 import Record

    for _ in range(600):  # a process of wandb's own writes the file
        found = [Record.FromString(content) for content in entries(path.read_bytes())]
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            break
        time.sleep(0.1)
    rows, config = [], {}
    for record in found:
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
        if record.WhichOneof("record_type") == "run":
            config |= {i.key: json.loads(i.value_json) for i in record.run.config.update}
    return rows, config


def entries(log):
    """The entries of a log of LevelDB: blocks of 32 kB, each piece after its CRC, length and type.

    https://github.com/google/leveldb/blob/main/doc/log_format.md; wandb puts 7 bytes before it.
    """
    place, entry = 7, b""
    while place + 7 <= len(log):
        left = 32768 - place % 32768
        if left < 7:  # a block ends with zeros
            place += left
            continue
        length, kind = struct.unpack("<HB", log[place + 4 : place + 7])
        if place + 7 + length > len(log):
            return
        entry += log[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield entry
            entry = b""


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_library_that_is_not_there_is_named_with_its_extra(name, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"tracker {name} .*: pip install 'kdsim\[{name}\]'$"):
        trackers.check([name])


@pytest.fixture
def quick_report(monkeypatch):
    """A page without its figures, which take seconds."""
    monkeypatch.setattr(report, "write_report", lambda runs, out=None, select=None: Path("none"))


OWN = "class Mine:\n"
OWN += "    def __init__(self, folder, about):\n"
OWN += "        self.file = (folder / 'heard.txt').open('w')\n"
OWN += "        print(about['experiment']['clients'], file=self.file)\n"
OWN += "    def __call__(self, record):\n"
OWN += "        print(record['record'], record.get('round'), file=self.file)\n"
OWN += "    def close(self):\n        self.file.close()\n"
FED = ["fed", "fedmd", "--rounds", "2", "--clients", "3", "--private", "60", "--public", "20"]
FED += ["--test", "40", "--models", "mlp-8", "--no-baseline"]


@pytest.mark.usefixtures("no_report")
def test_a_tracker_of_ones_own_hears_all_records(kdsim, own_code):
    (own_code / "mine.py").write_text(OWN)
    status, _, err = kdsim(*FED, "--track", "mine.py:Mine", "--out", "out")
    assert status == 0, err
    (heard,) = own_code.glob("out/*/heard.txt")
    assert heard.read_text() == "3\nround 1\nround 2\nrun None\n"
    heard.unlink()
    assert kdsim(*FED, "--track", "mine.py:Mine", "--out", "out")[0] == 0  # done already
    assert heard.read_text() == "3\nround 1\nround 2\nrun None\n"
    (run,) = run_folder.load(own_code / "out")
    assert "source mine.py:Mine" not in run.experiment  # it changes no number


@pytest.mark.usefixtures("no_report")
def test_a_file_may_name_trackers(kdsim, own_code):
    (own_code / "mine.py").write_text(OWN)
    fed = "algorithm = 'fedmd'\nrounds = 2\nclients = 3\nprivate = 60\npublic = 20\ntest = 40\n"
    text = f"[fed]\n{fed}models = ['mlp-8']\n[resources]\ntrack = ['mine.py:Mine']\n"
    (own_code / "x.toml").write_text(text)
    assert kdsim("run", "x.toml", "--track", "mine.py:Mine", "--out", "out")[0] == 0  # told once
    (heard,) = own_code.glob("out/*/heard.txt")
    assert heard.read_text() == "3\nround 1\nround 2\nrun None\n"
    (own_code / "x.toml").write_text(text.replace("mine.py:Mine", "tensorbord"))
    status, _, err = kdsim("run", "x.toml", "--out", "other")
    assert status == 2
    assert "unknown tracker 'tensorbord'; did you mean 'tensorboard'?" in err
    assert not (own_code / "other").exists()


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    "where", ["__init__(self, folder, about)", "__call__(self, record)", "close(self)"]
)
def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(kdsim, own_code, where):
    text = "class Mine:\n    def __init__(self, folder, about):\n        pass\n"
    text += "    def __call__(self, record):\n        pass\n    def close(self):\n        pass\n"
    text = text.replace(f"def {where}:\n        pass", f"def {where}:\n        1 / 0")
    (own_code / "bad.py").write_text(text)
    status, _, err = kdsim(*FED, "--track", "bad.py:Mine", "--out", "out")
    assert status == 0
    assert err.count("tracker bad.py:Mine failed, and is left out: ZeroDivisionError") == 1
    assert run_folder.load(own_code / "out")[0].complete


@pytest.mark.usefixtures("no_report")
def test_an_unknown_tracker_is_refused_before_anything_runs(kdsim, tmp_path):
    status, _, err = kdsim(*FED, "--track", "tensorbord", "--out", "out")
    assert status == 2
    assert "unknown tracker 'tensorbord'; did you mean 'tensorboard'?" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("from torch.nn import Linear as Mine", "has no close; expected a class called with (fol"),
        ("class Mine:\n    def close(self): pass\n", "has no __call__; expected "),
        (
            "def Mine(folder):\n    return print\n",
            "cannot be called with (folder, about): too many",
        ),
    ],
)
def test_what_is_no_tracker_is_refused_before_anything_runs(kdsim, own_code, text, said):
    (own_code / "bad.py").write_text(text)
    status, _, err = kdsim(*FED, "--track", "bad.py:Mine", "--out", "out")
    assert status == 2
    assert f"tracker bad.py:Mine {said}" in err
    assert not (own_code / "out").exists()


@pytest.mark.usefixtures("quick_report")
@pytest.mark.parametrize(
    "command", ["graph", pytest.param("recipe", marks=pytest.mark.slow), "run", "python"]
)
def test_every_kind_of_run_can_be_tracked(kdsim, own_code, command):
    (own_code / "mine.py").write_text(
        OWN.replace("about['experiment']['clients']", "about['hash']")
    )
    if command == "python":
        settings = {"rounds": 1, "clients": 3, "private": 60, "public": 20, "models": ["mlp-8"]}
        kd.run("fedmd", out="out", track="mine.py:Mine", **settings)
    else:
        (own_code / "one.toml").write_text(
            '[fed]\nalgorithm = "fedmd"\nrounds = 1\nclients = 3\nprivate = 60\npublic = 20\n'
        )
        arguments = {
            "graph": ["glnn", "--epochs", "2", "--teacher-epochs", "2"],
            "recipe": ["dark_knowledge", "--seeds", "1"],
            "run": ["one.toml"],
        }[command]
        more = ["--track", "mine.py:Mine", "--out", "out"]
        assert kdsim(command, *arguments, *more)[0] == 0
    (heard,) = own_code.glob("out/*/heard.txt")
    assert heard.read_text().endswith("run None\n")


def test_numbers_are_in_a_table_too(tmp_path):
    text = metrics_table.table(RECORDS)
    assert text.splitlines() == [
        "record,round,accuracy,bytes_up",
        "round,1,0.5,7.0",
        "round,2,0.75,14.0",
        "run,,0.75,14.0",
    ]
    (row, _) = csv.DictReader(metrics_table.table(EPOCHS).splitlines())
    assert row == {"record": "epoch", "phase": "teacher", "epoch": "1", "loss": "2.0"}


@pytest.mark.usefixtures("no_report")
def test_every_run_has_the_table(kdsim, tmp_path):
    assert kdsim(*FED, "--out", "out")[0] == 0
    (path,) = tmp_path.glob("out/*/metrics.csv")
    (run,) = run_folder.load(tmp_path / "out")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["record"] for row in rows] == ["round", "round", "run"]
    assert float(rows[1]["accuracy"]) == run.records[1]["accuracy"]
    assert float(rows[2]["accuracy_local"]) == run.records[2]["metrics"]["accuracy_local"]
