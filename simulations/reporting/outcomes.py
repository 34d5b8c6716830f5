"""What came out of runs, in sentences: paired by seed, and no surer than the seeds are many."""

from collections.abc import Iterable, Mapping, Sequence

from simulations.results.columns import PRIMARY as METRICS
from simulations.results.columns import SHARES, Column, figure, is_lower
from simulations.results.run_results import Result
from simulations.results.tables import FEW, Quantity, Table
from simulations.survey.claims import About, BySeed, Finding, findings, verdict

LONG = 4  # methods, at the most, that have a sentence each
SOME = 5  # seeds, from which on nothing is said of how few they are
POINTS = "+.1f"  # how differences of shares are written, in percentage points
NAMED = 12  # methods, at the most, that a list names
THOSE = {"local": "local", "baseline": "the same student without a teacher"}
PRIMARY = (*METRICS, "r2", "auc")  # what a comparison is about


def of_section(one: Table, results: Sequence[Result]) -> str:
    """What the methods of a table have to show against what they are compared with."""
    column = next((c for c in one.columns if c.metric in PRIMARY and c.minus), None)
    found = _cells(one, column) if column else {}
    alone = {result.label for result in results if _is_alone(result)}
    found = {label: cell for label, cell in found.items() if label not in alone}
    sentences = _best(one) if column is None or not found else _against(found, column)
    return " ".join([*sentences, *_diverged(results)])


def of_recipe(said: About, by_seed: BySeed) -> str:
    """The verdict on a recipe, and what its first claim has measured."""
    word = f"{said.term[:1].upper()}{said.term[1:]}: {verdict(said, by_seed)}."
    first = findings(said.claims, by_seed)[:1]
    return " ".join([word, *(claimed(found) for found in first)])


def claimed(found: Finding) -> str:
    """What a claim has measured, and whether it holds."""
    claim, mean = found.claim, found.mean
    arm, other = (name.replace("_", " ") for name in (claim.metric, claim.other))
    if mean is None:
        return f"{arm} was not measured, so the claim ({claim.text}) is open."
    share = claim.sign == "-" and claim.metric.startswith(SHARES)
    if share:
        effect = f"{arm} is {_points(mean)} {other}"
    elif claim.sign == "-":
        effect = f"{arm} minus {other} is {_signed(mean.mean, '+.3g')}"
    else:
        times = f" times {other}" if other else ""
        effect = f"{arm} is {_signed(mean.mean, '.3g')}{times}"
    form = POINTS if share else "+.3g" if claim.sign == "-" else ".3g"
    wins = f", in the claimed direction in {found.wins} of {mean.n}" if claim.sign else ""
    end = "holds" if found.holds else "does not hold"
    interval = _interval(mean, form)
    return f"{effect} {_over(mean)}{interval}{wins}; the claim ({claim.text}) {end}."


def compared(label: str, cell: Quantity, to: str, form: str = POINTS) -> str:
    """How a method stands to another, from the differences of their seeds.

    Differences are written in `form`: of shares in points, of others in their own units.
    """
    unit = " points" if form == POINTS else ""
    if not any(cell.values):
        return f"{label} equals {to} {_over(cell)}."
    gap = _gap(cell, form)
    if cell.n == 1:
        return f"{label} is {gap} {to} with one seed, which says nothing about chance."
    if cell.n < FEW:
        gaps = " and ".join(_signed(value, form) for value in cell.values)
        return f"{label} against {to}: {gaps}{unit}, too few seeds for an interval."
    if _sign(cell):
        return f"{label} is {gap} {to} {_over(cell)}{_interval(cell, form)}."
    return (
        f"Whether {label} differs from {to} is open: {_signed(cell.mean, form)}{unit} "
        f"{_over(cell)}, and the 95% interval, {_ends(cell, form)}, includes no difference."
    )


def _against(found: Mapping[str, Quantity], column: Column) -> Iterable[str]:
    """Sentences, or lists where those would be many."""
    to, form = THOSE[column.minus], POINTS if column.unit == "share" else "+.3g"
    lower = is_lower(column.metric)
    if form != POINTS:
        yield f"Differences are in {column.metric}{', of which less is better' * lower}."
    found = dict(sorted(found.items(), key=lambda item: item[1].mean if lower else -item[1].mean))
    if len(found) <= LONG:
        yield from (compared(label, cell, to, form) for label, cell in found.items())
    else:
        yield from _lists(found, to, form)
    if any(FEW <= cell.n < SOME for cell in found.values()):
        yield "With so few seeds, an interval leans on differences being normally distributed."


