"""Mechanisms of differential privacy and what they cost: unit and relation are always named.

`releases` says how far a client, or a record, can move what is sent; `events` are what was released
with how much noise; `accounting` turns them into epsilon, and epsilon into noise; `mechanisms` add
noise to sums and labels; `lower_bounds` and `one_run` audit them.
"""

from fedkd.privacy.accounting import Guarantee, Ledger, noise_multiplier, renyi
from fedkd.privacy.events import Event, Gaussian, Laplace, RandomizedResponse
from fedkd.privacy.lower_bounds import LowerBound, lower_bound, projected
from fedkd.privacy.mechanisms import (
    confident_gnmax,
    gaussian_sum,
    onto_simplex,
    randomized_response,
    unbiased,
)
from fedkd.privacy.releases import RELEASES, Release, Sizes

__all__ = [
    "RELEASES",
    "Event",
    "Gaussian",
    "Guarantee",
    "Laplace",
    "Ledger",
    "RandomizedResponse",
    "Release",
    "Sizes",
    "confident_gnmax",
    "gaussian_sum",
    "onto_simplex",
    "randomized_response",
    "unbiased",
    "LowerBound",
    "lower_bound",
    "projected",
    "noise_multiplier",
    "renyi",
]
