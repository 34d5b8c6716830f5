"""Dropout, drawn on the CPU wherever its numbers are: a result does not depend on the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

LEVELS = 2**16  # of a draw that decides what is dropped: 16 bits, four to a random word

_on_device: ContextVar[bool] = ContextVar("dropout is drawn where its numbers are", default=False)


@contextmanager
def drawn_on_device(wanted: bool = True) -> Iterator[None]:
    """Inside, dropout is drawn where its numbers are: quicker, and another result on each device.

    It is about torch's global streams, from which dropout draws, and as global as they are.
    """
    before = _on_device.set(wanted)
    try:
        yield
    finally:
        _on_device.reset(before)


def dropout(h: Tensor, p: float, training: bool) -> Tensor:
    """Zero a share p of the numbers in training and scale the others up.

    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout: A Simple Way to Prevent
    Neural Networks from Overfitting", JMLR 2014, https://jmlr.org/papers/v15/srivastava14a.html.

    Convention: p is rounded to a multiple of 1/65,536, since 16 random bits decide on a number.
    That is what makes it four times faster on a CPU than PyTorch's, which takes longer than the
    products of a graph network. It draws from torch's global stream, as PyTorch's does.
    """
    return h if p == 0 or not training else h * mask(h.shape, p, h)


class Dropout(nn.Dropout):
    """PyTorch's own dropout, drawn where `draws` draws."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (its name in PyTorch)
        """The numbers, of which a share is zero in training."""
        if input.device.type == "cpu" or not self.training or _on_device.get():
            return super().forward(input)
        kept = F.dropout(torch.ones(input.shape, dtype=input.dtype, device="cpu"), self.p)
        return input * kept.to(input.device)


def mask(shape: tuple[int, ...], p: float, like: Tensor) -> Tensor:
    """The factors of dropout, 0 or about 1 / (1 - p), with the type and device of `like`."""
    return factors(draws(shape, like.device), p, like.dtype)


def draws(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Uniform int16 from torch's global stream: the random part of `mask`.

    Drawn on the CPU wherever they are used, so that a result does not depend on the device, but
    for what is inside of `drawn_on_device`.
    """
    count = torch.Size(shape).numel()
    where = device if _on_device.get() else "cpu"
    words = torch.empty(-(-count // 4), dtype=torch.int64, device=where).random_(-(2**63), None)
    return words.view(torch.int16)[:count].view(shape).to(device)


def factors(drawn: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    """The factors of dropout from these draws."""
    keep = min(max(round((1 - p) * LEVELS), 1), LEVELS - 1)
    return (drawn < keep - LEVELS // 2).to(dtype).mul_(LEVELS / keep)
