"""A report about runs: a page that needs nothing outside its file, tables and figures beside it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedkd.storage import atomic_files
from simulations.reporting.exports import comma_separated, markdown
from simulations.reporting.figures import common
from simulations.reporting.page import html
from simulations.reporting.parts import gather, named
from simulations.results import run_folder


def write_report(
    run_dirs: Sequence[Path], out: Path | None = None, select: str | None = None
) -> Path:
    """Write tables.md, tables.csv and figures/*.png, and at last report.html.

    Args:
        run_dirs: run folders, or folders of run folders.
        out: the page, or the folder for it; by default the run folder, or what holds them all.
        select: a metric, such as accuracy_validation; of each method's settings only the one that
            is best by it is reported (`simulations.results.model_selection`).

    Returns:
        The page's path. It is there as a whole or not at all.

    Raises:
        ValueError: a folder is missing, or holds no finished run; nothing to select by.
        OSError: a file could not be written; it is named.
    """
    folders = [Path(folder) for folder in run_dirs]
    found = gather([run for folder in folders for run in _load(folder)], folders, select or "")
    page = Path(out) if out else Path(os.path.commonpath([f.resolve() for f in folders]))
    page = page if page.suffix == ".html" else page / "report.html"
    tables, text = [part.table for part in found.sections], html(found)
    atomic_files.write(page.parent / "tables.md", markdown(tables).encode("utf-8", "replace"))
    atomic_files.write(
        page.parent / "tables.csv", comma_separated(tables).encode("utf-8", "replace")
    )
    for name, figure in named(found).items():
        atomic_files.write(
            page.parent / "figures" / f"{name}.png", common.encode(figure.wide, "png")
        )
    atomic_files.write(page, text)  # the last: where it is, there is a whole report
    return page


def _load(folder: Path) -> Sequence[Any]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give a run folder, as `kdsim run --out` wrote it")
    return run_folder.load(folder)
