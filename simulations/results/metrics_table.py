"""`metrics.csv`: the numbers of a run's records, a line for each, for a spreadsheet or pandas."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from fedkd.storage import atomic_files
from simulations.results import run_folder
from simulations.results.run_folder import Record
from simulations.results.trackers import numbers

FILE = "metrics.csv"
FIRST = ("record", "round", "phase", "epoch")


def write(folder: Path) -> None:
    """Write the table of the run in a folder.

    Raises:
        OSError: it cannot be written.
    """
    (run,) = run_folder.load(folder)
    atomic_files.write(folder / FILE, table(run.records))


def table(records: Iterable[Record]) -> str:
    """The numbers of records at full precision, those of rounds or epochs before those of the run.

    What there is of each client, and what is said in words, is in `metrics.jsonl` alone.
    """
    rows = []
    for record in records:
        about = {key: record[key] for key in FIRST if key in record}
        rows.append(about | {name.rpartition("/")[2]: n for name, n in numbers(record).items()})
    columns = dict.fromkeys([key for key in FIRST if any(key in row for row in rows)])
    columns |= dict.fromkeys(key for row in rows for key in row)
    out = io.StringIO()
    writer = csv.DictWriter(out, [*columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
