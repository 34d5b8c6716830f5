"""Experiment files: read, overridden, written down."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w

from simulations.config.experiments import KINDS
from simulations.config.grid import SEEDS, Document, put
from simulations.config.schema import leaves


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


def _places(document: Document, key: str) -> list[str]:
    """The full keys that a key of `--set` stands for."""
    tables = [*KINDS, *(kind.key for kind in KINDS.values()), "resources"]
    if "." in key and key.partition(".")[0] in tables:
        return [key]
    known = {kind: leaves(KINDS[kind].experiment) | {"seeds": SEEDS} for kind in KINDS}
    places = [f"{kind}.{key}" for kind in KINDS if kind in document and key in known[kind]]
    return places or [f"{next((kind for kind in KINDS if kind in document), 'fed')}.{key}"]


def _value(text: str) -> Any:
    """A value as TOML reads it, or else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text.strip()
