"""One random stream per purpose, so that no result depends on who draws first."""

import hashlib
from collections.abc import Iterable, Iterator

import torch


def generator(seed: int, *purpose: int | str) -> torch.Generator:
    """A CPU generator that depends on the seed and on what it is for, and on nothing else.

    `generator(7, "round", 3, "client", 12)` is the same stream in every process and on every
    machine, however many other streams were drawn from before.

    Args:
        seed: the seed of the run.
        purpose: names and numbers that tell this stream from all the others of the run.
    """
    return torch.Generator().manual_seed(seed_of(seed, *purpose))


def seed_of(seed: int, *purpose: int | str) -> int:
    """What the generator of this seed and purpose is seeded with, a number below 2^63."""
    words = repr((int(seed), *purpose)).encode()
    digest = hashlib.blake2b(words, digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def in_turn(seeds: Iterable[int]) -> Iterator[torch.Generator]:
    """A generator of each seed in turn: it is one, which is seeded anew for the next.

    To make a generator takes longer than to draw a few numbers.
    """
    stream = torch.Generator()
    for seed in seeds:
        yield stream.manual_seed(seed)
