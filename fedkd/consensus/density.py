"""Who holds examples like this one counts more for it: by the density of its own examples there."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedkd.consensus.rule import LEAST, NEARNESS, ROW_WEIGHTS, Rule


class Density(Rule):
    r"""The mean in which a row weighs as much as the client's own examples are dense around it.

    The distribution weighted combination of: Yishay Mansour, Mehryar Mohri, Afshin Rostamizadeh.
    "Domain Adaptation with Multiple Sources". NeurIPS 2008.
    https://papers.nips.cc/paper/3550-domain-adaptation-with-multiple-sources

        \sum_k D_k(x_p) q_kp / \sum_k D_k(x_p)

    which is right wherever each client is right on its own distribution D_k, while the mean is not.
    A client finds its weight itself, and sends it beside its predictions. How is ours: by kernels
    around its own labelled examples x_i, relative to kernels around the other public ones,

        D_k(x) = mean_i e^{20 (cos(x, x_i) - 1)},   U(x) = mean_p e^{20 (cos(x, x_p) - 1)}
        v_kp = \rho / (\rho + 10),   \rho = D_k(x_p) / U(x_p)

    U is the same for all clients, and cancels out but for the bound: v is in proportion to D as
    long as a client is not ten times as dense there as public examples are, and 0.001 at the least.
    Inputs are compared with the mean of public ones taken off; nodes of a graph by
    `Network.embedding`.

    Convention: of any target. Selecting examples by such a ratio, on the client, is the first half
    of Selective-FD (https://arxiv.org/abs/2304.01731), which leaves out where this weighs. Nobody
    checks what a client says of itself. Both constants were chosen on two seeds that no result is
    of (100 and 101; Cora and digits).
    """

    placed = True
    concentration: ClassVar[float] = 20.0
    reference: ClassVar[float] = 10.0

    def summand(self, payload: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predictions times what the client counts for, and that."""
        ((key, q),) = ((key, value.double()) for key, value in payload.items() if key != NEARNESS)
        near = payload[NEARNESS].double().clamp(LEAST, 1)  # the border lets a hundredth less pass
        weights = near.reshape(-1, *[1] * (q.ndim - 2)).expand(q.shape[:-1])
        return {key: weights.unsqueeze(-1) * q, ROW_WEIGHTS: weights}

    def nearness(self, own: Tensor, mask: Tensor, public: Tensor) -> Tensor:
        """v, (P,), of own examples (M, D), of which those are that the mask says, and public ones.

        A single public example has none beside it to be compared with, and weighs alike for all.
        """
        if len(public) == 1:
            return public.new_ones(1)
        centre = public.mean(dim=0)
        own, public = normalize(own - centre, dim=-1), normalize(public - centre, dim=-1)
        known = mask.to(public)
        around = self._kernel(public @ own.T) @ known / known.sum().clamp(min=1)
        alike = self._kernel(public @ public.T)
        usual = (alike.sum(dim=1) - alike.diagonal()) / (len(public) - 1)
        weights: Tensor = around / (around + self.reference * usual)
        return weights.clamp(min=LEAST)

    def _kernel(self, cosines: Tensor) -> Tensor:
        return torch.exp(self.concentration * (cosines - 1))


class DensityERA(Density):
    """The mean weighted by density, sharpened as in DS-FL.

    `Density`, then the softmax of `EntropyReduction`, of two papers; the combination is ours.
    https://papers.nips.cc/paper/3550-domain-adaptation-with-multiple-sources
    """

    sharpened = True
