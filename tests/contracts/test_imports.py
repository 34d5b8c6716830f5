"""Imports run one way, heavy libraries stay at the edge, and nothing unpickles or seeds the world.

The files are parsed, not imported; there is no list of them, so that a new one is bound at once.
"""

import ast
import re
import subprocess
import sys
from collections import Counter
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BELOW = {
    "kdcore": {"kdcore"},
    "fedkd": {"kdcore", "fedkd"},
    "graphkd": {"kdcore", "graphkd"},
    "fedgraphkd": {"kdcore", "fedkd", "graphkd", "fedgraphkd"},
    "kdattacks": {"kdcore", "fedkd", "graphkd", "kdattacks"},
    "simulations": {"kdcore", "fedkd", "graphkd", "fedgraphkd", "kdattacks", "simulations"},
    "kdsim": {"kdcore", "fedkd", "graphkd", "fedgraphkd", "kdattacks", "simulations", "kdsim"},
}
# Floors of each package, the highest first. What is on a floor (a sub-package, or a file beside
# them) imports from the floors below alone, so not from its neighbours either.
FLOORS = {
    "kdcore": [
        "__init__",
        "schemes",
        "metrics training",
        "losses",
        "_deprecate devices ensemble outputs registry rng settings statistics",
        "references",
    ],
    "fedkd": [
        "__init__",
        "flower sharding",
        "algorithms rounds",
        "encoders",
        "attacks communication components data engines storage",
        "losses models",
        "core",
        "consensus messages privacy targets",
    ],
    "graphkd": [
        "__init__",
        "distill",
        "evaluation",
        "methods",
        "training",
        "method models",
        "data inputs losses",
        "core",
        "graph",
        "conversion",
        "ops",
    ],
    "fedgraphkd": [
        "__init__",
        "federated_collection",
        "federated_graph",
        "models node_split partition",
        "readouts",
        "convolutions",
        "collection shares union",
    ],
    "kdattacks": ["__init__", "attacks", "predictions truth", "core", "scoring shadows"],
    "simulations": [
        "__main__ flower_app",
        "cli",
        "audits",
        "execution",
        "reporting runners",
        "survey",
        "results",
        "config",
        "graph_settings errors",
        "__init__ machine packages process",
    ],
    "kdsim": ["api", "runs", "display progress settings trained tuned", "record", "__init__"],
}
# Files that the picture in the README leaves out: they are about a whole package, or a process.
NOT_DRAWN = {"__init__", "__main__", "_deprecate", "errors", "flower_app", "machine", "packages"}
NOT_DRAWN |= {"process"}
# Imports inside functions, of files of ours, and why they wait: what is loaded for every command
# is waited for by every user. In all other files they are at the top.
LATE = {
    "simulations/cli/app.py": "a command loads what it runs; `--help` is there at once",
    "simulations/cli/doctor.py": "a broken library is one of the things that it reports",
    "simulations/cli/catalogue.py": "what is kept in a file is not looked up",
    "simulations/cli/listing.py": "one kind is listed, and torch is loaded for some alone",
    "kdsim/__init__.py": "what hides a package of ours is said before anything of it is imported",
    "kdsim/api.py": "one call needs one half: PyG takes seconds to load, and so do figures",
    "kdsim/display.py": "figures take seconds to load",
    "kdsim/settings.py": "PyG takes seconds to load, and data are graphs for some alone",
    "kdsim/runs.py": "a report needs matplotlib",
    "kdsim/trained.py": "PyG takes seconds to load",
    "simulations/execution/batch.py": "Ray is loaded for those who name a cluster",
    "simulations/execution/console.py": "tables, verdicts and reports are for those who want them",
    "simulations/reporting/resolved_settings.py": "graphs are read for graph experiments alone",
    "simulations/execution/scheduler.py": "Ray is loaded where runs are spread over workers",
    "simulations/runners/federated.py": "Ray and graphs are loaded by those who use them",
    "simulations/runners/federated_run.py": "networkx is loaded for a topology alone",
    "simulations/flower_app/kdsim_app.py": "clients that hold images load nothing of graphs",
}
# Folders that are lists by their nature, and may have more than ten files (without `__init__`).
MOST_FILES = 10
GLOSSARIES = {
    "fedkd/algorithms": "a paper in each file",
    "graphkd/methods": "a paper in each file",
    "kdattacks/attacks": "a paper in each file",
    "kdcore/losses": "a kind of knowledge in each file",
    "simulations/experiments": "an experiment in each file",
    "simulations/experiments/survey": "a recipe in each file",
    "simulations/survey/recipes/schemes": "a scheme in each file",
}
# Library -> where it may be imported, whether at the top of a file or inside a function.
PLACES = {
    "flwr": ["fedkd/flower/*", "simulations/flower_app/*", "simulations/execution/flower.py"],
    "ray": ["fedkd/engines/ray/*"],  # others take it from there, behind the switches that it reads
    "torch_geometric": ["graphkd/*"],
    "networkx": ["graphkd/*", "fedgraphkd/partition.py", "simulations/reporting/figures/*"]
    + ["*topolog*"],
    "matplotlib": ["simulations/reporting/figures/*"],
    "optuna": ["simulations/execution/tuning.py"],
}
PICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
# Files that read pickles, and why that is safe.
RESTRICTED = {
    "fedkd/data/files/unpickler.py": "it names nothing but classes of its own; CIFAR is in pickles"
}
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


