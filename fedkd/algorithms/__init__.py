"""Federated algorithms: one paper per file; a file's name is the name on the command line."""

import importlib
import inspect
import pkgutil
from difflib import get_close_matches

from fedkd.core import Algorithm


def names() -> list[str]:
    """The algorithms there are."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def get(name: str) -> type[Algorithm]:
    """The algorithm of a name.

    Raises:
        ValueError: there is none; the message names the nearest and lists all.
    """
    if name not in names():
        close = get_close_matches(name, names(), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown algorithm {name!r}; {hint}choose one of {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    (found,) = (
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Algorithm)
        and value.__module__ == module.__name__
    )
    return found


def table() -> str:
    """What each algorithm declares, as a table in Markdown, one row for each."""
    heads = ["name", "public data", "client models", "up", "down", "summand", "the server learns"]
    rows = [[*heads, "beyond training"], ["---"] * (len(heads) + 1)]
    for name in names():
        p = get(name).properties
        beyond = ", ".join(f"`{part}`" for part in p.beyond_training) or "nothing"
        said = [p.public, p.architectures, p.up, p.down, p.summand, p.server_learns, beyond]
        rows.append([f"`{name}`", *said])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
