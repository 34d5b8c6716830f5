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
        answer = next((value for value in row if isinstance(value, ValueError)), None)
        if answer is None:
            try:
                answer = function(*row)
            except ValueError as reason:
                answer = reason
        found.append(answer)
    return found


def among(function: Callable[..., Sequence[Any]], found: Sequence[Any]) -> list[Any]:
    """A function of all answers at once, of which each is in its place again; errors stay."""
    places = [place for place, answer in enumerate(found) if not isinstance(answer, ValueError)]
    answers = dict(zip(places, function([found[place] for place in places]), strict=True))
    return [answers.get(place, answer) for place, answer in enumerate(found)]


def answer_of(found: Any) -> Any:
    """An answer; raises the error that stands in its place."""
    if isinstance(found, ValueError):
        raise found
    return found
