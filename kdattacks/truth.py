"""What is true, to compare with what an attacker says: no attack is given any of this.

Each kind of truth turns scores into decisions (`kdattacks.scoring`), of which there are ROC curves,
and says what else can be measured of them.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from kdattacks.core import Scores
from kdattacks.scoring import Decisions, correlation, decisions

Measures = dict[str, float]
FEWEST = 5  # records of a client whose distribution of labels is spoken of
LEAST = 1e-3  # of an estimated share: a KL divergence from a share of zero would be infinite


class Truth(Protocol):
    """What is true of the targets."""

    def decisions(self, scores: Scores, generator: torch.Generator) -> Decisions:
        """Scores beside what is so."""

    def measures(self, scores: Scores) -> Measures:
        """What else there is to say, beside the ROC curve."""


class Facts(NamedTuple):
    """Things that are so, or not: members, links, a property.

    Shapes:
        so: bool, as the scores.
    """

    so: Tensor

    def decisions(self, scores: Scores, generator: torch.Generator) -> Decisions:
        """A decision for each."""
        return decisions(scores.values, self.so, generator)

    def measures(self, scores: Scores) -> Measures:
        """Nothing else."""
        return {}


class LabelCounts(NamedTuple):
    """How many records of each label each target holds, against estimated shares.

    A decision is whether a target holds a label at all. Beside that, the KL divergence of the true
    shares from the estimated ones, in nats, that from even shares and that from the true shares of
    another target (the control), and how often the largest estimate is the largest label's; over
    targets with five records or more.

    Shapes:
        counts: (T, C).
    """

    counts: Tensor

    def decisions(self, scores: Scores, generator: torch.Generator) -> Decisions:
        """Whether a target holds a label."""
        return decisions(scores.values, self.counts > 0, generator)

    def measures(self, scores: Scores) -> Measures:
        """Divergences and majorities."""
        known = self.counts.sum(1) >= FEWEST
        if not known.any():
            return {}
        true, said = self.counts[known].double(), scores.values[known].double()
        true = true / true.sum(1, keepdim=True)
        said = said.clamp(min=LEAST)
        said = said / said.sum(1, keepdim=True)
        even = torch.full_like(said, 1 / said.shape[1])
        measured = {
            "kl": _divergence(true, said),
            "kl_uniform": _divergence(true, even),
            "majority": float((said.argmax(1) == true.argmax(1)).double().mean()),
            "majority_chance": 1 / said.shape[1],
        }
        if len(true) > 1:
            measured["kl_control"] = _divergence(true.roll(1, 0), said)
        return measured


class RecordCounts(NamedTuple):
    """How many records each target holds.

    A decision is which of two targets has more. Beside that, how often a count is exact.

    Shapes:
        counts: (T,).
    """

    counts: Tensor

    def decisions(self, scores: Scores, generator: torch.Generator) -> Decisions:
        """Of each two targets with unlike counts, one way around: whether the first has more."""
        first, second = torch.triu_indices(len(self.counts), len(self.counts), 1)
        swap = torch.arange(len(first)) % 2 == 1
        first, second = torch.where(swap, second, first), torch.where(swap, first, second)
        unlike = self.counts[first] != self.counts[second]
        first, second = first[unlike], second[unlike]
        more = scores.values[first] - scores.values[second]
        return decisions(more, self.counts[first] > self.counts[second], generator)

    def measures(self, scores: Scores) -> Measures:
        """How often a count is exact."""
        same = scores.values.double() == self.counts.double()
        return {"exact": float(same.double().mean())}


class Images(NamedTuple):
    """The mean image of each label at each target, against images that were made of what crossed.

    A decision is whether an image that was made for a label is of that label: it is compared with
    the means of all labels by correlation. Beside that, the correlation with the right mean, that
    of a control image, the mean of what the attacker had to learn from, and how often the right
    mean is the nearest.

    Shapes:
        means: (T, C, D); held: (T, C) bool, the labels that a target holds and the attacker made
        an image of; control: (D,).
    """

    means: Tensor
    held: Tensor
    control: Tensor

    def decisions(self, scores: Scores, generator: torch.Generator) -> Decisions:
        """A made image beside the mean of each label that the target holds."""
        likeness, right = self._compared(scores)
        return decisions(likeness, right, generator)

    def measures(self, scores: Scores) -> Measures:
        """Correlations, and how often the nearest mean is the right one."""
        if not self.held.any():
            return {}
        likeness, right, hits, chance = [], [], [], []
        for made, means, held in self._each(scores):
            table = correlation(made.unsqueeze(1), means.unsqueeze(0))
            likeness.append(table.diagonal())
            right.append(correlation(means, self.control.double()))
            hits.append((table.argmax(1) == torch.arange(len(held))).double())
            chance.append(torch.full((len(held),), 1 / len(held)))
        columns = zip(
            ("correlation", "control_correlation", "nearest", "nearest_chance"),
            (likeness, right, hits, chance),
            strict=True,
        )
        return {name: float(torch.cat(column).mean()) for name, column in columns}

    def _compared(self, scores: Scores) -> tuple[Tensor, Tensor]:
        tables, right = [torch.zeros(0)], [torch.zeros(0, dtype=torch.bool)]
        for made, means, held in self._each(scores):
            tables.append(correlation(made.unsqueeze(1), means.unsqueeze(0)).flatten())
            right.append(torch.eye(len(held), dtype=torch.bool).flatten())
        return torch.cat(tables), torch.cat(right)

    def _each(self, scores: Scores) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of each target, images, means and numbers of the labels that are compared."""
        return [
            (made[held].double(), means[held].double(), held.nonzero().flatten())
            for made, means, held in zip(scores.values, self.means, self.held, strict=True)
            if held.any()
        ]


def _divergence(true: Tensor, said: Tensor) -> float:
    """The mean over rows of KL(true || said), in nats."""
    return float((torch.special.xlogy(true, true) - true * said.log()).sum(1).mean())


TRUTHS: dict[str, Callable[..., Truth]] = {
    "members": Facts,
    "links": Facts,
    "property": Facts,
    "labels": LabelCounts,
    "counts": RecordCounts,
    "images": Images,
}
