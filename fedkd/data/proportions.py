"""What a Dirichlet distribution draws: how much of a label each client gets."""

import torch
from torch import Tensor


def log_shares(clients: int, alpha: float, generator: torch.Generator) -> Tensor:
    """(K,) whose softmax is a draw from Dir(alpha, ..., alpha), by gamma variates.

    On a log scale a tiny alpha is safe: Gamma(alpha) = Gamma(alpha + 1) U^(1/alpha), whose
    logarithm never underflows. The softmax over some of the clients is the draw among these alone.
    """
    gamma = torch._standard_gamma(  # the one gamma sampler of torch that takes a generator
        torch.full((clients,), alpha + 1, dtype=torch.float64), generator=generator
    )
    uniform = torch.rand(clients, dtype=torch.float64, generator=generator).clamp(min=1e-300)
    return gamma.log() + uniform.log() / alpha


def shares(clients: int, alpha: float, generator: torch.Generator) -> Tensor:
    """(K,), a draw from Dir(alpha, ..., alpha)."""
    return log_shares(clients, alpha, generator).softmax(dim=0)


def check_alpha(alpha: float) -> None:
    """Raise ValueError for a concentration that is none."""
    if not 0 < alpha < float("inf"):
        raise ValueError(f"alpha must be positive and finite, got {alpha}; try 0.1 to 100")
