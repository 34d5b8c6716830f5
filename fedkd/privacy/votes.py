"""Noisy elections at a server: how sure it has to be, and what a round of them costs."""

import math
from dataclasses import dataclass
from typing import Annotated

from fedkd.privacy.events import Event
from fedkd.privacy.mechanisms import gnmax_events
from kdcore.settings import Setting, check_ranges


@dataclass(frozen=True)
class NoisyVotes:
    """Clients vote on the classes of public examples, and winners with votes enough are told.

    Nicolas Papernot, Shuang Song, Ilya Mironov, Ananth Raghunathan, Kunal Talwar, Úlfar Erlingsson.
    "Scalable Private Learning with PATE". ICLR 2018. https://arxiv.org/abs/1802.08908

    `fedkd.privacy.mechanisms.confident_gnmax`, each round; the defaults are the paper's for MNIST
    and 250 teachers.
    """

    most: Annotated[int, Setting("classes that a round may elect; 0: no election", ge=0)] = 0
    threshold: Annotated[float, Setting("noisy votes that it takes to be elected", ge=0)] = 200.0
    test_noise: Annotated[float, Setting("deviation in asking whether there are enough", ge=0)] = (
        150.0
    )
    noise: Annotated[float, Setting("deviation of the votes for each class", ge=0)] = 40.0

    def __post_init__(self) -> None:
        check_ranges(self)

    def events(self, shape: tuple[int, ...]) -> tuple[Event, ...]:
        """What one round costs each client that votes, by the shape (*N, C) of its predictions."""
        queries = math.prod(shape[:-1])
        return gnmax_events(queries, self.test_noise, self.noise, self.most)
