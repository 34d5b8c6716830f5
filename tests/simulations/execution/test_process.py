"""How a command ends: by a signal, without a reader, on a terminal that knows ASCII alone."""

import io
import os
import signal
import sys

import pytest

import simulations.reporting.report
from simulations import process
from simulations.cli import app, listing
from simulations.results import run_folder
from simulations.runners import federated, federated_scores, teacher_cache
from simulations.survey import datasets
from simulations.survey.recipes.objectives import compression
from tests.simulations.conftest import SMALL, timeless


def killing(monkeypatch, module, name, count=1):
    """Let a function's so-manieth call send SIGTERM to this process first."""
    good, calls = getattr(module, name), []

    def deadly(*given, **more):
        calls.append(name)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGTERM)
        return good(*given, **more)

    monkeypatch.setattr(module, name, deadly)


FED = ["fed", "fedmd", *SMALL, "--rounds", "5", "--checkpoint-every", "1", "--no-baseline"]
GRAPH = ["graph", "glnn", "--epochs", "2", "--teacher-epochs", "2", "--seeds", "2"]
RECIPE = ["recipe", "compression", "--seeds", "2"]
PATHS = {
    "checks": (FED, federated, "prepare", 1),
    "round": (FED, federated_scores, "scored", 3),
    "grid": ([*FED, "--seeds", "3", "--workers", "1"], federated_scores, "scored", 8),
    "graph": ([*GRAPH, "--workers", "1"], teacher_cache, "fit_one_teacher", 2),
    "recipe": ([*RECIPE, "--workers", "1"], compression.Compression, "measure", 2),
    "report": (FED, simulations.reporting.report, "write_report", 1),
}


@pytest.mark.parametrize("path", PATHS)
def test_sigterm_ends_every_path_and_leaves_what_can_be_gone_on_with(
    kdsim, tmp_path, monkeypatch, path
):
    before = signal.getsignal(signal.SIGTERM)  # that of Ray, once it was there in this process
    command, *where = PATHS[path]
    monkeypatch.setattr(datasets, "load", lambda name, root=None: None)
    measured = {"accuracy_teacher": 1.0, "accuracy": 0.5, "accuracy_baseline": 0.5}
    monkeypatch.setattr(compression.Compression, "measure", lambda *given: measured)
    page = lambda runs, out=None, select=None: tmp_path / "nowhere"  # noqa: E731
    monkeypatch.setattr(simulations.reporting.report, "write_report", page)
    assert kdsim(*command, "--out", "whole")[0] == 0
    with monkeypatch.context() as here:
        killing(here, *where)
        status, _, err = kdsim(*command, "--out", "out")
        assert (status, err.splitlines()[-1].partition(";")[0]) == (143, "stopped")
    for again in ([*command, "--out", "out"], ["report", "out"]):
        status, _, err = kdsim(*again)
        assert status == 0, err
    one, other = (
        {run.path.name: timeless(run.records) for run in run_folder.load(tmp_path / name)}
        for name in ("whole", "out")
    )
    assert one == other
    assert signal.getsignal(signal.SIGTERM) == before


def test_ctrl_c_has_a_status_of_its_own_even_after_sigterm(kdsim, monkeypatch):
    with monkeypatch.context() as here:
        killing(here, listing, "show")
        assert kdsim("list")[::2] == (143, "stopped\n")
    monkeypatch.setattr(listing, "show", lambda *given: signal.raise_signal(signal.SIGINT))
    assert kdsim("list")[::2] == (130, "stopped\n")


