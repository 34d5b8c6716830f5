"""The fields of frozen dataclasses as flat settings: `local.learning_rate = 0.05`.

Experiments, algorithms and methods are dataclasses; from their fields come the flags of the
command, the keys of an experiment file, and what a run folder records. Pydantic checks what is
given, and never sees what is not: a part of a nested setting leaves the rest of the instance's.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from kdcore import registry, settings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

D = TypeVar("D", bound="DataclassInstance")

# What marks the field of a setting that was added later, in whichever package: its default does
# what was done before there was the setting, and is no part of what a run is known by.
ADDED = {"added": True}

STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)

# What pydantic calls the mistakes of a value that is of the right type.
RANGES = ("greater_than", "less_than", "literal_error", "too_short")

# Whole numbers that no machine could count up to in a run; of seeds there are more.
LARGEST, LARGEST_SEED = 1_000_000, 2**63 - 1


class Leaf(NamedTuple):
    """A setting.

    Attributes:
        hint: its annotation, see `kdcore.settings`.
        default: its value where none is given.
        was: its former name, dotted as that of today; empty where it has always had the same.
    """

    hint: Any
    default: Any
    was: str = ""

    @property
    def many(self) -> bool:
        """Whether one value is a list."""
        return settings.is_tuple(self.hint)


def leaves(owner: Any, parts: Iterable[str] = ()) -> dict[str, Leaf]:
    """The settings of a dataclass or an instance; those of nested ones have dotted names.

    Fields without a default are left out: they are no settings. Those of a dataclass that is not
    there, `X | None`, are there for the fields in `parts` (`Setting.parts`), and all None.
    """
    hints = settings.hints(owner if isinstance(owner, type) else type(owner))
    found: dict[str, Leaf] = {}
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name, dataclasses.MISSING)
        said, absent = settings.said_of(hints[field.name]), settings.optional(hints[field.name])
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            inside = leaves(value, said.parts) if absent is None else _required(value)
            found |= _below(field.name, said.was, inside)
        elif absent is not None:
            found |= _below(field.name, said.was, _required(absent) if field.name in parts else {})
        elif field.default is not dataclasses.MISSING:
            found[field.name] = Leaf(hints[field.name], value, said.was)
    return found


def _required(owner: Any) -> dict[str, Leaf]:
    """All fields of a dataclass that may be absent, or of an instance: None where it is absent."""
    absent = isinstance(owner, type)
    kind: Any = owner if absent else type(owner)
    return {
        name: Leaf(_or_none(hint), None if absent else getattr(owner, name))
        for name, hint in settings.hints(kind).items()
    }


def _or_none(hint: Any) -> Any:
    """An annotation of what may be None, too."""
    return Annotated[settings.plain(hint) | None, settings.said_of(hint)]


def _below(name: str, was: str, inside: Mapping[str, Leaf]) -> dict[str, Leaf]:
    """The settings inside of one, by their dotted names."""
    return {
        f"{name}.{key}": leaf._replace(
            was=f"{was or name}.{leaf.was or key}" if was or leaf.was else ""
        )
        for key, leaf in inside.items()
    }


def values(owner: Any) -> dict[str, Any]:
    """The values of all settings, as JSON holds them."""
    found = {name: leaf.default for name, leaf in leaves(owner).items()}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}


def unsaid(owner: Any) -> set[str]:
    """The settings that were added later, `field(..., metadata=ADDED)`, and have their defaults."""
    found: set[str] = set()
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        nested = dataclasses.is_dataclass(value)
        absent = _optional(owner, field.name)
        if field.metadata.get("added") and value == _default(field):
            inside = leaves(value) if nested else _required(absent) if absent else {}
            found |= {f"{field.name}.{name}" for name in inside} if inside else {field.name}
        elif nested:
            found |= {f"{field.name}.{name}" for name in unsaid(value)}
    return found


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one with dotted names; an empty table is a value, for somebody to refuse."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


class Form:
    """Settings by dotted names, checked all at once, each against its annotation."""

    def __init__(self, known: Mapping[str, Leaf]) -> None:
        self.known = known

    @cached_property
    def _adapter(self) -> "TypeAdapter[Any]":
        hints = {name: _for_pydantic(leaf.hint) for name, leaf in self.known.items()}
        form = TypedDict("form", hints, total=False)  # type: ignore[misc]  # names are data here
        form.__pydantic_config__ = STRICT  # type: ignore[attr-defined]
        return TypeAdapter(form)

    def checked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The values as they will be; names that are not known are left out.

        A list will do for a tuple, and a whole number for a float.

        Raises:
            ValueError: a value that cannot be; the message says what was expected.
        """
        own = {key: value for key, value in given.items() if key in self.known}
        lists = {k: tuple(v) if isinstance(v, list) else v for k, v in own.items()}
        try:
            found: dict[str, Any] = self._adapter.validate_python(lists)
        except ValidationError as error:
            raise ValueError(self._said(error, lists)) from None
        for name, value in found.items():
            _check_size(name, self.known[name].hint, value)
        return found

    def _said(self, error: ValidationError, given: Mapping[str, Any]) -> str:
        """The first mistake in a line: in our words where a value is out of its range."""
        first = error.errors()[0]
        name, value = str(first["loc"][0]), first["input"]
        if first["type"].startswith(RANGES):
            return f"{name} {settings.refusal(self.known[name].hint, given[name])}"
        return f"{name} is {settings.short(value)}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _for_pydantic(hint: Any) -> Any:
    """An annotation with its range and help as pydantic has them."""
    said, kind = settings.said_of(hint), settings.plain(hint)
    limits = Field(gt=said.gt, ge=said.ge, lt=said.lt, le=said.le)
    if settings.is_tuple(hint):
        each = tuple(one if one is ... else Annotated[one, limits] for one in get_args(kind))
        values: Any = tuple.__class_getitem__(each)
        found: Any = Annotated[values, Field(min_length=said.min_length)]
    else:
        found = Annotated[kind, limits]
    return Annotated[found, Field(description=said.help or None)]


