"""Experiment files: TOML in, a list of experiments out.

[fed]                                   # and, or, [graph], with `method` for `algorithm`
algorithm = ["local", "fedmd"]
alpha = [0.1, 1.0]                      # a list where one value is due is an axis of the grid
seeds = 5                               # 0 to 4; or a list
local.learning_rate = 0.05              # goes to each algorithm that has such a setting

[algorithm.fedmd]                       # for one algorithm alone; [method.glnn] likewise
distill = { epochs = 5 }

[resources]                             # of one run; no part of what determines its numbers
cpus = 1
gpus = 0.0

[about]                                 # for people; see `simulations.survey.claims`
term = "federated distillation"
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from simulations.config.experiments import KINDS, Experiment, build
from simulations.config.schema import Leaf, flatten, leaves, nearest

Document = dict[str, Any]


SEEDS = Leaf(tuple[int, ...], ())


MOST = 10_000  # runs of one file: each has a folder, and all are made before the first one starts


THREADS = 1024  # of a run, at the most


FEWER = "take fewer seeds or values, or several files"


def expand(document: Document, source: str) -> list[Experiment]:
    """All experiments of a document, each once.

    Args:
        document: as `read` gives it.
        source: what to call it in messages.

    Raises:
        ValueError: an unknown key, name or value; the message names it, and the nearest known one.
    """
    tables = [*KINDS, *(kind.key for kind in KINDS.values()), "resources", "about"]
    for name in document:
        if name not in tables:
            raise ValueError(
                f"{source}: unknown table [{name}]{nearest(name, tables)}; "
                f"there are {', '.join(f'[{table}]' for table in tables)}"
            )
    if not set(document) & set(KINDS):
        kinds = ", ".join(f"[{kind}]" for kind in KINDS)
        raise ValueError(f"{source}: none of {kinds} is there; one of them has to be")
    grids = [grid for kind in KINDS if kind in document for grid in _grids(document, kind, source)]
    count = sum(math.prod(map(len, grid.axes.values())) for grid in grids)
    if count > MOST:
        raise ValueError(f"{source} makes {count} runs, and the most are {MOST}; {FEWER}")
    return list(dict.fromkeys(e for grid in grids for e in _product(grid, source)))


class _Grid(NamedTuple):
    """The values on the axes of one algorithm, not yet multiplied out."""

    kind: str
    name: str
    axes: dict[str, Sequence[Any]]


def _grids(document: Document, kind: str, source: str) -> Iterable[_Grid]:
    key = KINDS[kind].key
    shared = _table(document, kind, source)
    names = shared.pop(key, None)
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ValueError(f"{source}: [{kind}] needs {key} = a name, or a list of names")
    own = {name: _own(document, kind, name, source) for name in names}
    _check_named(document, kind, names, source)
    _check_keys(shared, {k: v for n in names for k, v in _known(kind, n).items()}, kind, source)
    for name in names:
        known = _known(kind, name)
        given = {k: v for k, v in shared.items() if k in known} | own[name]
        yield _Grid(kind, name, _axes(given, known, source))


def _known(kind: str, name: str) -> dict[str, Leaf]:
    own, method = leaves(KINDS[kind].experiment), leaves(KINDS[kind].get(name))
    return {**own, **method, "seeds": SEEDS}


def _own(document: Document, kind: str, name: str, source: str) -> dict[str, Any]:
    """The settings for one algorithm or method alone."""
    try:
        known = _known(kind, name)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    key = KINDS[kind].key
    table = _table(_table(document, key, source, flat=False), name, source)
    _check_keys(table, known, f"{key}.{name}", source)
    return table


def _check_named(document: Document, kind: str, names: list[str], source: str) -> None:
    """Raise ValueError for settings of an algorithm that does not run."""
    key = KINDS[kind].key
    for name in document.get(key, {}):
        if name not in names:
            raise ValueError(
                f"{source}: [{key}.{name}] is for none of the {key}s that [{kind}] runs"
                f"{nearest(name, names)}; add it there, or leave the table out"
            )


def _axes(
    given: dict[str, Any], known: Mapping[str, Leaf], source: str
) -> dict[str, Sequence[Any]]:
    axes = {key: _axis(value, known[key]) for key, value in given.items() if key != "seeds"}
    if not all(axes.values()):
        empty = next(key for key, values in axes.items() if not values)
        raise ValueError(f"{source}: {empty} is an empty list; give at least one value")
    return axes | ({"seed": _seeds(given["seeds"], source)} if "seeds" in given else {})


def _product(grid: _Grid, source: str) -> Iterable[Experiment]:
    """Every combination of the values on the axes."""
    for combination in itertools.product(*grid.axes.values()):
        try:
            yield build(grid.kind, grid.name, dict(zip(grid.axes, combination, strict=True)))
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None


def _axis(value: Any, leaf: Leaf) -> Sequence[Any]:
    several = isinstance(value, list) and (not leaf.many or any(isinstance(v, list) for v in value))
    return value if several else [value]


def _seeds(value: Any, source: str) -> Sequence[Any]:
    if type(value) is int and value > MOST:
        raise ValueError(f"{source}: seeds is {value}, and the most runs are {MOST}; {FEWER}")
    if type(value) is int and value > 0:
        return range(value)
    if isinstance(value, list) and value:
        return value
    raise ValueError(f"{source}: seeds must be a number >= 1 or a list of seeds, got {value!r}")


def _table(document: Document, name: str, source: str, *, flat: bool = True) -> dict[str, Any]:
    table = document.get(name, {})
    if not isinstance(table, dict):
        raise ValueError(f"{source}: {name} must be a table, [{name}], got {table!r}")
    return flatten(table) if flat else table


def _check_keys(given: Iterable[str], known: Iterable[str], table: str, source: str) -> None:
    for key in given:
        if key not in known:
            hint = nearest(key, known) or f"; there are {', '.join(known)}"
            raise ValueError(f"{source}: unknown key {key!r} in [{table}]{hint}")


def put(document: Document, path: Sequence[str], value: Any, said: str) -> Document:
    """The document with a value in a place, in tables that are made where they are not there."""
    first, *rest = path
    if not rest:
        return {**document, first: value}
    below = document.get(first, {})
    if not isinstance(below, dict):
        raise ValueError(f"{said}: {first} is {below!r}, and no table with {'.'.join(rest)} in it")
    return {**document, first: put(below, rest, value, said)}
