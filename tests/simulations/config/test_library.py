"""Experiments by name, from anywhere; and the package as it is installed."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from simulations.cli import doctor
from simulations.config import library
from simulations.results import run_folder
from tests.simulations.conftest import read

REPOSITORY = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("named", ["peers", "peers.toml", "survey/attention"])
def test_experiments_are_found_by_name(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = Path(named).with_suffix(".toml")
    assert library.find(Path(named)) == library.FOLDER / expected


def test_a_file_of_the_working_folder_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("peers.toml").write_text("[fed]")
    assert library.find(Path("peers.toml")) == library.find(Path("peers")) == Path("peers.toml")
    Path("peers").write_text("[fed]")
    assert library.find(Path("peers")) == Path("peers")
    Path("demo").mkdir()  # no file
    assert library.find(Path("demo")) == library.FOLDER / "demo.toml"


def test_a_name_that_is_none_has_a_hint(kdsim):
    for named in ("digits-federatd", "digits-federatd.toml", "here/digits-federatd"):
        status, _, err = kdsim("run", named)
        assert status == 2
        assert "did you mean 'digits-federated'?; see `kdsim list experiments`" in err
    err = kdsim("run", "simulations/experiments/peers.toml")[2]  # as from the checkout
    assert "did you mean 'peers'?" in err
    assert kdsim("run", "")[0] == 2
    assert "it is 'graph-methods' now" in kdsim("run", "graph-recipes")[2]


def test_the_demo_is_that_of_kdsim_whatever_lies_here(kdsim, tmp_path, monkeypatch):
    from simulations.execution import console

    seen = []
    monkeypatch.setattr(console, "execute", lambda document, *_: seen.append(document) or 0)
    (tmp_path / "demo.toml").write_text("[graph]\nmethod = 'mlp'")
    assert kdsim("demo")[0] == kdsim("run", "demo")[0] == 0
    assert ["fed" in document for document in seen] == [True, False]


def test_experiments_are_listed_with_what_they_are(kdsim):
    status, out, _ = kdsim("list", "experiments", "--json")
    assert status == 0
    records = read(out)
    assert [record["name"] for record in records] == library.names()
    assert {"demo", "peers", "digits-zoo"} <= set(library.names())
    said = {record["name"]: record["summary"] for record in records}
    assert said["demo"] == ("The main job, on data that ships with the dependencies: `kdsim demo`.")
    assert all(re.match(r"[A-Z0-9].*[.?!]$", text) for text in said.values())


def test_the_doctor_knows_what_the_package_depends_on():
    named = {re.match(r"[\w-]+", line)[0] for line in PROJECT["dependencies"]}
    assert {*run_folder.PACKAGES, *doctor.MORE} == named | {"kdsim", "ray"}  # flwr brings Ray


def test_extras_that_are_named_are_there():
    files = [
        p
        for f in ("knowledge", "fedkd", "graphkd", "simulations", "docs")
        for p in (REPOSITORY / f).rglob("*")
        if p.suffix in (".py", ".md", ".sh", ".toml")
    ]
    text = "\n".join(p.read_text() for p in [*files, *REPOSITORY.glob("*.md")])
    assert set(re.findall(r"kdsim\[([\w,]+)\]", text)) <= set(PROJECT["optional-dependencies"])


@pytest.fixture(scope="module")
def installed():
    """The wheel's content in a folder, built from a copy of what is in the repository."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("no setuptools")
    with tempfile.TemporaryDirectory(prefix="kd") as name:
        folder = Path(name)
        ignored = shutil.ignore_patterns("__pycache__", ".*", "build", "*.egg-info", "runs")
        shutil.copytree(REPOSITORY, folder / "source", ignore=ignored)
        command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
        command += ["--no-index", "--quiet", "--wheel-dir", str(folder), str(folder / "source")]
        subprocess.run(command, check=True, cwd=folder)
        (wheel,) = folder.glob("kdsim-*.whl")
        zipfile.ZipFile(wheel).extractall(folder / "site")
        shutil.rmtree(folder / "source")
        (folder / "elsewhere").mkdir()
        yield folder


def from_there(folder, *command):
    environment = os.environ | {"PYTHONPATH": str(folder / "site"), "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHON": sys.executable, "TMPDIR": str(folder)}
    return subprocess.run(
        command, env=environment, cwd=folder / "elsewhere", capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_wheel_runs_experiments_by_name_from_another_folder(installed):
    where = "import simulations, fedkd; print(simulations.__file__, fedkd.__file__)"
    found = from_there(installed, sys.executable, "-c", where).stdout.split()
    assert all(path.startswith(str(installed / "site")) for path in found)
    small = "fed.rounds=1 fed.clients=3 fed.private=60 fed.public=20 fed.test=40 fed.seeds=1 "
    small += "graph.epochs=2 graph.teacher_epochs=2 graph.seeds=1"
    changes = [word for change in small.split() for word in ("--set", change)]
    done = from_there(installed, sys.executable, "-m", "simulations", "run", "demo", *changes)
    assert done.returncode == 0, done.stderr
    assert "dsfl" in done.stdout
    assert list((installed / "elsewhere" / "runs").glob("demo-*/report.html"))
    listed = from_there(installed, sys.executable, "-m", "simulations", "list", "--json")
    assert listed.returncode == 0
    assert {"peers", "attention"} <= {record["name"] for record in read(listed.stdout)}


@pytest.mark.slow
@pytest.mark.flower
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_wheel_has_the_flower_app_and_its_script(installed):
    app = installed / "site" / "simulations" / "flower_app"
    shipped = {path.name for path in (REPOSITORY / "simulations" / "flower_app").iterdir()}
    assert {path.name for path in app.iterdir()} == shipped - {"__pycache__"}
    short = "rounds=1 epochs=1 eval-every=0"
    done = from_there(installed, "bash", str(app / "run.sh"), "-c", short, "--out", "results")
    assert done.returncode == 0, done.stderr
    assert "dsfl" in done.stdout
    assert (installed / "elsewhere" / "results" / "server.safetensors").is_file()
