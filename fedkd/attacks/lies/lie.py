"""What a lie is."""

from typing import ClassVar

import torch
from torch import Tensor


class Lie:
    """What clients do who want a consensus to be wrong: train on other labels, or say other things.

    Attributes:
        about: "labels", of the examples that they train on, or the "predictions" that they send.
    """

    about: ClassVar[str] = "predictions"

    def labels(self, y: Tensor, classes: int) -> Tensor:
        """(N,) labels of C classes -> those that they train on."""
        return y

    def predictions(self, own: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
        """(L, *P, C), what the L liars would say, and (H, *P, C), what all others do -> their lies.

        All are distributions along their last axis. `others` may be none, H = 0. The stream is the
        same in each round.
        """
        return own


def certain(classes: Tensor, like: Tensor) -> Tensor:
    """(*P) classes -> (*P, C), all of the probability on one, in the type of `like` (..., C)."""
    return torch.nn.functional.one_hot(classes, like.shape[-1]).to(like)


def consensus(own: Tensor, others: Tensor) -> Tensor:
    """(*P, C), the mean of what is honestly predicted: by all others, or where these are none."""
    return (others if len(others) else own).mean(dim=0)
