"""Experiment files: TOML in, experiments out, and what each of their runs may take.

[fed]                                   # and, or, [graph], with `method` for `algorithm`
algorithm = ["local", "fedmd"]
alpha = [0.1, 1.0]                      # a list where one value is due is an axis of the grid
epsilon = ["none", 8.0]                 # none: as where it is not given
seeds = 5                               # 0 to 4; or a list
local.learning_rate = 0.05              # goes to each algorithm that has such a setting

[algorithm.fedmd]                       # for one algorithm alone; [method.glnn] likewise
distill = { epochs = 5 }

[resources]                             # of one run; no part of what determines its numbers
cpus = 1
gpus = 0.0

[about]                                 # for people; see `simulations.survey.claims`
term = "federated distillation"

[tune]                                  # for `kdsim tune`; see `simulations.config.search`
trials = 20
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from kdcore import settings
from kdcore.settings import Setting
from simulations.config.experiments import KINDS, Experiment, Template
from simulations.config.files import Document, naming, tables
from simulations.config.resources import Resources
from simulations.config.schema import Leaf, check_keys, nearest

SEEDS = Leaf(Annotated[tuple[int, ...], Setting("seeds 0 to N-1, or a list of seeds")], ())


NONE = "none"  # in a list of numbers, one that is not given: TOML has no word for it

MOST = 10_000  # runs of one file: each has a folder, and all are made before the first one starts


FEWER = "take fewer seeds or values, or several files"


class Expansion(NamedTuple):
    """What a document asks for: all its experiments, each once, and what one run may take."""

    experiments: list[Experiment]
    resources: Resources


def expand(document: Document, source: str) -> Expansion:
    """All that a document asks for; its tables are gone through here and nowhere else.

    Args:
        document: as `read` gives it.
        source: what to call it in messages.

    Raises:
        ValueError: an unknown key, name or value; the message names it, and the nearest known one.
    """
    with naming(source):
        found = tables(document)
        if not set(found) & set(KINDS):
            kinds = ", ".join(f"[{kind}]" for kind in KINDS)
            raise ValueError(f"none of {kinds} is there; one of them has to be")
        grids = [grid for kind in KINDS if kind in found for grid in _grids(found, kind)]
        count = sum(math.prod(map(len, grid.axes.values())) for grid in grids)
        if count > MOST:
            raise ValueError(f"it makes {count} runs, and the most are {MOST}; {FEWER}")
        experiments = list(dict.fromkeys(e for grid in grids for e in _product(grid)))
        return Expansion(experiments, Resources.of(found.get("resources", {})))


class _Grid(NamedTuple):
    """The values on the axes of one algorithm, not yet multiplied out."""

    template: Template
    axes: dict[str, Sequence[Any]]


def _grids(found: Mapping[str, dict[str, Any]], kind: str) -> Iterable[_Grid]:
    key = KINDS[kind].key
    shared, own = dict(found[kind]), found.get(key, {})
    names = shared.pop(key, None)
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ValueError(f"[{kind}] needs {key} = a name, or a list of names")
    templates = {name: Template(kind, KINDS[kind].get(name)) for name in names}
    known = {name: {**template.known, "seeds": SEEDS} for name, template in templates.items()}
    for name, given in own.items():
        if name not in names:
            raise ValueError(
                f"[{key}.{name}] is for none of the {key}s that [{kind}] runs"
                f"{nearest(name, names)}; add it there, or leave the table out"
            )
        check_keys(given, known[name], f"[{key}.{name}]")
    check_keys(shared, {k: leaf for name in names for k, leaf in known[name].items()}, f"[{kind}]")
    for name, template in templates.items():
        given = {k: v for k, v in shared.items() if k in known[name]} | own.get(name, {})
        yield _Grid(template, _axes(given, known[name]))


def _axes(given: dict[str, Any], known: Mapping[str, Leaf]) -> dict[str, Sequence[Any]]:
    axes = {key: _axis(value, known[key]) for key, value in given.items() if key != "seeds"}
    if empty := next((key for key, values in axes.items() if not len(values)), None):
        raise ValueError(f"{empty} is an empty list; give at least one value")
    return axes | ({"seed": _seeds(given["seeds"])} if "seeds" in given else {})


def _product(grid: _Grid) -> Iterable[Experiment]:
    """Every combination of the values on the axes."""
    for combination in itertools.product(*grid.axes.values()):
        yield grid.template.build(dict(zip(grid.axes, combination, strict=True)))


def may_be_none(leaf: Leaf) -> bool:
    """Whether `NONE` is a value of a setting: that of a number which need not be given."""
    return leaf.default is None and settings.numeric(leaf.hint)


def _axis(value: Any, leaf: Leaf) -> Sequence[Any]:
    several = isinstance(value, list) and (not leaf.many or any(isinstance(v, list) for v in value))
    values = value if several else [value]
    if may_be_none(leaf):
        return [None if one == NONE else one for one in values]
    return values


def _seeds(value: Any) -> Sequence[Any]:
    if type(value) is int and value > MOST:
        raise ValueError(f"seeds is {value}, and the most runs are {MOST}; {FEWER}")
    if type(value) is int and value > 0:
        return range(value)
    if isinstance(value, list) and value:
        return value
    raise ValueError(f"seeds must be a number >= 1 or a list of seeds, got {value!r}")
