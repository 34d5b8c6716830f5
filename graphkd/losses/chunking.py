"""Values worked out a block at a time, and again in the backward pass: bounded memory."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 2**22  # numbers in a block: 16 MB in float32, and a handful of such while it is worked on


def in_blocks(values: Callable[..., Tensor], count: int, width: int, *inputs: Tensor) -> Tensor:
    """The values of all `count` rows, (count,), from those of consecutive slices of them.

    Args:
        values: called as `values(rows, *inputs)` with a slice; what it closes over is constant.
        count: how many rows there are.
        width: how many numbers a row takes to work out.
        inputs: what the values have a gradient for, once.
    """
    size = max(1, BLOCK // max(1, width))
    if size >= count:
        return values(slice(0, count), *inputs)
    result: Tensor = _Blocks.apply(values, count, size, *inputs)
    return result


class _Blocks(torch.autograd.Function):
    # Not `torch.utils.checkpoint` block by block: that frees what it works out again only when
    # the backward pass of all blocks is over, so that memory grows with their number.

    @staticmethod
    def forward(
        ctx: Any, values: Callable[..., Tensor], count: int, size: int, *inputs: Tensor
    ) -> Tensor:
        ctx.values, ctx.count, ctx.size = values, count, size
        ctx.save_for_backward(*inputs)
        return torch.cat([values(rows, *inputs) for rows in _slices(count, size)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[3:]
        inputs = [
            tensor.detach().requires_grad_(needed)
            for tensor, needed in zip(ctx.saved_tensors, wanted, strict=True)
        ]
        learning = [tensor for tensor in inputs if tensor.requires_grad]
        totals = [torch.zeros_like(tensor) for tensor in learning]
        for rows in _slices(ctx.count, ctx.size):
            with torch.enable_grad():
                value = ctx.values(rows, *inputs)
            found = torch.autograd.grad(value, learning, upstream[rows])
            for total, gradient in zip(totals, found, strict=True):
                total += gradient
        given = iter(totals)
        return (None, None, None, *(next(given) if needed else None for needed in wanted))


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
