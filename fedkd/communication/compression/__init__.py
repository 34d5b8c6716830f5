"""Message transforms that save bytes, and channels made of them.

`numbers` are for any tensors, `labels` for distributions over classes; `coding` loses nothing.
"""

from fedkd.communication.channel import Channel
from fedkd.communication.compression.distributions import argmax, root8, simplex, top
from fedkd.communication.compression.lossless import deflate, delta
from fedkd.communication.compression.quantization import float16, quantise
from fedkd.messages import Stage, Transform

__all__ = [
    "CHANNELS",
    "argmax",
    "channel",
    "deflate",
    "delta",
    "float16",
    "quantise",
    "root8",
    "simplex",
    "top",
]

CONSENSUS = {"probabilities": "consensus"}  # what predictions are compared with, by their keys


def _both(*stages: Transform) -> tuple[tuple[Stage, ...], tuple[Transform, ...]]:
    return stages, stages


def _delta(inner: Transform) -> tuple[tuple[Stage, ...], tuple[Transform, ...]]:
    return (delta(inner, CONSENSUS), deflate()), (inner, deflate())


# Name on the command line -> the stages up and down.
CHANNELS: dict[str, tuple[tuple[Stage, ...], tuple[Transform, ...]]] = {
    "none": ((), ()),
    "float16": _both(float16()),
    "uint8": _both(quantise(8), deflate()),
    "uint8-dither": _both(quantise(8, dither=True), deflate()),
    "4bit": _both(simplex(4), deflate()),
    "root8": _both(root8(), deflate()),
    "root8-delta": _delta(root8()),
    "top3": _both(top(3), deflate()),
    "argmax": _both(argmax(), deflate()),
    "argmax-delta": _delta(argmax()),
}


def channel(name: str) -> Channel:
    """The channel of a name.

    Raises:
        ValueError: there is none; the message lists all.
    """
    if name not in CHANNELS:
        raise ValueError(f"compression must be one of {', '.join(CHANNELS)}, got {name!r}")
    return Channel(*CHANNELS[name])
