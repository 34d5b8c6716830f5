"""Every public name says what it is; every algorithm and loss says where it is from.

Nothing is listed here: packages, modules and names are found by looking.
"""

import ast
import importlib
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

import kdsim
from fedkd import algorithms

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("kdcore", "fedkd", "graphkd", "fedgraphkd", "kdattacks", "simulations", "kdsim")
MODULES = (
    "feature",
    "mutual_information",
    "ranking",
    "regression",
    "relation",
    "response",
    "sequence",
)
MODULES += ("decoupled", "teacher_free")
LOSSES = (*(f"kdcore.losses.{name}" for name in MODULES), "graphkd.losses")
FOLDERS = "|".join((*PACKAGES, "tests", "docs", "benchmarks", "examples"))
# What a page about adding a method makes up.
MADE_UP = {"fedkd/algorithms/fedntd.py", "tests/fedkd/algorithms/test_fedntd.py"}
# What somebody looks for, and where `git ls-files` has it.
TERMS = {
    "asynchronous": "fedkd/rounds/asynchronous.py",
    "client_sampling": "fedkd/rounds/client_sampling.py",
    "quantization": "fedkd/communication/compression/quantization.py",
    "online": "kdcore/schemes/online.py",
    "neighbor_sampling": "graphkd/data/neighbor_sampling.py",
    "teacher_ensemble": "graphkd/models/teacher_ensemble.py",
}
GALLERY = "gallery/index.md"  # made when the site is built, and in no checkout
# Folders that only one machine has; what stands for any folder, such as /path/to, is fine.
MACHINE = re.compile(r"(?<![\w.~/-])/(home|Users|root|work|private|venv|tmp/venv)/|\b[A-Z]:\\")


def sources():
    found = [path for p in PACKAGES for path in sorted((REPOSITORY / p).rglob("*.py"))]
    return [path.relative_to(REPOSITORY).as_posix() for path in found]


def pages():
    """All the prose in the repository, but not that of tools and environments."""
    found = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")]
    found += [path for p in PACKAGES for path in REPOSITORY.glob(f"{p}/**/*.md")]
    return sorted(path.relative_to(REPOSITORY).as_posix() for path in found)


def undocumented(tree):
    """Public modules, classes, functions and methods without a docstring."""
    bare = [] if ast.get_docstring(tree) else ["the module"]

    def visit(node, prefix):
        for child in node.body:
            kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            if isinstance(child, kinds) and not child.name.startswith("_"):
                overloads = {ast.unparse(d).rpartition(".")[2] for d in child.decorator_list}
                if not ast.get_docstring(child) and "overload" not in overloads:
                    bare.append(f"{prefix}{child.name}")
                if isinstance(child, ast.ClassDef):
                    visit(child, f"{child.name}.")

    visit(tree, "")
    return bare


def losses():
    found = []
    for name in LOSSES:
        path = REPOSITORY / name.replace(".", "/")
        if path.is_dir() or path.with_suffix(".py").exists():
            module = importlib.import_module(name)
            found += [
                function
                for key, function in inspect.getmembers(module, inspect.isfunction)
                if key in getattr(module, "__all__", [key])
                and function.__module__.startswith(name)
                and not key.startswith("_")
            ]
    return found


