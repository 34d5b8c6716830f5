"""Each class is taken for the one that is the least like it, everywhere."""

import torch
from torch import Tensor

from fedkd.attacks.lies.lie import Lie, certain, consensus


class ClassPrior(Lie):
    """The class prior attack: a class is always called by the name of the one least like it.

    Christophe Roux, Max Zimmer, Sebastian Pokutta. "On the Byzantine-Resilience of
    Distillation-Based Federated Learning". ICLR 2025. https://arxiv.org/abs/2402.12265

        argmin_d S_cd, with c the class that the honest mean holds for the likeliest

    Convention: S is the covariance of the honest mean's probabilities of two classes over the
    round's examples, where the paper takes one that is known beforehand. So an error is the same
    for all examples of a class, and can be learnt. Liars know what the honest ones send.
    """

    def predictions(self, own: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
        """The same of all."""
        mean = consensus(own, others)
        alike = mean.flatten(0, -2).T.cov(correction=0)
        return certain(alike.argmin(dim=1)[mean.argmax(dim=-1)], own).expand_as(own)
