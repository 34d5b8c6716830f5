"""A user's algorithm, model, data, partition, engine: as flags, in a file, on Ray, resumed."""

import json
import shutil

import pytest

from simulations.config import identity
from simulations.config.experiments import build
from simulations.results import run_folder
from tests.simulations.conftest import read

FILES = {
    "algo.py": "from dataclasses import dataclass\n"
    "from fedkd.algorithms.fedmd import FedMD\n"
    "@dataclass(frozen=True)\n"
    "class Mine(FedMD):\n"
    '    """Nothing but FedMD."""\n'
    "    boost: float = 2.0\n",
    "data.py": "import torch\n"
    "def load(root):\n"
    "    draw = torch.Generator().manual_seed(0)\n"
    "    y = torch.arange(3).repeat(60)\n"
    "    return torch.eye(3)[y].repeat(1, 2) + torch.rand(180, 6, generator=draw), y\n",
    "net.py": "from torch import nn\n"
    "from widths_of_net import width\n"
    "class Net(nn.Module):\n"
    "    def __init__(self, shape, classes):\n"
    "        super().__init__()\n"
    "        self.body = nn.Sequential(nn.Linear(*shape, width), nn.ReLU())\n"
    "        self.head = nn.Linear(width, classes)\n"
    "    def forward(self, x):\n"
    "        return self.head(self.body(x))\n",
    "widths_of_net.py": "width = 8\n",
    "parts.py": "def deal(labels, clients, generator):\n"
    "    return [range(k, len(labels), clients) for k in range(clients)]\n",
    "run.py": "def each(function, task, clients, inputs):\n"
    "    found = zip(clients, inputs)\n"
    "    return [function(task.models[c.group].predict, c.params, *i) for c, i in found]\n",
    "says.py": "import torch\n"
    "import torch.nn.functional as F\n"
    "def soft(outputs, q):\n"
    "    return (outputs.softmax(-1) - q).square().sum(-1)\n"
    "def hard(outputs, y):\n"
    "    return soft(outputs, F.one_hot(y, outputs.shape[-1]))\n",
    "lies.py": "from fedkd.attacks.lies import Lie\n"
    "class Turned(Lie):\n"
    "    def predictions(self, own, others, generator):\n"
    "        return own.flip(-1)\n",
    "ways.py": "from fedkd.consensus import Rule\n"
    "class Double(Rule):\n"
    "    def rows(self, q):\n"
    "        return 1 + q[..., 0]\n",
    "faults.py": "def loud(upload):\n    return upload._replace(weight=-upload.weight)\n",
}
OWN = ["fed", "own/algo.py:Mine", "--data", "own/data.py:load", "--models", "own/net.py:Net,mlp-4"]
OWN += ["--partition", "own/parts.py:deal", "--clients", "3", "--private", "60", "--public", "30"]
OWN += ["--rounds", "2", "--no-baseline"]
OWN += ["--loss", "own/says.py:hard", "--distillation-loss", "own/says.py:soft"]


@pytest.fixture
def own(own_code):
    """A folder of the user's code, below the working folder."""
    (own_code / "own").mkdir()
    for name, text in FILES.items():
        (own_code / "own" / name).write_text(text)
    return own_code / "own"


def states(out):
    """Of each run below, its seed and the checksum of what it came to."""
    return {run.experiment["seed"]: run.records[-1]["state"] for run in run_folder.load(out)}


def head(out):
    (path,) = out.glob("*/run.json")
    return json.loads(path.read_text())


@pytest.mark.usefixtures("no_report", "own")
def test_all_of_it_on_the_command_line(kdsim, tmp_path):
    more = ["--engine", "own/run.py:each", "--corrupt", "1:own/faults.py:loud", "--boost", "3"]
    more += ["--liars", "0.3:own/lies.py:Turned", "--aggregation", "own/ways.py:Double"]
    status, out, err = kdsim(*OWN, *more, "--json", "--out", "out")
    assert status == 0, err
    *rounds, _, _ = read(out)
    assert [list(record["rejected"]) for record in rounds] == [["1"], ["1"]]
    said = head(tmp_path / "out")
    assert said["experiment"]["boost"] == 3
    assert said["experiment"]["models"] == ["own/net.py:Net", "mlp-4"]
    assert said["experiment"]["loss"] == "own/says.py:hard"
    places = {"algo.py:Mine", "data.py:load", "faults.py:loud", "net.py:Net", "parts.py:deal"}
    places |= {"run.py:each", "says.py:hard", "says.py:soft"}
    places |= {"lies.py:Turned", "ways.py:Double"}
    assert set(said["sources"]) == {f"own/{place}" for place in places}
    assert set(said["sources"]["own/net.py:Net"]["parts"]) == {"net.py", "widths_of_net.py"}
    (folder,) = (tmp_path / "out").glob("*/run.json")
    assert folder.parent.name.startswith("algo.py.Mine-data.py.load-s0-")


