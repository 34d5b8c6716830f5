"""The same done for each of a cohort: what fails for one of them fails for it alone."""

from collections.abc import Callable, Sequence
from typing import Any


def each(function: Callable[..., Any], *columns: Sequence[Any]) -> list[Any]:
    """The function of each row of some columns.

    In the place of an answer stands the ValueError that it raised, or, where one of its inputs is
    such an error already, this one.
    """
    found: list[Any] = []
    for row in zip(*columns, strict=True):
        for value in row:
            if isinstance(value, ValueError):
                found.append(value)
                break
        else:
            try:
                found.append(function(*row))
            except ValueError as reason:
                found.append(reason)
    return found


def among(function: Callable[..., Sequence[Any]], found: Sequence[Any]) -> list[Any]:
    """A function of all results at once, of which each is in its place again; errors stay."""
    places = [place for place, result in enumerate(found) if not isinstance(result, ValueError)]
    if len(places) == len(found):
        return list(function(found))
    results = dict(zip(places, function([found[place] for place in places]), strict=True))
    return [results.get(place, result) for place, result in enumerate(found)]


def answer_of(found: Any) -> Any:
    """An answer; raises the error that stands in its place."""
    if isinstance(found, ValueError):
        raise found
    return found
