"""Whose membership is asked: members, and as many others with the same labels."""

from typing import NamedTuple

import torch
from torch import Tensor


class Candidates(NamedTuple):
    """Row numbers: members first, then as many others (or a multiple) of each of their labels."""

    rows: Tensor
    member: Tensor


def matched(
    members: Tensor, others: Tensor, y: Tensor, stream: torch.Generator, most: int = 1
) -> Candidates:
    """Members and others of the same labels, so that a label tells nothing.

    Of a label with fewer others than members some members are left out. The others are a whole
    multiple of the members, as large as there are enough of every label, up to `most`.

    Args:
        members: row numbers of those who are.
        others: of those who are not.
        y: (N,) the labels of all rows.
        stream: of the choice.
        most: times as many others as members, at the most.
    """
    inside, outside, times = [], [], most
    for label in y[members].unique(sorted=True):
        own, theirs = (_shuffled(rows[y[rows] == label], stream) for rows in (members, others))
        own = own[: len(theirs)]
        if len(own):
            inside.append(own)
            outside.append(theirs)
            times = min(times, len(theirs) // len(own))
    if not inside:
        return Candidates(members[:0], torch.zeros(0, dtype=torch.bool))
    kept = [theirs[: times * len(own)] for own, theirs in zip(inside, outside, strict=True)]
    first = torch.cat(inside)
    rows = torch.cat([first, *kept])
    return Candidates(rows, torch.arange(len(rows)) < len(first))


def _shuffled(rows: Tensor, stream: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=stream)]
