"""The `kdsim` command.

Heavy imports stay inside functions, so that `kdsim --help` is quick.
"""

import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import click
import typer

from simulations import packages, process
from simulations.cli import catalogue
from simulations.cli.options import Methods, option

# Nobody is told what runs here, and Ray listens on loopback only; a user may say otherwise.
SWITCHES = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
STATUS = """Exit status: 0 done; 1 a run failed, or a file could not be written; 2 the input is
wrong, and nothing was run; 130 stopped by Ctrl-C, 143 by SIGTERM, 141 as nobody reads the output:
then the same command goes on from there."""

app = typer.Typer(
    help="Simulate federated and graph knowledge distillation.",
    epilog=STATUS,
    no_args_is_help=True,
    add_completion=False,
)

Out = Annotated[Path | None, typer.Option(help="folder of the runs [default: in runs/]")]
DataRoot = Annotated[
    Path | None, typer.Option(help="folder of data sets [default: $KDSIM_DATA, ~/.cache/kdsim]")
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="runs at once [default: as many as there are cores]")
]
RayAddress = Annotated[
    str,
    typer.Option(metavar="HOST:PORT", help="of a Ray cluster to run on [default: $RAY_ADDRESS]"),
]
Track = Annotated[
    list[str] | None,
    typer.Option("--track", metavar="TRACKER", help="also write for tensorboard, wandb or mlflow"),
]
Json = Annotated[bool, typer.Option("--json", help="a JSON object a line on standard output")]


def _version(asked: bool) -> None:
    if asked:
        print(f"kdsim {packages.our_version()}")
        raise typer.Exit


@app.callback()
def _every(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="print it, and no more"),
    ] = False,
) -> None:
    """What comes before a command."""


@app.command()
def demo(
    out: Out = None, data_root: DataRoot = None, workers: Workers = None, json: Json = False
) -> int:
    """The main job, on data that ships with the dependencies: about a minute on two cores."""
    from simulations import machine
    from simulations.config import library

    path, workers = library.FOLDER / "demo.toml", workers or min(machine.cores(), 4)
    return _run(path, [], partial(_how, out, data_root, workers), json)


@app.command()
def run(
    experiment: Annotated[
        Path, typer.Argument(help="a TOML file, or a name: `kdsim list experiments`")
    ],
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="e.g. fed.rounds=5")
    ] = None,
    out: Out = None,
    data_root: DataRoot = None,
    workers: Workers = None,
    json: Json = False,
    download: Annotated[bool, typer.Option(help="fetch missing graph data")] = False,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps [default: as the file says]")
    ] = None,
    track: Track = None,
    ray_address: RayAddress = "",
) -> int:
    """All runs of an experiment; those that are done already are not run again."""
    assigned = [*(assign or []), *([f"resources.device={device}"] if device else [])]
    how = partial(_how, out, data_root, workers, download, track, ray_address)
    return _run(experiment, assigned, how, json)


@app.command()
def tune(
    experiment: Annotated[
        Path, typer.Argument(help="a TOML file, or a name: `kdsim list experiments`")
    ],
    search: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=RANGE", help="e.g. 'fedmd.local.learning_rate=log(0.001, 0.1)'"),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="of each algorithm [default: 20]")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="A,B", help="of each trial [default: 100,101]")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="sought [default: the one on validation examples]")
    ] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="e.g. fed.validation=200")
    ] = None,
    out: Out = None,
    data_root: DataRoot = None,
    workers: Workers = None,
    json: Json = False,
    download: Annotated[bool, typer.Option(help="fetch missing graph data")] = False,
    ray_address: RayAddress = "",
) -> int:
    """Search settings by validation data, as widely for each algorithm; what is best, as a file.

    A range is log(LOW, HIGH), range(LOW, HIGH) or a list [A, B]; a file may have them in [tune].
    """
    from simulations.config import files, library
    from simulations.config import search as ranges
    from simulations.errors import users_input
    from simulations.execution import console

    with users_input():
        path = library.find(experiment)
        how = ranges.assignments(search or (), trials, seeds, metric)
        document = files.override(files.read(path), [*(assign or []), *how])
    options = _how(out, data_root, workers, download, ray_address=ray_address)
    return console.tune(document, path.name, path.stem, options, json)


