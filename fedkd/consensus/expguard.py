"""Clients count for less the longer their predictions are outliers."""

from typing import ClassVar

import torch
from torch import Tensor

from fedkd.consensus.rule import Rule


class ExpGuard(Rule):
    r"""The mean in which clients count for less the longer they are outliers: exponential weights.

    Christophe Roux, Max Zimmer, Sebastian Pokutta. "On the Byzantine-Resilience of
    Distillation-Based Federated Learning". ICLR 2025. https://arxiv.org/abs/2402.12265

        \sum_k w_k q_k / \sum_k w_k
        w_k = exp(-\eta \sum_t 1/P \sum_p |<q_kp - mean_j q_jp, u_p>|)

    over the rounds t so far: how far a client's prediction of an example lies from the mean, along
    the direction u_p in which predictions of that example vary most, as the filter of Cronus has
    it. Nobody is left out at once, nobody has to know how many lie, and who was once an outlier
    counts for less in all later rounds.

    Conventions: as in the authors' code (ZIB-IOL/FedDistill, read, not copied) with the scores of
    its filter, and without the filter; the paper itself was not at hand. There is no default step
    there. The outlier score of a client is the sum over t; it is kept by number, also while the
    client is away.
    """

    each = True
    step: ClassVar[float] = 0.5

    def clients(self, q: Tensor, outlying: Tensor) -> tuple[Tensor, Tensor]:
        """exp(-step x score), the largest of them made 1."""
        after = outlying + _scores(q).to(outlying)
        return (-self.step * (after - after.min())).exp(), after


def _scores(q: Tensor) -> Tensor:
    """(K, *P, C) -> (K,), the mean distance of rows from their mean along its first direction."""
    centred = (q - q.mean(dim=0)).flatten(1, -2).transpose(0, 1)  # (P, K, C)
    first = torch.linalg.eigh(centred.mT @ centred).eigenvectors[..., -1:]  # (P, C, 1)
    along: Tensor = (centred @ first).squeeze(-1)  # (P, K)
    return along.abs().mean(dim=0)
