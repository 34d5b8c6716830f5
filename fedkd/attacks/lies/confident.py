"""Liars who agree, and are sure of it."""

import torch
from torch import Tensor

from fedkd.attacks.lies.lie import Lie, certain


class Confident(Lie):
    """Colluding and certain: all liars name the class after the one that they hold for right.

    Against rules that weigh rows by confidence, which Yae Jee Cho, Andre Manoel, Gauri Joshi,
    Robert Sim, Dimitrios Dimitriadis. "Heterogeneous Ensemble Knowledge Transfer for Training Large
    Models in Federated Learning". IJCAI 2022. https://arxiv.org/abs/2204.12703 propose.

    Convention: they know each other's predictions alone, so no more than clients can know; all of
    the probability is on that class.
    """

    def predictions(self, own: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
        """The same of all."""
        right = own.mean(dim=0).argmax(dim=-1)
        return certain((right + 1) % own.shape[-1], own).expand_as(own)
