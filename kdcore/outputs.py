"""What a network shows of itself."""

from typing import NamedTuple

from torch import Tensor


class Outputs(NamedTuple):
    """The logits of a network and the hidden activations that it is willing to show.

    Shapes:
        logits: (N, C), before the softmax.
        hidden: a tuple of (N, D_l), one entry per hidden layer l, in order; may be empty.
    """

    logits: Tensor
    hidden: tuple[Tensor, ...] = ()
