"""Membership from nothing but the predictions for public examples that crossed.

Haonan Shi, Tu Ouyang, An Wang. "Unveiling Client Privacy Leakage from Public Dataset Usage in
Federated Distillation". 2025. https://arxiv.org/abs/2502.08001. Their LiRA over a model that the
server distils from what a client has sent is `proxies`; `nearest` needs no model at all.
"""

from typing import Any

import torch
from torch import Tensor

from kdattacks.attacks.lira import FEWEST, confidence, likelihood_ratio
from kdattacks.core import Knowledge, Recorded, Scores
from kdattacks.predictions import distilled, newest_predictions
from kdcore.training.batches import rows

NEIGHBOURS = 3
SMALLEST = 1e-12  # a probability, whose logarithm is taken


def proxies(recorded: Recorded, knowledge: Knowledge, generator: torch.Generator) -> Scores:
    """LiRA, asking in place of each model one that was distilled from its public predictions.

    The proxies of targets and shadows begin with the same weights and see the predictions in the
    same order, so that they differ by what was predicted alone. Needs predictions of public
    examples and an even number of shadow models from 4 on. Shapes: (T, N).
    """
    knowledge.enough(FEWEST)
    candidates, config = knowledge.known("candidates"), knowledge.known("shadowing")
    about, targets, shadows = _said(recorded, knowledge)
    trained = distilled(about, torch.cat([targets, shadows]), knowledge)
    logits = config.ask(trained, candidates)
    phi = confidence(logits, candidates.y[candidates.rows])
    first = len(targets)
    return Scores(likelihood_ratio(phi[:first], phi[first:], knowledge.shadows.member))


def nearest(recorded: Recorded, knowledge: Knowledge, generator: torch.Generator) -> Scores:
    """LiRA on what is said of the candidate's label at the three nearest public examples.

    The logarithm of the mean probability takes the place of phi; near is by Euclidean distance of
    inputs as numbers. Needs what `proxies` needs. Shapes: (T, N).
    """
    knowledge.enough(FEWEST)
    candidates = knowledge.known("candidates")
    about, targets, shadows = _said(recorded, knowledge)
    mine, theirs = (knowledge.as_numbers(x) for x in (rows(candidates.x, candidates.rows), about))
    count = min(NEIGHBOURS, len(theirs))
    near = torch.cdist(mine, theirs).topk(count, largest=False).indices  # (N, 3)
    y = candidates.y[candidates.rows]

    def level(said: Tensor) -> Tensor:
        mean = said.double()[:, near].mean(2)  # (models, N, C)
        own = mean.gather(-1, y.expand(len(said), -1).unsqueeze(-1)).squeeze(-1)
        return own.clamp(min=SMALLEST).log()

    return Scores(likelihood_ratio(level(targets), level(shadows), knowledge.shadows.member))


def _said(recorded: Recorded, knowledge: Knowledge) -> tuple[Any, Tensor, Tensor]:
    """Public examples (Q, ...), and what targets (T, Q, C) and shadows (S, Q, C) say of them.

    Those of which all have said something.
    """
    if not recorded.public:
        raise ValueError("no round was recorded; this attack needs what crossed")
    targets = [newest_predictions(recorded.history(target)) for target in recorded.targets]
    shadows, public = knowledge.shadows, knowledge.known("shadowing").public
    sent = zip(*shadows.earlier, shadows.sent, strict=True)
    every = [*targets, *(newest_predictions(list(zip(one, public, strict=True))) for one in sent)]
    counts = torch.cat([one.rows for one in every]).bincount()
    common = (counts == len(every)).nonzero().flatten()
    said = torch.stack([one.said[torch.isin(one.rows, common)] for one in every])
    count = len(targets)
    return rows(every[0].x, common), said[:count], said[count:]
