import math
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from kdcore import settings
from kdcore.settings import Setting


@dataclass(frozen=True)
class Above:
    count: Annotated[int, Setting("how many", ge=1)] = 1
    rate: Annotated[float, Setting("how fast", gt=0)] = 0.5
    share: Annotated[float, Setting(ge=0, lt=1)] = 0.0
    part: Annotated[float | None, Setting(ge=0, le=1)] = None
    kind: Annotated[Literal["a", "b", "c"], Setting("which")] = "a"
    free: float = 0.0

    def __post_init__(self) -> None:
        settings.check_ranges(self)


@dataclass(frozen=True)
class Below(Above):
    count: int = 5
    rate: Annotated[float, Setting("slower", gt=0, le=2)] = 1.0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count", 0, "count must be >= 1, got 0"),
        ("count", "many", "count must be >= 1, got 'many'"),
        ("count", 10**301, "count must be >= 1 and <= 1e+300, got 1" + 79 * "0" + " ..."),
        ("rate", 0.0, "rate must be > 0 and finite, got 0.0"),
        ("rate", math.inf, "rate must be > 0 and finite, got inf"),
        ("rate", math.nan, "rate must be > 0 and finite, got nan"),
        ("rate", 1e308, "rate must be > 0 and <= 1e+300, got 1e+308"),
        ("share", 1.0, "share must be >= 0 and < 1, got 1.0"),
        ("part", 1.5, "part must be from 0 to 1, or None, got 1.5"),
        ("kind", "d", "kind must be a, b or c, got 'd'"),
        ("kind", [], "kind must be a, b or c, got []"),
    ],
)
def test_what_is_out_of_range_is_refused_where_it_is_made(name, value, message):
    with pytest.raises(ValueError, match="must be") as error:
        Above(**{name: value})
    assert str(error.value) == message


def test_what_is_in_range_passes_and_what_has_none_is_anything():
    Above(count=1, rate=1e-300, share=0.0, part=0.0, kind="c", free=math.nan)
    Above(part=None, rate=settings.HUGE)


def test_a_long_value_is_cut():
    with pytest.raises(ValueError, match=r"got 10{79} \.\.\.$"):
        Above(count=10**500)


def test_a_subclass_that_names_the_type_alone_keeps_range_and_help():
    with pytest.raises(ValueError, match="count must be >= 1, got 0"):
        Below(count=0)
    with pytest.raises(ValueError, match="rate must be > 0 and <= 2, got 3"):
        Below(rate=3)
    known = settings.hints(Below)
    assert list(known) == ["count", "rate", "share", "part", "kind", "free"]
    said = {
        name: (settings.said_of(hint).help, settings.allowed(hint)) for name, hint in known.items()
    }
    assert said["count"] == ("how many", ">= 1")
    assert said["rate"] == ("slower", "> 0 and <= 2")
    assert said["kind"] == ("which", "a, b or c")
    assert said["free"] == ("", "")
    assert settings.plain(known["part"]) == float | None


def test_names_that_are_there_for_a_type_checker_alone_are_no_error():
    @dataclass
    class Loose:
        value: "Absent" = 3  # noqa: F821

        def __post_init__(self) -> None:
            settings.check_ranges(self)

    assert Loose().value == 3
