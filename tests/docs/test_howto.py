"""Every how-to is run as it stands: files are written, Python is run, commands end with 0.

A block with a title is a file; other Python is run, all of a page in one namespace; of a console
block the lines after `$` are commands. What is shown otherwise is not run.
"""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from simulations.cli import app

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted((DOCS / "howto").glob("*.md"))
FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
QUICK = {
    "flower",
    "own-teacher",
    "pretrained-and-frozen",
    "reproduce-a-paper",
}
MARKS = {True: [], False: [pytest.mark.slow]}


def blocks(page):
    """(language, title or "", text) of each block of a page."""
    return FENCE.findall(page.read_text())


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=MARKS[p.stem in QUICK], id=p.stem) for p in PAGES],
)
def test_a_page_does_what_it_says(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KDSIM_DATA", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    before, names = set(sys.modules), {"__name__": "page"}
    assert torch.get_num_threads() == 1
    for language, title, text in blocks(page):
        if title:
            (tmp_path / title).write_text(text)
        elif language == "python":
            exec(compile(text, f"{page.name}", "exec"), names)
        elif language == "console":
            for line in re.findall(r"^\$ kdsim (.*)$", text, re.MULTILINE):
                assert app.main(shlex.split(line)) == 0, capsys.readouterr().err
    for name in set(sys.modules) - before:  # those of the page; another may have one of that name
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_short_and_has_something_that_runs(page):
    assert len(page.read_text().splitlines()) <= 80
    kinds = [language for language, title, _ in blocks(page) if not title]
    assert {"python", "console"} & set(kinds)
    assert page.read_text().count("```") == 2 * len(blocks(page))


def test_a_setting_of_ones_own_says_its_help_and_its_range_as_the_page_says(
    tmp_path, monkeypatch, capsys
):
    page = DOCS / "howto" / "own-algorithm.md"
    monkeypatch.chdir(tmp_path)
    (text,) = [text for _, title, text in blocks(page) if title == "slow.py"]
    Path("slow.py").write_text(text)
    (refused,) = [text for language, _, text in blocks(page) if language == "text"]
    assert app.main(["fed", "slow.py:SlowConsensus", "--keep", "1.5"]) == 2
    assert capsys.readouterr().err == refused
    assert app.main(["fed", "slow.py:SlowConsensus", "--help"]) == 0
    help_of_keep = " ".join(capsys.readouterr().out.partition("--keep")[2].split()[:14])
    assert "share of the old consensus [>= 0 and < 1] [default: 0.5]" in help_of_keep