@cache
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


def module_of(path):
    """The name by which a file is imported: `a/b.py` is a.b, and `a/__init__.py` is a."""
    parts = Path(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def late_imports(tree, path=""):
    """What is imported inside functions."""
    functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.Lambda))
    return set().union(*(imports(function, path) for function in functions))


def import_graph(trees):
    """Module -> the modules that it imports, of files path -> tree; others are left out."""
    ours = {module_of(path) for path in trees}

    def within(name):
        while name and name not in ours:
            name = name.rpartition(".")[0]
        return name

    return {
        module_of(path): {within(name) for name in imports(tree, path)} - {"", module_of(path)}
        for path, tree in trees.items()
    }


def circles(graph):
    """The sets of two or more nodes that reach each other (Tarjan's strong components)."""
    number, low, stack, found = {}, {}, [], []
    for node in sorted(graph):
        if node not in number:
            _visit(node, graph, number, low, stack, found)
    return [sorted(component) for component in found if len(component) > 1]


def _visit(node, graph, number, low, stack, found):
    number[node] = low[node] = len(number)
    stack.append(node)
    for after in sorted(graph.get(node, ())):
        if after not in number:
            _visit(after, graph, number, low, stack, found)
        if after in stack:
            low[node] = min(low[node], low[after])
    if low[node] == number[node]:
        place = stack.index(node)
        found.append(stack[place:])
        del stack[place:]


def rooms(graph):
    """The graph of sub-packages (and of files beside them): a.b.c and a.b.d are both a.b."""
    found = {}
    for module, imported in graph.items():
        room = found.setdefault(room_of(module), set())
        room |= {room_of(name) for name in imported} - {room_of(module)}
    return found


def room_of(module):
    package, _, rest = module.partition(".")
    return f"{package}.{rest.partition('.')[0] or '__init__'}"


def package_of(module):
    return module.partition(".")[0]


def floor_of(room):
    """How high a room is, and None for one that is on no floor."""
    package, _, name = room.partition(".")
    floors = FLOORS.get(package, [])
    return next((len(floors) - i for i, names in enumerate(floors) if name in names.split()), None)


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


def shipped():
    """Files of the packages that somebody reads: code and experiments."""
    for package in BELOW:
        for path in (REPOSITORY / package).rglob("*"):
            if path.suffix in (".py", ".toml") and path.name != "__init__.py":
                yield path


TREES = {path: parse(path) for path in sources()}
GRAPH = import_graph(TREES)


# The checks themselves


def test_imports_are_found_wherever_they_are():
    tree = ast.parse(
        "import a.b, c\nfrom d import e\nfrom . import f\nfrom ..g import h\n"
        "def later():\n    import i\n    importlib.import_module('j')\n"
    )
    expected = {"a.b", "c", "d.e", "top.sub.f", "top.g.h", "i", "j"}
    assert imports(tree, "top/sub/file.py") == expected


def test_circles_are_found():
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"d"}, "f": {"a", "g"}}
    assert sorted(circles(graph)) == [["a", "b", "c"], ["d", "e"]]
    assert circles({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}}) == []


def test_an_import_is_of_a_module_and_between_rooms():
    code = {
        "p/__init__.py": "",
        "p/a/x.py": "from p import core\nfrom p.b.y import deep\nimport os",
        "p/b/y.py": "def late():\n    from ..a import x",
        "p/core.py": "",
    }
    trees = {path: ast.parse(text) for path, text in code.items()}
    graph = import_graph(trees)
    assert graph == {"p": set(), "p.a.x": {"p.core", "p.b.y"}, "p.b.y": {"p.a.x"}, "p.core": set()}
    assert circles(graph) == [["p.a.x", "p.b.y"]]
    assert circles(rooms(graph)) == [["p.a", "p.b"]]
    assert late_imports(trees["p/b/y.py"], "p/b/y.py") == {"p.a.x"}
    assert late_imports(trees["p/a/x.py"], "p/a/x.py") == set()


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


