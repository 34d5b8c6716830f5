"""What tables of results have in common."""

from collections.abc import Sequence
from math import isnan
from statistics import fmean, stdev

from kdcore.statistics import paired_comparison


def points(first: Sequence[float], second: Sequence[float], more: str = "") -> str:
    """How far one row of shares is above another, paired: points, and their 95 % t interval.

    Bold where the interval excludes 0, and without one where there is a single pair; `more` is said
    behind it.
    """
    pairs = ([100 * value for value in values] for values in (first, second))
    found = paired_comparison(*pairs)
    interval = "" if isnan(found.low) else f" ({found.low:+.1f} to {found.high:+.1f})"
    text = f"{found.mean:+.1f}{interval}{more}"
    return f"**{text}**" if found.low > 0 or found.high < 0 else text


def spread(percent: Sequence[float], sign: str = "±") -> str:
    """Mean and sample standard deviation; of one number there is none."""
    deviation = f" {sign} {stdev(percent):.1f}" if len(percent) > 1 else ""
    return f"{fmean(percent):.1f}{deviation}"


def put(text: str, name: str, lines: Sequence[str]) -> str:
    """A page with other lines between the mark `<!-- name -->` and the next `<!-- end -->`."""
    mark, end = f"<!-- {name} -->\n", "<!-- end -->\n"
    before, after = text.split(mark)
    return before + mark + "\n".join(lines) + "\n" + end + after.split(end, 1)[1]
