"""Predictions that are of nothing."""

import torch
from torch import Tensor

from fedkd.attacks.lies.lie import Lie


class Noise(Lie):
    """Random predictions: for each example a distribution drawn evenly from all there are.

    After the random attack of Peva Blanchard, El Mahdi El Mhamdi, Rachid Guerraoui, Julien Stainer.
    "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent". NeurIPS 2017.
    https://papers.nips.cc/paper/6617, who send random gradients.

    Convention: Dirichlet(1, ..., 1), of each liar another; the same in every round.
    """

    def predictions(self, own: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
        """Each its own noise."""
        draws = torch.empty(own.shape, dtype=torch.float64).exponential_(generator=generator)
        return (draws / draws.sum(dim=-1, keepdim=True)).to(own)
