"""Whether two nodes are linked: a network on a graph says much the same of both.

Xinlei He, Jinyuan Jia, Michael Backes, Neil Zhenqiang Gong, Yang Zhang. "Stealing Links from Graph
Neural Networks". USENIX Security 2021. https://arxiv.org/abs/2005.02131
"""

import torch
from torch import Tensor

from kdattacks import scoring
from kdattacks.core import Knowledge, Recorded, Scores
from kdattacks.predictions import model_of

FEATURES = "features"  # the target that is no model: the inputs themselves


def correlation(recorded: Recorded, knowledge: Knowledge, generator: torch.Generator) -> Scores:
    """The correlation of the two nodes' posteriors, (T, M): the paper's Attack-0.

    Needs answers about all nodes, and pairs of nodes. Two controls belong beside it: pairs of one
    label, among which homophily tells nothing, and the raw features, which need no model.
    """
    found = []
    for target in recorded.targets:
        posterior = recorded.predictions[target].double()
        found.append(posterior if target == FEATURES else posterior.softmax(-1))
    return _likeness(found, knowledge)


def sent(recorded: Recorded, knowledge: Knowledge, generator: torch.Generator) -> Scores:
    """The same of a model that the server makes of an upload, and asks about each node by itself.

    The server knows features of nodes and no link: of parameters it has the model with these, of
    predictions for public nodes one that is distilled from them, as in `public`. Needs features
    and pairs. What the features alone tell belongs beside it. Shapes: (T, M).

    Raises:
        ValueError: no model can be made of what was sent.
    """
    features, config = knowledge.known("features"), knowledge.known("shadowing")
    model = config.task.models[config.group]
    models = [model.module(model_of(recorded, target, knowledge)) for target in recorded.targets]
    with torch.no_grad():
        return _likeness([one(features).double().softmax(-1) for one in models], knowledge)


def _likeness(said: list[Tensor], knowledge: Knowledge) -> Scores:
    """The correlation of what is said of the two nodes of each pair, by each target (N, C)."""
    first, second = knowledge.known("pairs")
    found = [scoring.correlation(one[first], one[second]) for one in said]
    return Scores(torch.stack(found), "links")
