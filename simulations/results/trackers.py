"""Trackers: what is told of a run while it runs, beside its folder: TensorBoard, wandb, MLflow.

A tracker hears each record of a run and writes it for a program to look at. All write files, in or
beside the folder of the run, and nothing is sent anywhere. What it had of a run before is replaced,
and a run that goes on is told from its start.

    tensorboard --logdir runs/mine
    wandb sync runs/mine/*/wandb/offline-run-*        # where there is an account, and it is wanted
    mlflow ui --backend-store-uri runs/mine/mlruns
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from inspect import isclass, signature
from operator import methodcaller
from pathlib import Path
from typing import Any, Protocol

from kdcore.registry import Registry, places
from simulations.results.locks import held

Record = dict[str, Any]
PATIENCE = 20.0  # seconds for others who make the same experiment of MLflow
KEPT = 500  # characters of a setting that MLflow is given
STEPS = ("round", "epoch")
NUMBERS = (int, float)


class Tracker(Protocol):
    """One of them: made for a run, told each record, and closed."""

    def __call__(self, record: Record) -> None:
        """Hear a record, as `metrics.jsonl` has it."""

    def close(self) -> None:
        """Nothing more will come."""


class TensorBoard:
    """Event files in `tensorboard/` of the run's folder, for TensorBoard.

    https://www.tensorflow.org/tensorboard. A tag for each number, its step the round or epoch; what
    a run has reached at its end is under `final/`.
    """

    needs = "tensorboard"

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(_emptied(folder / "tensorboard"))
        lines = [f"| {key} | {value} |" for key, value in about["experiment"].items()]
        self._writer.add_text("settings", "\n".join(["| setting | value |", "|---|---|", *lines]))
        self._step = 0

    def __call__(self, record: Record) -> None:
        """See `Tracker`."""
        self._step = step_of(record, self._step)
        for name, value in numbers(record).items():
            self._writer.add_scalar(name, value, self._step)
        self._writer.flush()

    def close(self) -> None:
        """See `Tracker`."""
        self._writer.close()


class WeightsAndBiases:
    """An offline run in `wandb/` of the run's folder, for Weights & Biases.

    https://docs.wandb.ai. The project is called as the folder of all runs.
    """

    needs = "wandb"

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        os.environ["WANDB_ERROR_REPORTING"] = "false"  # read on import
        import wandb

        _emptied(folder / "wandb")
        self._step = 0
        self._run = wandb.init(
            mode="offline",
            dir=folder,
            project=folder.parent.name or "kdsim",
            name=folder.name,
            config={**about["experiment"], "hash": about["hash"]},
            reinit="create_new",
            save_code=False,
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        self._run.define_metric("*", step_metric="step")  # epochs start again in each phase

    def __call__(self, record: Record) -> None:
        """See `Tracker`."""
        self._step = step_of(record, self._step)
        self._run.log({**numbers(record), "step": self._step})

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


class MLflow:
    """A run in the file store `mlruns/` beside the run's folder, for MLflow.

    https://mlflow.org. The experiment is called as the folder of all runs.
    """

    needs = "mlflow"

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read on import
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        self._client = MlflowClient((folder.parent.absolute() / "mlruns").as_uri())
        with held(folder.parent / ".mlflow.lock", PATIENCE):
            self._run = self._made(folder, about["hash"])
        for key, value in about["experiment"].items():
            self._client.log_param(self._run, _plain(key), str(value)[:KEPT])
        self._step = 0

    def _made(self, folder: Path, digest: str) -> str:
        """A new run, in the place of one of the same."""
        name = folder.parent.absolute().name
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        for before in self._client.search_runs([experiment], f"tags.kdsim = '{digest}'"):
            self._client.delete_run(before.info.run_id)
        tags = {"kdsim": digest}
        made = self._client.create_run(experiment, run_name=folder.name, tags=tags)
        return str(made.info.run_id)

    def __call__(self, record: Record) -> None:
        """See `Tracker`."""
        self._step = step_of(record, self._step)
        for name, value in numbers(record).items():
            self._client.log_metric(self._run, _plain(name), value, step=self._step)

    def close(self) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self._run)


REGISTRY: Registry[Any] = Registry(
    "tracker",
    places(
        {
            "tensorboard": "simulations.results.trackers:TensorBoard",
            "wandb": "simulations.results.trackers:WeightsAndBiases",
            "mlflow": "simulations.results.trackers:MLflow",
        }
    ),
    "kdsim.trackers",
    expected="a class called with (folder, about); instances are called with records, and closed",
)
"""Classes of `Tracker`, called with the folder of a run and what its `run.json` says.

