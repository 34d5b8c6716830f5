"""The experiment files that come with kdsim, found by name from anywhere."""

import re
from pathlib import Path

from simulations.config.schema import nearest

FOLDER = Path(__file__).parents[1] / "experiments"
SUFFIX = ".toml"
RENAMED = {"graph-recipes": "graph-methods"}


def names(folder: Path = FOLDER) -> list[str]:
    """The experiments in a folder, by default those that are no recipes."""
    return sorted(path.stem for path in folder.glob(f"*{SUFFIX}"))


def find(named: Path) -> Path:
    """The experiment file of a path, or of the name of one that comes with kdsim.

    `.toml` may be left out, and a file of the working folder comes first.

    Raises:
        FileNotFoundError: there is none; the message names the nearest.
    """
    spelled = named, named.with_name(named.name + SUFFIX)
    for path in (*spelled, *(FOLDER / path for path in spelled)):
        if path.is_file():
            return path
    stem = named.name.removesuffix(SUFFIX)
    hint = f"; it is {RENAMED[stem]!r} now" if stem in RENAMED else nearest(stem, names())
    hint = f"; did you mean {stem!r}?" if stem in names() else hint  # the name of a path elsewhere
    raise FileNotFoundError(
        f"no experiment file {named}, nor one of that name that comes with kdsim{hint}; "
        "see `kdsim list experiments`"
    )


def summary(name: str) -> str:
    """The first sentence of the comment at the top of a file that comes with kdsim."""
    text = (FOLDER / f"{name}{SUFFIX}").read_text(encoding="utf-8")
    comment = " ".join(line.lstrip("# ") for line in text.partition("\n\n")[0].splitlines())
    return re.split(r"(?<=[.?!])\s", comment, maxsplit=1)[0]
