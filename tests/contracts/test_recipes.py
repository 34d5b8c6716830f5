"""Every recipe: its file, what it cites and claims, and a short run that could fail."""

import dataclasses
import math

import pytest

from kdcore.training.loop import TrainingConfig
from simulations.config.experiments import SurveyExperiment
from simulations.config.schema import values
from simulations.survey import claims, datasets, experiments, recipes, runner

SHIPPED = {"digits", "diabetes", "none"}  # data that come with the dependencies
TIMES = ("latency", "seconds")  # what these names hold may differ from run to run


def shortened(owner):
    """The same settings with one epoch in every training."""
    changes = {}
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        if isinstance(value, TrainingConfig):
            changes[field.name] = dataclasses.replace(value, epochs=1)
    return dataclasses.replace(owner, **changes)


def test_every_recipe_has_a_file_and_every_file_a_recipe():
    used = {
        experiments.document(name).get("survey", {}).get("recipe") for name in experiments.names()
    }
    assert used - {None} == set(recipes.names())


@pytest.mark.parametrize("name", experiments.names())
def test_a_file_says_what_it_is_about_and_what_it_claims(name):
    said = experiments.described(name)
    assert said.term
    assert said.what.endswith(".")
    assert said.source
    assert said.claims
    for full in filter(None, said.loss.replace(",", " ").split()):
        module, _, function = full.rpartition(".")
        imported = __import__(module, fromlist=[function])
        assert hasattr(imported, function), full


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_cites_its_paper_and_its_fields_are_settings(name):
    recipe = recipes.get(name)
    assert "https://" in (recipe.__doc__ or "")
    assert dataclasses.is_dataclass(recipe)
    assert len(values(recipe())) >= len(dataclasses.fields(recipe))


def with_data(name):
    """The recipe, marked where it needs files."""
    needs = () if recipes.get(name).data in SHIPPED else (pytest.mark.data,)
    return pytest.param(name, marks=needs)


@pytest.mark.parametrize("name", [with_data(name) for name in recipes.names()])
def test_a_short_run_measures_what_is_claimed_twice_the_same(name):
    recipe = shortened(recipes.get(name)())
    data = datasets.load(recipe.data)
    first, second = recipe.measure(data, 100), recipe.measure(data, 100)
    assert all(math.isfinite(value) for value in first.values())
    assert {k: v for k, v in first.items() if not any(t in k for t in TIMES)} == {
        k: v for k, v in second.items() if not any(t in k for t in TIMES)
    }
    for file in (n for n in experiments.names() if _recipe_of(n) == name):
        said = experiments.described(file)
        for claim in map(claims.read, (*said.claims, *said.controls)):
            assert {claim.metric, *filter(None, [claim.other])} <= first.keys(), claim.text


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_is_an_experiment_whose_missing_data_are_named(name, tmp_path):
    experiment = SurveyExperiment(recipes.get(name)())
    assert experiment.name == name
    if experiment.data in SHIPPED:
        runner.prepare(experiment, tmp_path)
    else:
        with pytest.raises(FileNotFoundError, match=r"--data-root|KDSIM_DATA"):
            runner.prepare(experiment, tmp_path)


def _recipe_of(file):
    return experiments.document(file).get("survey", {}).get("recipe")