`about["experiment"]` has the settings, flat. The run's folder is there.
"""


def check(names: Iterable[str]) -> None:
    """Raise ValueError for what is no tracker, or whose library is not installed."""
    for name in names:
        found = REGISTRY.get(name)
        if why := _refused(found):
            raise ValueError(f"tracker {name} {why}; expected {REGISTRY.expected}")
        needs = getattr(found, "needs", None)
        if needs and find_spec(needs) is None:
            raise ValueError(
                f"tracker {name} needs the package {needs}, which is not installed: "
                f"pip install 'kdsim[{name}]'"
            )


def _refused(found: Any) -> str:
    """Why something is no tracker, as far as can be seen without making one."""
    if isclass(found):
        there = {name for base in found.__mro__ for name in vars(base)}
        if lacks := [name for name in ("__call__", "close") if name not in there]:
            return f"has no {lacks[0]}"
    try:
        signature(found).bind("folder", "about")
    except TypeError as error:
        return f"cannot be called with (folder, about): {error}"
    except ValueError:  # it has no signature
        return ""
    return ""


def track(
    names: Sequence[str],
    folder: Path,
    about: Mapping[str, Any],
    before: Iterable[Record],
    records: Iterator[Record],
) -> Iterator[Record]:
    """Pass the records of a run on, each of them told to trackers first.

    One that fails is left out from then on, and a note says why: a run is worth more.

    Args:
        names: of the trackers.
        folder: of the run; it is there when the first record comes.
        about: what its `run.json` says.
        before: the records that the run goes on from.
        records: those that come.
    """
    trackers: dict[str, Any] | None = None
    waiting, failed = [*before], list[str]()
    try:
        for record in records:
            if trackers is None:
                trackers = _opened(names, folder, about, failed)
            for one in [*waiting, record]:
                _each(trackers, methodcaller("__call__", one), failed)
            waiting.clear()
            yield record
            if failed:
                yield {"record": "note", "notes": [*failed]}
                failed.clear()
    finally:
        _each(trackers or {}, methodcaller("close"), failed)
    if failed:
        yield {"record": "note", "notes": failed}


def _opened(
    names: Sequence[str], folder: Path, about: Mapping[str, Any], failed: list[str]
) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name in names:
        try:
            made[name] = REGISTRY.get(name)(folder, about)
        except Exception as error:
            failed.append(_said(name, error))
    return made


def _each(trackers: dict[str, Any], what: Callable[[Any], object], failed: list[str]) -> None:
    """Do something with each; those that fail are dropped, and said."""
    for name in [*trackers]:
        try:
            what(trackers[name])
        except Exception as error:
            del trackers[name]
            failed.append(_said(name, error))


def _said(name: str, error: Exception) -> str:
    return f"tracker {name} failed, and is left out: {type(error).__name__}: {error}"


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record by name: of an epoch under its phase, of a run's end under `final/`.

    What there is of each client, or is no number, is left out.
    """
    kind = record["record"]
    found = record["metrics"] if kind == "run" else record
    prefix = "final/" if kind == "run" else f"{record['phase']}/" if "phase" in record else ""
    return {
        f"{prefix}{key}": float(value)
        for key, value in found.items()
        if isinstance(value, NUMBERS) and not isinstance(value, bool) and key not in STEPS
    }


def step_of(record: Mapping[str, Any], last: int) -> int:
    """The round or epoch of a record, or the last one there was."""
    return next((record[key] for key in STEPS if key in record), last)


def _plain(name: str) -> str:
    """A name that MLflow takes."""
    return "".join(c if c.isalnum() or c in "/._- " else "_" for c in name)


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
