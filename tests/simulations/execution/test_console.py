"""Tables in a terminal: headings are whole, however narrow it is."""

import io

import pytest
from rich.console import Console

from simulations.execution.console import terminal_table
from simulations.results.run_results import Result
from simulations.results.tables import table

METRICS = {
    "accuracy": 0.0925,
    "accuracy_local": 0.246,
    "epsilon_client_replace": 147.4,
    "epsilon_label_replace": 2.0,
    "delta": 1e-5,
    "bytes_up": 312.0,
    "bytes_down": 19200.0,
}


@pytest.mark.parametrize("width", [80, 200])
def test_no_word_of_a_heading_is_cut(width):
    one = table([Result("fed", "digits", "4 clients", "dsfl", 0, METRICS, [], {}, "dsfl")])
    shown = Console(file=io.StringIO(), width=width)
    shown.print(terminal_table(one))
    text = shown.file.getvalue()
    assert "…" not in text
    assert text.count("epsilon,") == 2
    for word in ("accuracy", "client", "label", "delta", "method", "seeds"):
        assert word in text
