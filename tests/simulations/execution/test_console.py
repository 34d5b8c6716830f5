"""Tables in a terminal: headings and numbers are whole, however narrow it is."""

import pytest

from simulations.execution.console import choices, print_tables
from simulations.results import run_folder
from tests.simulations.reporting.test_report import fed_run

SPENT = {"epsilon_client_replace": 2.742e-10, "epsilon_label_replace": 2.0, "delta": 1e-5}


@pytest.mark.parametrize("width", [80, 200])
def test_no_word_of_a_heading_and_no_number_is_cut(tmp_path, monkeypatch, capsys, width):
    fed_run(tmp_path, "dsfl", 0, 0.0925, metrics=SPENT)
    monkeypatch.setenv("COLUMNS", str(width))
    print_tables(run_folder.load(tmp_path))
    text = capsys.readouterr().out
    assert "…" not in text
    assert text.count("epsilon,") == 2
    for word in ("accuracy", "client", "label", "delta", "sent", "down", "2.742e−10", "2.00"):
        assert word in text


def test_settings_that_tell_rows_apart_are_there_in_a_terminal_of_80_columns(
    tmp_path, monkeypatch, capsys
):
    rules = ("variance-era", "entropy-era")
    for seed, rule in enumerate(rules):
        fed_run(tmp_path, "dsfl", seed, 0.5, settings={"aggregation": rule})
    monkeypatch.setenv("COLUMNS", "80")
    print_tables(run_folder.load(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    labels = "".join(line[:18].strip() for line in lines)  # of several lines, one after another
    assert all(f"(aggregation={rule})" in labels for rule in rules)
    assert max(map(len, lines)) <= 80


def test_what_the_engine_auto_has_chosen_is_said_once_for_all_runs():
    one, other = {"mlp-8": "stacked", "cnn": "in turn"}, {"mlp-8": "stacked", "mlp-9": "stacked"}
    assert choices([{"engine": one}, {"engine": other}, {"seed": 0}, {"engine": one}]) == [
        "engine auto: mlp-8, mlp-9: stacked",
        "engine auto: cnn: in turn",
    ]
