"""Who is sure of an example counts more for it: by the entropy of its probabilities."""

import math

import torch
from torch import Tensor

from fedkd.consensus.rule import LEAST, Rule


class Entropy(Rule):
    r"""The mean in which a row weighs as much as its entropy is below the largest there is.

    After Kisoo Kwon, Hwidong Na, Hoshik Lee, Nam Soo Kim. "Adaptive Knowledge Distillation Based on
    Entropy". ICASSP 2020. https://doi.org/10.1109/ICASSP40776.2020.9054698

        \sum_k v_kp q_kp / \sum_k v_kp,    v_kp = 1 - H(q_kp) / \ln C

    Convention: the paper's principle in a form that is 0 for a client that says nothing and 1 for
    one that is certain (`kdcore.ensemble.entropy_weighted` takes exp(-H), which is 1/C for the
    former); 0.001 at the least. What noise has made negative counts as 0.
    """

    distributions = True

    def rows(self, q: Tensor) -> Tensor:
        """How far the entropy is below that of a uniform prediction, as a share of it."""
        known = q.clamp(min=0)
        entropy = -torch.special.xlogy(known, known).sum(dim=-1)
        certain: Tensor = 1 - entropy / math.log(q.shape[-1])
        return certain.clamp(min=LEAST)


class EntropyERA(Entropy):
    """The mean weighted by entropy, sharpened as in DS-FL.

    `Entropy`, then the softmax of `EntropyReduction`, of two papers; the combination is ours.
    https://doi.org/10.1109/ICASSP40776.2020.9054698
    """

    sharpened = True