@pytest.mark.parametrize(("number", "ended"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("kind", [ImportError, ValueError])
def test_a_signal_that_arrives_as_another_error_still_ends_the_command(
    kdsim, monkeypatch, tmp_path, kind, number, ended
):
    def load(*given, **more):  # what C code makes of a signal while a module is loaded
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise kind("initialization failed") from None

    monkeypatch.setattr(listing, "show", load)
    assert kdsim("list")[::2] == (ended, "stopped\n")
    monkeypatch.setattr(federated_scores, "scored", load)
    status, _, err = kdsim(*FED, "--seeds", "2", "--workers", "1", "--out", "out")
    assert (status, err.partition(";")[0]) == (ended, "stopped")
    assert len([folder for folder in (tmp_path / "out").iterdir() if folder.is_dir()]) == 1


def test_a_library_that_exits_on_sigterm_as_it_starts_has_the_same_status(kdsim, monkeypatch):
    def start(*given):
        with process.own_signals():
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(listing, "show", start)
    assert kdsim("list")[0] == 143

    def later(*given):
        with process.own_signals():
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(listing, "show", later)
    assert kdsim("list")[0] == 143


class Unread:
    """A command whose standard output is a pipe that nobody reads."""

    def __init__(self, monkeypatch):
        reader, writer = os.pipe()
        os.close(reader)
        self.stdout = os.fdopen(writer, "w")
        monkeypatch.setattr(sys, "stdout", self.stdout)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    "command",
    [
        [*FED, "--json"],
        FED,
        ["list"],
        ["list", "losses", "--json"],
        ["report", "done"],
        ["doctor"],
    ],
)
def test_output_that_nobody_reads_ends_the_command_quietly(kdsim, monkeypatch, capsys, command):
    if command[0] == "report":
        monkeypatch.setattr(
            simulations.reporting.report, "write_report", lambda runs, out=None, select=None: "page"
        )
    with monkeypatch.context() as here:
        unread = Unread(here)
        status = app.main([*command, *(["--out", "out"] if command[0] == "fed" else [])])
        unread.stdout.close()
    said = capsys.readouterr().err
    assert status == 141
    before = ("accuracy", "engine auto")  # what is said of runs before their tables are printed
    assert all(any(word in line for word in before) for line in said.splitlines())
    if command[0] == "fed":
        assert kdsim(*command, "--out", "out")[0] == 0


ODD = {"±": "+-", "−3": "-3", "…": "...", "☃": "?", "\udcff": "?"}


@pytest.mark.parametrize("text", ODD)
def test_ascii_is_spoken_where_nothing_else_is_understood(monkeypatch, text):
    out, err = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, "ascii"))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(err, "ascii"))
    assert app.main(["run", f"{text}.toml"]) == 2
    print(text, flush=True)
    assert out.getvalue().decode() == f"{ODD[text]}\n"
    assert err.getvalue().decode().startswith(f"no experiment file {ODD[text]}.toml")


@pytest.mark.usefixtures("no_report")
def test_tables_and_mistakes_come_out_in_ascii(kdsim, monkeypatch, tmp_path):
    out = io.BytesIO()
    stream = io.TextIOWrapper(out, "ascii")
    with monkeypatch.context() as here:
        here.setattr(sys, "stdout", stream)
        assert app.main([*FED, "--seeds", "2", "--workers", "1"]) == 0
    stream.flush()
    assert b"Mean +- sample standard deviation" in out.getvalue()


def test_an_unexpected_error_is_told_even_where_its_traceback_cannot_be(kdsim, monkeypatch):
    def broken(*given):
        raise KeyError("sn\udcffow ☃")

    monkeypatch.setattr(listing, "show", broken)
    status, _, err = kdsim("list")
    assert (status, err.count("\n")) == (1, 1)
    assert err.startswith("failed: KeyError: ")
    monkeypatch.setattr(app.tempfile, "NamedTemporaryFile", open_nothing)
    status, _, err = kdsim("list")
    assert (status, err.count("\n")) == (1, 1)
    assert "traceback" not in err


def open_nothing(*given, **more):
    raise OSError(28, "No space left on device")


def test_the_statuses_are_told(kdsim):
    _, out, _ = kdsim("--help")
    told = " ".join(out.split())
    for number in ("1 a run failed", "2 the input", "130", "141", "143 by SIGTERM"):
        assert number in told
    assert (process.INTERRUPTED, process.UNREAD, process.TERMINATED) == (130, 141, 143)
