"""What there is by name is kept in a file, which says what looking it up would say."""

import importlib
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import fedkd.models
from kdcore.references import names_in
from simulations.cli import catalogue
from simulations.config import library
from simulations.config.experiments import build

QUICK = [
    ["fed", "--help"],
    ["graph", "--help"],
    ["fed", "fedmd", "--help"],
    ["graph", "glnn", "--help"],
    ["list"],
    ["list", "losses", "--json"],
    ["list", "recipe"],
    ["lst"],
    ["fed", "fedmdd"],
    ["fed", "fedmd", "--rouns", "3"],
    ["fed", "fedmd", "--rounds", "x"],
    ["fed", "fedmd", "--models", "mlp-64,mpl-64"],
    ["fed", "fedmd", "--data", "mnist+digitz"],
    ["fed", "fedmd", "--partition", "dirichle"],
    ["fed", "fedmd", "--engine", "batchd"],
    ["fed", "fedmd", "--corrupt", "1:nann"],
    ["graph", "glnnn"],
    ["graph", "glnn", "--data", "coraa"],
    ["graph", "glnn", "--teacher", "sagee"],
    ["recipe", "mutal"],
    ["run", "demoo"],
    ["run", "wrong.toml"],
]
WITHOUT_TORCH = """
import sys
from simulations.cli import app
for arguments in {commands}:
    status = app.main(arguments)
    assert status == (0 if "--help" in arguments or arguments[0] == "list" and
                      "recipe" not in arguments else 2), (status, arguments)
    assert "torch" not in sys.modules, arguments
"""


def test_the_file_holds_what_there_is():
    assert catalogue.stored() == catalogue.built(), "python -m simulations.cli.catalogue"


def test_names_flags_and_mistakes_take_no_torch(tmp_path):
    (tmp_path / "wrong.toml").write_text('[fed]\nalgorithm = ["fedmd", "fdd"]\n')
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH.format(commands=QUICK)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    mistakes = done.stderr.splitlines()
    assert len(mistakes) == 16
    without = [line for line in mistakes if "did you mean" not in line.lower()]
    assert ["'x' is not a valid int" in line for line in without] == [True]
    assert "unknown algorithm 'fdd'; did you mean 'fd'?" in mistakes[-1]


@pytest.mark.parametrize("place", json.loads(catalogue.FILE.read_text())["names"])
def test_a_mistake_is_told_as_those_would_who_look_it_up(place):
    registry = importlib.import_module(place).REGISTRY
    for name in registry.names():
        catalogue.check(place, name)
    wrong = f"{registry.names()[0]}x"
    with pytest.raises(ValueError, match="did you mean") as quick:
        catalogue.check(place, wrong)
    look_up = registry.get
    if place == "fedkd.models":
        look_up = partial(fedkd.models.build, shape=(4,), num_classes=2)
    with pytest.raises(ValueError, match="did you mean") as slow:
        look_up(wrong)
    assert str(quick.value) == str(slow.value)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("fedkd.models", "mlp-64-32"),
        ("fedkd.models", "cnn@64"),
        ("fedkd.models", "path/net.py:Net"),
        ("fedkd.models", "package.module:Net"),
        ("fedkd.data.datasets", "houses.csv"),
        ("fedkd.data.datasets", "own:0"),
        ("fedkd.data.partition", "auto"),
        ("fedkd.nothing", "anything"),
    ],
)
def test_what_may_be_right_is_left_to_those_who_read_it(place, name):
    catalogue.check(place, name)


@pytest.mark.parametrize("name", library.names())
def test_experiments_that_ship_have_no_mistake_in_a_name(name):
    catalogue.check_file(library.find(Path(name)))


def test_nobody_lies_can_be_said():
    for kind, name in (("fed", "dsfl"), ("graph", "glnn")):
        known = catalogue.learner(kind, name).flags
        catalogue.check_values(known, {key: "none" for key in known})


def test_values_hold_several_names():
    assert list(names_in("fashion-mnist+mnist:5-9")) == ["fashion-mnist", "mnist"]
    assert list(names_in("3:nan")) == ["nan"]
    flags = catalogue.learner("fed", "fedmd").flags
    catalogue.check_values(flags, {"models": ["mlp-64", "cnn"], "data": "mnist:5-9", "seeds": 2})
    with pytest.raises(ValueError, match="unknown model 'cnm'; did you mean 'cnn'"):
        catalogue.check_values(flags, {"models": ["mlp-64", "cnm"]})


def test_clients_that_hold_a_graph_have_models_and_partitions_of_their_own():
    flags = catalogue.learner("fed", "fedmd").flags
    of_nodes = {"models": ["gcn-64"], "partition": "louvain"}
    catalogue.check_values(flags, {**of_nodes, "data": "cora"})
    with pytest.raises(ValueError, match="unknown model 'gcm-64'"):
        catalogue.check_values(flags, {"models": ["gcm-64"], "data": "digits"})


@pytest.mark.parametrize("given", [{"models": ["mlp", "gcn-64"]}, {"partition": "louvain"}])
def test_what_is_for_graphs_is_refused_of_other_data_by_those_who_can_say_why(given):
    catalogue.check_values(catalogue.learner("fed", "fedmd").flags, {**given, "data": "digits"})
    with pytest.raises(ValueError, match=r"(louvain|gcn-64) .* graph.*, and digits is n"):
        build("fed", "fedmd", {**given, "data": "digits"})


def test_where_a_package_adds_a_name_all_is_looked_up(tmp_path, monkeypatch):
    about = tmp_path / "fake_pack-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-pack\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[kdsim.algorithms]\nmine = fake_pack:Mine\n")
    assert "mine" not in catalogue.names("fed")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert catalogue.stored() is None
    assert catalogue.listed("algorithms") is None
    assert "mine" in catalogue.names("fed")
    assert catalogue.learner("fed", "fedmd").flags["rounds"].kind == "int"
    catalogue.check("fedkd.algorithms", "mine")