def broken_links(path):
    """Links of a page to files that are not there."""
    text = re.sub(r"```.*?```", "", (REPOSITORY / path).read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    local = [t for t in targets if not re.match(r"[a-z]+:", t) and t != GALLERY]
    return [t for t in local if not ((REPOSITORY / path).parent / t).exists()]


def anchors(text):
    """What a link can point at in a page: its headings, as the site and the forges write them."""
    headings = re.findall(r"^#+ +(.+?) *$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one).lower().replace(" ", "-") for one in headings}


def lost_sections(path):
    """Links of a page to sections, of its own or of another page, that are not there."""
    page = REPOSITORY / path
    targets = re.findall(r"\]\(((?:[\w./-]+\.md)?)#([\w-]+)\)", page.read_text())
    of = {name: anchors((page.parent / name if name else page).read_text()) for name, _ in targets}
    return [f"{name}#{section}" for name, section in targets if section not in of[name]]


def paths_nowhere(text):
    """Files and folders of the repository that a page names, and that are not there."""
    named = re.findall(rf"(?<![\w/.-])((?:{FOLDERS})/[\w/.-]*\w)", text)
    return [path for path in named if not (REPOSITORY / path).exists()]


def imports_nowhere(text):
    """What the Python in a page imports of ours, and that is not there."""
    lost = []
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in PACKAGES:
                module = importlib.import_module(node.module)
                lost += [
                    f"{node.module}.{alias.name}"
                    for alias in node.names
                    if not hasattr(module, alias.name) and not is_module(node.module, alias.name)
                ]
    return lost


def is_module(package, name):
    return importlib.util.find_spec(f"{package}.{name}") is not None


def test_a_heading_is_pointed_at_by_its_words():
    assert anchors("# A\n## Fed-X, and `y` 2\nno # heading") == {"a", "fed-x-and-y-2"}


def test_what_has_no_docstring_is_found():
    code = "class A:\n    def b(self): ...\n    def _c(self): ...\ndef d(): 'says'\ndef e(): ..."
    assert undocumented(ast.parse(code)) == ["the module", "A", "A.b", "e"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see /home/anna/kdsim", True),
        ("`/root/kdsim`", True),
        ("in C:\\data", True),
        ("https://example.org/home/page", False),
        ("in ~/work/kdsim and docs/work/x", False),
        ("/path/to/data", False),
    ],
)
def test_paths_of_one_machine_are_found(text, found):
    assert bool(MACHINE.search(text)) == found


def test_the_files_are_found():
    assert {"fedkd/core.py", "kdcore/losses/response.py"} <= set(sources())
    assert {"kl", "decoupled", "angle"} <= {loss.__name__ for loss in losses()}
    assert "fedkd/engines/README.md" in pages()


@pytest.mark.parametrize("path", sources())
def test_every_public_name_says_what_it_is(path):
    assert undocumented(ast.parse((REPOSITORY / path).read_text())) == []


@pytest.mark.parametrize("name", algorithms.names())
def test_algorithms_link_their_paper_and_name_their_axes(name):
    text = inspect.getdoc(algorithms.get(name))
    assert re.search(r"https?://\S+", text)
    assert "Up" in text
    properties = algorithms.get(name).properties
    if properties.up != "nothing":
        assert re.search(r"\b4 [A-Z]\b", text), "bytes by the letters of the axes, such as 4 C P_r"


@pytest.mark.parametrize("loss", losses(), ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_losses_link_their_paper_and_give_shapes(loss):
    text = inspect.getdoc(loss)
    assert re.search(r"https?://\S+", text)
    assert "Shapes:" in text
    assert re.search(r"\(N[,)]", text)


@pytest.mark.parametrize("path", pages())
def test_pages_name_no_folder_of_one_machine(path):
    text = (REPOSITORY / path).read_text()
    assert not [line for line in text.splitlines() if MACHINE.search(line)]


@pytest.mark.parametrize("path", sources())
def test_code_names_no_folder_of_one_machine(path):
    text = (REPOSITORY / path).read_text()
    assert not [line for line in text.splitlines() if MACHINE.search(line)]


@pytest.mark.parametrize("path", pages())
def test_links_between_pages_lead_somewhere(path):
    assert broken_links(path) == []
    assert lost_sections(path) == []


def test_paths_and_imports_that_lead_nowhere_are_found():
    assert paths_nowhere("in `fedkd/core.py`, not kdcore/nowhere.py") == ["kdcore/nowhere.py"]
    code = "```python\nfrom fedkd.data import partition, federate\n```"
    assert imports_nowhere(code) == ["fedkd.data.federate"]


@pytest.mark.parametrize("path", [path for path in pages() if path != "CHANGELOG.md"])
def test_pages_name_files_and_modules_that_are_there(path):
    text = (REPOSITORY / path).read_text()
    assert set(paths_nowhere(text)) <= MADE_UP
    assert imports_nowhere(text) == []


@pytest.mark.parametrize("term", TERMS)
def test_a_file_is_found_by_the_term_for_it(term):
    assert TERMS[term] in [path for path in sources() if term in Path(path).stem]


def test_what_is_stable_is_what_kdsim_gives():
    """The first part of the page names all of `kdsim.__all__`, and nothing that is not there."""
    text = (REPOSITORY / "docs" / "stable.md").read_text().partition("- **`import kdsim`**")[2]
    named = set(re.findall(r"`(\w+)`", text.partition("- **The `kdsim` command**")[0]))
    assert set(kdsim.__all__) <= named
    assert named <= {*kdsim.__all__, *dir(kdsim.Runs), *kdsim.Runs.__annotations__}