def _lists(found: Mapping[str, Quantity], to: str, form: str) -> Iterable[str]:
    groups: dict[str, dict[str, Quantity]] = {}
    for label, cell in found.items():
        groups.setdefault(_place(cell), {})[label] = cell
    counts = sorted({cell.n for cell in found.values()})
    many = f"{counts[-1]} seed{'s' * (counts[-1] > 1)}"
    each = f"{many} each" if len(counts) == 1 else f"{counts[0]} to {many} each"
    points = " in points" if form == POINTS else ""
    yield f"Against {to}: {len(found)} comparisons{points}, paired by seed, {each}."
    for place, start in PLACES.items():
        if own := groups.get(place):
            yield f"{start} ({len(own)}): {_listed(own, form)}."
    if any(cell.n >= FEW for cell in found.values()):
        yield "Even where nothing differs, about one interval in twenty excludes it by chance."


PLACES = {  # how a list starts, in the order of a report
    "above": "Above it, with 95% intervals that exclude no difference",
    "open": "Open, as the interval includes no difference",
    "below": "Below it, with intervals that exclude no difference",
    "few": "Too few seeds for an interval",
}


def _place(cell: Quantity) -> str:
    if cell.n < FEW:
        return "few"
    return {1: "above", 0: "open", -1: "below"}[_sign(cell)]


def _listed(own: Mapping[str, Quantity], form: str) -> str:
    found = [f"{label} {_shown(cell, form)}" for label, cell in own.items()]
    more = [f"and {len(found) - NAMED} more, in the table"] if found[NAMED:] else []
    return "; ".join([*found[:NAMED], *more])


def _shown(cell: Quantity, form: str) -> str:
    if cell.n < FEW:
        return " and ".join(_signed(value, form) for value in cell.values)
    return f"{_signed(cell.mean, form)} ({_ends(cell, form)})"


def _best(one: Table) -> Iterable[str]:
    """The best mean, where there is nothing to compare with."""
    column = next((c for c in one.columns if c.metric in PRIMARY and not c.minus), None)
    found = _cells(one, column) if column else {}
    lower = column is not None and is_lower(column.metric)
    ordered = sorted(found.items(), key=lambda item: item[1].mean if lower else -item[1].mean)
    if column is None or not ordered:
        return
    (label, best), *rest = ordered
    what, share = column.title.removesuffix(" (%)"), column.unit == "share"
    end = f", the {'lowest' if lower else 'highest'} mean" if rest else ""
    yield f"{what}: {label} has {_value(best, share)}{end}."
    if rest:
        yield f"Next is {rest[0][0]} with {_value(rest[0][1], share)}."
    if one.kind == "fed" and not any(label.split()[0] == "local" for label in one.rows):
        yield "No run trains alone in the same federation, so there is no gain to state."


def _diverged(results: Sequence[Result]) -> Iterable[str]:
    found: dict[str, list[int]] = {}
    for result in results:
        if result.diverged:
            found.setdefault(result.label, []).append(result.seed)
    for label, seeds in found.items():
        of = sum(result.label == label for result in results)
        yield (
            f"{label} diverged in {len(seeds)} of {of} runs (seed {', '.join(map(str, seeds))}): "
            "all means here count what those have recorded."
        )


def _cells(one: Table, column: Column) -> dict[str, Quantity]:
    place = one.columns.index(column)
    found = {label: cells[place] for label, cells in one.rows.items()}
    return {label: cell for label, cell in found.items() if cell is not None}


def _is_alone(result: Result) -> bool:
    """Whether nobody teaches: then the student without a teacher is the student itself."""
    same = all(
        result.metrics.get(name) == result.metrics.get(f"{name}_baseline") for name in PRIMARY
    )
    taught = any(name.startswith(f"{p}_teacher") for p in PRIMARY for name in result.metrics)
    return result.kind == "graph" and same and not taught


def _sign(cell: Quantity) -> int:
    """1 or -1 where the interval is on one side of 0, else 0."""
    if cell.low is None or cell.high is None or cell.low <= 0 <= cell.high:
        return 0
    return 1 if cell.low > 0 else -1


def _points(cell: Quantity) -> str:
    size = f"{abs(100 * cell.mean):.1f}"
    return f"{size} point{'' if size == '1.0' else 's'} {'above' if cell.mean > 0 else 'below'}"


def _gap(cell: Quantity, form: str) -> str:
    if form == POINTS:
        return _points(cell)
    return f"{figure(abs(cell.mean), '.3g')} {'above' if cell.mean > 0 else 'below'}"


def _value(cell: Quantity, share: bool) -> str:
    return f"{f'{100 * cell.mean:.1f} %' if share else figure(cell.mean, '.4g')} {_over(cell)}"


def _over(cell: Quantity) -> str:
    return "with one seed" if cell.n == 1 else f"over {cell.n} seeds"


def _interval(cell: Quantity, form: str = POINTS) -> str:
    return "" if cell.low is None else f" (95% interval {_ends(cell, form)})"


def _ends(cell: Quantity, form: str = POINTS) -> str:
    return " to ".join(_signed(end, form) for end in (cell.low, cell.high) if end is not None)


def _signed(value: float, form: str = POINTS) -> str:
    return figure(100 * value if form == POINTS else value, form).replace("-", "−")
