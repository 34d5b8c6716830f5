"""A search of settings that is done: its trials as a frame, and what is best as an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simulations.config.schema import counted
from simulations.execution.tuning import Trial
from simulations.reporting.markup import element, joined, table

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Tuned:
    """What `kdsim.tune` gives.

    Attributes:
        trials: all of them, in the order in which they were done.
        best: of each method the best trial, with its `settings` and its `value`.
        file: an experiment with the best settings, for `kdsim.run` and `kdsim run`.
        importance: of each method, the share of each setting in the variance of the metric
            (fANOVA); empty where one setting is searched, or where there are too few trials.
    """

    trials: tuple[Trial, ...]
    best: Mapping[str, Trial]
    file: Path
    importance: Mapping[str, Mapping[str, float]]

    def frame(self) -> pd.DataFrame:
        """A row for each trial: method, trial, its settings, the metric, its mean over seeds."""
        import pandas as pd

        rows = [
            {"method": one.method, "trial": one.number, **one.settings, one.metric: one.value}
            for one in self.trials
        ]
        names = dict.fromkeys(name for row in rows for name in row)
        metrics = dict.fromkeys(one.metric for one in self.trials)
        return pd.DataFrame(rows, columns=[*(n for n in names if n not in metrics), *metrics])

    def __repr__(self) -> str:
        said = [f"{k}: {one.shown} with {one.said}" for k, one in self.best.items()]
        return f"<{counted(len(self.trials), 'trial')}, best {'; '.join(said)}; {self.file}>"

    def _repr_html_(self) -> str:
        """What is best, for notebooks."""
        body = [[name, one.shown, one.said] for name, one in self.best.items()]
        header = ["method", next(iter(self.best.values())).metric, "settings"]
        return joined([table(header, body), element("p", counted(len(self.trials), "trial"))])
