"""Transforms that lose nothing: differences from what both ends know, and entropy coding."""

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fedkd.communication.compression.bit_packing import MOST, put, shape_of
from fedkd.messages import Message, Stage, Transform

KINDS = (
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.float32,
    torch.float64,
)


def deflate() -> Transform:
    """Entropy coding by zlib: LZ77 and Huffman codes (RFC 1951), with a checksum.

    For any tensors, but made for the bytes of another stage: whole numbers of few values, most of
    them alike. A header of 2 + 4 n bytes for n axes says what comes out. Other builds of zlib may
    give other lengths, by a few bytes in a thousand.
    """

    def encode(message: Message, generator: torch.Generator) -> Message:
        return {key: _deflated(key, value) for key, value in message.items()}

    def decode(sent: Message) -> Message:
        return {key: _inflated(key, value) for key, value in sent.items()}

    return Transform(encode, decode)


def delta(inner: Transform, of: Mapping[str, str]) -> Stage:
    """Only what differs from the last round: the code of a tensor less that of what is known.

    As in CFD (see `fedkd.communication.compression.distributions.simplex`), but against the
    consensus of the last round, which the broadcast has just brought to both ends, in the place of
    the client's own last
    upload: nobody has to remember anything, and clients may come and go. Codes that agree become
    zeros, for `deflate` to take out. Nothing is lost beside what `inner` loses. In a round without
    a broadcast the code itself is sent.

    Args:
        inner: makes bytes of tensors, the same bytes of the same numbers (no dithering).
        of: upload key -> the broadcast key that it is compared with.

    Raises:
        ValueError: on sending, what is known is about other examples than what is sent.
    """

    def given_broadcast(broadcast: Message) -> Transform:
        if "rows" in broadcast:
            raise ValueError(
                "differences from the last round need the same public examples in every round; "
                "leave public_size out, or take a compression without delta"
            )
        known = {up: broadcast[down] for up, down in of.items() if down in broadcast}
        reference = inner.encode(known, None) if known else {}  # type: ignore[arg-type]  # it draws nothing

        def encode(message: Message, generator: torch.Generator) -> Message:
            if not message:  # local training sends nothing
                return message
            if not set(of) <= set(message):
                raise ValueError(
                    f"no {', '.join(sorted(set(of) - set(message)))} to compare with what was said "
                    f"before, in a message of {next(iter(message))}; take a compression for any "
                    "numbers, such as float16"
                )
            return _moved(inner.encode(message, generator), reference, -1)

        def decode(sent: Message) -> Message:
            return inner.decode(_moved(sent, reference, 1))

        return Transform(encode, decode, inner.error)

    return given_broadcast


def _moved(message: Message, reference: Message, sign: int) -> Message:
    """Bytes plus or minus those of the reference, modulo 256."""
    moved = dict(message)
    for key, known in reference.items():
        value = message[key]
        if value.dtype != torch.uint8 or value.shape != known.shape:
            raise ValueError(
                f"{key} has a code of shape {tuple(value.shape)} and type {value.dtype}, and what "
                f"it is compared with one of shape {tuple(known.shape)}"
            )
        moved[key] = value + sign * known
    return moved


def _deflated(key: str, value: Tensor) -> Tensor:
    if value.dtype not in KINDS:
        raise ValueError(f"{key} is of type {value.dtype}, which is not sent")
    data = value.detach().cpu().contiguous().numpy()
    packed = np.frombuffer(zlib.compress(data.tobytes(), 9), np.uint8)
    note = bytes([KINDS.index(value.dtype)])
    head = put(torch.zeros(0, dtype=torch.uint8), 8, value.shape, note)
    return torch.cat([head, torch.from_numpy(packed.copy())])


def _inflated(key: str, sent: Tensor) -> Tensor:
    if sent.dtype != torch.uint8:
        raise ValueError(f"{key} came as {sent.dtype}, and not in bytes")
    shape, data = shape_of(sent)
    if not data or data[0] >= len(KINDS):
        raise ValueError(f"{key} is of no known type")
    kind = KINDS[data[0]]
    size = math.prod(shape) * kind.itemsize
    if size > MOST * 4:
        raise ValueError(f"{key} would take {size:,} bytes, and {MOST * 4:,} are read")
    reader = zlib.decompressobj()
    try:
        found = reader.decompress(data[1:], size + 1)  # what is too long is not read to its end
    except zlib.error as reason:
        raise ValueError(f"{key} cannot be inflated: {reason}") from None
    if len(found) != size or not reader.eof or reader.unused_data:
        raise ValueError(f"{key} does not inflate to the {size} bytes that its header says")
    if not size:
        return torch.zeros(shape, dtype=kind)
    return torch.frombuffer(bytearray(found), dtype=kind).reshape(shape)
