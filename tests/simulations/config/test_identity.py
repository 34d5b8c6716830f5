"""What a run is known by, frozen: the folders of finished runs stay theirs."""

import json
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, ClassVar

import pytest

from fedkd.algorithms.dsfl import DSFL
from kdcore import registry
from kdcore.settings import Setting
from kdcore.training.optimizers import TrainingConfig
from simulations.config import files, grid, identity, library, schema, sources
from simulations.config.experiments import FedExperiment, build

FROZEN = json.loads((Path(__file__).parent / "digests.json").read_text())


def test_the_experiments_that_come_with_kdsim_have_the_digests_that_they_had():
    """Where this fails, runs are no longer found: see `simulations.config.schema.ADDED`."""
    found = {}
    for path in sorted(library.FOLDER.rglob("*.toml")):
        experiments = grid.expand(files.read(path), path.name).experiments
        name = path.relative_to(library.FOLDER).as_posix()
        found[name] = [len(experiments), identity.digest_all(experiments)]
    assert found == FROZEN
    assert sum(count for count, _ in found.values()) == 3094


@dataclass(frozen=True)
class Before(DSFL):
    """An algorithm of this file, of the same name as those below: a name is part of a digest."""

    NAME: ClassVar[str] = "growing"


@dataclass(frozen=True)
class Unmarked(DSFL):
    NAME: ClassVar[str] = "growing"
    later: float = 1.0


@dataclass(frozen=True)
class Marked(DSFL):
    NAME: ClassVar[str] = "growing"
    later: float = field(default=1.0, metadata=schema.ADDED)
    more: TrainingConfig = field(default_factory=TrainingConfig, metadata=schema.ADDED)


def test_a_setting_that_is_added_counts_only_where_it_differs_from_its_default():
    before = identity.digest(FedExperiment(Before()))
    assert identity.digest(FedExperiment(Unmarked())) != before
    assert identity.digest(FedExperiment(Marked())) == before
    for changed in (Marked(later=2.0), Marked(more=TrainingConfig(epochs=7))):
        assert identity.digest(FedExperiment(changed)) != before
    said = identity.settings(FedExperiment(Marked(later=2.0)))
    assert said["later"] == 2.0
    assert not any(name.startswith("more.") for name in said)


@dataclass(frozen=True)
class Called(DSFL):
    NAME: ClassVar[str] = "growing"
    strength: float = 1.0
    teaching: TrainingConfig = TrainingConfig(epochs=3)


@dataclass(frozen=True)
class CalledAnew(DSFL):
    NAME: ClassVar[str] = "growing"
    force: Annotated[float, Setting("how much", was="strength")] = 1.0
    teacher: Annotated[TrainingConfig, Setting(was="teaching")] = TrainingConfig(epochs=3)


def test_a_setting_with_a_new_name_counts_by_its_first_one():
    assert identity.digest(FedExperiment(CalledAnew())) == identity.digest(FedExperiment(Called()))
    changed = CalledAnew(force=2.0, teacher=TrainingConfig(epochs=4))
    before = Called(strength=2.0, teaching=TrainingConfig(epochs=4))
    assert identity.digest(FedExperiment(changed)) == identity.digest(FedExperiment(before))
    said = identity.settings(FedExperiment(changed))
    assert (said["force"], said["teacher.epochs"]) == (2.0, 4)
    assert not any(name.startswith(("strength", "teaching")) for name in said)


def test_a_former_name_is_refused_with_the_new_one():
    known = schema.leaves(CalledAnew)
    for old, new in {"strength": "force", "teaching.epochs": "teacher.epochs"}.items():
        with pytest.raises(ValueError, match=f"unknown key '{old}' in .fed.; it is '{new}' now"):
            schema.check_keys([old], known, "[fed]")


def test_the_recipes_of_before_are_known_by_their_settings():
    (one,), _ = grid.expand({"survey": {"recipe": "compression"}}, "compression")
    now = identity.settings(one)
    assert "teacher_training.epochs" in now
    before = {
        name.replace("teacher_training", "teaching").replace("student_training", "learning"): value
        for name, value in now.items()
    }
    assert identity.as_first_named(now, one) == before == identity.as_first_named(before, one)


def test_a_setting_that_is_added_inside_another_one_is_found():
    @dataclass(frozen=True)
    class Part:
        old: int = 1
        new: int = field(default=2, metadata=schema.ADDED)

    @dataclass(frozen=True)
    class Whole:
        part: Part = Part()

    assert schema.unsaid(Whole()) == {"part.new"}
    assert schema.unsaid(Whole(Part(old=3, new=5))) == set()


@pytest.mark.parametrize(
    ("kind", "name", "given", "group"),
    [
        ("graph", "glnn", {"teacher": "mine+sage"}, "kdsim.networks"),
        ("survey", "mutual", {"peers": ["mlp-8", "mine"]}, "kdsim.models"),
        ("fed", "local", {"models": ["mine"]}, "kdsim.models"),
    ],
)
def test_networks_of_an_installed_package_are_a_part_of_what_a_run_is_known_by(
    kind, name, given, group, own_code, monkeypatch
):
    (own_code / "my_networks.py").write_text("class Net: ...\n")
    monkeypatch.syspath_prepend(own_code)
    point = EntryPoint("mine", "my_networks:Net", group)
    wanted = lambda group: [point] if group == point.group else []  # noqa: E731
    monkeypatch.setattr(registry, "entry_points", wanted)
    one = build(kind, name, given)
    assert [*sources.sources(one)] == ["my_networks:Net"]
    assert "source my_networks:Net" in identity.settings(one)


def test_where_dropout_is_drawn_counts_only_where_it_is_on_the_device():
    usual = identity.settings(build("graph", "glnn", {}))
    assert "device_dropout" not in usual
    asked = identity.settings(build("graph", "glnn", {"device_dropout": True}))
    assert asked == usual | {"device_dropout": True}
