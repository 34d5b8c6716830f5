"""`kdsim flower`: the demo federation in Flower's own simulation, from its start to its table.

`flwr run` leaves servers running, shows no result, and exits with 0 even when the run has failed.
Here it has a port and a folder for its state of its own; the run is followed to its end, and so are
all processes that came of it.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from threading import TIMEOUT_MAX, Timer
from typing import Any

import click
import psutil

from simulations.config.schema import counted, nearest
from simulations.execution.console import ERRORS, print_tables
from simulations.results import run_folder

APP = Path(__file__).parents[1] / "flower_app"
DONE = "finished:completed"
STARTED = re.compile(r"Successfully started run\D*(\d+)")
ENDING = 5.0  # seconds for processes to end by themselves


def folder(out: Path | None) -> Path:
    """Where the results go: as asked, or a new folder in `runs`.

    Raises:
        ValueError: it holds something already, or Flower cannot be told of it.
    """
    if out is None:
        taken = {path.name for path in Path("runs").glob("flower-*")}
        out = Path("runs") / next(n for i in count(1) if (n := f"flower-{i}") not in taken)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out} is there already; name a new folder with --out")
    if "'" in str(out.absolute()):
        raise ValueError(f"Flower takes no quotes, and {out.absolute()} has one; name another")
    return out.absolute()


def check(changes: Sequence[str], clients: int, results: Path, limit: float) -> None:
    """Look at what was asked for before Flower is started, which would take a minute to refuse it.

    Raises:
        ValueError: a setting that the app has not, or does not take; or a limit that is no time.
        OSError: there can be no such folder.
    """
    if not limit <= TIMEOUT_MAX:
        raise ValueError(f"limit must be seconds up to {TIMEOUT_MAX:g}, got {limit:g}")
    given = _given(changes)
    app = tomllib.loads((APP / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["flwr"]["app"]
    for key, value in given.items():
        if key not in app["config"]:
            known = ", ".join(app["config"])
            raise ValueError(
                f"unknown setting {key!r}{nearest(key, app['config']) or ';'} the app has {known}"
            )
        if key in ("clients", "results"):
            raise ValueError(f"-c {key}=...: take --{'out' if key == 'results' else key} instead")
        _check_kind(key, value, app["config"][key])
    _build(app["config"] | given | {"clients": clients, "results": str(results)})
    results.mkdir(parents=True, exist_ok=True)


def _given(changes: Sequence[str]) -> dict[str, Any]:
    """The settings as Flower reads them, which passes over what it does not understand."""
    from flwr.common.config import parse_config_args

    for word in (word for change in changes for word in shlex.split(change)):
        if not re.match(r"[^=]+=.", word):
            raise ValueError(f"-c takes KEY=VALUE, such as rounds=3, got {word!r}")
    try:
        return dict(parse_config_args(["", *changes]))  # not alone: then a file's name would do
    except click.ClickException as error:
        raise ValueError(
            f"-c {' '.join(changes)}: {error.format_message()} A text needs quotes of its own, as "
            """in -c "algorithm='fedmd'"."""
        ) from error


def _check_kind(key: str, value: Any, default: Any) -> None:
    """Raise ValueError for a value of another kind than the app's own; a float may be whole."""
    kinds = (int, float) if isinstance(default, float) else (type(default),)
    if type(value) not in kinds:
        raise ValueError(f"{key} is {value!r}; expected a value such as {default!r}")


def _build(config: dict[str, Any]) -> None:
    """Raise ValueError for settings that the app cannot make a run of, by letting it make one."""
    import torch
    from flwr.app import Context, RecordDict

    spec = importlib.util.spec_from_file_location("kdsim_app", APP / "kdsim_app.py")
    assert spec is not None
    assert spec.loader is not None
    module, before = importlib.util.module_from_spec(spec), torch.get_default_dtype()
    try:
        spec.loader.exec_module(module)
        plan = module.plan(Context(0, 0, {}, RecordDict(), config))
    finally:
        torch.set_default_dtype(before)
    if plan.rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {plan.rounds}")