@app.command()
def recipe(
    name: Annotated[str | None, typer.Argument(help="`kdsim list recipes`")] = None,
    every: Annotated[bool, typer.Option("--all", help="every recipe there is")] = False,
    seeds: Annotated[
        int | None, typer.Option(help="seeds 0 to N-1 [default: as the recipe's file says]")
    ] = None,
    out: Out = None,
    data_root: DataRoot = None,
    workers: Workers = None,
    json: Json = False,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps [default: auto]")
    ] = None,
    track: Track = None,
    ray_address: RayAddress = "",
) -> int:
    """A term of the surveys, measured: what it claims, its controls, and what came out."""
    from simulations.errors import users_input

    with users_input():
        if name:
            catalogue.check("simulations.survey.recipes", name)

    from simulations.execution.console import Display, execute
    from simulations.survey import experiments

    with users_input():
        names = experiments.chosen(name, every)
        document = experiments.joined(names, seeds)
        if device:
            document["resources"] = {"device": device}
    name = "recipes" if every else names[0]
    options = _how(out, data_root, workers, track=track, ray_address=ray_address)
    return execute(document, "kdsim recipe", name, options, Display(json))


@app.command()
def survey(
    runs: Annotated[list[Path], typer.Argument(help="folders of runs of recipes")],
    out: Annotated[Path, typer.Option(help="the page, Markdown")] = Path("survey.md"),
) -> int:
    """The page of the surveys: a row for each term, with what was measured and a verdict."""
    from simulations.errors import users_input
    from simulations.survey import page

    with users_input():
        print(page.write(runs, out))
    return 0


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(help="of a run, or of several")],
    data_root: DataRoot = None,
    workers: Workers = None,
    json: Json = False,
    track: Track = None,
    ray_address: RayAddress = "",
) -> int:
    """Go on with what was stopped or killed, bit for bit from the newest checkpoint."""
    from simulations.config import files
    from simulations.errors import users_input
    from simulations.execution.batch import as_begun
    from simulations.execution.console import Display, execute
    from simulations.results import run_folder

    with users_input():
        folder = run_folder.unfinished(folder).absolute()
        data_root = data_root and data_root.absolute()
        _return_to_code(folder)
        path = folder / run_folder.EXPERIMENT
        document = as_begun(files.read(path), folder)
        text = path.read_text(encoding="utf-8")
    options = _how(folder, data_root, workers, track=track, ray_address=ray_address)
    return execute(document, run_folder.EXPERIMENT, "resumed", options, Display(json), text)


@app.command(name="list")
def list_(
    what: Annotated[
        str | None,
        typer.Argument(
            help="algorithms, methods, losses, models, datasets, partitions, engines, "
            "aggregations, encoders, faults, lies, attacks, trackers, recipes, experiments"
        ),
    ] = None,
    json: Json = False,
) -> int:
    """What there is, and what each algorithm needs and reveals."""
    from simulations.cli import listing
    from simulations.errors import users_input

    with users_input():
        listing.show(what, json, catalogue.listed)
    return 0


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="folders of runs")],
    out: Annotated[Path | None, typer.Option(help="where the page goes")] = None,
    select: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC", help="only each method's best setting by, say, accuracy_validation"
        ),
    ] = None,
) -> int:
    """One self-contained page about runs, with tables as Markdown and CSV, and figures."""
    from simulations.errors import users_input
    from simulations.reporting.report import write_report

    with users_input():
        print(write_report(runs, out, select))
    return 0


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="of one federated run")],
    round_: Annotated[int, typer.Option("--round", help="from 1")],
    client: Annotated[int, typer.Option(help="its number")],
    rows: Annotated[int, typer.Option(min=0, help="rows of predictions to show")] = 3,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="the tensors too, as safetensors")
    ] = None,
    data_root: DataRoot = None,
    json: Json = False,
) -> int:
    """What exactly crossed the network to and from a client in a round, which is run again."""
    from simulations.errors import users_input
    from simulations.execution import replay as module

    with users_input():
        module.show(module.inspect(folder, round_, client, data_root, rows, save), json)
    return 0


