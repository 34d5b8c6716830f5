"""The floor of a federated round: its multiplications alone, as quick as this machine does them.

Operations are counted, of matrix products and of convolutions, and divided by how many of them the
machine does in a second at best: in a large product, and in a convolution with channels innermost
in memory, forward and backward. Norms, pooling, losses, gathering and memory are nothing. No round
that makes these multiplications is quicker.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Spent

SIDE = 1024  # of the matrices of a product: large enough to be at the machine's best
BATCH = 32  # examples of the convolution


class Operations(NamedTuple):
    """Additions and multiplications in matrix products, and in convolutions."""

    products: float
    convolutions: float

    def times(self, count: int) -> "Operations":
        """So many times as many."""
        return Operations(count * self.products, count * self.convolutions)

    def plus(self, other: "Operations") -> "Operations":
        """Both together."""
        return Operations(self.products + other.products, self.convolutions + other.convolutions)


def of_an_example(model: nn.Module, x: Tensor) -> tuple[Operations, Operations]:
    """Operations for one example of x (N, ...): of its prediction, and of training on it."""
    with FlopCounterMode(display=False) as predicted, torch.no_grad():
        model(x)
    with FlopCounterMode(display=False) as trained:
        model(x).sum().backward()
    forward, whole = (_counted(counter, len(x)) for counter in (predicted, trained))
    return forward, whole


def _counted(counter: FlopCounterMode, examples: int) -> Operations:
    found = {True: 0, False: 0}
    for name, count in counter.get_flop_counts()["Global"].items():
        found["conv" in str(name)] += count
    return Operations(found[False] / examples, found[True] / examples)


def product() -> Callable[[], object]:
    """A large matrix product, to be timed."""
    a, b, out = (torch.rand(SIDE, SIDE) for _ in range(3))
    return lambda: torch.mm(a, b, out=out)


def convolution() -> Callable[[], object]:
    """A convolution forward and backward, to be timed."""
    x = torch.rand(BATCH, 48, 14, 14).to(memory_format=torch.channels_last).requires_grad_()
    kernel = torch.rand(112, 48, 3, 3, requires_grad=True)
    upstream = torch.rand(BATCH, 112, 14, 14).to(memory_format=torch.channels_last)

    def work() -> None:
        torch.autograd.grad(F.conv2d(x, kernel, padding=1), (x, kernel), upstream)

    return work


OF_PRODUCT = 2.0 * SIDE**3
OF_CONVOLUTION = 3 * 2.0 * BATCH * 14 * 14 * 9 * 48 * 112


def rates(products: Sequence[Spent], convolutions: Sequence[Spent]) -> Operations:
    """Operations in a second of the CPU, from what `product` and `convolution` took at best."""
    best = [min(one.cpu for one in times) for times in (products, convolutions)]
    return Operations(OF_PRODUCT / best[0], OF_CONVOLUTION / best[1])


def floor(needed: Operations, rate: Operations) -> float:
    """Seconds of the CPU."""
    return needed.products / rate.products + needed.convolutions / rate.convolutions
