"""Experiment files: read, overridden, written down."""

import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from simulations.config.experiments import KINDS
from simulations.config.schema import flatten, leaves, nearest

Document = dict[str, Any]

OWN = tuple(kind.key for kind in KINDS.values())  # tables with a table for each of some learners
TUNE = "tune"  # what `kdsim tune` searches (`simulations.config.search`); a run passes it by
TABLES = (*KINDS, *OWN, "resources", "about", TUNE)


def read(path: Path) -> Document:
    """The content of an experiment file.

    Raises:
        ValueError: it is no TOML.
        FileNotFoundError: there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no experiment file {path}; name a .toml file that is there")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is no TOML: {error}") from None


def override(document: Document, assignments: Sequence[str]) -> Document:
    """The document with `fed.rounds=5`, or `rounds=5` for [fed] and [graph], put into it.

    Raises:
        ValueError: an assignment without `=` or a key that no table of the document takes.
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ValueError(f"--set takes KEY=VALUE, such as fed.rounds=5, got {assignment!r}")
        document = assigned(document, key.strip(), _value(text), f"--set {assignment}")
    return document


def assigned(document: Document, key: str, value: Any, said: str) -> Document:
    """The document with a value for `fed.rounds`, or for `rounds` of [fed] and [graph].

    Args:
        document: to put it into.
        key: dotted; of a table, or of those that know it.
        value: as TOML would give it.
        said: what to call the assignment in messages.
    """
    for place in _places(document, key):
        document = put(document, place.split("."), value, said)
    return document


def dump(document: Document) -> str:
    """The document as TOML."""
    return tomli_w.dumps(document)


def put(document: Document, path: Sequence[str], value: Any, said: str) -> Document:
    """The document with a value in a place, in tables that are made where they are not there."""
    first, *rest = path
    if not rest:
        return {**document, first: value}
    below = document.get(first, {})
    if not isinstance(below, dict):
        raise ValueError(f"{said}: {first} is {below!r}, and no table with {'.'.join(rest)} in it")
    return {**document, first: put(below, rest, value, said)}


@contextmanager
def naming(source: str) -> Iterator[None]:
    """What is wrong in here is said to be in the file of that name."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def tables(document: Document) -> dict[str, dict[str, Any]]:
    """The tables of a document, with the settings in each by dotted names.

    [algorithm] and its like have such a table for each algorithm.

    Raises:
        ValueError: an unknown table, or something else in its place.
    """
    for name in document:
        if name not in TABLES:
            raise ValueError(
                f"unknown table [{name}]{nearest(name, TABLES)}; "
                f"there are {', '.join(f'[{table}]' for table in TABLES)}"
            )
    found = {name: _table(table, name) for name, table in document.items()}
    return {
        name: {of: flatten(_table(own, of)) for of, own in table.items()}
        if name in OWN
        else flatten(table)
        for name, table in found.items()
    }


def _table(table: Any, name: str) -> Document:
    if not isinstance(table, dict):
        raise ValueError(f"{name} must be a table, [{name}], got {table!r}")
    return table


def _places(document: Document, key: str) -> list[str]:
    """The full keys that a key of `--set` stands for."""
    if key in TABLES and key not in OWN:
        raise ValueError(f"{key} is a table, and no setting; give one that is in it: {key}.KEY=...")
    if "." in key and key.partition(".")[0] in TABLES:
        return [key]
    known = {kind: {*leaves(KINDS[kind].experiment), "seeds"} for kind in KINDS}
    places = [f"{kind}.{key}" for kind in KINDS if kind in document and key in known[kind]]
    return places or [f"{next((kind for kind in KINDS if kind in document), 'fed')}.{key}"]


def _value(text: str) -> Any:
    """A value as TOML reads it, or else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text.strip()
