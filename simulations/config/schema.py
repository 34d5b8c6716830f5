"""The fields of frozen dataclasses as flat settings: `local.learning_rate = 0.05`.

Experiments, algorithms and methods are dataclasses; from their fields come the flags of the
command, the keys of an experiment file, and what a run folder records.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from kdcore import registry

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

D = TypeVar("D", bound="DataclassInstance")

# What marks the field of a setting that was added later, in whichever package: its default does
# what was done before there was the setting, and is no part of what a run is known by.
ADDED = {"added": True}

STRICT = ConfigDict(strict=True, allow_inf_nan=False)

# Whole numbers that no machine could count up to in a run, and what takes memory by its square.
LARGEST = 1_000_000
WIDEST, DEEPEST = 16_384, 1_000
MOST = dict.fromkeys(("hidden", "width", "dimensions", "moved", "noise", "latent"), WIDEST)
MOST |= {"layers": DEEPEST, "seed": 2**63 - 1}


class Leaf(NamedTuple):
    """A setting: its type, and its value where none is given."""

    hint: Any
    default: Any

    @property
    def many(self) -> bool:
        """Whether one value is a list."""
        return get_origin(self.hint) is tuple


def leaves(owner: Any) -> dict[str, Leaf]:
    """The settings of a dataclass or an instance; those of nested ones have dotted names.

    Fields without a default are left out: they are no settings.
    """
    hints = _hints(owner if isinstance(owner, type) else type(owner))
    found: dict[str, Leaf] = {}
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name, dataclasses.MISSING)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            below = leaves(value)
            found |= {f"{field.name}.{name}": leaf for name, leaf in below.items()}
        elif field.default is not dataclasses.MISSING:
            found[field.name] = Leaf(hints[field.name], value)
    return found


def values(owner: Any) -> dict[str, Any]:
    """The values of all settings, as JSON holds them."""
    found = {name: leaf.default for name, leaf in leaves(owner).items()}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}


def unsaid(owner: Any) -> set[str]:
    """The settings that were added later, `field(..., metadata=ADDED)`, and have their defaults."""
    found: set[str] = set()
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        inside = leaves(value) if dataclasses.is_dataclass(value) else None
        if field.metadata.get("added") and value == _default(field):
            found |= {f"{field.name}.{name}" for name in inside} if inside else {field.name}
        elif inside:
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


def updated(owner: D, given: Mapping[str, Any], prefix: str = "") -> D:
    """The instance with some settings changed; names that it does not have are for others.

    Raises:
        ValueError: a value of the wrong type, or one that the dataclass itself refuses.
    """
    return dataclasses.replace(owner, **changes(owner, given, prefix))


def changes(owner: Any, given: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The given settings as fields of a dataclass or an instance, checked; see `updated`."""
    hints = _hints(owner if isinstance(owner, type) else type(owner))
    found = {}
    for field in dataclasses.fields(owner):
        start, name = f"{field.name}.", prefix + field.name
        below = {k.removeprefix(start): v for k, v in given.items() if k.startswith(start)}
        if below:
            found[field.name] = updated(getattr(owner, field.name), below, f"{name}.")
        elif field.name in given:
            found[field.name] = checked(name, hints[field.name], given[field.name])
    return found


def checked(name: str, hint: Any, value: Any) -> Any:
    """The value, if it is of the type; a list will do for a tuple, and a whole number for a float.

    Raises:
        ValueError: it is not; the message says what was expected.
    """
    value = tuple(value) if isinstance(value, list) else value
    try:
        return _counted(name, _adapter(hint).validate_python(value))
    except ValidationError as error:
        first = error.errors()[0]
        said = first["msg"][0].lower() + first["msg"][1:]
        raise ValueError(f"{name} is {_short(first['input'])}: {said}") from None


def _counted(name: str, value: Any) -> Any:
    """The value, if it is no whole number that is absurd."""
    most = MOST.get(name.rpartition(".")[2].rpartition("_")[2], LARGEST)
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, int) and not -most <= number <= most:
            raise ValueError(f"{name} is {number}; it has to be at most {most}")
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=STRICT)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 100 else f"{text[:80]} ..."


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'alpha'?`, or nothing where no known name is near."""
    hint = registry.nearest(name, known)
    return f"; {hint.rstrip()}" if hint else ""
