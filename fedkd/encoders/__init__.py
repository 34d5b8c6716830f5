"""What makes features of inputs before any label is learnt: pretrained on public examples."""

from fedkd.encoders.autoencoder import Autoencoder
from fedkd.encoders.encoder import Encoder, width
from fedkd.encoders.pixels import Pixels
from fedkd.encoders.untrained import Untrained
from kdcore.registry import Registry, members, subclass_of

__all__ = ["ENCODERS", "REGISTRY", "Encoder", "width"]

ENCODERS: dict[str, type[Encoder]] = {
    "autoencoder": Autoencoder,
    "pixels": Pixels,
    "untrained": Untrained,
}

REGISTRY: Registry[type[Encoder]] = Registry(
    "encoder",
    members(ENCODERS),
    "kdsim.encoders",
    subclass_of(Encoder),
    "a class derived from fedkd.encoders.Encoder",
)
