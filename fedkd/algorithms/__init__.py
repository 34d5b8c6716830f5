"""Federated algorithms: one paper per file; a file's name is the name on the command line."""

from fedkd.core import Algorithm
from kdcore.registry import Registry, files_of, subclass_of

__all__ = ["REGISTRY", "get", "names", "table"]

_derived = subclass_of(Algorithm)
REGISTRY: Registry[type[Algorithm]] = Registry(
    "algorithm", files_of(__name__, _derived), "kdsim.algorithms", _derived
)


def names() -> list[str]:
    """The algorithms there are."""
    return REGISTRY.names()


def get(name: str) -> type[Algorithm]:
    """The algorithm of a name, or at `module:Class`: a dataclass to be called with its settings.

    Raises:
        ValueError: there is none; the message names the nearest and lists all.
    """
    return REGISTRY.get(name)


def table() -> str:
    """What each algorithm declares, as a table in Markdown, one row for each."""
    heads = ["name", "public data", "client models", "up", "down", "summand", "the server learns"]
    rows = [[*heads, "beyond training", "targets"], ["---"] * (len(heads) + 2)]
    for name in names():
        p = get(name).properties
        beyond = ", ".join(f"`{part}`" for part in p.beyond_training) or "nothing"
        said = [p.public, p.architectures, p.up, p.down, p.summand, p.server_learns, beyond]
        rows.append([f"`{name}`", *said, ", ".join(p.targets)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
