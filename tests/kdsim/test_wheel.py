"""The wheel, in an environment of its own, used from folders in which other things lie.

No network is needed: the dependencies are those of the environment that runs the tests.
"""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("kdcore", "fedkd", "graphkd", "fedgraphkd", "kdattacks", "simulations", "kdsim")
# What hides a package where a script, or `python -c`, is run beside it; each ends whoever loads it.
HOSTILE = ("kdcore.py", "kdcore/__init__.py", "fedkd.py", "simulations/__init__.py")
SMALL = "fed.rounds=1 fed.clients=3 fed.private=60 fed.public=20 fed.test=40 fed.seeds=1 "
SMALL += "graph.epochs=2 graph.teacher_epochs=2 graph.seeds=1"
CHANGES = [word for change in SMALL.split() for word in ("--set", change)]

pytestmark = pytest.mark.slow


class Installed(NamedTuple):
    """A wheel, the Python of the environment that it is in, and a folder beside.

    What is temporary has a folder of a short name: Ray's sockets lie there, and the path of one
    has 107 bytes at most.
    """

    wheel: Path
    python: Path
    folder: Path
    temporary: str

    @property
    def site(self):
        """Where its packages are."""
        return Path(self.run("-c", "import simulations as s; print(s.__file__)").stdout).parents[1]

    def run(self, *words, where=None, name="python"):
        """Run its Python, or what is installed beside it, without the environment of the tests."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "KDSIM"))}
        clean |= {"OMP_NUM_THREADS": "1", "HOME": str(self.folder), "TMPDIR": self.temporary}
        clean |= {"PYTHON": str(self.python)}  # for run.sh
        command = [name if os.path.isabs(name) else self.python.with_name(name), *map(str, words)]
        return subprocess.run(
            command, env=clean, cwd=where or self.folder, capture_output=True, text=True
        )


def dependencies():
    """The folders in which this environment has its distributions, but not the checkout."""
    found = (Path(str(d.locate_file(""))).resolve() for d in importlib.metadata.distributions())
    return [folder for folder in dict.fromkeys(found) if not (folder / "kdcore").is_dir()]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Built from a copy of what is in the repository, and installed by pip."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("no setuptools")
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", ".*", "build", "*.egg-info", "runs", "tests")
    shutil.copytree(REPOSITORY, folder / "source", ignore=ignored)
    pip = [sys.executable, "-m", "pip"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run([*build, "--wheel-dir", folder, folder / "source"], check=True, cwd=folder)
    shutil.rmtree(folder / "source")
    (wheel,) = folder.glob("kdsim-*.whl")
    venv.create(folder / "venv", symlinks=os.name != "nt")
    python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = sysconfig.get_path("purelib", "venv", vars={"base": str(folder / "venv")})
    (Path(site) / "dependencies.pth").write_text("\n".join(map(str, dependencies())))
    for entry in importlib.metadata.distribution("flwr").entry_points.select(
        group="console_scripts"
    ):
        script, function = python.with_name(entry.name), entry.attr
        script.write_text(f"#!{python}\nfrom {entry.module} import {function}\n{function}()\n")
        script.chmod(0o755)
    install = [*pip, "--python", python, "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*install, "--disable-pip-version-check", wheel], check=True, cwd=folder)
    with tempfile.TemporaryDirectory(prefix="kd-") as temporary:
        yield Installed(wheel, python, folder, temporary)


@pytest.fixture
def hostile(tmp_path):
    """A working folder in which everything is hidden."""
    for name in HOSTILE:
        make(tmp_path, name)
    return tmp_path


def make(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("raise SystemExit('not of kdsim')\n")


def test_the_wheel_has_every_file_of_the_packages_and_nothing_else(installed):
    within = {
        name for name in zipfile.ZipFile(installed.wheel).namelist() if ".dist-info/" not in name
    }
    there = [path for package in PACKAGES for path in (REPOSITORY / package).rglob("*")]
    assert within == {
        path.relative_to(REPOSITORY).as_posix()
        for path in there
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert installed.site != REPOSITORY


def test_experiments_run_by_name_from_a_folder_in_which_all_packages_are_hidden(installed, hostile):
    done = installed.run("run", "demo", *CHANGES, "--workers", "1", where=hostile, name="kdsim")
    assert done.returncode == 0, done.stderr
    assert "dsfl" in done.stdout
    assert list(hostile.glob("runs/demo-*/report.html"))
    listed = installed.run("list", "--json", where=hostile, name="kdsim")
    assert listed.returncode == 0, listed.stderr
    named = {json.loads(line)["name"] for line in listed.stdout.splitlines()}
    assert {"peers", "attention"} <= named


def test_runs_are_done_in_one_process_where_all_packages_are_hidden_from_workers(
    installed, hostile
):
    """Ray puts the working folder first on the path of its workers."""
    done = installed.run("run", "demo", *CHANGES, "--workers", "2", where=hostile, name="kdsim")
    assert done.returncode == 0, done.stderr
    assert "would hide kdcore of kdsim from Ray's workers; rename it" in done.stderr
    actors = "fed", "fd", "--engine", "ray"
    done = installed.run(*actors, where=hostile, name="kdsim")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "from Ray's workers; rename it, or choose another engine" in done.stderr


@pytest.mark.parametrize("name", HOSTILE)
def test_what_hides_a_package_is_named_in_a_line(installed, tmp_path, name):
    make(tmp_path, name)
    done = installed.run("-c", "import kdsim", where=tmp_path)
    last = done.stderr.splitlines()[-1]
    package = name.partition("/")[0].removesuffix(".py")
    assert done.returncode == 1
    assert last.startswith(f"ImportError: {package} of kdsim is hidden by ")
    assert last.endswith(f"{name}; rename that, or start Python elsewhere")


def test_a_folder_that_is_no_package_hides_nothing(installed, tmp_path):
    make(tmp_path, "graphkd/notes.txt")
    done = installed.run("-c", "import kdsim; print(kdsim.Graph.__module__)", where=tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "graphkd.graph\n")


@pytest.mark.flower
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_wheel_has_the_flower_app_and_its_script(installed, tmp_path):
    script = installed.site / "simulations" / "flower_app" / "run.sh"
    short = "rounds=1 epochs=1 eval-every=0"
    bash = shutil.which("bash")
    done = installed.run(script, "-c", short, "--out", "results", where=tmp_path, name=bash)
    assert done.returncode == 0, done.stderr
    assert "dsfl" in done.stdout
    assert (tmp_path / "results" / "server.safetensors").is_file()
