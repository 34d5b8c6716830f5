"""Tables as files for other programs: Markdown, and comma-separated values."""

import csv
import io
import re
from collections.abc import Sequence
from html import escape

from simulations.results.tables import Quantity, Table

# Of a text that starts like this, a spreadsheet may make a formula, and run it; those of full
# width are taken for the same. https://owasp.org/www-community/attacks/CSV_Injection
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001
NUMBERS = tuple(name for name in Quantity._fields if name != "values")


def markdown(found: Sequence[Table]) -> str:
    """The tables as Markdown."""
    parts = []
    for one in found:
        lines = ["| " + " | ".join(map(_in_cell, row)) + " |" for row in (one.header, *one.body)]
        lines.insert(1, "| --- |" + " ---: |" * (len(one.header) - 1))
        title, notes = f"## {_in_cell(one.title)}", "\n\n".join(map(_in_cell, one.notes))
        parts.append("\n".join([title, "", *lines, "", notes]))
    return "\n\n".join(parts) + "\n"


def comma_separated(found: Sequence[Table]) -> str:
    """The tables as CSV: a line for each number, in shares and bytes, at full precision.

    Text that a spreadsheet could take for a formula is preceded by an apostrophe; numbers, also
    negative ones, are as they are.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["kind", "data", "protocol", "method", "metric", "minus", *NUMBERS])
    for one in found:
        for label, cells in one.rows.items():
            for column, cell in zip(one.columns, cells, strict=True):
                if cell is not None:
                    words = (*one[:3], label, column.metric, column.minus)
                    numbers = (getattr(cell, name) for name in NUMBERS)
                    writer.writerow([*map(_no_formula, words), *numbers])
    return out.getvalue()


def _no_formula(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


def _in_cell(text: str) -> str:
    """Text that cannot end a Markdown cell, start a tag, or become a picture or a link."""
    one_line = escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\|`*\[\]])", r"\\\1", one_line)