@pytest.mark.usefixtures("no_report", "own")
def test_all_of_it_in_a_file(kdsim, tmp_path):
    (tmp_path / "mine.toml").write_text(
        '[fed]\nalgorithm = ["own/algo.py:Mine", "fedmd"]\ndata = "./own/data.py:load"\n'
        'models = ["own/net.py:Net"]\npartition = ["iid", "own/parts.py:deal"]\n'
        "clients = 3\nprivate = 60\npublic = 30\nrounds = 1\n"
        '[algorithm."own/algo.py:Mine"]\nboost = 4.0\n'
    )
    status, _, err = kdsim("run", "mine.toml", "--out", "out", "--workers", "1")
    assert status == 0, err
    runs = run_folder.load(tmp_path / "out")
    assert len(runs) == 4
    assert {run.experiment["data"] for run in runs} == {"own/data.py:load"}
    assert {run.experiment.get("boost") for run in runs} == {4.0, None}


def test_the_flags_are_those_of_the_class(kdsim, own):
    status, out, _ = kdsim("fed", "own/algo.py:Mine", "--help")
    assert status == 0
    assert "Nothing but FedMD." in out
    assert "--boost" in out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--models", "own/net.py:Nut"], "unknown name 'Nut'; did you mean 'Net'?"),
        (["--models", "own/net.py"], "say what in that file, as in own/net.py:Name"),
        (["--models", "own/data.py:load"], "cannot be made for examples of shape (6,) and 3 cl"),
        (["--data", "own/net.py:Net"], "data set 'own/net.py:Net': TypeError: "),
        (["--data", "own/not.py:load"], "there is no file "),
        (["--partition", "own/parts.py:torch"], "unknown name 'torch'"),
        (["--partition", "own/data.py:load"], "partition 'own/data.py:load': TypeError: "),
        (["--partition", "dirichle"], "unknown partition 'dirichle'; did you mean 'dirichlet'?"),
        (
            ["--loss", "own/says.py:soft"],
            "the loss soft fails with outputs (8, 3) and y (8,): Runt",
        ),
        (["--loss", "own/data.py:load"], "the loss load fails with outputs (8, 3) and y (8,): Typ"),
        (["--loss", "squard"], "unknown loss 'squard'; did you mean 'squared'?"),
        (
            ["--loss", "squared"],
            "the loss squared is for the target real, and each example has one c",
        ),
        (["--distillation-loss", "own/says.py:hard"], "the distillation loss hard fails with outp"),
        (["--engine", "batch"], "unknown engine 'batch'; did you mean 'batched'?"),
        (["--corrupt", "1:nam"], "unknown fault 'nam'; did you mean 'nan'?"),
        (["--corrupt", "own/faults.py:loud"], "corrupt must be CLIENT:FAULT"),
    ],
)
def test_what_is_none_of_a_kind_is_refused_in_a_line(kdsim, own, change, said):
    status, _, err = kdsim(*OWN, *change)
    assert status == 2
    assert said in err
    assert len(err.splitlines()) == 1


EXIT = "raise SystemExit('no licence')"


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (
            "parts",
            f"def deal(labels, clients, dice):\n    {EXIT}\n",
            "partition 'own/parts.py:deal'",
        ),
        ("data", f"def load(root):\n    {EXIT}\n", "data set 'own/data.py:load'"),
        (
            "net",
            f"class Net:\n    def __init__(self, *_):\n        {EXIT}\n",
            "model 'own/net.py:Net'",
        ),
        ("says", f"def hard(outputs, y):\n    {EXIT}\nsoft = hard\n", "the loss hard fails"),
        ("run", EXIT, "'own/run.py:each' cannot be imported"),
    ],
)
def test_code_that_exits_is_refused_in_a_line(kdsim, own, file, text, said):
    (own / f"{file}.py").write_text(text)
    status, _, err = kdsim(*OWN, "--engine", "own/run.py:each")
    assert status == 2
    assert said in err
    assert "SystemExit: no licence" in err
    assert len(err.splitlines()) == 1


@pytest.mark.usefixtures("no_report")
def test_an_algorithm_that_exits_has_failed(kdsim, own):
    more = f"    def client_update(self, *given):\n        {EXIT}\n"
    (own / "algo.py").write_text(FILES["algo.py"] + more)
    status, _, err = kdsim(*OWN, "--out", "out")
    assert status == 1
    assert "no licence" in err


@pytest.mark.parametrize(
    ("dealt", "said"),
    [
        ("[[0, 1], [2]]", "2 parts for 3 clients; each client needs one"),
        ("[[0, 1], [2], [1]]", "row 1 is dealt out 2 times, to [0, 1, 2][0:3:2]"),
        ("[[0], [1], []]", "client 2 has rows of shape (0,)"),
        ("[[0], [1], [60]]", "client 2 has rows 60 to 60, and there are 0 to 59"),
        ("[[0], [1], [0.5]]", "row numbers hold 0.5"),
        ("3", "TypeError: it gives int; expected row numbers of each client"),
        ("labels[10**6]", "partition 'own/parts.py:deal': IndexError: index 1000000 is out of"),
        ("{}['rows']", "partition 'own/parts.py:deal': KeyError: 'rows'"),
    ],
)
def test_a_partition_that_is_none_is_refused_in_a_line(kdsim, own, dealt, said):
    (own / "parts.py").write_text(f"def deal(labels, clients, generator):\n    return {dealt}\n")
    said = said.replace("[0, 1, 2][0:3:2]", "[0, 2]")
    status, _, err = kdsim(*OWN)
    assert status == 2
    assert said in err


