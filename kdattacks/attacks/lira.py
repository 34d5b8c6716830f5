"""Membership by a likelihood ratio, LiRA: online, and offline.

Nicholas Carlini, Steve Chien, Milad Nasr, Shuang Song, Andreas Terzis, Florian Tramer. "Membership
Inference Attacks From First Principles". IEEE S&P 2022. https://arxiv.org/abs/2112.03570
"""

import torch
from torch import Tensor

from kdattacks.core import Knowledge, Recorded, Scores
from kdcore.training.batches import Examples

FEWEST = 4  # two that have seen an example and two that have not
NARROWEST = 1e-9  # a standard deviation of zero would be certainty


def online(recorded: Recorded, knowledge: Knowledge, generator: torch.Generator) -> Scores:
    """How much likelier an answer is from a model that has seen the example than from another.

        phi = log p_y / (1 - p_y),    log N(phi; mu_in, s_in) - log N(phi; mu_out, s_out)

    Needs answers, and an even number of shadow models from 4 on. Shapes: (T, N).
    Convention: the means are each example's own, the two variances common to all examples (the
    paper's choice for few shadow models).
    """
    knowledge.enough(FEWEST)
    target, shadows = _confidences(recorded, knowledge)
    return Scores(likelihood_ratio(target, shadows, knowledge.shadows.member))


def offline(recorded: Recorded, knowledge: Knowledge, generator: torch.Generator) -> Scores:
    """How far an answer lies above those of shadow models that have not seen the example.

        (phi - mu_out) / s_out

    Which is in the order of the paper's 1 - P(Z > phi). No shadow model has to be trained on what
    is asked about. Needs what `online` needs. Shapes: (T, N).
    """
    knowledge.enough(FEWEST)
    target, shadows = _confidences(recorded, knowledge)
    return Scores(deviation(target, shadows, knowledge.shadows.member))


def confidence(logits: Tensor, y: Tensor) -> Tensor:
    """The log-odds of the right label, phi, (..., N, C) and (N,) -> (..., N), in float64.

    As the difference of a logit from the others' log-sum-exp, in which nothing cancels where p_y is
    near 1. It is nearly normal over models, which p_y and the loss are not.
    """
    logits = logits.double()
    own = torch.zeros_like(logits, dtype=torch.bool)
    own.scatter_(-1, y.expand(logits.shape[:-1]).unsqueeze(-1), True)
    others: Tensor = logits.masked_fill(own, -torch.inf).logsumexp(-1)
    right: Tensor = logits.gather(-1, y.expand(logits.shape[:-1]).unsqueeze(-1)).squeeze(-1)
    return right - others


def likelihood_ratio(target: Tensor, shadows: Tensor, member: Tensor) -> Tensor:
    """The log of the ratio of the two normal densities. (T, N), (S, N), (S, N) bool -> (T, N)."""
    inside, outside = _normal(shadows, member), _normal(shadows, ~member)
    ratio: Tensor = inside.log_prob(target) - outside.log_prob(target)
    return ratio


def deviation(target: Tensor, shadows: Tensor, member: Tensor) -> Tensor:
    """Standard deviations above the mean of those outside. (T, N), (S, N), (S, N) -> (T, N)."""
    outside = _normal(shadows, ~member)
    far: Tensor = (target - outside.mean) / outside.stddev
    return far


def _normal(values: Tensor, chosen: Tensor) -> torch.distributions.Normal:
    """The mean of each example (N,) over the shadows that are chosen, and one deviation for all."""
    weight = chosen.double()
    mean = (values * weight).sum(0) / weight.sum(0).clamp(min=1)
    variance = ((values - mean) ** 2 * weight).sum() / weight.sum().clamp(min=1)
    return torch.distributions.Normal(mean, variance.sqrt().clamp(min=NARROWEST))


def _confidences(recorded: Recorded, knowledge: Knowledge) -> tuple[Tensor, Tensor]:
    """The log-odds of the targets (T, N) and of the shadow models (S, N)."""
    candidates: Examples = knowledge.known("candidates")
    y, count = candidates.y[candidates.rows], len(candidates)
    target = confidence(recorded.asked()[:, :count], y)
    return target, confidence(knowledge.shadows.predictions[:, :count], y)
