"""What to say when there is nothing of a name."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for an unknown name: what was asked for, what there is, what was likely meant."""
    known = sorted(known)
    close = get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return ValueError(f"unknown {kind} {name!r}; choose one of {', '.join(known)}{hint}")