@app.command()
def audit(
    folder: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="a run's folder, or one of runs")
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="as often as wanted; `kdsim list attacks` [default: all that apply]",
        ),
    ] = None,
    shadows: Annotated[int, typer.Option(min=1, help="models that the attacker trains")] = 64,
    client: Annotated[int | None, typer.Option(help="this one alone [default: all]")] = None,
    round_: Annotated[
        int | None, typer.Option("--round", help="from 1 [default: the last]")
    ] = None,
    mechanism: Annotated[
        str | None,
        typer.Option(help="not a run: does it keep its epsilon? fd, dpsgd, dpsgd-one-run"),
    ] = None,
    epsilon: Annotated[float, typer.Option(help="that the mechanism promises")] = 4.0,
    delta: Annotated[float, typer.Option(help="at which it does")] = 1e-5,
    runs: Annotated[int, typer.Option(help="of the mechanism on either neighbour")] = 2000,
    seed: Annotated[int, typer.Option(help="of the runs of a mechanism")] = 0,
    data_root: DataRoot = None,
    json: Json = False,
) -> int:
    """Attacks on privacy: what can be learnt from what a run has exchanged, and who learns it.

    With --mechanism: how much noise is proved to be missing, by thousands of runs. Exit status 1 if
    some is.
    """
    from simulations.audits import mechanisms
    from simulations.audits import run as module
    from simulations.errors import users_input
    from simulations.execution.console import ERRORS

    with users_input():
        if (folder is None) == (mechanism is None):
            raise ValueError("give the folder of a run, or --mechanism with a name: one of the two")
        if folder is not None:
            wanted = module.Wanted(tuple(attack or ()), shadows, client, round_, data_root)
            module.show(module.audit(folder, wanted, ERRORS.print), json)
            return 0
        assert mechanism is not None
        proof = mechanisms.audit(mechanism, epsilon, delta, runs, seed)
    mechanisms.show(proof, json)
    return int(proof.wrong)


@app.command()
def flower(
    change: Annotated[
        list[str] | None,
        typer.Option("-c", metavar="'KEY=VALUE ...'", help="settings of the app, as in flwr run"),
    ] = None,
    clients: Annotated[int, typer.Option(min=1, help="how many")] = 5,
    out: Annotated[Path | None, typer.Option(help="folder of the results [in runs/]")] = None,
    limit: Annotated[float, typer.Option(min=1, help="seconds before it is stopped")] = 3600,
) -> int:
    """The demo federation in Flower's own simulation: about a minute, and nothing stays running."""
    from simulations.errors import users_input
    from simulations.execution import flower as module

    with users_input():
        results = module.folder(out)
        module.check(change or [], clients, results, limit)
    return module.run(change or [], clients, results, limit)


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option(help="a file [default: standard output]")] = None,
) -> int:
    """A JSON schema of experiment files: editors complete, explain and check TOML by it."""
    import json

    from fedkd.storage import atomic_files
    from simulations.config import editors
    from simulations.errors import users_input

    with users_input():
        text = json.dumps(editors.schema(), indent=1) + "\n"
        if out:
            atomic_files.write(out, text)
            print(out)
        else:
            print(text, end="")
    return 0


@app.command()
def doctor(data_root: DataRoot = None) -> int:
    """Versions, cores, GPUs, memory, data; what would not work, and how to mend it."""
    from simulations.cli import doctor as module

    module.show(data_root, SWITCHES)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status, see `STATUS`."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    process.speak_plainly()
    if hidden := packages.hidden():
        process.complain(hidden)
        return process.WRONG
    with process.ended_by_signals(), packages.working_folder():
        try:
            status = int(command().main(arguments, prog_name="kdsim", standalone_mode=False) or 0)
            sys.stdout.flush()
            if status == process.INTERRUPTED:  # click has caught what a signal raised
                raise KeyboardInterrupt
            return status
        except BaseException as error:
            return _ended(error)


