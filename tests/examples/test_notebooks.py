"""The notebooks run from top to bottom, offline, and are kept without outputs.

Their cells are run as one program; and by Jupyter, where there is a kernel of Python for it.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))


def code(path):
    cells = json.loads(path.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_there_are_four():
    assert len(BOOKS) >= 4


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_and_checks_what_it_shows(path):
    cells = json.loads(path.read_text())["cells"]
    assert cells[0]["cell_type"] == "markdown"
    assert cells[0]["source"][0].startswith("# ")
    ran = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in ran)
    assert any(line.startswith("assert ") for text in code(path) for line in text.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join(code(path)))
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("report.html"))


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("ipykernel"), reason="needs a Jupyter kernel")
@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_notebook_runs_in_jupyter_and_shows_how_far_it_is(path, tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    book = nbformat.read(path, as_version=4)
    NotebookClient(book, timeout=None, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [out for cell in book.cells for out in cell.get("outputs", ())]
    shown = [out["data"].get("text/html", "") for out in outputs if "data" in out]
    assert any("<progress" in html and "runs" in html for html in shown)
    streams = [out for out in outputs if out["output_type"] == "stream"]
    said = [out["text"] for out in streams if out["name"] == "stderr"]
    assert [text for text in said if "TqdmWarning" not in text] == []  # PyG's, without ipywidgets
