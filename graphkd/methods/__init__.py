"""Named recipes of graph distillation: one paper per file, whose name the command line takes.

A recipe says which network teaches which, from which inputs and by which terms. Its fields are its
settings: `dataclasses.fields(methods.get("glnn"))`.
"""

import importlib
import inspect
import pkgutil

from graphkd.names import unknown
from graphkd.recipe import Method


def names() -> list[str]:
    """The names of all methods."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def get(name: str) -> type[Method]:
    """The method of this name, a frozen dataclass to be called with its settings.

    Raises:
        ValueError: there is none; the message lists those there are and the nearest.
    """
    if name not in names():
        raise unknown("method", name, names())
    module = importlib.import_module(f"{__name__}.{name}")
    (found,) = (
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Method)
        and value.__module__ == module.__name__
    )
    return found
