"""Who takes part in a round."""

from collections.abc import Callable, Sequence

import torch

Sample = Callable[[Sequence[int], torch.Generator], list[int]]


def everyone(clients: Sequence[int], generator: torch.Generator) -> list[int]:
    """All clients, in every round."""
    return list(clients)


def uniform(fraction: float) -> Sample:
    """A share of the clients, drawn without replacement, at least one.

    Raises:
        ValueError: the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"the fraction of clients must be in (0, 1], got {fraction}")

    def sample(clients: Sequence[int], generator: torch.Generator) -> list[int]:
        count = max(1, round(fraction * len(clients)))
        chosen = torch.randperm(len(clients), generator=generator)[:count]
        return sorted(clients[i] for i in chosen.tolist())

    return sample


def available(probability: float) -> Sample:
    """Each client is there with this probability, on its own (Poisson sampling); maybe nobody is.

    Raises:
        ValueError: the probability is not in (0, 1].
    """
    if not 0 < probability <= 1:
        raise ValueError(f"the probability of taking part must be in (0, 1], got {probability}")

    def sample(clients: Sequence[int], generator: torch.Generator) -> list[int]:
        there = torch.rand(len(clients), generator=generator) < probability
        return [client for client, present in zip(clients, there.tolist(), strict=True) if present]

    return sample


def weighted(sizes: Sequence[float], fraction: float) -> Sample:
    """A share of the clients, drawn without replacement with chances in proportion to `sizes`.

    Raises:
        ValueError: a fraction outside (0, 1], a size that is not positive and finite, or, on
            drawing, a number of sizes that is not the number of clients.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"the fraction of clients must be in (0, 1], got {fraction}")
    chances = torch.tensor(sizes, dtype=torch.float64)
    if not bool((chances.isfinite() & (chances > 0)).all()):
        raise ValueError(f"every client needs a finite size > 0, got {list(sizes)}")

    def sample(clients: Sequence[int], generator: torch.Generator) -> list[int]:
        if len(clients) != len(sizes):
            raise ValueError(f"{len(sizes)} sizes were given for {len(clients)} clients")
        count = max(1, round(fraction * len(clients)))
        chosen = torch.multinomial(chances, count, replacement=False, generator=generator)
        return sorted(clients[i] for i in chosen.tolist())

    return sample
