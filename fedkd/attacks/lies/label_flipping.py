"""Clients who train on wrong labels."""

from torch import Tensor

from fedkd.attacks.lies.lie import Lie


class LabelFlipping(Lie):
    """Label flipping: trained on labels of which each is another, and honest ever after.

    Vale Tolpegin, Stacey Truex, Mehmet Emre Gursoy, Ling Liu. "Data Poisoning Attacks Against
    Federated Learning Systems". ESORICS 2020. https://arxiv.org/abs/2007.08432

        y <- y + 1 modulo C

    Convention: all labels of a liar are flipped, each to the next, where the paper flips one class
    to one other. What is uploaded is a real model's predictions, as sure as any.
    """

    about = "labels"

    def labels(self, y: Tensor, classes: int) -> Tensor:
        """The next class."""
        return (y + 1) % classes
