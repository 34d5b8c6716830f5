"""Message transforms that save bytes, and channels made of them.

`numbers` are for any tensors, `labels` for distributions over classes; `coding` loses nothing.
"""

from fedkd.communication.channel import Channel
from fedkd.communication.compression.distributions import (
    argmax,
    krr,
    root8,
    simplex,
    top,
    top_shaped,
)
from fedkd.communication.compression.lossless import deflate, delta
from fedkd.communication.compression.quantization import float16, quantise
from fedkd.messages import Stage, Transform

__all__ = [
    "CHANNELS",
    "KRR",
    "argmax",
    "channel",
    "deflate",
    "delta",
    "float16",
    "krr",
    "quantise",
    "root8",
    "simplex",
    "top",
    "top_shaped",
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
    "top8-shaped": _both(top_shaped(8), deflate()),
    "argmax": _both(argmax(), deflate()),
    "argmax-delta": _delta(argmax()),
}


KRR = "krr"  # beside these: labels that are randomised, up, by how much is a setting


def channel(name: str, epsilon_label: float | None = None) -> Channel:
    """The channel of a name; that of `krr` for an epsilon of each label.

    Raises:
        ValueError: there is none, or an epsilon is lacking, or is one too many.
    """
    if (name == KRR) != (epsilon_label is not None):
        raise ValueError(
            f"compression {name} and epsilon_label {epsilon_label}: krr takes an epsilon of each "
            "label, and no other compression does; give both, or neither"
        )
    if epsilon_label is not None:
        return Channel((krr(epsilon_label),))
    if name not in CHANNELS:
        raise ValueError(f"compression must be one of {', '.join(CHANNELS)}, {KRR}, got {name!r}")
    return Channel(*CHANNELS[name])
