"""What there is by name, with its flags, kept in a file: to say so takes no torch.

    python -m simulations.cli.catalogue     # writes the file anew

That is to be done where a name, a setting or its help has changed. The file holds the project's
own; where an installed package adds to it, all is looked up instead
(`built`), which takes seconds. A test holds both to each other.
"""

import importlib
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

FILE = Path(__file__).with_suffix(".json")
NO_NAMES = "auto", "none"  # in the place of a name: whatever fits, and nothing
GROUPS = "kdsim."  # how the groups of entry points begin by which packages add to ours

LEARNERS = {"fed": "fedkd.algorithms", "graph": "graphkd.methods"}
DATA, GRAPHS = "fedkd.data.datasets", "graphkd.data.registry"
MODELS, NETWORKS = "fedkd.models", "graphkd.models.networks"
OF_GRAPHS = ("data", "models", "partition")
ARGUMENTS = (*LEARNERS.values(), "kdattacks.attacks", "simulations.survey.recipes")  # of commands


class Flag(NamedTuple):
    """A setting as a flag.

    Attributes:
        kind: the type of its value, or of each of its values.
        choices: what it may be, where these are words.
        many: whether one value is a list.
        help: with range and default.
        names: the registry in which its values are names (`kdcore.settings.Setting`).
    """

    kind: Literal["str", "int", "float", "bool"]
    choices: tuple[str, ...]
    many: bool
    help: str
    names: str


class Learner(NamedTuple):
    """An algorithm or a method: what it is, in a sentence, and its flags, by its settings."""

    summary: str
    flags: dict[str, Flag]


def stored() -> dict[str, Any] | None:
    """The file's content; None where installed packages add to what there is."""
    return None if _added(tuple(sys.path)) else _content()


@lru_cache(maxsize=8)
def _added(path: tuple[str, ...]) -> bool:
    """Whether a package that is found on the path adds to a registry of ours."""
    return any(group.startswith(GROUPS) for group in entry_points().groups)


@cache
def _content() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def listed(kind: str) -> list[dict[str, Any]] | None:
    """The entries of `kdsim list KIND`; None where they have to be looked up."""
    found = stored()
    return None if found is None else list(found["lists"][kind])


def names(kind: str) -> list[str]:
    """The algorithms or methods, of `fed` or `graph`."""
    if found := stored():
        return list(found["learners"][kind])
    return list(importlib.import_module(LEARNERS[kind]).names())


def learner(kind: str, name: str) -> Learner:
    """The algorithm or method of a name, or at `module:Name`.

    Raises:
        ValueError: there is none; the message names the nearest and lists all.
    """
    check(LEARNERS[kind], name)
    found = stored()
    if found is None or name not in found["learners"][kind]:
        return _learner(kind, name)
    summary, own = found["learners"][kind][name]
    flags = {**found["flags"][kind], **own}
    return Learner(summary, {key: _flag(flag) for key, flag in flags.items()})


def resources() -> dict[str, Flag]:
    """The flags of how a run is kept, and what it may take."""
    if found := stored():
        return {key: _flag(flag) for key, flag in found["flags"]["resources"].items()}
    return _resources()


def check(place: str, name: str) -> None:
    """Raise ValueError for what is certainly no name in the registry of a module.

    What is no plain word, such as a reference or a file, is left to those who read it.
    """
    known = (stored() or {"names": {}})["names"].get(place)
    if not known or name in NO_NAMES or not re.fullmatch(r"[A-Za-z][\w-]*(@\d+)?", name):
        return
    from kdcore.references import nearest

    word = re.split("[-@]", name)[0] if known["sizes"] else name
    if word not in known["names"]:
        hint = nearest(word, known["names"])
        raise ValueError(f"unknown {known['kind']} {name!r}; {hint}{known['choices']}")


def check_values(flags: Mapping[str, Flag], given: Mapping[str, Any]) -> None:
    """`check` of every name in the values of some flags.

    Of clients that hold a graph the names of data, models and partitions are others, and left out.
    """
    federated = "data" in flags and flags["data"].names == DATA
    of_graphs = federated and _is_graph(given.get("data"))
    for key, value in given.items():
        elsewhere = key in OF_GRAPHS and (of_graphs or (federated and _is_of_graphs(key, value)))
        if key in flags and not elsewhere:
            _check_value(flags[key].names, value)


def _is_of_graphs(key: str, value: Any) -> bool:
    """Whether it names what is for graphs: of other data it is refused with a better reason."""
    if key == "partition":
        from fedgraphkd.shares import BY_EDGES, OF_WHOLE

        return value in (*BY_EDGES, *OF_WHOLE)
    found = stored()
    if found is None or key != "models":
        return False
    networks, models = ({*found["names"][place]["names"]} for place in (NETWORKS, MODELS))
    texts = value if isinstance(value, list | tuple) else [value]
    return any(re.split("[-@]", str(text))[0] in networks - models for text in texts)


