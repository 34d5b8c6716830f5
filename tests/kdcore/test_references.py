"""A user's own code by name: files and modules, mistakes in them, and what they are known by."""

import hashlib
import linecache
import pickle
import subprocess
import sys

import pluggy
import pytest

from kdcore.references import canonical, imported, is_reference, source, source_of, text_of

NET = "from dataclasses import dataclass\n@dataclass\nclass Net:\n    width: int = 3\n"


@pytest.fixture
def folder(own_code):
    """The working folder."""
    return own_code


def write(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_a_reference_is_a_module_or_a_file_and_a_name_in_it():
    for name in (
        "a.b:C",
        "a:C.d",
        "net.py:Net",
        "./net.py:Net",
        "/x/my nets/net-2.py:Net",
        "~/n.py:N",
    ):
        assert is_reference(name), name
    for name in (
        "net.py",
        ".py:Net",
        "net.py:",
        "net.py:2",
        "mnist:5-9",
        "3:nan",
        "fedmd",
        "a b:C",
    ):
        assert not is_reference(name), name


def test_a_file_is_one_module_however_it_is_spelt(folder):
    write(folder / "nets" / "net.py", NET)
    first = imported("nets/net.py:Net")
    assert first().width == 3
    for spelt in ("./nets/net.py", "nets/../nets/net.py", f"{folder}/nets/net.py"):
        assert imported(f"{spelt}:Net") is first
        assert canonical(f"{spelt}:Net") == "nets/net.py:Net"
    assert f"{first.__module__}:{first.__qualname__}" == "nets/net.py:Net"
    assert imported("nets/net.py:Net.width") == 3
    assert canonical("fedmd") == "fedmd"
    assert canonical("a.b:C") == "a.b:C"


def test_a_file_from_elsewhere_is_called_by_its_whole_path(folder, monkeypatch):
    path = write(folder / "net.py", NET)
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    found = imported("../net.py:Net")
    assert found.__module__ == str(path)
    assert imported(f"{path}:Net") is found


def test_a_class_of_a_file_can_be_sent_to_where_the_file_was_executed(folder):
    write(folder / "net.py", NET)
    found = imported("net.py:Net")
    assert pickle.loads(pickle.dumps(found(5))) == found(5)


def test_a_file_that_has_changed_is_executed_anew(folder):
    path = write(folder / "net.py", "width = 3\n")
    assert imported("net.py:width") == 3
    path.write_text("width = 4\n")  # of the same size, within the same second
    assert imported("net.py:width") == 4


def test_files_of_one_name_in_two_folders_are_two_modules(folder):
    for number in (1, 2):
        write(folder / f"v{number}" / "net.py", f"width = {number}\n")
    assert [imported(f"v{n}/net.py:width") for n in (1, 2, 1)] == [1, 2, 1]


def test_a_file_may_import_what_lies_beside_it(folder):
    write(folder / "nets" / "helper_of_net.py", "width = 7\n")
    write(folder / "nets" / "net.py", "from helper_of_net import width\n")
    assert imported("nets/net.py:width") == 7


def test_the_wrong_neighbour_is_refused(folder):
    for number in (1, 2):
        write(folder / f"v{number}" / "helper_of_two.py", f"width = {number}\n")
        write(folder / f"v{number}" / "net.py", "from helper_of_two import width\n")
    assert imported("v1/net.py:width") == 1
    with pytest.raises(
        ValueError, match=r"v2/net.py:width' imports helper_of_two, which is .*/v1/"
    ):
        imported("v2/net.py:width")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ny = z\n", r"net\.py, line 2: NameError: name 'z' is not defined$"),
        ("def f(:\n", r"SyntaxError: .*net\.py, line 1"),
        ("import surely_not_there\n", r"line 1: ModuleNotFoundError: No module named 'surely"),
        ("from . import x\n", r"line 1: ImportError: attempted relative import"),
        ("raise SystemExit(3)\n", r"line 1: SystemExit: 3$"),
        ("def f():\n    return 1 / 0\n\nf()\n", r"line 2: ZeroDivisionError: division by zero$"),
    ],
)
def test_what_fails_in_a_file_is_said_in_a_line(folder, text, said):
    write(folder / "net.py", text)
    for _ in range(2):  # a file that has failed is not taken for a module
        with pytest.raises(ValueError, match=r"^model 'net\.py:Net' cannot be imported: .*" + said):
            imported("net.py:Net", "model")


