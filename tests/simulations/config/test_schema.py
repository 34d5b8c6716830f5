"""Settings read off dataclasses, those of a part that may be absent with them."""

from dataclasses import replace

import pytest

from fedkd.algorithms.dsfl import DSFL
from kdcore.training.optimizers import Clipping, TrainingConfig
from simulations.config import identity, schema
from simulations.config.experiments import FedExperiment

PRIVATE = TrainingConfig(privacy=Clipping(1.0, 0.5))


def test_what_is_absent_has_settings_that_are_none_and_no_part_in_a_digest():
    found = schema.leaves(FedExperiment(DSFL()))
    names = {name for name in found if "privacy." in name}
    assert names == {"algorithm.local.privacy.norm", "algorithm.local.privacy.noise"}
    assert {found[name].default for name in names} == {None}
    assert names <= schema.unsaid(FedExperiment(DSFL()))
    assert not any("privacy" in name for name in identity.settings(FedExperiment(DSFL())))


def test_what_is_there_is_a_part_of_what_a_run_is_known_by():
    said = identity.settings(FedExperiment(DSFL(local=PRIVATE)))
    assert (said["local.privacy.norm"], said["local.privacy.noise"]) == (1.0, 0.5)
    assert identity.digest(FedExperiment(DSFL(local=PRIVATE))) != identity.digest(
        FedExperiment(DSFL(local=replace(PRIVATE, privacy=Clipping(1.0, 0.6))))
    )


def test_a_part_that_may_be_absent_is_set_as_a_whole_then_bit_by_bit_and_as_none():
    both = {"local.privacy.norm": 1.0, "local.privacy.noise": 0.5}
    private = schema.updated(DSFL(), both)
    assert private.local == replace(DSFL().local, privacy=Clipping(1.0, 0.5))
    other = schema.updated(private, {"local.privacy.noise": 2})
    assert other.local.privacy == Clipping(1.0, 2.0)
    assert schema.updated(DSFL(), dict.fromkeys(both)) == DSFL()
    assert schema.updated(DSFL(), schema.values(private)) == private


@pytest.mark.parametrize(("given", "lacking"), [("norm", "noise"), ("noise", "norm")])
def test_half_of_a_part_is_refused_with_what_is_lacking(given, lacking):
    with pytest.raises(ValueError, match=f"privacy.{given} needs privacy.{lacking} with it"):
        schema.updated(DSFL(), {f"local.privacy.{given}": 1.0})


def test_privacy_is_of_private_examples_alone():
    with pytest.raises(ValueError, match="^distill.privacy: private examples are those of local"):
        DSFL(distill=PRIVATE)


def test_one_thing_is_one():
    said = [
        schema.counted(number, noun) for number, noun in ((0, "seed"), (1, "round"), (2, "class"))
    ]
    assert said == ["0 seeds", "1 round", "2 classes"]
    alone = FedExperiment(DSFL(), clients=1, rounds=1, partition="iid")
    assert alone.protocol == "1 client, iid, 1 round"
