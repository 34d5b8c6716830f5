"""The site: every page is in its navigation, it builds without a warning, and loads nothing."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
CONFIG = (REPOSITORY / "mkdocs.yml").read_text()
MADE = "gallery/index.md"  # by docs/gallery.py, when the site is built


def in_navigation():
    _, _, nav = CONFIG.partition("\nnav:\n")
    return re.findall(r"[\w/-]+\.md", nav)


def hooks():
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_navigation_once_and_all_of_it_is_there():
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    pages = {path for path in pages if not path.startswith("gallery/")} | {MADE}
    assert sorted(in_navigation()) == sorted(pages)


def test_every_how_to_is_on_the_first_page():
    first = (DOCS / "index.md").read_text()
    assert all(f"howto/{path.name}" in first for path in (DOCS / "howto").glob("*.md"))


def test_tasks_come_before_design():
    headings = re.findall(r"^  - ([\w ]+):", CONFIG.partition("\nnav:\n")[2], re.MULTILINE)
    assert headings == ["Start", "How to", "Gallery", "Results", "Reference", "Design"]


@pytest.mark.parametrize("page", sorted((DOCS / "reference").glob("*.md")), ids=lambda p: p.stem)
def test_what_the_reference_names_is_there(page):
    names = re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
    assert names
    assert all(importlib.util.find_spec(name) for name in names)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('<script src="https://cdn.example/x.js"></script>', ["https://cdn.example/x.js"]),
        ('<link rel="stylesheet" href="//fonts.example/a">', ["//fonts.example/a"]),
        ("<img alt='' src='http://a.example/b.png'>", ["http://a.example/b.png"]),
        ("@import url(https://a.example/c.css);", ["https://a.example/c.css"]),
        ("a{background:url('https://a.example/d.png')}", ["https://a.example/d.png"]),
        ('<a href="https://arxiv.org/abs/1503.02531">paper</a>', []),
        ('<script src="assets/x.js"></script><link href="../a.css">', []),
    ],
)
def test_what_a_browser_would_load_from_elsewhere_is_found(text, found):
    assert hooks().loaded_from_elsewhere(text) == found


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("mkdocs", "material", "mkdocstrings"))),
    reason="mkdocs is not installed here: `make docs` builds the site in an environment of its own",
)
def test_the_site_builds_without_a_warning(tmp_path):
    ignored = shutil.ignore_patterns("__pycache__", ".*", "runs", "tests", "site", "gallery")
    shutil.copytree(REPOSITORY, tmp_path / "here", ignore=ignored)
    (tmp_path / "here" / "docs" / "gallery").mkdir()
    (tmp_path / "here" / "docs" / MADE).write_text("# Gallery\n")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(command, cwd=tmp_path / "here", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_gallery_is_of_the_figures_of_a_report(tmp_path):
    spec = importlib.util.spec_from_file_location("gallery", DOCS / "gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Runs:
        report = tmp_path / "report.html"

    Runs.report.write_text("<p>")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "1-accuracy_per_round.png").write_bytes(b"")
    module.write(Runs, tmp_path / "gallery")
    page = (tmp_path / "gallery" / "index.md").read_text()
    assert "![Accuracy per round](1-accuracy_per_round.png)" in page
    shown = re.findall(r"\]\(([^)]+)\)", page)
    assert {p.name for p in (tmp_path / "gallery").iterdir()} == {*shown, "index.md"}