@pytest.mark.parametrize(
    ("loaded", "said"),
    [
        ("None", "it gives NoneType; expected examples and labels (x, y)"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("{}['x']", "KeyError: 'x'"),
    ],
)
def test_data_that_cannot_be_loaded_are_refused_in_a_line(kdsim, own, loaded, said):
    (own / "data.py").write_text(f"def load(root):\n    return {loaded}\n")
    status, _, err = kdsim(*OWN)
    assert status == 2
    assert "data set 'own/data.py:load': " in err
    assert said in err
    assert len(err.splitlines()) == 1


def test_two_versions_of_a_file_are_two_runs(own, monkeypatch):
    monkeypatch.chdir(own.parent)

    def digest():
        return identity.digest(build("fed", "fedmd", {"models": ["own/net.py:Net", "mlp"]}))

    first = digest()
    assert digest() == first
    (own / "net.py").write_text(FILES["net.py"] + "# no more\n")
    assert digest() != first
    (own / "net.py").write_text(FILES["net.py"])
    assert digest() == first
    assert identity.digest(build("fed", "fedmd", {})) != first


def test_another_place_of_the_same_file_is_another_run_of_the_same_source(own, monkeypatch):
    monkeypatch.chdir(own.parent)
    shutil.copytree(own, own.parent / "copy", ignore=shutil.ignore_patterns("widths*"))
    names = ("own/parts.py:deal", "copy/parts.py:deal")
    settings = [identity.settings(build("fed", "fedmd", {"partition": name})) for name in names]
    one, two = (said[f"source {name}"] for said, name in zip(settings, names, strict=True))
    assert one == two


@pytest.mark.usefixtures("no_report")
def test_changed_source_is_another_experiment_in_the_same_folder(kdsim, own):
    assert kdsim(*OWN, "--out", "out")[0] == 0
    assert kdsim(*OWN, "--out", "out")[0] == 0  # the same: it is done already
    (own / "parts.py").write_text(FILES["parts.py"] + "\n")
    status, _, err = kdsim(*OWN, "--out", "out")
    assert status == 2
    assert "the source of own/parts.py:deal has changed since it began (parts.py); put it" in err


@pytest.mark.usefixtures("no_report")
def test_resuming_goes_back_to_the_code_and_says_what_is_imported(
    kdsim, own, tmp_path, monkeypatch
):
    more = ["--rounds", "4", "--checkpoint-every", "1", "--out"]
    assert kdsim(*OWN, *more, "whole")[0] == 0
    assert kdsim(*OWN, *more, "out")[0] == 0
    (folder,) = (path.parent for path in (tmp_path / "out").glob("*/run.json"))
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:2]))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    status, _, err = kdsim("resume", "../out")
    assert status == 0, err
    assert f"imports own/algo.py:Mine from {own / 'algo.py'}\n" in err
    assert states(tmp_path / "out") == states(tmp_path / "whole")


@pytest.mark.usefixtures("no_report")
def test_resuming_with_changed_source_is_refused(kdsim, own, tmp_path):
    assert kdsim(*OWN, "--out", "out")[0] == 0
    (folder,) = (path.parent for path in (tmp_path / "out").glob("*/run.json"))
    (folder / "metrics.jsonl").write_text("")
    (own / "algo.py").write_text(FILES["algo.py"].replace("2.0", "3.0"))
    status, _, err = kdsim("resume", "out")
    assert status == 2
    assert "the source of own/algo.py:Mine has changed since it began (algo.py)" in err
    (own / "algo.py").unlink()
    status, _, err = kdsim("resume", "out")
    assert status == 2
    assert "own/algo.py:Mine': there is no file " in err


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("no_report", "own")
def test_workers_of_ray_get_it(kdsim, tmp_path):
    found = {}
    for name, more in {
        "one": ["--workers", "1"],
        "workers": ["--workers", "2"],
        "actors": ["--workers", "1", "--engine", "ray", "--actors", "2"],
    }.items():
        status, _, err = kdsim(*OWN, "--seeds", "2", *more, "--out", name)
        assert status == 0, err
        found[name] = run_folder.load(tmp_path / name)
    assert states(tmp_path / "one") == states(tmp_path / "workers")
    assert [run.path.name for run in found["one"]] == [run.path.name for run in found["workers"]]
    for one, other in zip(found["one"], found["actors"], strict=True):
        scores = [run.records[-1]["metrics"]["accuracy"] for run in (one, other)]
        assert scores[0] == pytest.approx(scores[1], abs=0.02)
