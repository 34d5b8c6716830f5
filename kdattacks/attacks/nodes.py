"""Whether the label of a node was trained on: networks on graphs remember nodes too.

Iyiola E. Olatunji, Wolfgang Nejdl, Megha Khosla. "Membership Inference Attack on Graph Neural
Networks". IEEE TPS 2021. https://arxiv.org/abs/2101.06570
"""

import torch

from kdattacks.attacks.yeom import threshold
from kdattacks.core import Knowledge, Recorded, Scores


def confidence(recorded: Recorded, knowledge: Knowledge, generator: torch.Generator) -> Scores:
    """The log-probability of its label for each candidate node, (T, N), as in `yeom`.

    Candidates are asked about on the whole graph, the setting TSTF of the paper. It is the paper's
    signal, the posterior, without the shadow network by which it sets a threshold: an ROC curve has
    all thresholds. A student that is taught on unlabelled nodes too has seen those, but not their
    labels.
    """
    return threshold(recorded, knowledge, generator)
