"""What a setting is: its type, its range and its help, said once, in the annotation of its field.

    temperature: Annotated[float, Setting("T of the sharpening", gt=0)] = 0.1

From it come the text of `--help`, the schema for editors, and what is refused: in an experiment
file, and by `check_ranges` where a dataclass is made in Python. A subclass that gives another
default, `temperature: float = 0.5`, keeps the range and the help of the field above. The range of a
tuple is that of each of its values.
"""

import dataclasses
import inspect
import math
import operator
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin

Hint = Any  # an annotation: a type, or `Annotated`
HUGE = 1e300  # past which no setting that has a range makes sense
WIDEST = 16_384  # of a layer, which takes memory by its square


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is said of a setting beside its type.

    Attributes:
        help: what it is, in words.
        gt, ge, lt, le: what a value is above, at least, below, or at most.
        min_length: how many values a tuple has at the least.
        names: where a name is found: the module of its registry (`kdcore.registry`).
        was: the setting's former name; runs go on being known by it.
        parts: of a dataclass, which of its fields that may be None are settings too; the others
            are for Python alone.
    """

    help: str = ""
    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    min_length: int | None = None
    names: str = ""
    was: str = ""
    parts: tuple[str, ...] = ()

    @property
    def limits(self) -> dict[str, float]:
        """The bounds that there are, by their names."""
        every = {"gt": self.gt, "ge": self.ge, "lt": self.lt, "le": self.le}
        return {name: bound for name, bound in every.items() if bound is not None}


SIGNS = {"gt": "> ", "ge": ">= ", "lt": "< ", "le": "<= "}


@cache
def hints(cls: type) -> dict[str, Hint]:
    """The annotations of a dataclass's fields, those of its bases with them.

    A field that a subclass annotates anew, and only by its type, keeps what was said of it above.
    """
    found: dict[str, Hint] = {}
    for base in reversed(cls.__mro__):
        for name, hint in inspect.get_annotations(base, eval_str=True).items():
            notes = () if _notes(hint) else _notes(found.get(name))
            found[name] = Annotated[(hint, *notes)] if notes else hint
    return {field.name: found[field.name] for field in dataclasses.fields(cls)}


def plain(hint: Hint) -> Hint:
    """The type alone."""
    return get_args(hint)[0] if _origin(hint) is Annotated else hint


def optional(hint: Hint) -> Any:
    """The dataclass of an annotation `X | None`; None where it is none of that form."""
    kinds = get_args(plain(hint))
    found = [one for one in kinds if dataclasses.is_dataclass(one)]
    return found[0] if found and type(None) in kinds else None


def is_tuple(hint: Hint) -> bool:
    """Whether one value is several."""
    return _origin(plain(hint)) is tuple


def said_of(hint: Hint) -> Setting:
    """What an annotation says beside the type; nothing where there is no `Setting` in it."""
    return next((note for note in _notes(hint) if isinstance(note, Setting)), Setting())


def allowed(hint: Hint) -> str:
    """What a value has to be, such as `>= 1` or `from 0 to 1`; empty where any will do."""
    kind = plain(hint)
    if _origin(kind) is Literal:
        *first, last = map(str, get_args(kind))
        return f"{', '.join(first)} or {last}" if first else last
    limits = said_of(hint).limits
    if limits.keys() == {"ge", "le"}:
        return f"from {limits['ge']:g} to {limits['le']:g}"
    return " and ".join(f"{SIGNS[name]}{bound:g}" for name, bound in limits.items())


def numeric(hint: Hint) -> bool:
    """Whether a value is a number, or several, or may be one."""
    kinds = get_args(plain(hint)) or (plain(hint),)
    return _origin(plain(hint)) is not Literal and not {int, float}.isdisjoint(kinds)


def refusal(hint: Hint, value: Any) -> str:
    """Why a value cannot be, `must be >= 1, got 0`; empty where it can.

    A number that has a range is finite, and no larger than `HUGE`.
    """
    kind, said = plain(hint), said_of(hint)
    empty = type(None) in get_args(kind)
    if value is None and empty:
        return ""
    if _origin(kind) is Literal:
        return "" if value in get_args(kind) else f"must be {allowed(hint)}, got {short(value)}"
    if is_tuple(hint):
        return _refused_values(hint, value)
    if not said.limits or _within(value, said.limits):
        return ""
    return f"must be {_expected(hint, value)}{', or None' if empty else ''}, got {short(value)}"


def _refused_values(hint: Hint, values: Any) -> str:
    """`refusal` of a tuple."""
    said = said_of(hint)
    if not isinstance(values, tuple | list):
        return f"must be a list, got {short(values)}"
    if said.min_length is not None and len(values) < said.min_length:
        return f"must have at least {said.min_length} values, got {short(list(values))}"
    bad = [one for one in values if said.limits and not _within(one, said.limits)]
    return f"must each be {_expected(hint, bad[0])}, got {short(list(values))}" if bad else ""


def _expected(hint: Hint, value: Any) -> str:
    """What a number has to be, and what its bound above is where no annotation names one."""
    limits = said_of(hint).limits
    return allowed(hint) + ("" if {"lt", "le"} & limits.keys() else _above(plain(hint), value))


def check_ranges(owner: Any) -> None:
    """Refuse a dataclass with a value out of the range, or none of the choices, of its annotation.

    Raises:
        ValueError: the message names the setting, what it may be, and the value.
    """
    try:
        cls: Any = type(owner)
        known = hints(cls)
    except NameError:  # annotations of a user's class that mean something to a type checker alone
        return
    for name, hint in known.items():
        if why := refusal(hint, getattr(owner, name)):
            raise ValueError(f"{name} {why}")


def short(value: Any) -> str:
    """A value as code, cut where it is very long."""
    text = repr(value)
    return text if len(text) < 100 else f"{text[:80]} ..."


def _origin(hint: Hint) -> Any:
    return get_origin(hint)


def _notes(hint: Hint) -> tuple[Any, ...]:
    return tuple(hint.__metadata__) if _origin(hint) is Annotated else ()


def _within(value: Any, limits: dict[str, float]) -> bool:
    try:
        return bool(abs(value) <= HUGE) and all(
            getattr(operator, name)(value, bound) for name, bound in limits.items()
        )
    except TypeError:
        return False


def _above(kind: Hint, value: Any) -> str:
    """What is said of a bound above that no annotation names."""
    if isinstance(value, int | float) and HUGE < abs(value) < math.inf:
        return f" and <= {HUGE:g}"
    return " and finite" if float in (kind, *get_args(kind)) else ""
