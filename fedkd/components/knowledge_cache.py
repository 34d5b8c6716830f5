"""What a server knows of each private example: hash, label, logits, and which others are like it.

It is a part of the server's knowledge, under `hashes/3`, `labels/3` and `logits/3` for client 3, in
whose tables an example's place is its name (`fedkd.components.sample_exchange`), and `relatives`,
places in the tables of all clients, one behind the other in the order of their numbers.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fedkd.core import Server
from fedkd.messages import Received

NOBODY = -1  # in the place of a relative


def members(cache: Server) -> list[int]:
    """The clients whose examples are known, in the order of their numbers."""
    return sorted(int(key.partition("/")[2]) for key in cache if key.startswith("hashes/"))


def held_places(uploads: Sequence[Received]) -> list[Tensor]:
    """Of each upload the places of the examples that there are; all are read at once."""
    rows = [upload.rows for upload in uploads if upload.rows is not None]
    assert len(rows) == len(uploads)
    if not rows:
        return []
    counts = torch.stack([one.count_nonzero() for one in rows]).tolist()
    places = torch.cat(rows).nonzero().flatten().split(counts)
    firsts = accumulate((len(one) for one in rows), initial=0)
    return [own - first for own, first in zip(places, firsts, strict=False)]


def noted(cache: Server, upload: Received, held: Tensor) -> Server:
    """What a client says of its examples, to be kept, in the order of their places.

    Hashes and labels are those that it named first. Of one who has named none, or now has another
    number of examples, nothing is kept.
    """
    client = upload.client
    said = {f"{key}/{client}": value[held] for key, value in upload.payload.items()}
    hashes, labels, logits = (f"{key}/{client}" for key in ("hashes", "labels", "logits"))
    if labels in cache:
        return {logits: said[logits]} if len(said[logits]) == len(cache[labels]) else {}
    return said if hashes in said and labels in said else {}


def with_relatives(cache: Server, count: int) -> Server:
    """Which examples are like each other, anew."""
    hashes, labels = _table(cache, "hashes"), _table(cache, "labels")
    return {"relatives": relatives(hashes, labels, count)}


def teachers(cache: Server) -> Server:
    """Under `teachers/3` what the relatives of each example of client 3 are said to be."""
    clients = members(cache)
    if not clients:
        return {}
    means = mean_of(_table(cache, "logits"), cache["relatives"])
    sizes = [len(cache[f"labels/{client}"]) for client in clients]
    parts = zip(clients, means.split(sizes), strict=True)
    return {f"teachers/{client}": part for client, part in parts}


def relatives(hashes: Tensor, labels: Tensor, count: int) -> Tensor:
    """Of each example the others of its label that are nearest by cosine, nearest first.

    Shapes:
        hashes: (N, D); labels: (N,); gives (N, count) places, -1 behind the last that there is.
    """
    unit = F.normalize(hashes, dim=1)
    found = labels.new_full((len(labels), count), NOBODY, dtype=torch.long)
    for label in labels.unique():
        places = (labels == label).nonzero().flatten()
        nearness = (unit[places] @ unit[places].T).fill_diagonal_(-torch.inf)
        near = nearness.topk(min(count, len(places) - 1), dim=1).indices
        found[places, : near.shape[1]] = places[near]
    return found


def mean_of(logits: Tensor, related: Tensor) -> Tensor:
    """The mean logits of each one's relatives, (N, C); zeros where there is none."""
    there = (related != NOBODY).to(logits.dtype).unsqueeze(-1)
    total = (there * logits[related.clamp(min=0)]).sum(dim=1)
    return total / there.sum(dim=1).clamp(min=1)


def _table(cache: Server, key: str) -> Tensor:
    return torch.cat([cache[f"{key}/{client}"] for client in members(cache)])
