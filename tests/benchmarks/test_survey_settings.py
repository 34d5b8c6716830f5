"""Searched settings: as many for each arm, each keeps its best, and nothing is measured twice."""

import pytest

from benchmarks import survey_settings
from benchmarks.survey_settings import REPORTED, SEARCHED, Log, Measured
from simulations.config.schema import updated
from simulations.survey import recipes
from simulations.survey.recipes.schemes.mutual import Mutual


@pytest.mark.parametrize("name", survey_settings.RANGES)
def test_settings_are_the_recipes_own_and_the_first_is_that_of_the_page(name):
    drawn = survey_settings.drawn(name, 5)
    assert drawn[0] == {}
    assert drawn == survey_settings.drawn(name, 6)[:5]
    ranges = survey_settings.RANGES[name]
    for settings in drawn[1:]:
        updated(recipes.get(name)(), settings)  # refuses what is no setting, or out of its range
        assert settings.keys() == ranges.keys()
        assert all(value in ranges[key] for key, value in settings.items())
    assert survey_settings.comparisons(name)


def test_each_arm_keeps_what_is_best_for_it():
    tried = [
        Measured({"number": i}, {seed: {"a": a, "b": b} for seed in SEARCHED})
        for i, (a, b) in enumerate([(0.5, 0.9), (0.7, 0.9), (0.6, 0.1)])
    ]
    assert survey_settings.best(tried, "a").settings == {"number": 1}
    assert survey_settings.best(tried, "b").settings == {"number": 0}


def test_a_comparison_is_paired_on_the_seeds_of_the_page_and_goes_on_where_it_stopped(
    tmp_path, monkeypatch
):
    seen = []

    def measure(self, data, seed):
        """Taught networks are best with the largest rate, others with the smallest."""
        seen.append((self.training, seed))
        rate = self.training.learning_rate
        own = {"accuracy": 0.5 + rate + seed / 100, "accuracy_baseline": 0.5 - rate}
        return own | {"accuracy_ensemble_baseline": 0.0}

    monkeypatch.setattr(Mutual, "measure", measure)
    path = tmp_path / "mutual.jsonl"
    first, control = survey_settings.report("mutual", Log("mutual", path), 8)
    drawn = survey_settings.drawn("mutual", 8)
    rates = [one.get("training.learning_rate", Mutual().training.learning_rate) for one in drawn]
    mean = 0.02 + max(rates) + min(rates)  # over seeds 0 to 4, a hundredth of each is added
    half = 2.776 * (2.5 / 100**2 / 5) ** 0.5  # t of four degrees of freedom, variance of 0 .. 4
    assert f"{mean:+.3g} (" in first
    assert "wins 5/5" in first
    low = float(first.partition("(")[2].partition(" to ")[0])
    assert low == pytest.approx(mean - half, abs=1e-4)
    assert "accuracy - accuracy_ensemble_baseline" in control
    count = len(seen)
    assert count <= len(SEARCHED) * 8 + len(REPORTED) * 3
    assert list(survey_settings.report("mutual", Log("mutual", path), 8)) == [first, control]
    assert len(seen) == count
