"""Logarithms of probabilities, some of which are 0: there 0 log 0 = 0, in values and gradients.

A class that is ruled out has a logit of -inf and a log-probability of -inf. `where` stands before
the product: afterwards it would mend the value, but the slope would be infinity times a masked 0.
"""

import math

import torch
from torch import Tensor


def times_log(weight: Tensor, log: Tensor) -> Tensor:
    """The products weight * log, with 0 times infinity = 0.

    Shapes:
        weight, log: any that broadcast; gives that shape.
    """
    nothing = (weight == 0) & log.isinf()
    return weight * torch.where(nothing, 0, log)


def divergence(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a || b) of log-probabilities: what a rules out adds 0, what b alone rules out infinity.

    Shapes:
        log_a, log_b: (N, C); gives (N,), in nats.
    """
    absent = log_a == -torch.inf
    a, b = torch.where(absent, 0, log_a), torch.where(absent, 0, log_b)
    # exp(a) may be too small for a number other than 0, which times infinity would be none.
    return torch.where(b == -torch.inf, torch.inf, a.exp() * (a - b)).sum(-1)


def negative_entropy(log_p: Tensor) -> Tensor:
    """The sum of p log p, (N, C) -> (N,), in nats."""
    return divergence(log_p, torch.zeros_like(log_p))


def log_mean(log_a: Tensor, log_b: Tensor) -> Tensor:
    """The logarithm of (a + b) / 2, -inf where both are 0. Any shape."""
    absent = (log_a == -torch.inf) & (log_b == -torch.inf)
    a, b = torch.where(absent, 0, log_a), torch.where(absent, 0, log_b)
    return torch.where(absent, -torch.inf, torch.logaddexp(a, b) - math.log(2.0))
