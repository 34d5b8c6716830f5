"""One random stream per purpose, so that no result depends on who draws first."""

import hashlib

import torch


def generator(seed: int, *purpose: int | str) -> torch.Generator:
    """A CPU generator that depends on the seed and on what it is for, and on nothing else.

    `generator(7, "round", 3, "client", 12)` is the same stream in every process and on every
    machine, however many other streams were drawn from before.

    Args:
        seed: the seed of the run.
        purpose: names and numbers that tell this stream from all the others of the run.
    """
    words = repr((int(seed), *purpose)).encode()
    digest = hashlib.blake2b(words, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