def _ended(error: BaseException) -> int:
    """Say in a line what has ended the command; the exit status."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | click.Abort) or _by_a_signal(error):
        process.complain("stopped")
        return process.stopped()
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)  # of a mistake in the command itself
        hint = f" See `{context.command_path} --help`." if context else ""
        process.complain(error.format_message() + hint)
        return error.exit_code
    if isinstance(error, BrokenPipeError | SystemExit):  # the latter is how Rich says the same
        process.fall_silent()
        return process.UNREAD
    process.complain(_unexpected(error))
    return process.FAILED


def _by_a_signal(error: BaseException) -> bool:
    """Whether this is what somebody has made of the KeyboardInterrupt; `Stopped` says it itself."""
    return process.to_end() and getattr(error, "exit_code", None) != process.stopped()


def command() -> click.Group:
    """The whole command, with `fed` and `graph`."""
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group)
    group.add_command(Methods("fed", _single, _options_fed))
    group.add_command(Methods("graph", _single, _options))
    return group


def _return_to_code(folder: Path) -> None:
    """Say which code of the user's runs import, and go to the folder from which it was named."""
    from simulations.execution.console import ERRORS
    from simulations.results import run_folder

    found = run_folder.sources(folder)
    for place, file in sorted({(p, s.file) for _, own in found.values() for p, s in own.items()}):
        ERRORS.print(f"imports {place} from {file or 'where it was typed in'}")
    for home in {home for home, _ in found.values()}:
        packages.go_to(home)


def _run(path: Path, assignments: list[str], options: Callable[[], Any], json: bool) -> int:
    from simulations.config import library
    from simulations.errors import users_input

    with users_input():
        path = library.find(path)
        catalogue.check_file(path)

    from simulations.config import files
    from simulations.execution.console import Display, execute

    with users_input():
        document = files.override(files.read(path), assignments)
        text = "" if assignments else path.read_text(encoding="utf-8")
    return execute(document, path.name, path.stem, options(), Display(json), text)


def _single(kind: str, name: str, settings: dict[str, Any], flags: dict[str, Any]) -> int:
    """`kdsim fed` or `kdsim graph`: the settings as an experiment file, and run."""
    from simulations.config.experiments import KINDS
    from simulations.config.resources import Resources
    from simulations.config.schema import leaves
    from simulations.execution.console import Display, execute

    also = ["local"] if flags.get("baseline") and name != "local" else []
    cluster = flags.pop("ray_address")  # it is where this is run now, and no part of what is run
    document = {
        kind: {KINDS[kind].key: [name, *also], **settings},
        "resources": {k: v for k in leaves(Resources) if (v := flags.get(k)) is not None},
    }
    download = flags.get("download", False)
    where = flags["out"], flags["data_root"], flags["workers"]
    options = _how(*where, download, ray_address=cluster)
    display = Display(flags["json"], hide="local" if also else None)
    return execute(document, f"kdsim {kind}", name, options, display)


def _how(
    out: Path | None,
    root: Path | None,
    workers: int | None,
    download: bool = False,
    track: Sequence[str] | None = None,
    ray_address: str | None = None,
) -> Any:
    """How to run, with the command line of this process, to be recorded."""
    from simulations.execution.batch import Options
    from simulations.results import run_folder

    command = tuple(run_folder.command())
    how = out, root, workers, download, command, tuple(track or ())
    return Options(*how, ray_address=ray_address or "")


def _options() -> list[click.Option]:
    """The flags of `graph` that are no settings: they change no number."""
    text = "fetch missing graph data"
    return _common(("cpus", "gpus", "device", "weights", "ray_address", "track")) + [
        _flag("--download/--no-download", default=False, help=text)
    ]


def _options_fed() -> list[click.Option]:
    """The flags of `fed` that are no settings."""
    text = "run the same students without a federation too"
    baseline = _flag("--baseline/--no-baseline", default=True, show_default=True, help=text)
    return [*_common(), baseline]


def _common(resources: Sequence[str] = ()) -> list[click.Option]:
    """What both have, and of the resources those named, or all."""
    path = click.Path(path_type=Path)
    known = catalogue.resources()
    return [
        _flag("--out", type=path, help="folder of the runs; by default in runs/"),
        _flag("--data-root", type=path, help="folder of data sets; $KDSIM_DATA, ~/.cache/kdsim"),
        _flag("--workers", type=click.IntRange(1), help="runs at once; by default one a core"),
        *(option(key, known[key]) for key in resources or known),
        _flag("--json", is_flag=True, default=False, help="a JSON object a line"),
    ]


def _flag(declaration: str, **settings: Any) -> click.Option:
    return click.Option(param_decls=[declaration], **settings)


def _unexpected(error: BaseException) -> str:
    said = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    try:
        with tempfile.NamedTemporaryFile(
            "wb", prefix="kdsim-", suffix=".txt", delete=False
        ) as file:
            file.write("".join(traceback.format_exception(error)).encode(errors="replace"))
    except OSError:  # the disk may be what has failed
        return said
    return f"{said} (traceback in {file.name})"
