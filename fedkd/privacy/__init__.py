"""Mechanisms of differential privacy and what they cost: unit and relation are always named.

`events` are what was released with how much noise; `accounting` turns them into epsilon, and
epsilon into noise.
"""

from fedkd.privacy.accounting import Guarantee, Ledger, noise_multiplier, renyi
from fedkd.privacy.events import Event, Gaussian, Laplace, RandomizedResponse

__all__ = [
    "Event",
    "Gaussian",
    "Guarantee",
    "Laplace",
    "Ledger",
    "RandomizedResponse",
    "noise_multiplier",
    "renyi",
]
