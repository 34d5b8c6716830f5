"""Tables in a terminal: headings and numbers are whole, however narrow it is."""

import pytest

from simulations.execution.console import print_tables
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
