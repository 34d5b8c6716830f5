"""Recipes from the command line: claims, verdicts, the page."""

import pytest
import torch

from simulations.results import run_results
from simulations.survey import claims, datasets, experiments, page, recipes
from simulations.survey.claims import About
from simulations.survey.recipes.objectives import compression


def by_seed(**metrics):
    """Seed -> metrics, from columns."""
    rows = zip(*metrics.values(), strict=True)
    return {seed: dict(zip(metrics, row, strict=True)) for seed, row in enumerate(rows)}


def word(claim, runs, *controls):
    return claims.verdict(About(claims=(claim,), controls=controls), runs)


def test_a_claim_is_read():
    found = claims.read("accuracy - accuracy_baseline >= 0.03 in 0.9")
    assert found[:7] == ("accuracy", "-", "accuracy_baseline", "more", False, 0.03, 0.9)
    ratio = claims.read("rmse / rmse_0 <= 0.95")
    assert ratio[:7] == ("rmse", "/", "rmse_0", "less", False, 0.95, 0.0)
    assert claims.read("recall > 0.85")[:7] == ("recall", "", "", "more", True, 0.85, 0.0)


@pytest.mark.parametrize("text", ["", "accuracy", "accuracy > ", "a + b > 1", "a - b >= 1 of 3"])
def test_what_is_no_claim_is_refused(text):
    with pytest.raises(ValueError, match="is no claim"):
        claims.read(text)


def test_values_are_paired_by_seed_and_seeds_without_one_left_out():
    runs = {0: {"a": 3.0, "b": 1.0}, 1: {"a": 5.0}, 2: {"a": 4.0, "b": 2.0}}
    assert claims.read("a - b > 0").values(runs) == [2.0, 2.0]
    assert claims.read("a / b > 1").values(runs) == [3.0, 2.0]
    assert claims.read("a > 1").values(runs) == [3.0, 5.0, 4.0]
    nothing = {0: {"a": 1.0, "b": 0.0}, 1: {"a": 1.0, "b": 2.0}}
    assert claims.read("a / b > 1").values(nothing) == [0.5]  # nothing is a share of nothing
    assert claims.read("a - b > 1").values(nothing) == [1.0, -1.0]


def test_a_strict_claim_is_of_the_whole_interval():
    runs = by_seed(a=[0.3, -0.1, 0.2], b=[0.0, 0.0, 0.0])  # mean 0.13, t-interval -0.38 to 0.65
    assert claims.findings(["a - b >= 0"], runs)[0].holds
    assert not claims.findings(["a - b > 0"], runs)[0].holds
    assert not claims.findings(["b - a < 0"], runs)[0].holds
    # No interval, or one that ends at the bound: nothing is beyond doubt.
    assert not claims.findings(["a - b > 0"], by_seed(a=[0.3, 0.4], b=[0.0, 0.0]))[0].holds
    assert not claims.findings(["a - b > 0"], by_seed(a=[0.3] * 3, b=[0.3] * 3))[0].holds
    assert claims.findings(["a - b >= 0"], by_seed(a=[0.3], b=[0.0]))[0].holds


def test_verdicts():
    up = by_seed(a=[0.8, 0.9, 0.85], b=[0.7, 0.8, 0.74], c=[0.8, 0.95, 0.9])
    assert word("a - b >= 0.1", up) == "works"
    assert word("a - b >= 0.1 in 1", up, "a - b > 0") == "works"
    assert word("a - b >= 0.1", up, "a - c > 0") == "misleading"
    assert word("a - b >= 0.2", up) == "less than claimed"
    assert word("b - a >= 0.1", up) == "worse"
    assert word("a - c >= 0.1", by_seed(a=[1.0, 2.0, 1.5], c=[2.0, 1.0, 1.5])) == "no gain here"
    two = by_seed(a=[1.0, 2.0], c=[2.0, 1.5])
    assert word("a - c >= 0.1", two) == "too few seeds"
    assert word("a - c >= -1", two) == "works"
    assert word("a - c >= -1", two, "a - c > -1") == "too few seeds"
    assert word("a - missing > 0", up) == "not run"
    assert word("a > 0", {}) == "not run"


def test_a_claim_of_less_counts_the_other_way():
    runs = by_seed(rmse=[0.7, 0.72, 0.71], hard=[0.8, 0.82, 0.81])
    assert word("rmse / hard <= 0.92 in 1", runs) == "works"
    assert word("rmse / hard <= 0.5", runs) == "less than claimed"
    assert word("hard / rmse <= 0.9", runs) == "worse"


def test_a_share_of_seeds_has_to_be_on_the_claimed_side_of_no_effect():
    runs = by_seed(a=[1.0, 1.0, 1.0, 0.0], b=[0.0, 0.0, 0.0, 0.5])
    assert claims.findings(["a - b >= 0.5 in 0.75"], runs)[0].holds
    assert not claims.findings(["a - b >= 0.5 in 0.8"], runs)[0].holds
    assert claims.findings(["a - b >= 0.5"], runs)[0].wins == 3


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"trem": "x"}, "unknown key 'trem'"),
        ({"claims": "a > 1"}, "claims is"),
        ({"claims": ["a"]}, "is no claim"),
    ],
)
def test_wrong_words_about_an_experiment(table, said):
    with pytest.raises(ValueError, match=said):
        claims.about({"about": table}, "x.toml")