def run(changes: Sequence[str], clients: int, results: Path, limit: float) -> int:
    """Run the app and print its table.

    Args:
        changes: of the app's settings, "key=value ..." as Flower reads them.
        clients: how many, each a node of Flower's.
        results: an empty or new folder.
        limit: seconds after which the run is stopped.

    Returns:
        The exit status: 0, or 1 if the run failed or took too long.
    """
    settings = [f"clients={clients} results='{results}'", *changes]
    with _private_state() as environment:
        state = _followed(settings, clients, environment, limit)
    if state != DONE or not (results / "result.json").is_file():
        ERRORS.print(f"failed: {state}; what Flower said is above")
        return 1
    print_tables([_read(results)])
    ERRORS.print(f"results: {results}")
    return 0


@contextmanager
def _private_state() -> Iterator[dict[str, str]]:
    """The environment of Flower's processes, none of which outlives the block."""
    with tempfile.TemporaryDirectory(prefix="kdsim-flower-", ignore_cleanup_errors=True) as home:
        environment = os.environ | {
            "FLWR_HOME": home,
            "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(_free_port()),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",  # no `uv sync`: this Python as is
            "PATH": os.pathsep.join([*_scripts(), os.environ.get("PATH", "")]),
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(APP.parents[1]), os.environ.get("PYTHONPATH")])
            ),
        }
        try:
            yield environment
        finally:
            _end_all(home)


def _scripts() -> list[str]:
    """Where the commands of this Python's packages are."""
    beside = Path(sys.executable).parent, sysconfig.get_path("scripts"), APP.parents[1] / "bin"
    return [str(folder) for folder in beside]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as place:
        return int(place.getsockname()[1])


def _followed(
    changes: Sequence[str], clients: int, environment: dict[str, str], limit: float
) -> str:
    """Start the run and pass on what is said of it; what Flower calls its end, or why none."""
    flwr = shutil.which("flwr", path=environment["PATH"])
    if flwr is None:
        return f"there is no `flwr` command beside {sys.executable}"
    # Clients import from the folder of the server first, so it has to be an empty one.
    empty = tempfile.mkdtemp(dir=environment["FLWR_HOME"])
    nodes = f"num-supernodes={clients} client-resources-num-cpus=1"
    command = [flwr, "run", str(APP), "--stream", "--federation-config", nodes]
    command += [word for change in changes for word in ("-c", change)]
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=empty,
    )
    number, late = None, Timer(limit, child.kill)
    late.start()
    with child:
        try:
            for line in child.stdout or ():
                print(line, end="", file=sys.stderr, flush=True)
                number = number or STARTED.search(line)
        finally:
            in_time = late.is_alive()
            late.cancel()
    if not in_time:
        return f"not done within {limit:g} seconds"
    if number is None:
        return "Flower did not start a run"
    listing = [flwr, "ls", "--run-id", number[1], "--format", "json"]
    listed = subprocess.run(listing, capture_output=True, text=True, env=environment, cwd=empty)
    return str(json.loads(listed.stdout)["runs"][0]["status"])


def _end_all(home: str) -> None:
    """End the processes that have this FLWR_HOME, and wait until they are gone."""
    for _ in range(5):  # one may have started another meanwhile
        left = list(_living(home))
        for process in left:
            with suppress(psutil.Error):
                process.terminate()
        _, stubborn = psutil.wait_procs(left, timeout=ENDING)
        for process in stubborn:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(stubborn, timeout=ENDING)
        if not left:
            return


def _living(home: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("FLWR_HOME") == home and process.pid != os.getpid():
                yield process


def _read(results: Path) -> run_folder.Run:
    """What the app left, as a run of `kdsim`."""
    found: dict[str, Any] = json.loads((results / "result.json").read_text(encoding="utf-8"))
    protocol = ", ".join(counted(found[f"{one}s"], one) for one in ("client", "round"))
    about = {"kind": "fed", "data": "in Flower", "protocol": protocol}
    return run_folder.Run(results, {}, "", [found | about])
