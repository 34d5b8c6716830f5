"""The likeliest class is the one that others hold for the least likely."""

import torch
from torch import Tensor

from fedkd.attacks.lies.lie import Lie, certain, consensus


class WeakestClass(Lie):
    """The loss maximization attack: all of the probability on the class that is the least likely.

    Christophe Roux, Max Zimmer, Sebastian Pokutta. "On the Byzantine-Resilience of
    Distillation-Based Federated Learning". ICLR 2025. https://arxiv.org/abs/2402.12265

        argmin_c mean_h q_hc, over the honest clients h

    Convention: liars know what the honest ones of the round send, as in the paper, which is more
    than a client can know; all say the same.
    """

    def predictions(self, own: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
        """The same of all."""
        return certain(consensus(own, others).argmin(dim=-1), own).expand_as(own)
