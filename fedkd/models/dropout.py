"""Dropout whose masks are counted, not drawn: the same in every engine, for one client or a stack.

Within `counted`, torch's dropout takes a mask that is a hash of four numbers: the client's stream,
its step (a stream goes on by one at each), which dropout of the step it is, and the place in the
tensor. Nothing is drawn, so nothing depends on who else is computed, on the engine or the device.

John K. Salmon, Mark A. Moraes, Ron O. Dror, David E. Shaw. "Parallel Random Numbers: As Easy as 1,
2, 3". SC 2011. https://doi.org/10.1145/2063384.2063405 is the idea; the hash is that of
https://nullprogram.com/blog/2018/07/31/ (lowbias32).
"""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

_here = threading.local()  # the masks of the step that this thread computes
_lock, _within = threading.Lock(), [0]
_TORCHS: dict[str, Callable[..., Any]] = {
    name: getattr(F, name)
    for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "scaled_dot_product_attention")
}


@contextmanager
def counted(stream: Tensor) -> Iterator[None]:
    """Inside, and in this thread, dropout takes masks from the stream, () int64."""
    before = getattr(_here, "masks", None)
    _here.masks = _Masks(stream)
    _patch(1)
    try:
        yield
    finally:
        _patch(-1)
        _here.masks = before


def uniform(key: Tensor, shape: Sequence[int], device: torch.device) -> Tensor:
    """Numbers in [0, 1) of a shape, of 24 bits, by a key () int64 and their places."""
    place = torch.arange(math.prod(shape), device=device, dtype=torch.int32)
    z = (place + _hashed(key)).reshape(shape)
    z = (z ^ _shifted(z, 16)) * 0x7FEB352D
    z = (z ^ _shifted(z, 15)) * -0x7B935975  # 0x846CA68B as a signed number
    z = z ^ _shifted(z, 16)
    return _shifted(z, 8).to(torch.float32) / 2**24


class _Masks:
    """The masks of one step, counted as they are asked for."""

    def __init__(self, stream: Tensor) -> None:
        self._stream, self._calls = stream, 0

    def applied(self, x: Tensor, p: float, shape: Sequence[int]) -> Tensor:
        self._calls += 1
        if p >= 1:
            return x * 0
        kept = uniform(_next(self._stream, self._calls), shape, x.device) >= p
        return x * (kept.to(x.dtype) / (1 - p))


def _next(stream: Tensor, call: int) -> Tensor:
    return stream * 0x2545F4914F6CDD1D + call


def _hashed(key: Tensor) -> Tensor:
    """64 bits to 32: (), int64 -> (), int32."""
    key = (key ^ (key >> 29)) * 0x3F58476D1CE4E5B9
    return ((key ^ (key >> 32)) & 0x7FFFFFFF).to(torch.int32)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """int32 moved to the right as if it had no sign."""
    return (z >> bits) & ((1 << (32 - bits)) - 1)


def _patch(change: int) -> None:
    """Have torch ask `_here` for masks as long as anybody computes with some."""
    with _lock:
        _within[0] += change
        for name, own in (_OURS if _within[0] else _TORCHS).items():
            setattr(F, name, own)


def _masks() -> _Masks | None:
    return getattr(_here, "masks", None)


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    masks = _masks()
    if masks is None or not training or p == 0:
        found: Tensor = _TORCHS["dropout"](x, p, training, inplace)
        return found
    return masks.applied(x, p, x.shape)


def _of_channels(name: str) -> Callable[..., Tensor]:
    def dropped(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        masks = _masks()
        if masks is None or not training or p == 0:
            found: Tensor = _TORCHS[name](x, p, training, inplace)
            return found
        return masks.applied(x, p, (*x.shape[:2], *[1] * (x.ndim - 2)))

    return dropped


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V, with the weights dropped out."""
    masks = _masks()
    if masks is None or dropout_p == 0 or enable_gqa:
        how = {"scale": scale, "enable_gqa": enable_gqa}
        attend = _TORCHS["scaled_dot_product_attention"]
        found: Tensor = attend(query, key, value, attn_mask, dropout_p, is_causal, **how)
        return found
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query @ key.transpose(-2, -1) * factor
    if is_causal:
        size = query.shape[-2], key.shape[-2]
        attn_mask = torch.ones(size, dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = scores.softmax(dim=-1)
    return masks.applied(weights, dropout_p, weights.shape) @ value


_OURS: dict[str, Callable[..., Any]] = {
    "dropout": _dropout,
    "dropout1d": _of_channels("dropout1d"),
    "dropout2d": _of_channels("dropout2d"),
    "dropout3d": _of_channels("dropout3d"),
    "scaled_dot_product_attention": _attention,
}
