"""Membership from nothing but the predictions for public examples that crossed.

Haonan Shi, Tu Ouyang, An Wang. "Unveiling Client Privacy Leakage from Public Dataset Usage in
Federated Distillation". 2025. https://arxiv.org/abs/2502.08001. Their LiRA over a model that the
server distils from what a client has sent is `proxies`; `nearest` needs no model at all.
"""

import torch
from torch import Tensor

from fedkd.core import Client, Public
from fedkd.messages import Received
from kdattacks.attacks.lira import FEWEST, confidence, likelihood_ratio
from kdattacks.core import Knowledge, Recorded, Scores
from kdcore.losses.response import soft_cross_entropy
from kdcore.outputs import Outputs
from kdcore.rng import generator as stream
from kdcore.training.batches import Batches, Examples, leading, rows
from kdcore.training.loop import Params, Predict, TrainingConfig, draw, fit

DISTILLATION = TrainingConfig("adam", learning_rate=3e-3, epochs=40, batch_size=64)
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
    public, targets, shadows = _said(recorded, knowledge)
    said = torch.cat([targets, shadows])
    known = Examples(public.x, public.rows, torch.arange(len(public.rows)))
    batches = draw(known, DISTILLATION, stream(knowledge.seed, "lesson"))
    start = config.task.models[config.group].init(stream(knowledge.seed, "proxy"))
    clients = [Client(i, config.group, dict(start), candidates) for i in range(len(said))]
    asked = rows(public.x, public.rows)
    inputs = [(batches._replace(x=asked, y=table),) for table in said]
    trained = config.engine(_distilled, config.task, clients, inputs)
    logits = config.ask(trained, candidates)
    phi = confidence(logits, candidates.y[candidates.rows])
    first = len(targets)
    return Scores(likelihood_ratio(phi[:first], phi[first:], knowledge.shadows.member))


def nearest(recorded: Recorded, knowledge: Knowledge, generator: torch.Generator) -> Scores:
    """LiRA on what is said of the candidate's label at the three nearest public examples.

    The logarithm of the mean probability takes the place of phi; near is by Euclidean distance.
    Needs what `proxies` needs. Shapes: (T, N).
    """
    knowledge.enough(FEWEST)
    candidates = knowledge.known("candidates")
    public, targets, shadows = _said(recorded, knowledge)
    mine = leading(rows(candidates.x, candidates.rows)).flatten(1).double()
    theirs = leading(rows(public.x, public.rows)).flatten(1).double()
    count = min(NEIGHBOURS, len(theirs))
    near = torch.cdist(mine, theirs).topk(count, largest=False).indices  # (N, 3)
    y = candidates.y[candidates.rows]

    def level(said: Tensor) -> Tensor:
        mean = said.double()[:, near].mean(2)  # (models, N, C)
        own = mean.gather(-1, y.expand(len(said), -1).unsqueeze(-1)).squeeze(-1)
        return own.clamp(min=SMALLEST).log()

    return Scores(likelihood_ratio(level(targets), level(shadows), knowledge.shadows.member))


def predictions(upload: Received, public: Public | None) -> Tensor:
    """The distributions over labels that an upload has for the public examples of its round.

    Raises:
        ValueError: it has none.
    """
    for key, value in upload.payload.items():
        fits = public is not None and value.ndim == 2 and len(value) == len(public.rows)
        if fits and key == "probabilities":
            return value.clamp(min=0)
        if fits and key == "logits":
            return value.softmax(-1)
    sent = ", ".join(upload.payload) or "nothing"
    raise ValueError(
        f"no predictions of public examples crossed ({sent} did); take an algorithm that exchanges "
        "them, such as fedmd or dsfl, or another attack"
    )


def _said(recorded: Recorded, knowledge: Knowledge) -> tuple[Public, Tensor, Tensor]:
    """The public examples, and what targets (T, P, C) and shadow models (S, P, C) say of them."""
    if not recorded.public:
        raise ValueError("no round was recorded; this attack needs what crossed")
    public = recorded.public[-1]
    targets = torch.stack([predictions(one, public) for one in recorded.uploads()])
    shadows = torch.stack([predictions(one, public) for one in knowledge.shadows.sent])
    assert public is not None
    return public, targets, shadows


def _distilled(predict: Predict, params: Params, batches: Batches) -> Params:
    return fit(predict, params, batches, DISTILLATION, _soft)


def _soft(outputs: Outputs, y: Tensor) -> Tensor:
    return soft_cross_entropy(outputs.logits, y)
