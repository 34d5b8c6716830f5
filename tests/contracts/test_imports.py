"""Imports run one way, heavy libraries stay at the edge, and nothing unpickles or seeds the world.

The files are parsed, not imported; there is no list of them, so that a new one is bound at once.
"""

import ast
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BELOW = {
    "kdcore": {"kdcore"},
    "fedkd": {"kdcore", "fedkd"},
    "graphkd": {"kdcore", "graphkd"},
    "simulations": {"kdcore", "fedkd", "graphkd", "simulations"},
}
# Library -> where it may be imported, whether at the top of a file or inside a function.
PLACES = {
    "flwr": ["fedkd/flower/*", "simulations/flower_app/*"],
    "ray": ["fedkd/engines/ray*.py", "simulations/execution/scheduler.py"],
    "torch_geometric": ["graphkd/*", "simulations/federated_graphs.py"],
    "networkx": ["graphkd/*", "simulations/federated_graphs.py", "simulations/reporting/figures/*"]
    + ["*topolog*"],
    "matplotlib": ["simulations/reporting/figures/*"],
}
PICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
SEEDERS = {
    "torch": {"manual_seed", "seed", "set_rng_state"},
    "random": {"seed", "random", "shuffle", "choice", "sample", "randint", "uniform", "gauss"},
    "cuda": {"manual_seed", "manual_seed_all", "seed"},
    "np.random": None,  # whatever is called, but for default_rng and its like
    "numpy.random": None,
}
DRAWING = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial"}


def sources(*packages):
    files = {p: sorted((REPOSITORY / p).rglob("*.py")) for p in packages or BELOW}
    return [path.relative_to(REPOSITORY).as_posix() for found in files.values() for path in found]


def parse(path):
    return ast.parse((REPOSITORY / path).read_text(), path)


def imports(tree, path=""):
    """Full names of all that is imported, wherever in the file, and however."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = Path(path).parent.parts
            above = parts[: len(parts) - node.level + 1] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and dotted(node.func).endswith(
            ("import_module", "__import__", "importorskip")
        ):
            found |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant)}
    return found


def dotted(node):
    """`a.b.c` as a string; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(tree):
    return [(dotted(n.func), n) for n in ast.walk(tree) if isinstance(n, ast.Call)]


def unpickling(tree):
    """Ways to read or write what runs code when it is read."""
    found = [name for name in imports(tree) if name.split(".")[0] in PICKLERS]
    for name, call in calls(tree):
        keywords = {k.arg: k.value for k in call.keywords}
        allow = keywords.get("allow_pickle")
        if name in ("torch.load", "torch.save"):
            found.append(name)
        if "weights_only" in keywords:
            found.append(f"{name}(weights_only=...)")
        if isinstance(allow, ast.Constant) and allow.value:
            found.append(f"{name}(allow_pickle=True)")
    return found


def seeding(tree):
    """Calls that seed, or draw from, a generator that everybody shares."""
    found = set()
    for name, call in calls(tree):
        owner, _, method = name.rpartition(".")
        for suffix, methods in SEEDERS.items():
            if f".{owner}".endswith(f".{suffix}"):
                own = method in ("default_rng", "Generator", "SeedSequence")
                if not own if methods is None else method in methods:
                    found.add(name)
        drawn = owner == "torch" and method in DRAWING
        if drawn and "generator" not in {k.arg for k in call.keywords}:
            found.add(f"{name} without a generator")
    return sorted(found)


def loaded_by(code):
    """The modules that a fresh interpreter has loaded after some code."""
    command = [sys.executable, "-c", f"import sys\n{code}\nprint(*sorted(sys.modules))"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


# The checks themselves


def test_imports_are_found_wherever_they_are():
    tree = ast.parse(
        "import a.b, c\nfrom d import e\nfrom . import f\nfrom ..g import h\n"
        "def later():\n    import i\n    importlib.import_module('j')\n"
    )
    expected = {"a.b", "c", "d.e", "top.sub.f", "top.g.h", "i", "j"}
    assert imports(tree, "top/sub/file.py") == expected


def test_ways_to_unpickle_are_found():
    assert unpickling(ast.parse("from joblib import load")) == ["joblib.load"]
    assert unpickling(ast.parse("x = torch.load(f)")) == ["torch.load"]
    assert unpickling(ast.parse("read(f, weights_only=False)")) == ["read(weights_only=...)"]
    assert unpickling(ast.parse("np.load(f, allow_pickle=True)")) == ["np.load(allow_pickle=True)"]
    assert unpickling(ast.parse("np.load(f, allow_pickle=False); json.load(f)")) == []


def test_shared_generators_are_found():
    for code in (
        "torch.manual_seed(0)",
        "np.random.seed(0)",
        "np.random.rand(3)",
        "random.seed(1)",
    ):
        assert seeding(ast.parse(code)) == [code.partition("(")[0]]
    assert seeding(ast.parse("torch.rand(3)")) == ["torch.rand without a generator"]
    for code in ("torch.rand(3, generator=g)", "g.manual_seed(0)", "np.random.default_rng(0)"):
        assert seeding(ast.parse(code)) == []


# What they find


def test_the_packages_are_found():
    assert {"fedkd/core.py", "kdcore/training/loop.py", "fedkd/algorithms/fd.py"} <= set(sources())


@pytest.mark.parametrize("path", sources())
def test_packages_import_only_what_is_below_them(path):
    package = path.split("/")[0]
    used = {name.split(".")[0] for name in imports(parse(path), path)} & set(BELOW)
    assert used <= BELOW[package], f"{path} imports {sorted(used - BELOW[package])}"


@pytest.mark.parametrize("path", sources())
def test_heavy_libraries_are_imported_where_they_belong(path):
    used = {name.split(".")[0] for name in imports(parse(path), path)}
    for library, places in PLACES.items():
        if library in used:
            assert any(fnmatch(path, place) for place in places), f"{path} imports {library}"


def test_kdcore_needs_torch_alone():
    used = {n.split(".")[0] for path in sources("kdcore") for n in imports(parse(path), path)}
    assert used <= {"torch", "kdcore", *sys.stdlib_module_names}


@pytest.mark.parametrize("path", sources())
def test_nothing_is_pickled(path):
    assert unpickling(parse(path)) == []


@pytest.mark.parametrize("path", sources("kdcore", "fedkd"))
def test_no_generator_is_shared(path):
    assert seeding(parse(path)) == []


HEAVY = {"flwr", "ray", "torch_geometric", "networkx", "matplotlib", "sklearn"}


def test_importing_the_federated_half_loads_nothing_heavy():
    names = (
        "fedkd, fedkd.rounds.round, fedkd.algorithms, fedkd.rounds.evaluation, fedkd.data.datasets"
    )
    every = "from fedkd import algorithms\n[algorithms.get(name) for name in algorithms.names()]"
    loaded = loaded_by(f"import {names}\n{every}")
    assert {"torch", "fedkd", "kdcore"} <= loaded
    assert not loaded & (HEAVY | {"graphkd", "simulations"})


def test_importing_the_losses_loads_nothing_but_torch():
    code = "from kdcore import ensemble, metrics, training; from kdcore.losses import response"
    assert not loaded_by(code) & (HEAVY | {"fedkd", "graphkd", "simulations"})
