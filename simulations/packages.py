"""The packages of kdsim and modules of the user's: versions, and which are found where."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

OURS = ("kdcore", "fedkd", "graphkd", "fedgraphkd", "kdattacks", "simulations", "kdsim")
HOME = Path(__file__).resolve().parents[1]


def hidden() -> str:
    """What Python would import in the place of a package of ours, in a line; or nothing."""
    for name in OURS:
        found = find_spec(name)
        if found is None or Path(found.origin or "").resolve() != HOME / name / "__init__.py":
            where = "nothing" if found is None else found.origin or "a folder of that name"
            return f"{name} of kdsim is hidden by {where}; rename that, or start Python elsewhere"
    return ""


def hidden_from_workers(folder: Path) -> str:
    """What in a working folder Ray's workers would import in our place, in a line; or nothing.

    Ray puts the working folder before all else on the path of its workers.
    """
    for name in OURS:
        for path in (folder / name / "__init__.py", folder / f"{name}.py"):
            if folder.resolve() != HOME and path.is_file():
                return f"{path} would hide {name} of kdsim from Ray's workers; rename it"
    return ""


@contextmanager
def working_folder() -> Iterator[None]:
    """In here modules of the user's in the working folder are found too, the last of all."""
    before = list(sys.path)
    with suppress(OSError):  # it may be gone
        sys.path.append(str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before


def go_to(folder: Path) -> None:
    """Make it the working folder, with the user's modules in it.

    Raises:
        ValueError: it is not there.
    """
    if not folder.is_dir():
        raise ValueError(
            f"{folder}, where this was started, is not there, and names code of yours there; put "
            "it back, or start anew"
        )
    os.chdir(folder)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def our_version() -> str:
    """The version that is installed."""
    try:
        return version("kdsim")
    except PackageNotFoundError:  # a checkout that is not installed
        return "unknown"
