"""The one name that users import: what it has, what it costs, and what may hide it."""

import ast
import importlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import kdsim
from fedkd import algorithms
from graphkd import methods

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ["kdcore", "fedkd", "graphkd", "fedgraphkd", "kdattacks", "simulations"]


@pytest.mark.parametrize("name", [name for name in kdsim.__all__ if name != "__version__"])
def test_every_public_name_is_there_and_documented(name):
    found = getattr(kdsim, name)
    assert found.__doc__
    assert name in dir(kdsim)


@pytest.mark.parametrize(
    ("names", "registry"),
    [(kdsim.ALGORITHMS, algorithms.REGISTRY), (kdsim.METHODS, methods.REGISTRY)],
)
def test_every_algorithm_and_method_has_its_class_here(names, registry):
    ours = {registry.get(name).__name__: registry.get(name) for name in registry.own()}
    assert {name: getattr(kdsim, name) for name in names.split()} == ours


def test_what_is_not_there_is_an_attribute_error_that_lists_what_is():
    with pytest.raises(AttributeError, match="no 'simulat'.*simulate"):
        _ = kdsim.simulat


def test_importing_it_imports_nothing_heavy():
    code = "import sys, kdsim; kdsim.__version__; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "flwr", "ray", "torch_geometric", "pandas", "pydantic", "rich"}


@pytest.mark.parametrize("name", ["kdcore", "simulations"])
def test_a_folder_that_hides_a_package_is_named(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(REPOSITORY)!r}]; import kdsim"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0
    assert f"ImportError: {name} of kdsim is hidden by {tmp_path}" in last


def test_the_version_is_that_of_the_distribution():
    assert kdsim.__version__ == importlib.metadata.version("kdsim")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_what_is_public_and_has_it(package):
    code = f"from {package} import *; import {package}; print(*{package}.__all__)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; [globals()[name] for name in {package}.__all__]"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert bool(done.stdout.split()) == (package != "simulations")


def test_what_gives_names_says_which():
    """A package whose `__init__` has code in it; the others are folders, and say what is there."""
    for path in sorted(REPOSITORY.glob("*/**/__init__.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.relative_to(REPOSITORY).parts[0] in PACKAGES and len(tree.body) > 1:
            assigned = [n for n in tree.body if isinstance(n, ast.Assign | ast.AnnAssign)]
            written = [ast.unparse(n).partition(":")[0].partition(" =")[0] for n in assigned]
            assert "__all__" in written, path


@pytest.mark.parametrize("package", ["kdcore", "fedkd"])
def test_a_package_of_modules_names_all_of_them(package):
    folder = REPOSITORY / package
    there = [path.stem for path in folder.glob("*.py")]
    there += [path.parent.name for path in folder.glob("*/__init__.py")]
    named = importlib.import_module(package).__all__
    assert sorted(named) == sorted(name for name in there if not name.startswith("_"))


@pytest.mark.parametrize("package", ["kdcore", "fedkd", "simulations"])
def test_a_package_alone_imports_nothing_heavy(package):
    code = f"import sys, {package}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert "torch" not in done.stdout.split()


def test_the_page_of_what_is_stable_names_all_that_is_public():
    import kdsim.api

    text = (REPOSITORY / "docs" / "stable.md").read_text()
    assert all(f"`{name}`" in text for name in (*kdsim.api.__all__, "Runs", "kdsim.__all__"))


def test_a_clone_beside_a_script_does_not_hide_the_package(tmp_path):
    """A folder of that name without `__init__.py`, as a clone of the repository is."""
    (tmp_path / "kdsim" / "docs").mkdir(parents=True)
    (tmp_path / "script.py").write_text("import kdsim\nprint(kdsim.simulate.__name__)\n")
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "simulate\n", done.stderr
