"""Every registry: its names, the nearest to a wrong one, users' own code, installed packages'."""

import importlib
import sys

import pytest

from kdcore.registry import Registry
from simulations.cli import listing

# The kind's registry, a wrong name and the nearest right one, and code that is of the kind.
CLASS = "from dataclasses import dataclass\nfrom {} import {} as Base\n"
CLASS += "@dataclass(frozen=True)\nclass Mine(Base):\n    pass\n"
FUNCTION = "def Mine(*given):\n    return given\n"
MODULE = "from torch import nn\nclass Mine(nn.Module):\n    pass\n"
RECIPE = "class Mine:\n    data = 'none'\n    def measure(self, data, seed):\n        return {}\n"
REGISTRIES = {
    "fedkd.algorithms": ("fedmx", "fedmd", CLASS.format("fedkd.algorithms.fedmd", "FedMD")),
    "graphkd.methods": ("glmn", "glnn", CLASS.format("graphkd.methods.glnn", "GLNN")),
    "simulations.survey.recipes": ("born_agains", "born_again", RECIPE),
    "fedkd.models": ("resnet9", "resnet8", MODULE),
    "fedkd.data.datasets": ("digit", "digits", FUNCTION),
    "fedkd.data.partition": ("dirichle", "dirichlet", FUNCTION),
    "fedgraphkd.partition": ("louvian", "louvain", FUNCTION),
    "fedkd.engines": ("batch", "batched", FUNCTION),
    "fedkd.consensus": ("varianc", "variance", CLASS.format("fedkd.consensus.rule", "Rule")),
    "fedkd.encoders": ("pixel", "pixels", CLASS.format("fedkd.encoders", "Encoder")),
    "fedkd.losses": ("squard", "squared", FUNCTION),
    "fedkd.attacks.lies": ("nois", "noise", CLASS.format("fedkd.attacks.lies.lie", "Lie")),
    "fedkd.attacks.byzantine": ("huge-value", "huge-values", FUNCTION),
    "kdattacks.attacks": ("lyra", "lira", FUNCTION),
    "graphkd.models.networks": ("sagee", "sage", MODULE),
    "graphkd.data.registry": ("cara", "cora", FUNCTION),
    "simulations.results.trackers": ("tensorbord", "tensorboard", FUNCTION),
    "simulations.survey.datasets": ("diabete", "diabetes", FUNCTION),
}


def registry_of(module):
    return importlib.import_module(module).REGISTRY


def found():
    """The registries there are: of every module of the packages that makes one."""
    from tests.contracts.test_imports import TREES, calls

    made = {path for path, tree in TREES.items() if any(n == "Registry" for n, _ in calls(tree))}
    return {p.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for p in made}


def test_all_registries_are_here():
    assert found() == set(REGISTRIES)


def test_no_two_registries_have_the_entry_points_of_one_group():
    groups = [registry_of(module).group for module in REGISTRIES]
    assert len(set(groups)) == len(groups)
    assert all(group.startswith("kdsim.") for group in groups)


@pytest.mark.parametrize("module", REGISTRIES)
def test_every_name_gives_what_its_registry_takes(module):
    registry = registry_of(module)
    assert isinstance(registry, Registry)
    names = registry.names()
    assert names == sorted(names)
    assert len(names) > 2
    for name in names:
        assert registry.accepts(registry.get(name))
        assert registry.reference(name) is None
        registry.check(name)


@pytest.mark.parametrize(("module", "case"), REGISTRIES.items())
def test_a_wrong_name_says_the_nearest(module, case):
    wrong, right, _ = case
    for ask in (registry_of(module).get, registry_of(module).check, registry_of(module).reference):
        with pytest.raises(ValueError, match=f"unknown .* '{wrong}'; did you mean '{right}'"):
            ask(wrong)


@pytest.mark.parametrize(("module", "case"), REGISTRIES.items())
def test_a_users_own_is_found_in_a_file_and_in_a_module(module, case, own_code, monkeypatch):
    monkeypatch.syspath_prepend(own_code)
    (own_code / "own").mkdir()
    for path in ("own/mine_in_a_file.py", "mine_in_a_module.py"):
        (own_code / path).write_text(case[2] + "number = 3\n")
    registry = registry_of(module)
    for place in ("own/mine_in_a_file.py", "mine_in_a_module"):
        name = f"{place}:Mine"
        assert registry.get(name).__name__ == "Mine"
        assert registry.get(f"./{name}" if "/" in name else name) is registry.get(name)
        assert registry.reference(name) == name
        assert registry.foreign(registry.get(name))
        with pytest.raises(ValueError, match=f"{place}:number is no {registry.kind}: it is 3"):
            registry.get(f"{place}:number")
    with pytest.raises(ValueError, match=r"say what in that file, as in own/x\.py:Name"):
        registry.get("own/x.py")


@pytest.fixture
def installed(own_code, monkeypatch):
    """A distribution that adds to every registry, and to one of them what is not there."""
    about = own_code / "fake_kdsim_pack-1.5.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-kdsim-pack\nVersion: 1.5\n")
    lines = []
    for number, (module, case) in enumerate(REGISTRIES.items()):
        (own_code / f"fake_pack_{number}.py").write_text(case[2])
        lines += [f"[{registry_of(module).group}]", f"added = fake_pack_{number}:Mine"]
        lines += ["broken = fake_pack_missing:Mine"] if module == "fedkd.engines" else []
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(own_code)
    importlib.invalidate_caches()
    return own_code


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("module", REGISTRIES)
def test_an_installed_package_adds_to_it(module):
    registry = registry_of(module)
    assert "added" in registry
    assert "added" in registry.names()
    assert registry.added()["added"] == "fake-kdsim-pack"
    assert registry.get("added").__name__ == "Mine"
    place = registry.reference("added")
    assert place.startswith("fake_pack_")
    assert sys.modules[place.partition(":")[0]].Mine is registry.get("added")


@pytest.mark.usefixtures("installed")
def test_what_an_installed_package_does_not_have_is_said():
    with pytest.raises(ValueError, match=r"engine 'broken' at .*no module 'fake_pack_missing'"):
        registry_of("fedkd.engines").get("broken")
    (said,) = [entry for entry in listing.engines() if entry["name"] == "broken"]
    assert "no module 'fake_pack_missing'" in said["summary"]


@pytest.mark.usefixtures("installed")
def test_the_list_says_where_from():
    for kind in ("models", "datasets", "partitions", "faults", "methods"):
        said = [entry for entry in listing.KINDS[kind]() if entry["name"] == "added"]
        assert {entry["from"] for entry in said} == {"fake-kdsim-pack"}
        assert all("from" not in entry for entry in listing.KINDS[kind]() if entry not in said)
