"""What algorithms send that is a function of private data, and how far one unit can move it.

Sensitivities are data: each row of `RELEASES` is a statement, tested by a search for pairs that
break it and by a pair that attains it. What is unbounded (logits, prototypes, parameters) is
clipped first, or has no row. One client sends all of it in one round.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fedkd.privacy.accounting import Relation, Unit


class Sizes(NamedTuple):
    """What sensitivities depend on.

    Attributes:
        classes: C.
        queries: N, how many public examples are asked about.
        bound: B, the L2 norm that a prototype, or a whole payload, is clipped to.
        weight: W, the largest weight of a client.
    """

    classes: int = 10
    queries: int = 1
    bound: float = 1.0
    weight: float = 1.0


@dataclass(frozen=True)
class Release:
    """How far what is sent moves, in the norm named, if one unit is replaced, or added.

    Attributes:
        name: what is sent.
        sensitivity: of the sizes.
        unit, relation: of whom, and how neighbours differ.
        norm: 2, for Gaussian noise, or 1, for Laplace noise.
    """

    name: str
    sensitivity: Callable[[Sizes], float]
    unit: Unit
    relation: Relation
    norm: Literal[1, 2] = 2


def _client(
    name: str,
    replaced: Callable[[Sizes], float],
    added: Callable[[Sizes], float],
    norm: Literal[1, 2] = 2,
) -> tuple[Release, Release]:
    return (
        Release(name, replaced, "client", "replace", norm),
        Release(name, added, "client", "add", norm),
    )


# A client that is absent adds zeros. A list of labels held is a number for each label, 1 or 0.
# Where a label is not held its row is zero: a row against a row differs by sqrt 2, a row against
# none by 1, and then the list differs too.
RELEASES: tuple[Release, ...] = (
    # DS-FL, FedMD: N rows of probabilities.
    *_client("predictions", lambda s: math.sqrt(2 * s.queries), lambda s: math.sqrt(s.queries)),
    # FD: C rows of probabilities, with the list of labels held, and without.
    *_client(
        "class means and labels held",
        lambda s: math.sqrt(2 * s.classes),
        lambda s: math.sqrt(2 * s.classes),
    ),
    *_client("class means", lambda s: math.sqrt(2 * s.classes), lambda s: math.sqrt(s.classes)),
    # FedProto, FedTGP: C prototypes, each clipped.
    *_client(
        "prototypes and labels held",
        lambda s: math.sqrt(s.classes * max(4 * s.bound**2, s.bound**2 + 1)),
        lambda s: math.sqrt(s.classes * (s.bound**2 + 1)),
    ),
    *_client(
        "prototypes",
        lambda s: 2 * s.bound * math.sqrt(s.classes),
        lambda s: s.bound * math.sqrt(s.classes),
    ),
    # PATE: N votes, and for each query the number of votes of whoever has most.
    *_client("votes", lambda s: math.sqrt(2 * s.queries), lambda s: math.sqrt(s.queries)),
    *_client("votes", lambda s: 2 * s.queries, lambda s: s.queries, norm=1),
    *_client("most votes", lambda s: math.sqrt(s.queries), lambda s: math.sqrt(s.queries)),
    # FedAvg and its like: weight times payload, the weight from 0 to W; with the weight, or not.
    *_client("weighted payload", lambda s: 2 * s.weight * s.bound, lambda s: s.weight * s.bound),
    *_client(
        "weighted payload and weight",
        lambda s: s.weight * max(2 * s.bound, math.hypot(s.bound, 1)),
        lambda s: s.weight * math.hypot(s.bound, 1),
    ),
    # FedGen: how many examples there are of each label.
    Release("label counts", lambda s: math.sqrt(2), "record", "replace"),
    Release("label counts", lambda s: 1, "record", "add"),
    Release("label counts", lambda s: 2, "record", "replace", norm=1),
    Release("label counts", lambda s: 1, "record", "add", norm=1),
)


def find(name: str, relation: Relation, norm: Literal[1, 2] = 2) -> Release:
    """The release of a name, under a relation, in a norm.

    Raises:
        ValueError: there is none; the message lists what there is.
    """
    for release in RELEASES:
        if (release.name, release.relation, release.norm) == (name, relation, norm):
            return release
    known = ", ".join(dict.fromkeys(release.name for release in RELEASES))
    raise ValueError(
        f"no bound is known for {name!r} under {relation!r} in L{norm}; there is one for {known}"
    )


def clipped(rows: Tensor, bound: float) -> Tensor:
    """Rows (..., D) of an L2 norm of no more than the bound, in their own direction.

    Raises:
        ValueError: the bound is not positive, or a number is not finite: none would be clipped.
    """
    if not 0 < bound < math.inf:
        raise ValueError(f"bound is {bound}; it has to be positive and finite")
    if not rows.isfinite().all():
        raise ValueError("what is to be clipped has numbers that are not finite; refuse it before")
    norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return torch.where(norms > bound, rows * (bound / norms), rows)
