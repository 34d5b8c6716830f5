"""Names, nearest names, a user's own module, and what an installed package adds."""

import sys
from importlib.metadata import EntryPoint

import pytest

from fedkd import algorithms
from fedkd.algorithms.fedmd import FedMD
from fedkd.core import Algorithm
from graphkd import methods
from kdcore import registry
from kdcore.registry import Registry, files_of, is_reference, nearest, subclass_of
from simulations.survey import recipes

FRUIT = Registry(
    "fruit", lambda: {"apple": lambda: "red", "pear": lambda: "green"}, "kdsim.fruit", bool
)
ALGORITHMS = Registry(
    "algorithm",
    files_of("fedkd.algorithms", subclass_of(Algorithm)),
    "kdsim.algorithms",
    subclass_of(Algorithm),
)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user's in the working folder, with an algorithm of its own."""
    (tmp_path / "my_methods.py").write_text(
        "from dataclasses import dataclass\n"
        "from fedkd.algorithms.fedmd import FedMD\n"
        "@dataclass(frozen=True)\n"
        "class Mine(FedMD):\n    boost: float = 2.0\n"
        "class Outer:\n    Inner = Mine\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_methods"
    sys.modules.pop("my_methods", None)


def test_a_name_is_that_of_a_file():
    assert ALGORITHMS.get("fedmd") is FedMD
    assert ALGORITHMS.names() == algorithms.names()
    assert "fedmd" in ALGORITHMS
    assert "fedmx" not in ALGORITHMS


def test_an_unknown_name_says_the_nearest_and_all():
    with pytest.raises(ValueError, match=r"unknown fruit 'aple'; did you mean 'apple'\? choose"):
        FRUIT.get("aple")
    with pytest.raises(ValueError, match=r"unknown fruit 'xyz'; choose one of apple, pear$"):
        FRUIT.get("xyz")


def test_a_reference_is_a_module_and_a_name_in_it():
    assert is_reference("my_methods:Mine")
    assert is_reference("a.b:C.d")
    for other in ("mnist:5-9", "fedmd", "3:nan", ":x", "a:", "a.b"):
        assert not is_reference(other)


def test_a_users_own_class_is_found_in_its_module(module):
    found = ALGORITHMS.get("my_methods:Mine")
    assert found.__name__ == "Mine"
    assert issubclass(found, FedMD)
    assert found().boost == 2.0
    assert ALGORITHMS.get("my_methods:Outer.Inner") is found


def test_a_reference_that_leads_nowhere_says_where_it_was_looked_for(module):
    with pytest.raises(ValueError, match="there is no module 'my_method'.*working folder"):
        ALGORITHMS.get("my_method:Mine")
    with pytest.raises(ValueError, match="unknown name 'Mime'; did you mean 'Mine'"):
        ALGORITHMS.get("my_methods:Mime")
    with pytest.raises(ValueError, match="my_methods:number is no algorithm: it is 3"):
        ALGORITHMS.get("my_methods:number")


def test_a_module_that_cannot_import_what_it_needs_says_so_itself(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import surely_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"needs_more\.py, line 1: .*'surely_not_installed'"):
        ALGORITHMS.get("needs_more:Anything")


def test_the_name_of_a_class_is_one_by_which_it_is_found(module):
    mine = ALGORITHMS.get("my_methods:Mine")
    assert ALGORITHMS.name_of(FedMD) == ALGORITHMS.name_of(FedMD()) == "fedmd"
    assert ALGORITHMS.name_of(mine) == "my_methods:Mine"
    mine.NAME = "mine"
    assert ALGORITHMS.name_of(mine) == "mine"


def test_a_users_file_may_be_called_as_one_of_ours(tmp_path, monkeypatch):
    (tmp_path / "of_a_user").mkdir()
    (tmp_path / "of_a_user" / "fedavg.py").write_text(
        "from fedkd.algorithms.fedmd import FedMD\nclass Mine(FedMD):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mine = ALGORITHMS.get("of_a_user.fedavg:Mine")
    assert ALGORITHMS.name_of(mine) == "of_a_user.fedavg:Mine"
    assert ALGORITHMS.get(ALGORITHMS.name_of(mine)) is mine


def test_installed_packages_add_to_what_there_is(module, monkeypatch):
    point = EntryPoint("mine", "my_methods:Mine", "kdsim.algorithms")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    assert "mine" in ALGORITHMS
    assert "mine" in ALGORITHMS.names()
    assert ALGORITHMS.get("mine").__name__ == "Mine"
    broken = EntryPoint("three", "my_methods:number", "kdsim.algorithms")
    monkeypatch.setattr(registry, "entry_points", lambda group: [broken])
    with pytest.raises(ValueError, match="three is no algorithm"):
        ALGORITHMS.get("three")


def test_what_is_already_right_has_no_nearest():
    assert nearest("apple", ["apple", "pear"]) == ""


@pytest.mark.parametrize("package", [algorithms, methods, recipes])
def test_every_name_of_a_package_gives_a_class_of_that_name(package):
    for name in package.names():
        assert package.REGISTRY.name_of(package.get(name)) == name