def test_what_is_not_there_is_said_with_the_nearest(folder):
    write(folder / "net.py", NET)
    with pytest.raises(ValueError, match=r"model 'not\.py:Net': there is no file .*not\.py"):
        imported("not.py:Net", "model")
    with pytest.raises(ValueError, match=r"unknown name 'Nut'; did you mean 'Net'\?"):
        imported("net.py:Nut", "model")


def test_the_source_of_a_file_is_its_text_and_that_of_its_neighbours(folder):
    helper = write(folder / "nets" / "helper_of_source.py", "width = 7\n")
    path = write(folder / "nets" / "net.py", "import json\nimport helper_of_source\nwidth = 1\n")
    write(folder / "nets" / "unused.py", "")
    found = source("nets/net.py:width")
    assert found.file == str(path)
    shas = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (helper, path)}
    assert found.parts == shas
    path.write_text("import json\nimport helper_of_source\nwidth = 2\n")
    assert source("nets/net.py:width").sha256 != found.sha256
    helper.write_text("width = 8\n")
    with pytest.raises(ValueError, match=r"helper_of_source\.py has changed since it was imported"):
        source("nets/net.py:width")


def test_the_source_does_not_depend_on_where_it_lies(folder):
    for place in ("one", "two"):
        write(folder / place / "net.py", NET)
    assert source("one/net.py:Net").sha256 == source("two/net.py:Net").sha256


def test_the_source_of_a_package_is_what_it_imports_of_itself(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    package = folder / "pack_of_mine"
    write(package / "__init__.py", "")
    write(package / "base.py", "import torch\nwidth = 1\n")
    write(package / "late.py", "")
    write(package / "net.py", "from .base import width\nfrom kdcore import rng\nclass Net: ...\n")
    found = source("pack_of_mine.net:Net")
    assert list(found.parts) == [f"pack_of_mine/{n}.py" for n in ("__init__", "base", "net")]
    write(package / "facade.py", "from pack_of_mine.net import Net\n")
    assert source("pack_of_mine.facade:Net") == found  # where it is defined


def test_the_source_of_an_installed_module_has_its_version():
    found = source("pluggy._hooks:HookimplMarker")
    defined = pluggy.HookimplMarker.__module__.replace(".", "/")
    assert set(found.parts) == {"pluggy (version)", f"{defined}.py"}  # and not what it imports


def test_what_stands_in_a_script_is_known_by_its_own_text(folder):
    script = "class Base: ...\nclass Net(Base):\n    width = {}\nclass Other: ...\n{}\n"
    ask = "from kdcore.references import source; print(source('__main__:Net').sha256)"
    found = []
    for width, more in ((3, ""), (3, "x = 1\n"), (4, "")):
        write(folder / "script.py", script.format(width, more + ask))
        done = subprocess.run([sys.executable, "script.py"], capture_output=True, check=True)
        found.append(done.stdout)
    assert found[0] == found[1] != found[2]


def test_what_has_no_text_has_no_source():
    made = type("Made", (), {"__module__": "__main__"})
    assert source_of(made).parts == {}


def test_a_class_in_a_notebook_has_the_source_of_its_cell():
    cells = {}
    for number, width in enumerate((3, 4)):
        text = f"size = 1\nclass Net:\n    width = {width}\n    def f(self):\n        return self\n"
        name = f"<cell {number}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        exec(compile(text, name, "exec"), cells := {"__name__": "__main__"} | cells)
        found = text_of(cells["Net"])
        assert found == f"class Net:\n    width = {width}\n\n    def f(self):\n        return self"
    with pytest.raises(OSError, match="is not there"):
        text_of(type("Made", (), {"__module__": "__main__"}))
    with pytest.raises(TypeError):
        text_of(7)
