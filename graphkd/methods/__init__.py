"""Methods of graph distillation: one paper per file, whose name the command line takes.

A method says which network teaches which, from which inputs and by which terms. Its fields are its
settings: `dataclasses.fields(methods.get("glnn"))`.
"""

from graphkd.method import Method
from kdcore.registry import Registry, files_of, subclass_of

__all__ = ["REGISTRY", "get", "names"]

_derived = subclass_of(Method)
REGISTRY: Registry[type[Method]] = Registry(
    "method", files_of(__name__, _derived), "kdsim.methods", _derived
)


def names() -> list[str]:
    """The methods there are."""
    return REGISTRY.names()


def get(name: str) -> type[Method]:
    """The method of a name, or at `module:Class`: a dataclass to be called with its settings.

    Raises:
        ValueError: there is none; the message names the nearest and lists all.
    """
    return REGISTRY.get(name)