def test_joined_recipes_keep_their_own_seeds_and_settings():
    whole = experiments.joined(["compression"])
    assert whole["survey"]["recipe"] == ["compression"]
    assert whole["recipe"]["compression"]["seeds"] == 10
    assert experiments.joined(["compression"], 2)["recipe"]["compression"]["seeds"] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "unknown recipe 'nothing'"),
        (["compresion"], "did you mean 'compression'"),
        (["compression", "--seeds", "0"], "seeds must be a number >= 1"),
        ([], "--all"),
        (["compression", "--all"], "--all"),
    ],
)
def test_wrong_commands_are_one_line(kdsim, arguments, said):
    status, out, err = kdsim("recipe", *arguments)
    assert status == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not out


def test_a_network_that_is_none_is_refused_before_any_run(kdsim, tmp_path):
    file = tmp_path / "own.toml"
    file.write_text("[survey]\nrecipe = 'compression'\n[recipe.compression]\nteacher = 'mpl-64'\n")
    status, out, err = kdsim("run", file, "--out", tmp_path / "runs")
    assert (status, out) == (2, "")
    assert "unknown model 'mpl-64'; did you mean 'mlp'?" in err
    assert not (tmp_path / "runs").exists()


def test_missing_data_are_one_line(kdsim, tmp_path):
    needing = [n for n in recipes.names() if recipes.get(n).data == "shakespeare"]
    for name in needing[:1]:
        status, _, err = kdsim("recipe", name, "--seeds", "1", "--data-root", tmp_path)
        assert status == 2
        assert "tinyshakespeare" in err
    with pytest.raises(FileNotFoundError, match=r"ratings\.csv is not in"):
        datasets.load("movielens", tmp_path)


def test_unknown_data_name_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'movielens'"):
        datasets.load("movilens")


def test_a_recipe_from_the_command_to_the_page(kdsim, monkeypatch, tmp_path):
    numbers = {"accuracy": 0.9, "accuracy_baseline": 0.8, "accuracy_teacher": 0.95}
    asked = []

    def measure(self, data, seed):
        asked.append(seed)
        return numbers | {"accuracy_baseline": 0.8 + seed / 100}

    monkeypatch.setattr(compression.Compression, "measure", measure)
    command = ("recipe", "compression", "--seeds", "2", "--workers", "1", "--out", "found")
    status, out, err = kdsim(*command)
    assert status == 0
    assert "knowledge compression: works" in out
    assert "seed 1: accuracy 90.0 %" in err
    status, out, err = kdsim(*command)  # all is there already
    assert status == 0
    assert asked == [0, 1]
    status, out, _ = kdsim("survey", "found", "--out", "page/survey.md")
    assert status == 0
    text = (tmp_path / "page" / "survey.md").read_text()
    assert "| knowledge compression | `kdsim recipe compression` | 2 | +0.095" in text
    assert "wins 2/2" in text
    assert "| accuracy baseline | 0.805 | 0.00707 | 2 |" in text


def test_a_table_of_a_recipe_has_a_row_for_each_arm():
    numbers = {"accuracy": 0.9, "accuracy_baseline": 0.8, "accuracy_baseline_shifted": 0.7}
    found = run_results._arms(numbers | {"parameters_ratio": 70.0})
    assert found == {
        "taught": {"accuracy": 0.9, "parameters_ratio": 70.0},
        "baseline": {"accuracy": 0.8},
        "baseline shifted": {"accuracy": 0.7},
    }


def test_the_page_says_what_a_search_has_found(monkeypatch):
    said = About(term="x", claims=("a > 0",), searched=("`a - b`: +0.1", "`a - c`: -0.1"))
    monkeypatch.setattr(experiments, "described", lambda name: said)
    lines = page._entry("x", {}).splitlines()
    assert lines[-2:] == ["- Searched: `a - b`: +0.1", "- Searched: `a - c`: -0.1"]


def test_the_page_needs_runs_of_recipes(kdsim, tmp_path):
    status, _, err = kdsim("survey", tmp_path / "nowhere")
    assert status == 2
    assert "is no folder" in err
    status, _, err = kdsim("survey", tmp_path)
    assert status == 2
    assert "no finished run of a recipe" in err


def test_methods_of_one_experiment_are_told_apart_by_name():
    end = {"kind": "graph", "method": "glnn", "protocol": "withheld"}
    assert page._whose(end) == "_glnn_withheld"
    assert page._whose({"kind": "survey", "method": "x", "protocol": "x"}) == ""


@pytest.mark.parametrize(
    ("device", "said"),
    [("cuda", "finds no such devices here"), ("mps", "knows no float64"), ("gpu", "is none")],
)
def test_a_recipe_on_a_device_that_is_not_there_is_refused_before_the_run(
    device, said, kdsim, monkeypatch, tmp_path
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, _, err = kdsim("recipe", "privileged", "--device", device, "--out", "runs")
    assert status == 2
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()
