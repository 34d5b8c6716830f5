"""Transforms for any numbers: fewer bits for each."""

import struct

import torch
from torch import Tensor

from fedkd.communication.compression.bit_packing import each, each_coded, put, shape_of, take
from fedkd.messages import Message, Transform


def float16() -> Transform:
    """Half precision: two bytes a number instead of four (IEEE 754 binary16).

    A probability changes by at most 2^-12 (half a unit in the last of eleven binary digits, just
    below one); integers, which are row numbers, pass unchanged.
    """

    def encode(message: Message, generator: torch.Generator) -> Message:
        return {k: v.half() if v.is_floating_point() else v for k, v in message.items()}

    def decode(sent: Message) -> Message:
        kind = torch.get_default_dtype()
        for key, value in sent.items():
            if value.is_floating_point() and value.dtype != torch.float16:
                raise ValueError(f"{key} came as {value.dtype}, and not in half precision")
        return {k: v.to(kind) if v.is_floating_point() else v for k, v in sent.items()}

    return Transform(encode, decode, error=2**-12)


def quantise(bits: int = 8, *, dither: bool = False) -> Transform:
    """Evenly spaced levels between the smallest and the largest number of a tensor.

    Dan Alistarh, Demjan Grubic, Jerry Li, Ryota Tomioka, Milan Vojnovic. "QSGD:
    Communication-Efficient SGD via Gradient Quantization and Encoding". NeurIPS 2017.
    https://arxiv.org/abs/1610.02132 (there the levels span the norm, here the range).

        code = round((v - low) / step),  step = (high - low) / (2^bits - 1)

    `bits` a number, and 8 + 4 n bytes of header for n axes and one. With `dither` a number goes up
    or down to a neighbouring level at random, so that it is right on average; without, to the
    nearest, which errs by half a step at the most. Numbers are read as they are decoded: rows of
    probabilities sum to one within the error, and are not scaled to do so.

    Raises:
        ValueError: bits outside 1 .. 8; on sending, numbers that are not finite.
    """
    top = levels(bits)

    def encode(message: Message, generator: torch.Generator) -> Message:
        def code(key: str, value: Tensor) -> Tensor:
            check_finite(key, value)
            low = float(value.min()) if value.numel() else 0.0
            high = float(value.max()) if value.numel() else 0.0
            low, step = struct.unpack("<ff", struct.pack("<ff", low, (high - low) / top))
            places = (value.double() - low) / (step or 1.0)
            if dither:
                if generator is None:
                    raise ValueError("dithering needs a generator; where none is, take no dither")
                draws = torch.rand(value.shape, generator=generator, dtype=torch.float64)
                places = (places + draws.to(places.device)).floor()
            codes = places.round().clamp(0, top).long()
            return put(codes, bits, value.shape, struct.pack("<ff", low, step))

        return each(message, code)

    def decode(sent: Message) -> Message:
        def read(key: str, value: Tensor) -> Tensor:
            shape, data = shape_of(value)
            if len(data) < 8:
                raise ValueError("its header is cut off")
            low, step = struct.unpack("<ff", data[:8])
            codes = take(data[8:], bits, torch.Size(shape).numel())
            numbers: Tensor = low + step * codes.double()
            return numbers.to(torch.get_default_dtype()).reshape(shape)

        return each_coded(sent, read)

    return Transform(encode, decode, error=(1 if dither else 0.5) / top + 1e-6)


def levels(bits: int) -> int:
    """The highest code of so many bits; ValueError unless they are from 1 to 8."""
    if not 1 <= bits <= 8:
        raise ValueError(f"bits must be from 1 to 8, got {bits}; float16 takes 16")
    return int(2**bits - 1)


def check_finite(key: str, value: Tensor) -> None:
    """Raise ValueError for NaN and infinite entries."""
    if not bool(torch.isfinite(value).all()):
        count = int((~torch.isfinite(value)).sum())
        raise ValueError(f"{key} holds {count} entries that are not finite")
