"""What tables of results have in common."""

from collections.abc import Sequence

from kdcore.statistics import paired_comparison


def points(first: Sequence[float], second: Sequence[float], more: str = "") -> str:
    """How far one row of shares is above another, paired: points, and their 95 % t interval.

    Bold where the interval excludes 0; `more` is said behind it.
    """
    pairs = ([100 * value for value in values] for values in (first, second))
    found = paired_comparison(*pairs)
    text = f"{found.mean:+.1f} ({found.low:+.1f} to {found.high:+.1f}){more}"
    return f"**{text}**" if found.low > 0 or found.high < 0 else text
