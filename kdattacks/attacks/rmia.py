"""Membership by many small likelihood ratios, against examples of a population: RMIA.

Sajjad Zarifzadeh, Philippe Liu, Reza Shokri. "Low-Cost High-Power Membership Inference Attacks".
ICML 2024. https://arxiv.org/abs/2312.03262
"""

import torch
from torch import Tensor

from kdattacks.core import Knowledge, Recorded, Scores

FEWEST = 2
GAMMA = 1.0
OFFSET = 0.33  # `a` of the paper: how far a model is from what one that has seen an example says


def relative(recorded: Recorded, knowledge: Knowledge, generator: torch.Generator) -> Scores:
    """The share of the population that an example beats.

        P_z[ (p_x / E p_x) / (p_z / E p_z) >= gamma ],    gamma = 1

    p is the target's probability of the right label, E p that of the shadow models: over all of
    them for a candidate, half of which have seen it; for the population, which none has seen, by
    the paper's ((1 + a) E p + 1 - a) / 2. Needs answers, a population and shadow models. Shapes:
    (T, N).

    The trap: the share has as many values as the population is large, plus one, and many members
    have the largest. Where the population is small the low end of the ROC curve is lost, though
    the area looks fine. Ties are broken by the candidate's own ratio, which the paper has not.
    """
    knowledge.enough(FEWEST)
    asked, population = knowledge.asked, knowledge.known("population")
    count = len(asked) - len(population)
    y = asked.y[asked.rows]
    own, shadows = right(recorded.asked(), y), right(knowledge.shadows.predictions, y).mean(0)
    unseen = ((1 + OFFSET) * shadows[count:] + 1 - OFFSET) / 2
    ratios = own / torch.cat([shadows[:count], unseen]).clamp(min=1e-12)
    return Scores(torch.stack([beaten(one[:count], one[count:]) for one in ratios]))


def right(logits: Tensor, y: Tensor) -> Tensor:
    """The probability of the right label, (..., N, C) and (N,) -> (..., N), in float64."""
    p = logits.double().softmax(-1)
    return p.gather(-1, y.expand(p.shape[:-1]).unsqueeze(-1)).squeeze(-1)


def beaten(x: Tensor, z: Tensor) -> Tensor:
    """The share of z (Z,) that is no larger than each x / gamma (N,), and in ties the larger x."""
    share = torch.searchsorted(z.sort().values, x / GAMMA, right=True).double() / len(z)
    return share + x / (x.max().clamp(min=1e-12) * 2 * len(z))
