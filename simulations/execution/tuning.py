"""A search of settings by validation data: what is tried next, what came of it, what is best.

Optuna says what to try (https://arxiv.org/abs/1907.10902). Its sampler is made anew for each trial,
of the seeds of the search and the trial's number, so what it says depends on the trials before and
on nothing else. Each trial is a folder of runs as any other. The same search therefore goes through
the same trials again, and of those that are complete only reads what came out: there is no store
beside the runs, and a search that was stopped ends like one that was not.
"""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from fedkd.storage import atomic_files
from kdcore.rng import generator
from simulations.config import files, search
from simulations.config.search import Learner, Search, Span, Values
from simulations.execution import batch as batches
from simulations.execution.batch import Batch, Connection, Options
from simulations.results import run_folder
from simulations.results.columns import SHARES, is_lower
from simulations.results.run_folder import Record, Run

TRIALS, SEARCH, BEST, TABLE = "trials", "tune.toml", "best.toml", "trials.csv"


@dataclass(frozen=True)
class Trial:
    """What came of some settings.

    Attributes:
        method: who was tuned.
        number: from 0; the first has the settings of the file, where they are among those searched.
        settings: what was tried.
        metric: what was measured, on validation examples.
        values: of each seed; None where a run failed or diverged.
        folder: of the runs.
    """

    method: str
    number: int
    settings: Mapping[str, Any]
    metric: str
    values: tuple[float | None, ...]
    folder: Path

    @property
    def value(self) -> float | None:
        """The mean over seeds, where each has a number."""
        found = [one for one in self.values if one is not None]
        return fmean(found) if found and len(found) == len(self.values) else None

    @property
    def shown(self) -> str:
        """The value as a reader wants it."""
        if self.value is None:
            return "no number"
        share = self.metric.startswith(SHARES)
        return f"{100 * self.value:.1f} %" if share else f"{self.value:.4g}"

    @property
    def said(self) -> str:
        """The settings in words."""
        short = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in self.settings.items()}
        return ", ".join(f"{key}={value}" for key, value in short.items())

    @property
    def record(self) -> Record:
        """The trial as a record."""
        found = asdict(self) | {"value": self.value, "folder": str(self.folder)}
        return {"record": "trial", **found}


class Study:
    """What Optuna knows of the trials of one algorithm."""

    def __init__(self, learner: Learner, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.learner, self.seed = learner, seed
        self.study = optuna.create_study(direction="maximize")
        self.asked = {key: _distribution(values) for key, values in learner.space.items()}
        start = {key: _place(learner.default[key], one) for key, one in learner.space.items()}
        if None not in start.values():
            self.study.enqueue_trial(start)

    def ask(self, number: int) -> tuple[Any, dict[str, Any]]:
        """The trial of a number, and the settings that it tries."""
        import optuna

        stream = generator(self.seed, "search", self.learner.name, number)
        seed = int(torch.randint(2**31, (), generator=stream))
        self.study.sampler = optuna.samplers.TPESampler(seed=seed)
        trial = self.study.ask(self.asked)
        space = self.learner.space
        return trial, {key: _value(trial.params[key], one) for key, one in space.items()}

    def tell(self, trial: Any, done: Trial) -> None:
        """What came of it; without a number it counts as worse than all that have one."""
        from optuna.trial import TrialState

        if done.value is None:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, -done.value if is_lower(done.metric) else done.value)

    def importance(self) -> dict[str, float]:
        """The share of each setting in the variance of the metric (fANOVA); {} if there is none.

        Frank Hutter, Holger Hoos, Kevin Leyton-Brown. "An Efficient Approach for Assessing
        Hyperparameter Importance". ICML 2014. https://proceedings.mlr.press/v32/hutter14.html
        """
        from optuna import importance

        done = [one.value for one in self.study.trials if one.value is not None]
        if len(self.asked) < 2 or len(done) < 4 or min(done) == max(done):
            return {}
        evaluator = importance.FanovaImportanceEvaluator(seed=self.seed)
        found = importance.get_param_importances(self.study, evaluator=evaluator)
        return {key: float(share) for key, share in found.items()}


