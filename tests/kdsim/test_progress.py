"""How far runs are: shown on a terminal and in a notebook, and nowhere else."""

import io
import re
import sys
import types
from pathlib import Path

import pytest
from rich.console import Console

import kdsim
import simulations.reporting.report
from kdsim import progress
from simulations.execution import console

SMALL = {"rounds": 2, "clients": 2, "private": 40, "public": 20, "test": 40, "models": ["mlp-8"]}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        simulations.reporting.report, "write_report", lambda *_, **__: Path("report.html")
    )


@pytest.fixture
def notebook(monkeypatch):
    """What IPython would be in a kernel: it keeps what it is asked to display, as HTML."""
    pages = []

    class Handle:
        def update(self, shown):
            pages.append(shown._repr_html_())

    def display(shown, display_id):
        pages.append(shown._repr_html_())
        return Handle()

    shell = types.SimpleNamespace(kernel=object())
    python = types.SimpleNamespace(
        get_ipython=lambda: shell, display=types.SimpleNamespace(display=display)
    )
    monkeypatch.setitem(sys.modules, "IPython", python)
    return pages


def test_a_notebook_shows_one_object_that_changes(notebook, capfd):
    kdsim.run(["local", "fd"], **SMALL, seeds=2, workers=1, out="out")
    assert capfd.readouterr() == ("", "")
    assert len(notebook) == 1 + 4 * 3  # at first, and after each record of four runs
    done = [int(re.search(r"(\d) of 4 runs", page)[1]) for page in notebook]
    assert done == [0, *([0, 0, 1] + [1, 1, 2] + [2, 2, 3] + [3, 3, 4])]
    values = [float(re.search(r'value="([\d.]+)"', page)[1]) for page in notebook]
    assert values == sorted(values)
    assert values[:5] == [0, 0.5, 1, 1, 1.5]
    assert "local seed 0 round 1, accuracy" in notebook[1]
    assert "<div>" not in notebook[-1]
    notebook.clear()
    kdsim.run(["local", "fd"], **SMALL, seeds=2, workers=1, out="out")
    assert notebook == []  # all are done


def test_elsewhere_it_is_quiet_unless_asked(capfd, monkeypatch):
    kdsim.run("local", **SMALL, workers=1, out="quiet")
    assert capfd.readouterr() == ("", "")
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(console, "ERRORS", terminal)
    kdsim.run("local", **SMALL, workers=1, out="asked", progress=True)
    assert capfd.readouterr() == ("", "")
    assert "1/1" in terminal.file.getvalue()
    assert "local seed 0 run" in terminal.file.getvalue()


def test_a_notebook_may_be_quiet_too(notebook):
    kdsim.run("local", **SMALL, workers=1, out="out", progress=False)
    assert notebook == []


def test_bars_say_in_words_what_they_show():
    assert repr(progress.Bars(4, 1)) == "1 of 4 runs are done. "
