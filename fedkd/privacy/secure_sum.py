"""Secure aggregation, simulated: a server learns a sum of vectors, and of each no more than that.

Keith Bonawitz, Vladimir Ivanov, Ben Kreuter, Antonio Marcedone, H. Brendan McMahan, Sarvar Patel,
Daniel Ramage, Aaron Segal, Karn Seth. "Practical Secure Aggregation for Privacy-Preserving Machine
Learning". CCS 2017. https://doi.org/10.1145/3133956.3133982

Vectors are of a ring of 2^32. Each two clients agree on a seed, of which one adds a mask and the
other subtracts it; each adds one more of its own. Seeds are shared out (Adi Shamir. "How to Share a
Secret". 1979), so that enough of those who answer give the server the masks that are left in the
sum: the own ones of all who answered, and those agreed on with whoever did not.

It is a simulation of the arithmetic, the bytes and the failures. All parties are in one process,
their seeds come from a generator, the group of the key agreement is too small to be safe, and
shares are not encrypted.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ring = npt.NDArray[np.uint32]  # a vector of the ring; sums wrap around
PRIME, BASE = 2**255 - 19, 2  # of the key agreement and of the shares: numbers of 32 bytes
KEY, SHARE, TAG, NUMBER = 32, 32, 16, 4  # bytes


@dataclass(frozen=True)
class SecureSum:
    """What a secure sum is to be like.

    Attributes:
        threshold: more than this share of a cohort has to answer, or there is no sum.
        limit: the largest number that can be summed; what is larger is clipped to it.
    """

    threshold: float = 0.5
    limit: float = 16.0

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}; it has to be >= 0 and < 1")
        if not 0 < self.limit < math.inf:
            raise ValueError(f"limit is {self.limit}; it has to be positive and finite")

    def needed(self, count: int) -> int:
        """How many of so many have to answer: two at the least, else the sum is an upload."""
        return max(2, math.floor(self.threshold * count) + 1)

    def digits(self, count: int) -> int:
        """Binary digits behind the point, of which no sum of so many numbers gets too large."""
        return math.floor(math.log2((2**31 - 1) / (max(1, count) * self.limit)))

    def fixed(self, values: Tensor, count: int) -> Ring:
        """Numbers as a vector of the ring, rounded to the nearest; for a sum of `count`."""
        clipped = values.detach().cpu().double().clamp(-self.limit, self.limit).numpy().reshape(-1)
        return np.rint(clipped * 2.0 ** self.digits(count)).astype(np.int64).astype(np.uint32)

    def read(self, total: Ring, count: int) -> Tensor:
        """A sum of `fixed` vectors as numbers, in float64."""
        return torch.from_numpy(total.astype(np.int32) / 2.0 ** self.digits(count))


@dataclass(frozen=True)
class Secrets:
    """What a cohort has agreed on before anybody sends a vector.

    Attributes:
        needed: how many shares make a secret.
        public: client -> the public part of its key.
        keys, own: client -> the secret part, and the seed of its own mask; nobody else's.
        shares: client -> holder -> shares of these two, which the holder keeps.
    """

    needed: int
    public: Mapping[int, int]
    keys: Mapping[int, int]
    own: Mapping[int, int]
    shares: Mapping[int, Mapping[int, tuple[int, int]]]


def agree(clients: Sequence[int], needed: int, generator: torch.Generator) -> Secrets:
    """Keys, seeds and shares of a cohort."""
    keys = {client: _number(generator) for client in clients}
    own = {client: _number(generator) for client in clients}
    shares = {}
    for client in clients:
        of_key = _shared(keys[client], clients, needed, generator)
        of_own = _shared(own[client], clients, needed, generator)
        shares[client] = {holder: (of_key[holder], of_own[holder]) for holder in clients}
    public = {client: pow(BASE, key, PRIME) for client, key in keys.items()}
    return Secrets(needed, public, keys, own, shares)


def masked(values: Ring, client: int, secrets: Secrets) -> Ring:
    """A client's vector as the server sees it."""
    found = values + _mask(secrets.own[client], len(values))
    for other in secrets.public:
        if other != client:
            found = found + _between(client, other, secrets.keys[client], secrets, len(values))
    return found


def unmasked(total: Ring, answered: Collection[int], secrets: Secrets) -> Ring:
    """The sum of the vectors of those who answered, of the sum of their masked ones.

    Raises:
        ValueError: fewer have answered than it takes to find the masks.
    """
    holders = sorted(answered)[: secrets.needed]
    if len(holders) < secrets.needed:
        raise ValueError(
            f"{len(holders)} of {len(secrets.public)} clients answered, and a secure sum takes "
            f"{secrets.needed}: its masks cannot be found"
        )
    weights = _at_zero(holders)
    found = total
    for client in answered:
        own = _joined((secrets.shares[client][h][1] for h in holders), weights)
        found = found - _mask(own, len(total))
    for client in set(secrets.public) - set(answered):
        key = _joined((secrets.shares[client][h][0] for h in holders), weights)
        for other in answered:  # what it would have added, and took from the others' masks
            found = found + _between(client, other, key, secrets, len(total))
    return found


def overhead(clients: int, answered: int) -> tuple[Counter[str], Counter[str]]:
    """Bytes up and down beside the vectors, of all clients together.

    Up, two public keys each (one is for the transport of shares), two encrypted shares for each
    other, and of those who answer a share of each client's. Down, the others' keys and shares, and
    who has answered.
    """
    pairs = clients * (clients - 1)
    dealt = (2 * SHARE + TAG) * pairs
    up = Counter({"mask.keys": 2 * KEY * clients})
    up["mask.shares"] = dealt + SHARE * clients * answered
    down = Counter({"mask.keys": 2 * KEY * pairs})
    down["mask.shares"] = dealt + NUMBER * answered * answered
    return up, down


def _number(generator: torch.Generator) -> int:
    drawn = torch.randint(256, (KEY,), generator=generator, dtype=torch.uint8)
    return int.from_bytes(drawn.numpy().tobytes(), "little") % (PRIME - 2) + 1


def _mask(seed: int, size: int) -> Ring:
    """A vector that nobody can tell from an even one without the seed."""
    drawn = hashlib.shake_256(seed.to_bytes(KEY, "little")).digest(NUMBER * size)
    return np.frombuffer(drawn, "<u4").astype(np.uint32)


def _between(client: int, other: int, key: int, secrets: Secrets, size: int) -> Ring:
    """The mask that a client adds for another, by its secret key; the other adds the negative."""
    agreed = pow(secrets.public[other], key, PRIME)
    mask = _mask(int.from_bytes(hashlib.sha256(agreed.to_bytes(KEY, "little")).digest()), size)
    return mask if client < other else np.negative(mask)


def _shared(
    secret: int, clients: Sequence[int], needed: int, generator: torch.Generator
) -> dict[int, int]:
    """Points of a polynomial whose value at 0 is the secret: fewer than `needed` say nothing."""
    terms = [*(_number(generator) for _ in range(needed - 1)), secret]

    def at(x: int) -> int:
        value = 0
        for term in terms:
            value = (value * x + term) % PRIME
        return value

    return {client: at(client + 1) for client in clients}


def _at_zero(holders: Sequence[int]) -> list[int]:
    """What each holder's share counts for, that the sum is the polynomial's value at 0."""
    weights = []
    for one in holders:
        above = below = 1
        for other in holders:
            if other != one:
                above = above * (other + 1) % PRIME
                below = below * (other - one) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return weights


def _joined(shares: Iterable[int], weights: Sequence[int]) -> int:
    return sum(share * weight for share, weight in zip(shares, weights, strict=True)) % PRIME
