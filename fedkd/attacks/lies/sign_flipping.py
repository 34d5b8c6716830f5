"""What is likely is called unlikely."""

import torch
from torch import Tensor

from fedkd.attacks.lies.lie import Lie

LEAST = 1e-6  # of a probability: certainty has no opposite


class SignFlipping(Lie):
    """Sign flipping: the opposite of a prediction, softmax(-z) in the place of softmax(z).

    After Liping Li, Wei Xu, Tianyi Chen, Georgios B. Giannakis, Qing Ling. "RSA: Byzantine-Robust
    Stochastic Aggregation Methods for Distributed Learning from Heterogeneous Datasets". AAAI 2019.
    https://arxiv.org/abs/1811.03761, who flip gradients.

        q_c <- (1 / q_c) / sum_d (1 / q_d)

    Convention: probabilities count as 1e-6 at the least.
    """

    def predictions(self, own: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
        """Each its own opposite."""
        return own.clamp(min=LEAST).log().neg().softmax(dim=-1)
