"""Nothing in the packages is there on Unix, or on Linux, alone.

The files are parsed, as in `test_imports`; and the commands run in an interpreter from which the
names that Windows and macOS lack have been taken away, for the packages' own code at least.
"""

import ast
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from simulations import machine
from tests.contracts.test_imports import dotted, imports, parse, sources

MODULES = {"curses", "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog"}
MODULES |= {"termios", "tty"}
NAMES = {f"os.sched_{name}" for name in ("getaffinity", "setaffinity", "yield")}  # not on macOS
NAMES |= {f"os.{name}" for name in ("fork", "forkpty", "getpgid", "getpgrp", "getuid", "geteuid")}
NAMES |= {f"os.{name}" for name in ("getgid", "getegid", "getloadavg", "killpg", "mkfifo", "nice")}
NAMES |= {f"os.{name}" for name in ("setpgid", "setsid", "statvfs", "sysconf", "uname", "wait")}
NAMES |= {"os.process_cpu_count"}  # from Python 3.13 on
NAMES |= {f"signal.SIG{name}" for name in ("ALRM", "HUP", "KILL", "PIPE", "QUIT", "USR1", "USR2")}
NAMES |= {"signal.alarm", "signal.pause", "signal.pthread_kill", "signal.setitimer"}


def unportable(path, tree):
    used = {dotted(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found = imports(tree, path)
    return sorted((used | found) & NAMES | {name for name in found if name in MODULES})


def test_what_is_not_portable_is_found():
    def found(code):
        return unportable("x.py", ast.parse(code))

    assert found("import fcntl, os\nos.sched_getaffinity(0)") == ["fcntl", "os.sched_getaffinity"]
    assert found("from os import getuid\ndef f():\n    import pwd") == ["os.getuid", "pwd"]
    assert found("import os, signal\nos.cpu_count()\nsignal.SIGTERM") == []


@pytest.mark.parametrize("path", sources())
def test_packages_use_what_is_there_on_every_system(path):
    assert unportable(path, parse(path)) == []


def test_cores_are_counted_where_no_system_call_tells_which_may_be_used(monkeypatch):
    """As on macOS, where psutil has no `cpu_affinity`."""
    usable = machine.cores()
    if hasattr(os, "sched_getaffinity"):
        assert usable == len(os.sched_getaffinity(0))
    monkeypatch.delattr("psutil.Process.cpu_affinity", raising=False)
    assert machine.cores() == os.cpu_count()


def test_a_warning_of_a_library_about_itself_is_no_error_but_the_same_of_ours_is():
    """What Python 3.13 says wherever torch_geometric 2.8 builds a network."""
    said = "Failing to pass a value to the 'type_params' parameter of 'typing._eval_type' is"
    of_a_line = said, DeprecationWarning, "inspector.py", 433
    warnings.warn_explicit(*of_a_line, module="torch_geometric.inspector")
    with pytest.raises(DeprecationWarning):
        warnings.warn_explicit(*of_a_line, module="graphkd.models.networks")


TAKEN_AWAY = """
import builtins, os, signal
for name in ("sched_getaffinity", "sched_setaffinity"):  # the rest is used by libraries
    delattr(os, name)
ours = "kdcore", "fedkd", "graphkd", "fedgraphkd", "kdattacks", "simulations"
whole = builtins.__import__
def lacking(name, globals=None, *more, **named):
    by = (globals or {}).get("__name__", "").partition(".")[0]
    if name in ("fcntl", "grp", "pwd", "resource") and (by in ours or by == "filelock"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return whole(name, globals, *more, **named)
builtins.__import__ = lacking
"""
SMALL = "fed.rounds=1 fed.clients=3 fed.private=60 fed.public=20 fed.test=40 fed.seeds=1"
SMALL += " graph.epochs=2 graph.teacher_epochs=2 graph.seeds=1"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="there is nothing to take away")
def test_the_commands_run_without_what_other_systems_lack(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(TAKEN_AWAY)
    repository = Path(__file__).resolve().parents[2]
    small = [word for change in SMALL.split() for word in ("--set", change)]
    commands = [
        ["doctor"],
        ["run", str(repository / "simulations/experiments/demo.toml"), *small, "--json"],
        ["fed", "fd", "--rounds", "1", "--clients", "3", "--no-baseline", "--workers", "1"],
    ]
    code = f"""
import os
from simulations.cli.app import main
assert not hasattr(os, "sched_getaffinity")
print([main(command) for command in {commands}])
"""
    path = os.pathsep.join([str(tmp_path), str(repository)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1:] == ["[0, 0, 0]"], done.stdout + done.stderr
