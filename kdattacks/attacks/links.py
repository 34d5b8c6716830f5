"""Whether two nodes are linked: a network on a graph says much the same of both.

Xinlei He, Jinyuan Jia, Michael Backes, Neil Zhenqiang Gong, Yang Zhang. "Stealing Links from Graph
Neural Networks". USENIX Security 2021. https://arxiv.org/abs/2005.02131
"""

import torch

from kdattacks import scoring
from kdattacks.core import Knowledge, Recorded, Scores

FEATURES = "features"  # the target that is no model: the inputs themselves


def correlation(recorded: Recorded, knowledge: Knowledge, generator: torch.Generator) -> Scores:
    """The correlation of the two nodes' posteriors, (T, M): the paper's Attack-0.

    Needs answers about all nodes, and pairs of nodes. Two controls belong beside it: pairs of one
    label, among which homophily tells nothing, and the raw features, which need no model.
    """
    first, second = knowledge.known("pairs")
    found = []
    for target in recorded.targets:
        posterior = recorded.predictions[target].double()
        if target != FEATURES:
            posterior = posterior.softmax(-1)
        found.append(scoring.correlation(posterior[first], posterior[second]))
    return Scores(torch.stack(found), "links")
