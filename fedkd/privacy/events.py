"""What was released of private data, and with how much noise: the events that an accountant adds.

Events are data, so that they can be recorded and composed later; no epsilon is computed here. Noise
is told relative to the sensitivity of what was released, hence for one unit (a record, a client)
and one relation between neighbours; `fedkd.privacy.accounting` names both and says epsilon.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Gaussian:
    """Gaussian noise, `count` times.

    Attributes:
        noise: its standard deviation over the L2 sensitivity (the noise multiplier); 0 is none.
        count: how often.
        rate: of the Poisson sample that each time is of; 1 is all.
    """

    noise: float
    count: int = 1
    rate: float = 1.0

    def __post_init__(self) -> None:
        _check("noise", self.noise, self.noise >= 0, "at least 0")
        _check("count", self.count, self.count >= 0, "at least 0")
        _check("rate", self.rate, 0 < self.rate <= 1, "above 0 and at most 1")


@dataclass(frozen=True)
class Laplace:
    """Laplace noise, `count` times.

    Attributes:
        noise: its scale over the L1 sensitivity: each time is of pure epsilon 1 / noise; 0 is none.
        count: how often.
    """

    noise: float
    count: int = 1

    def __post_init__(self) -> None:
        _check("noise", self.noise, self.noise >= 0, "at least 0")
        _check("count", self.count, self.count >= 0, "at least 0")


@dataclass(frozen=True)
class RandomizedResponse:
    """A label of C classes that is kept, or replaced by one of the others, `count` times.

    Attributes:
        epsilon: of each label; the odds of keeping it to any one of the others are e^epsilon.
        classes: C.
        count: how often.
    """

    epsilon: float
    classes: int
    count: int = 1

    def __post_init__(self) -> None:
        _check("epsilon", self.epsilon, self.epsilon > 0, "above 0")
        _check("classes", self.classes, self.classes >= 2, "at least 2")
        _check("count", self.count, self.count >= 0, "at least 0")


Event = Gaussian | Laplace | RandomizedResponse


def _check(name: str, value: float, fits: bool, expected: str) -> None:
    if not (fits and math.isfinite(value)):
        raise ValueError(f"{name} is {value}; it has to be finite and {expected}")
