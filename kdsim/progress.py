"""How far runs are: a bar on a terminal, an object that changes in a notebook, else nothing."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from simulations.execution.batch import Batch
from simulations.execution.console import progress_bar, status
from simulations.execution.scheduler import Job
from simulations.reporting.markup import element, joined
from simulations.results.columns import primary, written

Record = dict[str, Any]
Listener = Callable[[Job, Record], None]
LAST = ("run", "failed")  # the record with which a run ends


@contextmanager
def following(batch: Batch, wanted: bool | None) -> Iterator[Listener]:
    """A listener to records, which shows how far the runs are.

    Args:
        batch: that is about to run.
        wanted: whether it shows; None for on a terminal and in a notebook.
    """
    notebook = _notebook()
    if wanted is None:
        wanted = notebook is not None or sys.stderr.isatty()
    if not wanted or not batch.left:
        yield lambda job, record: None
    elif notebook is not None:
        bars = Bars(len(batch.jobs), len(batch.done))
        handle = notebook(bars, display_id=True)
        yield lambda job, record: handle.update(bars.after(job, record))
    else:
        with progress_bar(disable=False) as bar:
            task = bar.add_task("", total=len(batch.jobs), completed=len(batch.done))

            def listener(job: Job, record: Record) -> None:
                bar.update(task, description=status(job, record))
                bar.advance(task, record["record"] in LAST)

            yield listener


class Bars:
    """How many runs are done, and how far the newest is, for notebooks."""

    def __init__(self, total: int, done: int = 0) -> None:
        self.total, self.done, self.said, self.share = total, done, "", 0.0

    def after(self, job: Job, record: Record) -> "Bars":
        """The same, after a record."""
        rounds = getattr(job.experiment, "rounds", None)
        self.said = status(job, record)
        metric = primary(record)
        if record.get(metric) is not None:
            self.said += f", {metric} {written(metric, record[metric])}"
        self.share = record.get("round", 0) / rounds if rounds else 0.0  # of the run that is on
        self.done += record["record"] in LAST
        return self

    def __repr__(self) -> str:
        return f"{self.done} of {self.total} runs are done. {self.said}"

    def _repr_html_(self) -> str:
        bars = [
            element("progress", value=f"{self.done + self.share:.3f}", max=str(self.total)),
            f" {self.done} of {self.total} runs",
        ]
        if self.done < self.total:
            bars.append(element("div", self.said))
        return joined(bars)


def _notebook() -> Callable[..., Any] | None:
    """What shows an object in the notebook that this is run in; None where it is in none."""
    python = sys.modules.get("IPython")
    shell = python.get_ipython() if python else None
    if python is None or getattr(shell, "kernel", None) is None:
        return None
    found: Callable[..., Any] = python.display.display
    return found
