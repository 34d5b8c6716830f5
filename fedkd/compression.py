"""Message transforms that save bytes."""

import torch

from fedkd.channel import Transform
from fedkd.core import Message


def float16() -> Transform:
    """Half precision: two bytes a number instead of four (IEEE 754 binary16).

    A probability changes by at most 2^-12 (half a unit in the last of eleven binary digits, just
    below one); integers, which are row numbers, pass unchanged.
    """

    def encode(message: Message, generator: torch.Generator) -> Message:
        return {k: v.half() if v.is_floating_point() else v for k, v in message.items()}

    def decode(sent: Message) -> Message:
        kind = torch.get_default_dtype()
        return {k: v.to(kind) if v.is_floating_point() else v for k, v in sent.items()}

    return Transform(encode, decode, error=2**-12)
