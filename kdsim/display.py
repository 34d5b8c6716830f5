"""What a terminal or a notebook shows of runs: their tables, and accuracy from round to round."""

import io
from base64 import b64encode
from collections.abc import Sequence
from itertools import groupby

from rich.console import Console

from simulations.execution.console import PLAIN, terminal_table
from simulations.reporting.markup import Markup, element, joined, table
from simulations.results import run_results, tables
from simulations.results.columns import PRIMARY
from simulations.results.run_folder import Run

WIDTH = 100  # characters of a printed table, whatever the terminal
MEANING = "Mean ± sample standard deviation over seeds, at the end of each run."


class Tables:
    """The tables of the report about runs: to be printed, or shown by a notebook."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._found = tables.tables(runs)

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=WIDTH, **PLAIN)
        with console.capture() as said:
            for one in self._found:
                console.print(terminal_table(one))
            console.print(MEANING if self._found else "No run is complete.")
        return "\n".join(line.rstrip() for line in said.get().splitlines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """All columns, for notebooks."""
        parts = [
            part
            for one in self._found
            for part in (element("h4", one.title), table(one.header, one.body))
        ]
        return joined([*parts, element("p", MEANING)])


def curves(runs: Sequence[Run]) -> str:
    """Accuracy from round to round as pictures in HTML; nothing where no run has rounds."""
    from simulations.reporting.figures import common
    from simulations.reporting.figures import curves as figures

    found = run_results.results(runs)
    look = common.looks(result.label for result in found)
    parts: list[Markup] = []
    for (kind, *_), group in groupby(found, key=lambda result: result.group):
        own = list(group)
        drawn = figures.drawings(own, look) if kind == "fed" else {}
        if figure := drawn.get(figures.named("accuracy_per_round", own)):
            picture = b64encode(common.encode(figure, "svg")).decode()
            source = f"data:image/svg+xml;base64,{picture}"
            said = PRIMARY[figures.metric_of(own)][0]
            parts.append(element("img", alt=f"{said} of each round", src=source))
    return joined(parts)