def _check_value(place: str, value: Any) -> None:
    from kdcore.references import names_in

    for text in value if isinstance(value, list | tuple) else [value]:
        for name in names_in(text) if place and isinstance(text, str) else ():
            check(place, name)


def _is_graph(name: Any) -> bool:
    known = (stored() or {"names": {}})["names"]
    if not known or not isinstance(name, str):
        return False
    graphs = {*known[GRAPHS]["names"]} - {*known[DATA]["names"]}
    return {*name.split("+")} <= graphs


def check_file(path: Path) -> None:
    """`check` of the names in an experiment file; what else may be wrong with it is not said here.

    Raises:
        ValueError: a name that there certainly is not.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    known = (stored() or {"flags": {}})["flags"]
    for kind, place in LEARNERS.items():
        table = document.get(kind)
        if isinstance(table, dict) and kind in known:
            _check_value(place, table.get("algorithm" if kind == "fed" else "method"))
            check_values({key: _flag(flag) for key, flag in known[kind].items()}, table)


def built() -> dict[str, Any]:
    """What the file should hold."""
    from simulations.cli import listing
    from simulations.config.experiments import KINDS
    from simulations.config.schema import leaves

    shared = {kind: _flags(leaves(KINDS[kind].experiment)) for kind in LEARNERS}
    learners = {
        kind: {name: _own(_learner(kind, name), shared[kind]) for name in KINDS[kind].names()}
        for kind in LEARNERS
    }
    of_all = [
        *shared.values(),
        *(one.flags for found in learners.values() for one in found.values()),
    ]
    places = {flag.names for flags in of_all for flag in flags.values()} - {""}
    found = {
        "lists": {kind: list(entries()) for kind, entries in listing.KINDS.items()},
        "names": {place: _names(place) for place in sorted({*places, *ARGUMENTS})},
        "flags": {**shared, "resources": _resources()},
        "learners": learners,
    }
    as_read: dict[str, Any] = json.loads(json.dumps(found))
    return as_read


def flag_of(leaf: Any) -> Flag:
    """The flag of a setting, with the help and the range of its annotation."""
    from kdcore import settings

    hint, said = settings.plain(leaf.hint), settings.said_of(leaf.hint)
    kind, choices = _type(hint)
    shown = ",".join(leaf.default) if leaf.many else leaf.default
    limits = "" if choices else settings.allowed(leaf.hint)
    default = "none" if shown in (None, "") else shown
    words = [said.help, limits and f"[{limits}]", f"[default: {default}]"]
    return Flag(kind, choices, leaf.many, " ".join(filter(None, words)), said.names)


def _type(hint: Any) -> tuple[Any, tuple[str, ...]]:
    """The type of a hint, and its choices; `X | None` is X, since leaving a flag out says None."""
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return type(choices[0]).__name__, choices if isinstance(choices[0], str) else ()
    (first, *_) = (kind for kind in get_args(hint) or (hint,) if kind is not type(None))
    return _type(first) if get_origin(first) is Literal else (first.__name__, ())


def _learner(kind: str, name: str) -> Learner:
    from simulations.config.experiments import KINDS, Template

    found = KINDS[kind].get(name)
    summary = (type(found).__doc__ or "").strip().partition("\n")[0]
    return Learner(summary, _flags(Template(kind, found).known))


def _resources() -> dict[str, Flag]:
    from simulations.config.resources import Resources
    from simulations.config.schema import leaves

    return _flags(leaves(Resources))


def _flags(known: Mapping[str, Any]) -> dict[str, Flag]:
    return {key: flag_of(leaf) for key, leaf in known.items()}


def _own(learner: Learner, shared: Mapping[str, Flag]) -> Learner:
    """Without the flags that all of its kind have."""
    own = {key: flag for key, flag in learner.flags.items() if shared.get(key) != flag}
    return learner._replace(flags=own)


def _names(place: str) -> dict[str, Any]:
    module = importlib.import_module(place)
    names = module.REGISTRY.names()
    spelling = getattr(module, "SPELLING", "")  # where sizes may stand behind a name
    choices = spelling or f"choose one of {', '.join(names)}"
    kind = module.REGISTRY.kind
    return {"kind": kind, "names": names, "choices": choices, "sizes": bool(spelling)}


def _flag(found: Iterable[Any]) -> Flag:
    kind, choices, *more = found
    return Flag(kind, tuple(choices), *more)


if __name__ == "__main__":
    FILE.write_text(json.dumps(built(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(FILE)
