"""What an experiment claims, in a line that a person can read, and whether its runs bear it out.

    [about]
    group = "objectives"                # as the surveys group it
    term = "knowledge compression"
    what = "..."                        # what it is, in a sentence
    loss = "kdcore.losses.response.kl"
    claims = ["accuracy - accuracy_baseline >= 0.03 in 0.9"]
    controls = ["accuracy - accuracy_labels > 0"]
    why = "..."                         # of the verdict, where it needs words
    searched = ["..."]                  # comparisons with settings that were searched for each arm

The first claim is the effect. `>=` and `<=` are of the mean over seeds, `>` and `<` of its whole
95% interval: beyond doubt, for which it takes three seeds. `in 0.9`: that share of the seeds, each
of them, has the effect in the claimed direction. Differences and ratios are paired by seed. A
control that is not passed says that the effect is there and is not owed to what the term promises.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from simulations.config.schema import Form, Leaf
from simulations.results.tables import Quantity, summary

Verdict = Literal[
    "works",
    "less than claimed",
    "no gain here",
    "worse",
    "misleading",
    "too few seeds",
    "not run",
]
BySeed = Mapping[int, Mapping[str, float]]

_NAME = r"[a-z][a-z0-9_]*"
_CLAIM = re.compile(
    rf"(?P<metric>{_NAME})(?: (?P<sign>[-/]) (?P<other>{_NAME}))?"
    r" (?P<order>>=|<=|>|<) (?P<bound>-?[0-9.]+)(?: in (?P<share>[01]?\.?[0-9]+))?"
)


class Claim(NamedTuple):
    """`metric - other >= bound in share`, see the module.

    Attributes:
        metric, sign, other: what is measured: a number, a difference (-) or a ratio (/).
        order: "more" or "less".
        strict: whether the whole interval is meant.
        bound: of the mean, or of the interval.
        share: of the seeds that have to differ in that direction at all; 0 for any.
        text: as it was written.
    """

    metric: str
    sign: str
    other: str
    order: Literal["more", "less"]
    strict: bool
    bound: float
    share: float
    text: str

    @property
    def neutral(self) -> float:
        """The value of no effect: 0 of a difference, 1 of a ratio, and of a number its bound."""
        return {"-": 0.0, "/": 1.0}.get(self.sign, self.bound)

    def values(self, runs: BySeed) -> list[float]:
        """One value a seed, of the seeds that have it."""
        found = []
        for _, metrics in sorted(runs.items()):
            value, other = metrics.get(self.metric), metrics.get(self.other)
            if value is None or (self.other and other is None):
                continue
            if self.sign == "/" and not other:  # nothing is a share of nothing
                continue
            minus = other or 0.0
            found.append(value / minus if self.sign == "/" else value - minus)
        return found

    def better(self, value: float, bound: float) -> bool:
        """Whether a value is on the claimed side of a bound, or on it."""
        return value >= bound if self.order == "more" else value <= bound

    def met(self, mean: Quantity) -> bool:
        """Whether the mean is beyond the bound, or the worse end of its interval, if there is."""
        if not self.strict:
            return self.better(mean.mean, self.bound)
        end = mean.low if self.order == "more" else mean.high
        return end is not None and end != self.bound and self.better(end, self.bound)

    def wins(self, values: Sequence[float]) -> int:
        """The seeds in which there is an effect in the claimed direction, however small."""
        return sum(self.better(value, self.neutral) and value != self.neutral for value in values)


@dataclass(frozen=True)
class About:
    """What an experiment is about; see the module.

    Attributes:
        group, term: as the surveys have it.
        what: in a sentence.
        loss: the functions that matter, by their full names.
        source: author and year.
        claims, controls: see `Claim`.
        why: what the verdict needs besides.
        searched: what came out where each arm had settings of its own, as
            `benchmarks.survey_settings` prints it.
        order: of the page, within the group.
    """

    group: str = ""
    term: str = ""
    what: str = ""
    loss: str = ""
    source: str = ""
    claims: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    why: str = ""
    searched: tuple[str, ...] = ()
    order: int = 0


class Finding(NamedTuple):
    """What came out for a claim: mean over seeds with its interval, wins, whether it holds."""

    claim: Claim
    mean: Quantity | None
    wins: int
    holds: bool


def about(document: Mapping[str, Any], source: str) -> About:
    """The table [about] of an experiment file.

    Raises:
        ValueError: an unknown key, a value of the wrong type, or a claim that cannot be read.
    """
    given = document.get("about", {})
    hints = About.__annotations__
    for key in given:
        if key not in hints:
            raise ValueError(f"{source}: unknown key {key!r} in [about]; there are {list(hints)}")
    form = Form({key: Leaf(hint, None) for key, hint in hints.items()})
    found = About(**form.checked(given))
    for text in (*found.claims, *found.controls):
        read(text)
    return found


def read(text: str) -> Claim:
    """A claim as it is written.

    Raises:
        ValueError: it is none.
    """
    found = _CLAIM.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text!r} is no claim; write METRIC >= NUMBER, with - or / and another metric before "
            "the sign, and `in SHARE` of the seeds after it: 'accuracy - accuracy_baseline >= 0.03'"
        )
    part = found.groupdict(default="")
    order: Literal["more", "less"] = "more" if part["order"].startswith(">") else "less"
    return Claim(
        part["metric"], part["sign"], part["other"], order, "=" not in part["order"],
        float(part["bound"]), float(part["share"] or 0), text,
    )  # fmt: skip


def findings(texts: Sequence[str], runs: BySeed) -> list[Finding]:
    """What came out for each claim."""
    found = []
    for claim in map(read, texts):
        values = claim.values(runs)
        mean, wins = summary(values), claim.wins(values)
        holds = mean is not None and wins >= claim.share * len(values) and claim.met(mean)
        found.append(Finding(claim, mean, wins, holds))
    return found


def verdict(said: About, runs: BySeed) -> Verdict:
    """The honest word for what came out.

    "works": every claim and control holds. "too few seeds": one does not, and there is no interval
    to tell why. "misleading": the claims hold, a control does not. Else of the first claim: "worse"
    or "no gain here" where the interval is beyond, or includes, no effect; "less than claimed"
    where there is one.
    """
    claims, controls = findings(said.claims, runs), findings(said.controls, runs)
    if not claims or claims[0].mean is None:
        return "not run"
    if all(found.holds for found in (*claims, *controls)):
        return "works"
    first, mean = claims[0].claim, claims[0].mean
    low, high = mean.low, mean.high
    if low is None or high is None:
        return "too few seeds"
    if all(found.holds for found in claims):
        return "misleading"
    if first.order == "less":
        low, high = -high, -low
    none = first.neutral if first.order == "more" else -first.neutral
    if high < none:
        return "worse"
    if low <= none:
        return "no gain here"
    return "less than claimed"