def json_schema(leaf: Leaf) -> dict[str, Any]:
    """What a value may be, in the words of JSON Schema (draft 7), with help and default."""
    adapter: TypeAdapter[Any] = TypeAdapter(_for_pydantic(leaf.hint), config=STRICT)
    found = adapter.json_schema()
    if "prefixItems" in found:  # of later drafts
        found["items"] = found.pop("prefixItems")
    if "anyOf" in found:  # TOML has no null: what is not given is None
        (one,) = [kind for kind in found.pop("anyOf") if kind != {"type": "null"}]
        found |= one
    default = list(leaf.default) if isinstance(leaf.default, tuple) else leaf.default
    return found if default is None else {**found, "default": default}


def _check_size(name: str, hint: Any, value: Any) -> None:
    """Refuse what is in range, or has none, and is absurd."""
    if why := settings.refusal(hint, value):
        raise ValueError(f"{name} {why}")
    most = LARGEST_SEED if name == "seed" else LARGEST
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, int) and not -most <= number <= most:
            raise ValueError(f"{name} is {number}; it has to be at most {most}")


def updated(owner: D, given: Mapping[str, Any]) -> D:
    """The instance with some settings changed; names that it does not have are for others.

    Raises:
        ValueError: a value of the wrong type, or one that the dataclass itself refuses.
    """
    return replaced(owner, Form(leaves(owner)).checked(given))


def replaced(owner: D, found: Mapping[str, Any]) -> D:
    """The instance with some of its settings, by dotted names, as they are given.

    Raises:
        ValueError: the dataclass itself refuses them.
    """
    own = {name: value for name, value in found.items() if "." not in name}
    for name in dict.fromkeys(key.partition(".")[0] for key in found if "." in key):
        start = f"{name}."
        below = {k.removeprefix(start): v for k, v in found.items() if k.startswith(start)}
        value = getattr(owner, name)
        absent = _optional(owner, name)
        own[name] = replaced(value, below) if absent is None else _whole(name, absent, value, below)
    return dataclasses.replace(owner, **own)


def _optional(owner: Any, name: str) -> Any:
    """The dataclass that a field may have as its value, or else None."""
    kind: Any = type(owner)
    return settings.optional(settings.hints(kind)[name])


def _whole(name: str, kind: Any, value: Any, given: Mapping[str, Any]) -> Any:
    """A dataclass that may be absent, with some of its fields as they are given: all, or none.

    Raises:
        ValueError: some are said, and others are not.
    """
    every = {key: given.get(key, getattr(value, key, None)) for key in settings.hints(kind)}
    lacking = [key for key, one in every.items() if one is None]
    if len(lacking) == len(every):
        return None
    if lacking:
        said = next(key for key in every if key not in lacking)
        raise ValueError(f"{name}.{said} needs {name}.{lacking[0]} with it; give both, or neither")
    return kind(**every)


def check_keys(given: Iterable[str], known: Mapping[str, Leaf], where: str) -> None:
    """Raise ValueError for a name that is not known, with the nearest one."""
    for key in given:
        if key not in known:
            raise ValueError(f"unknown key {key!r} in {where}{meant(key, known)}")


def meant(key: str, known: Mapping[str, Leaf]) -> str:
    """`; it is 'b' now`, `; did you mean 'alpha'?`, or all there are."""
    now = [name for name, leaf in known.items() if leaf.was == key]
    if now:
        return f"; it is {now[0]!r} now"
    return nearest(key, known) or f"; there are {', '.join(known)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'alpha'?`, or nothing where no known name is near."""
    hint = registry.nearest(name, known)
    return f"; {hint.rstrip()}" if hint else ""


def counted(number: int, noun: str) -> str:
    """A number of things, in words: 1 round, 2 rounds, 3 classes."""
    return f"{number} {noun}" + ("" if number == 1 else "es" if noun.endswith("s") else "s")
