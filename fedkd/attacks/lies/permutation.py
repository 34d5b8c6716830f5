"""Classes exchange their probabilities."""

import torch
from torch import Tensor

from fedkd.attacks.lies.lie import Lie


class Permutation(Lie):
    """Permuted classes: the probability of each class is said of the next, by all liars alike.

    A targeted poisoning as of Vale Tolpegin, Stacey Truex, Mehmet Emre Gursoy, Ling Liu. "Data
    Poisoning Attacks Against Federated Learning Systems". ESORICS 2020.
    https://arxiv.org/abs/2007.08432, of predictions in the place of labels.

    Convention: a row keeps its entropy and its variance, so that nothing in it says that it lies.
    """

    def predictions(self, own: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
        """Each its own, moved by a class."""
        return own.roll(1, dims=-1)
