"""What a server is told of how many examples a client holds: the number, one with noise, or none.

A number of examples is a function of private data: whoever is told it before and after somebody
joined knows that somebody did. Where uploads are weighted by it (`Upload.weight`) it is sent.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from fedkd.messages import PayloadSpec, Upload
from fedkd.privacy.events import Event, Gaussian

Disclosure = Literal["public", "noisy", "hidden"]


@dataclass(frozen=True)
class PrivateSize:
    """How a client tells how many examples it holds.

    Attributes:
        disclosure: "public": as many as there are. "noisy": n + N(0, `noise`^2), drawn anew for
            each upload, and 1 at the least. "hidden": nothing; all weights are 1, so that what
            would be a mean by number of examples is the plain mean over clients.
        noise: standard deviation, in examples. One record more or less moves the number by 1, so
            that each upload is a release of this noise multiplier.
    """

    disclosure: Disclosure = "public"
    noise: float = 20.0

    def __post_init__(self) -> None:
        """Refuse what is no way to tell.

        Raises:
            ValueError: one of the two cannot be.
        """
        if self.disclosure not in get_args(Disclosure):
            raise ValueError(f"private_size must be one of {', '.join(get_args(Disclosure))}")
        if not 0 < self.noise < math.inf:
            raise ValueError(f"noise {self.noise} of a size has to be positive and finite")

    def sent(self, upload: Upload, generator: torch.Generator) -> Upload:
        """The upload with its weight as it leaves the client; one that is no number stays."""
        if self.disclosure == "public" or upload.weight.numel() != 1:
            return upload
        weight = upload.weight.detach().cpu().double()
        if self.disclosure == "hidden":
            return upload._replace(weight=torch.ones_like(weight))
        drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        return upload._replace(weight=(weight + self.noise * drawn).clamp(min=1))

    def events(self, weighted: bool) -> tuple[Event, ...]:
        """What an upload releases of a size, per record that is added, if it is `weighted` by it.

        Raises:
            ValueError: it is told as it is, which no noise covers.
        """
        if not weighted or self.disclosure == "hidden":
            return ()
        if self.disclosure == "public":
            raise ValueError("the number of examples is told as it is")
        return (Gaussian(self.noise),)


def check_disclosure(
    private_size: PrivateSize, name: str, payload_spec: Mapping[str, PayloadSpec]
) -> None:
    """Raise ValueError where a payload tells a size that is not to be told.

    `name` is that of the algorithm.
    """
    telling = [key for key, spec in payload_spec.items() if spec.tells_size]
    if private_size.disclosure != "public" and telling:
        raise ValueError(
            f"private_size {private_size.disclosure}: {name} sends {telling[0]}, of which the "
            "server counts a client's examples; take private_size public, or another algorithm"
        )
