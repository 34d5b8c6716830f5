"""The gallery of the site: the figures of a shipped experiment, run for it.

python docs/gallery.py           # writes docs/gallery, in about a minute; `make docs` does it
"""

import shutil
import tempfile
from pathlib import Path

import kdsim

EXPERIMENT = "demo"
FOLDER = Path(__file__).resolve().parent / "gallery"


def write(runs: kdsim.Runs, folder: Path) -> None:
    """A page with the figures of the report about runs, and the report itself."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(runs.report, folder / "report.html")
    page = [
        "# Gallery",
        f"Figures of `kdsim run {EXPERIMENT}`, made as this site was built. They stand in the page "
        "that every run leaves, with its tables: [the report](report.html).",
    ]
    for figure in sorted((runs.report.parent / "figures").glob("*.png")):
        shutil.copy(figure, folder)
        name = figure.stem.partition("-")[2].replace("_", " ").capitalize()
        page.append(f"## {name}\n\n![{name}]({figure.name})")
    (folder / "index.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as there:
        write(kdsim.run(EXPERIMENT, out=there), FOLDER)
