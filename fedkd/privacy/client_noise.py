"""Noise at the server for clients as wholes: how much there is, and what a round of it costs."""

import math
from dataclasses import dataclass

from fedkd.privacy.accounting import Relation
from fedkd.privacy.events import Event, Gaussian


@dataclass(frozen=True)
class ClientNoise:
    """Gaussian noise on the sum over a cohort, in which no client's part shows.

    Brendan McMahan, Daniel Ramage, Kunal Talwar, Li Zhang. "Learning Differentially Private
    Recurrent Language Models". ICLR 2018. https://arxiv.org/abs/1710.06963

    Attributes:
        noise: its standard deviation over the L2 sensitivity of what is summed.
        bound: B, the L2 norm that prototypes, or a payload, are clipped to; None where what is
            sent is bounded by nature, and what is not is refused.
        relation: of neighbours: a client is replaced, or added.
        rate: of the Poisson sample that a cohort is; 1 where who takes part is no secret.
    """

    noise: float
    bound: float | None = None
    relation: Relation = "replace"
    rate: float = 1.0

    def __post_init__(self) -> None:
        Gaussian(self.noise, rate=self.rate)
        if self.bound is not None and not 0 < self.bound < math.inf:
            raise ValueError(f"bound is {self.bound}; it has to be positive and finite")
        if self.relation not in ("replace", "add"):
            raise ValueError(f"relation must be one of replace, add, got {self.relation!r}")
        if self.rate < 1 and self.relation != "add":
            raise ValueError(
                f"a Poisson sample (rate {self.rate:g}) is accounted for where a client is added "
                'or removed: relation "add"'
            )

    def events(self) -> tuple[Event, ...]:
        """What one round costs each client; one that is known to stay away it costs nothing."""
        return (Gaussian(self.noise, rate=self.rate),)
