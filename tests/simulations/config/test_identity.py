"""What a run is known by, frozen: the folders of finished runs stay theirs."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from fedkd.algorithms.dsfl import DSFL
from kdcore.training.optimizers import TrainingConfig
from simulations.config import files, grid, identity, library, schema
from simulations.config.experiments import FedExperiment

FROZEN = json.loads((Path(__file__).parent / "digests.json").read_text())


def test_the_experiments_that_come_with_kdsim_have_the_digests_that_they_had():
    """Where this fails, runs are no longer found: see `simulations.config.schema.ADDED`."""
    found = {}
    for path in sorted(library.FOLDER.rglob("*.toml")):
        experiments = grid.expand(files.read(path), path.name).experiments
        name = path.relative_to(library.FOLDER).as_posix()
        found[name] = [len(experiments), identity.digest_all(experiments)]
    assert found == FROZEN
    assert sum(count for count, _ in found.values()) == 2093


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
