"""What comes of an attack: decisions, and the record that is told of them."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from kdattacks import scoring
from kdattacks.scoring import Decisions
from kdattacks.truth import Measures

Record = dict[str, Any]
# By these outcomes of several runs are told apart; others, such as the seed, are pooled.
SAME = ("attack", "method", "data", "protocol", "target", "pairs", "round")


class Outcome(NamedTuple):
    """What an attack has said, beside the truth.

    Attributes:
        about: the attack, the method, the data, who was attacked.
        decisions: of which there is an ROC curve.
        measures: what else was measured.
    """

    about: Record
    decisions: Decisions
    measures: Measures

    @property
    def record(self) -> Record:
        """As a record: `auc`, `tpr_01`, `tpr_001`, `control_auc` and what else there is."""
        return {
            "record": "audit",
            **self.about,
            **scoring.measures(self.decisions),
            **self.measures,
        }

    @property
    def label(self) -> str:
        """What it is called beside others of the same subject."""
        named = self.about["attack"], self.about.get("target"), self.about["method"]
        return " ".join(str(name) for name in named if name)


def pooled(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those of several runs as one for each attack: decisions together, other measures averaged."""
    groups: dict[tuple[Any, ...], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(tuple(outcome.about.get(key) for key in SAME), []).append(outcome)
    return [_pooled(group) for group in groups.values()]


def _pooled(group: Sequence[Outcome]) -> Outcome:
    if len(group) == 1:
        return group[0]
    about = {key: value for key, value in group[0].about.items() if key in SAME}
    about |= {"seeds": [outcome.about["seed"] for outcome in group]}
    names = dict.fromkeys(name for outcome in group for name in outcome.measures)
    measures = {
        name: fmean(outcome.measures[name] for outcome in group if name in outcome.measures)
        for name in names
    }
    return Outcome(about, Decisions.pooled([o.decisions for o in group]), measures)
