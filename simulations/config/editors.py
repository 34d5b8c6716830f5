"""A JSON schema of experiment files, from which editors complete, explain and check what is typed.

It is of draft 7, which the TOML language servers know. What it cannot say is left to the command:
bounds that hold together, and settings of the user's own algorithms (`module:Class`), whose tables
it lets pass.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from simulations.config.experiments import KINDS, Template
from simulations.config.grid import NONE, SEEDS, may_be_none
from simulations.config.resources import Resources
from simulations.config.schema import Leaf, json_schema, leaves
from simulations.config.search import Tune

Schema = dict[str, Any]

DRAFT = "http://json-schema.org/draft-07/schema#"
OWN = ":"  # in the name of what is a user's own
SEARCH = "settings, each with log(LOW, HIGH), range(LOW, HIGH) or a list of values"
ABOUT = "for people, and what a recipe claims; changes no number"


def schema() -> Schema:
    """The schema of an experiment file with all that is installed here."""
    tables: Schema = {"about": {"type": "object", "description": ABOUT}}
    tables["resources"] = _table({k: json_schema(leaf) for k, leaf in leaves(Resources).items()})
    tables["tune"] = _table({k: json_schema(leaf) for k, leaf in leaves(Tune).items()})
    tables["tune"]["properties"]["search"] = {"type": "object", "description": SEARCH}
    for kind, about in KINDS.items():
        templates = {name: Template(kind, about.get(name)) for name in about.names()}
        known = {name: _axes(template.known) for name, template in templates.items()}
        tables[kind] = _shared(about.key, known)
        tables[about.key] = {
            "type": "object",
            "properties": {name: _table(own) for name, own in known.items()},
            "patternProperties": {OWN: {"type": "object"}},
            "additionalProperties": False,
        }
    return {
        "$schema": DRAFT,
        "title": "kdsim experiment",
        **_closed(tables),
        "anyOf": [{"required": [kind]} for kind in KINDS],
    }


def _shared(key: str, known: Mapping[str, Mapping[str, Schema]]) -> Schema:
    """The table of a kind: what any of its algorithms knows, unless one is the user's own."""
    names = {"anyOf": [{"enum": sorted(known)}, {"type": "string", "pattern": OWN}]}
    own = {"type": "string", "pattern": OWN}
    settings: dict[str, list[Schema]] = {}
    for of in known.values():
        for name, one in of.items():
            settings.setdefault(name, [])
            settings[name] += [one] if one not in settings[name] else []
    table = _table({k: one[0] if len(one) == 1 else {"anyOf": one} for k, one in settings.items()})
    table["properties"][key] = _or_many(names) | {"description": "who learns"}
    closed = {"propertyNames": {"enum": [*table["properties"]]}}
    return {key: value for key, value in table.items() if key != "additionalProperties"} | {
        "required": [key],
        "if": {"properties": {key: {"anyOf": [own, {"type": "array", "contains": own}]}}},
        "else": closed,
    }


def _axes(known: Mapping[str, Leaf]) -> dict[str, Schema]:
    """Settings by dotted names, each a value or a list of values."""
    found = {
        name: _or_many(json_schema(leaf), *[NONE] * may_be_none(leaf))
        for name, leaf in known.items()
    }
    seeds = {"anyOf": [{"type": "integer", "minimum": 1}, _list({"type": "integer"})]}
    return found | {"seeds": seeds | {"description": json_schema(SEEDS)["description"]}}


def _or_many(one: Schema, *words: str) -> Schema:
    """A value, or a list of them, of which some may be words."""
    said = {key: value for key, value in one.items() if key in ("description", "default")}
    bare = {key: value for key, value in one.items() if key not in said}
    bare = {"anyOf": [bare, {"enum": [*words]}]} if words else bare
    return {"anyOf": [bare, _list(bare)], **said}


def _list(one: Schema) -> Schema:
    return {"type": "array", "items": one, "minItems": 1}


def _table(flat: Mapping[str, Schema]) -> Schema:
    """Settings by dotted names as tables in tables."""
    found: Schema = {}
    for name in _firsts(flat):
        below = {k.partition(".")[2]: v for k, v in flat.items() if k.startswith(f"{name}.")}
        found[name] = _table(below) if below else flat[name]
    return _closed(found)


def _closed(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _firsts(flat: Iterable[str]) -> Iterable[str]:
    return dict.fromkeys(name.partition(".")[0] for name in flat)
