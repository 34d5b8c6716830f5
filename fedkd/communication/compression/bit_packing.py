"""Numbers of a few bits as bytes, behind a header with their shape.

What arrives is read as if an enemy had written it: a shape that does not fit the bytes, or that
would take more memory than `MOST` entries, is a ValueError before anything is made of it.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fedkd.messages import Message

MOST = 2**26  # entries of a tensor: 256 MiB in float32
AXES = 4


def each(message: Message, code: Callable[[str, Tensor], Tensor]) -> Message:
    """The message with its floating-point tensors coded; whole numbers pass as they are.

    Raises:
        ValueError: there are tensors, and nothing to code in them.
    """
    if message and not any(value.is_floating_point() for value in message.values()):
        said = ", ".join(f"{key} of {value.dtype}" for key, value in message.items())
        raise ValueError(
            f"a message of {said} has no numbers to compress; a channel compresses them once"
        )
    return {k: code(k, v) if v.is_floating_point() else v for k, v in message.items()}


def each_coded(sent: Message, read: Callable[[str, Tensor], Tensor]) -> Message:
    """The message with its bytes read; whole numbers pass as they are.

    Raises:
        ValueError: a tensor that was to be coded, and was not.
    """
    for key, value in sent.items():
        if value.is_floating_point():
            raise ValueError(f"{key} came as {value.dtype}, and not in bytes")
    return {k: read(k, v) if v.dtype == torch.uint8 else v for k, v in sent.items()}


def put(codes: Tensor, bits: int, shape: Sequence[int], note: bytes = b"") -> Tensor:
    """Whole numbers of so many bits each, behind the shape of what they stand for, and a note.

    Raises:
        ValueError: more entries or axes than anybody would read.
    """
    if math.prod(shape) > MOST or len(shape) > AXES:
        raise ValueError(
            f"a tensor of shape {tuple(shape)} is too large to be compressed: up to {MOST:,} "
            f"entries on {AXES} axes are read; send fewer rows"
        )
    values = codes.detach().cpu().numpy().reshape(-1)
    if bits == 8:
        body = values.astype(np.uint8)
    else:
        places = np.arange(bits - 1, -1, -1)
        body = np.packbits((values[:, None] >> places & 1).astype(np.uint8))
    head = bytes([len(shape)]) + np.array(shape, "<u4").tobytes() + note
    return torch.from_numpy(np.concatenate([np.frombuffer(head, np.uint8), body]))


def shape_of(sent: Tensor) -> tuple[tuple[int, ...], bytes]:
    """The shape in the header of what `put` made, and the bytes behind it.

    Raises:
        ValueError: there is none, or it is of more than `MOST` entries.
    """
    data = sent.detach().cpu().contiguous().numpy().tobytes() if sent.ndim == 1 else b""
    axes = data[0] if data else 0
    if not data or axes > AXES or len(data) < 1 + 4 * axes:
        raise ValueError("its header is cut off or damaged")
    shape = tuple(np.frombuffer(data, "<u4", axes, 1).tolist())
    if math.prod(shape) > MOST:
        raise ValueError(f"its header asks for {math.prod(shape):,} entries; {MOST:,} are read")
    return shape, data[1 + 4 * axes :]


def take(data: bytes, bits: int, count: int) -> Tensor:
    """`count` whole numbers of `bits` bits each, (count,) int64.

    Raises:
        ValueError: these are not as many bytes as that takes.
    """
    needed = -(-count * bits // 8)
    if len(data) != needed:
        raise ValueError(f"{len(data)} bytes came where its header asks for {needed}")
    body = np.frombuffer(data, np.uint8)
    if bits == 8:
        return torch.from_numpy(body.astype(np.int64))
    digits = np.unpackbits(body, count=count * bits).reshape(count, bits)
    places = np.arange(bits - 1, -1, -1)
    return torch.from_numpy((digits.astype(np.int64) << places).sum(axis=1))