def test_no_modules_import_each_other():
    assert circles(GRAPH) == []


def test_no_sub_packages_import_each_other():
    assert circles(rooms(GRAPH)) == []


@pytest.mark.parametrize(
    "room", sorted(room for room in rooms(GRAPH) if package_of(room) in FLOORS)
)
def test_rooms_import_from_the_floors_below_them(room):
    package = package_of(room)
    assert floor_of(room), f"{room} is on no floor: add it to FLOORS"
    for other in rooms(GRAPH)[room]:
        if package_of(other) == package:
            assert floor_of(other), f"{other} is on no floor: add it to FLOORS"
            assert floor_of(other) < floor_of(room), f"{room} imports {other}, not below it"


def test_the_picture_in_the_readme_is_that_of_the_floors():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for package in FLOORS.keys() - {"kdsim"}:
        (line,) = re.findall(rf"^{package} +(.+)$", text, re.MULTILINE)
        drawn = [{*floor.strip("{}").split()} for floor in line.split(" > ")]
        there = [{*floor.split()} - NOT_DRAWN for floor in FLOORS[package]]
        assert drawn == [floor for floor in there if floor], package


def test_floors_hold_what_there_is():
    listed = {f"{p}.{name}" for p, floors in FLOORS.items() for f in floors for name in f.split()}
    assert listed <= set(rooms(GRAPH)), f"not there: {sorted(listed - set(rooms(GRAPH)))}"


def test_files_of_ours_are_imported_at_the_top_but_where_it_is_said_why():
    own = set(BELOW)
    late = {
        path
        for path, tree in TREES.items()
        if any(name.split(".")[0] in own for name in late_imports(tree, path))
    }
    assert late == set(LATE), f"imported late {late - set(LATE)}, no longer {set(LATE) - late}"


def test_folders_are_small_or_glossaries():
    counts = Counter(path.parent.relative_to(REPOSITORY).as_posix() for path in shipped())
    large = {folder for folder, count in counts.items() if count > MOST_FILES}
    assert large == set(GLOSSARIES), (
        f"over {MOST_FILES} files {large - set(GLOSSARIES)}, no longer {set(GLOSSARIES) - large}"
    )


def test_tests_mirror_the_tree():
    for package in BELOW:
        folders = (p for p in (REPOSITORY / "tests" / package).rglob("*") if p.is_dir())
        for folder in folders:
            mirrored = folder.relative_to(REPOSITORY / "tests")
            if folder.name != "__pycache__" and any(folder.glob("*.py")):
                assert (REPOSITORY / mirrored).is_dir(), f"tests/{mirrored}: no folder {mirrored}"


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
    assert bool(unpickling(parse(path))) == (path in RESTRICTED)


# A user's module may draw from them: they are put to a seed around it, and back as they were.
PUT_BACK = {"fedkd/models/module_forms.py"}


@pytest.mark.parametrize("path", sources("kdcore", "fedkd", "fedgraphkd"))
def test_no_generator_is_shared(path):
    assert bool(seeding(parse(path))) == (path in PUT_BACK)


HEAVY = {"flwr", "ray", "torch_geometric", "networkx", "matplotlib", "sklearn"}


def test_importing_the_federated_half_loads_nothing_heavy():
    names = (
        "fedkd, fedkd.rounds.round, fedkd.algorithms, fedkd.rounds.evaluation, fedkd.data.datasets"
    )
    every = "from fedkd import algorithms\n[algorithms.get(name) for name in algorithms.names()]"
    begun = "from fedkd import models\nmodels.size(models.build('cnn', (1, 8, 8), 10))\n"
    begun += "fedkd.data.datasets.load('digits')"
    loaded = loaded_by(f"import {names}\n{every}\n{begun}")
    assert {"torch", "fedkd", "kdcore"} <= loaded
    compiler = {"sympy"}  # with torch's compiler, which takes a second
    assert not loaded & (HEAVY | compiler | {"graphkd", "simulations"})


def test_importing_the_losses_loads_nothing_but_torch():
    code = "from kdcore import ensemble, metrics, training; from kdcore.losses import response"
    assert not loaded_by(code) & (HEAVY | {"fedkd", "graphkd", "simulations"})


def test_importing_graphkd_loads_neither_pyg_nor_scikit_learn():
    """Each takes as long to load as torch, and most uses of a graph need neither."""
    code = "import graphkd; graphkd.run; graphkd.methods.get('glnn'); graphkd.networks.names()"
    loaded = loaded_by(code)
    assert "torch" in loaded
    assert not loaded & {"torch_geometric", "sklearn", "pandas"}