@dataclass(frozen=True)
class Tuning:
    """A search that is about to run, or done.

    Attributes:
        search: what is searched.
        studies: of each algorithm.
        out: what holds the runs, `best.toml` and `trials.csv`.
        options: how to run.
    """

    search: Search
    studies: tuple[Study, ...]
    out: Path
    options: Options

    def run(self, listen: Callable[[Batch], None]) -> Iterator[Trial]:
        """The trials, each as soon as its runs are done: `listen` is given them to be run."""
        for number in range(self.search.how.trials):
            asked = [study.ask(number) for study in self.studies]
            document = self.search.trial([settings for _, settings in asked])
            options = replace(self.options, out=self.out / TRIALS / f"{number:03d}")
            with batches.opened(document, SEARCH, "", options) as batch:
                listen(batch)
            for study, (trial, settings) in zip(self.studies, asked, strict=True):
                done = _trial(study.learner, number, settings, batch, self.search.how.metric)
                study.tell(trial, done)
                yield done

    def keep(self, trials: Sequence[Trial]) -> dict[str, Trial]:
        """Write what is best, as an experiment, and a table of all; the best of each method.

        Raises:
            ValueError: of one, no trial has a number.
        """
        columns = dict.fromkeys(key for one in trials for key in one.settings)
        text = io.StringIO()
        out = csv.writer(text, lineterminator="\n")
        out.writerow(["method", "trial", *columns, "metric", "value", "seeds", "folder"])
        for one in trials:
            own = [one.settings.get(key, "") for key in columns]
            each = " ".join("" if v is None else f"{v:.6g}" for v in one.values)
            value = "" if one.value is None else one.value
            folder = one.folder.relative_to(self.out).as_posix()
            out.writerow([one.method, one.number, *own, one.metric, value, each, folder])
        atomic_files.write(self.out / TABLE, text.getvalue())
        best = {s.learner.name: _best(s.learner.name, trials) for s in self.studies}
        document = self.search.with_settings([best[s.learner.name].settings for s in self.studies])
        atomic_files.write(self.out / BEST, self._said(best) + files.dump(document))
        return best

    def _said(self, best: Mapping[str, Trial]) -> str:
        how, lines = self.search.how, []
        for name, one in best.items():
            lines.append(
                f"# {name}: trial {one.number} of {how.trials}, by {one.metric} on seeds "
                f"{', '.join(map(str, how.seeds))}: {one.value:.6g}"
            )
        return "\n".join([*lines, "", ""])


@contextmanager
def opened(document: files.Document, source: str, name: str, options: Options) -> Iterator[Tuning]:
    """The search of a document, checked; its folder is held, and says what it is.

    Raises:
        ValueError, OSError: the input is wrong, and nothing was written; one line says why.
    """
    if find_spec("optuna") is None:
        raise ValueError("a search needs Optuna; install it: pip install kdsim[tune]")
    found = search.read(document, source)
    out = options.out or Path("runs") / f"tune-{name}-{search.digest(document)[:8]}"
    _check_folder(out, document)
    studies = tuple(Study(one, found.how.seeds[0]) for one in found.learners)
    with run_folder.locked(out), closing(Connection()) as connection:
        atomic_files.write(out / SEARCH, files.dump(document))
        yield Tuning(found, studies, out, replace(options, connection=connection))


def _check_folder(out: Path, document: files.Document) -> None:
    """Raise ValueError for a folder that holds something else than this search, or a part of it."""
    path = out / SEARCH
    if path.is_file():
        if search.digest(files.read(path)) != search.digest(document):
            raise ValueError(f"{out} holds another search; name another folder with --out")
    elif out.exists() and (
        not out.is_dir() or any(one.name != run_folder.LOCK for one in out.iterdir())
    ):
        raise ValueError(f"{out} is there and holds no search; name a new folder with --out")


def _trial(
    learner: Learner, number: int, settings: Mapping[str, Any], batch: Batch, metric: str
) -> Trial:
    """What came of the runs of one who learns."""
    own = [job for job in batch.jobs if job.experiment.name == learner.name]
    runs = [run for job in own for run in run_folder.load(job.folder)]
    found = [_measured(run) for run in runs]
    names = dict.fromkeys(name for one in found for name in one)
    sought = metric or next(iter(names), f"accuracy{search.ON_VALIDATION}")
    if names and sought not in names:
        raise ValueError(f"no run of {learner.name} has {sought}; there are {', '.join(names)}")
    values = tuple(one.get(sought) for one in found) or (None,)
    return Trial(learner.name, number, settings, sought, values, batch.out)


def _measured(run: Run) -> dict[str, float | None]:
    """What was measured on validation examples: at the end, or in the epoch that was chosen."""
    ends = [one for one in run.records if one["record"] == "run"]
    if not ends:
        return {}
    best = [one for one in run.records if one["record"] == "epoch" and one.get("best")]
    own = {**(best[-1] if best else {}), **ends[0]["metrics"]}
    found = {k: v for k, v in own.items() if k.endswith(search.ON_VALIDATION)}
    return dict.fromkeys(found) if "diverged" in ends[0] else found


def _best(name: str, trials: Sequence[Trial]) -> Trial:
    scored = [one for one in trials if one.method == name and one.value is not None]
    if not scored:
        raise ValueError(f"no trial of {name} came to its end with a number; see {TRIALS}/")
    sign = -1 if is_lower(scored[0].metric) else 1
    return max(scored, key=lambda one: (sign * (one.value or 0.0), -one.number))


def _distribution(values: Values) -> Any:
    """What may be tried, in Optuna's words: of a list the places, since values may be lists."""
    from optuna import distributions

    if not isinstance(values, Span):
        return distributions.CategoricalDistribution(tuple(range(len(values))))
    kind: Any = distributions.IntDistribution if values.whole else distributions.FloatDistribution
    return kind(values.low, values.high, log=values.log)


def _value(tried: Any, values: Values) -> Any:
    return tried if isinstance(values, Span) else values[tried]


def _place(value: Any, values: Values) -> Any:
    """What stands for a value among those that may be tried; None where it is not there."""
    if not isinstance(values, Span):
        return values.index(value) if value in values else None
    there = isinstance(value, int | float) and values.low <= value <= values.high
    return value if there else None
