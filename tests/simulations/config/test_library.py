"""Experiments by name, from anywhere; and what the package says of itself."""

import re
import tomllib
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
        for f in ("kdcore", "fedkd", "graphkd", "kdattacks", "simulations", "docs")
        for p in (REPOSITORY / f).rglob("*")
        if p.suffix in (".py", ".md", ".sh", ".toml")
    ]
    text = "\n".join(p.read_text() for p in [*files, *REPOSITORY.glob("*.md")])
    assert set(re.findall(r"kdsim\[([\w,]+)\]", text)) <= set(PROJECT["optional-dependencies"])
