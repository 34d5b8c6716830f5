"""Uploads of which only some rows cross the network: those of a cohort at once, in few copies."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from fedkd.communication.attempts import each
from fedkd.messages import Upload
from kdcore.devices import moved

# (tables joined, rows that are held, which are, how many of each table) -> the tables' new rows
Change = Callable[[Tensor, Tensor, Tensor, list[int]], Sequence[Tensor]]


def only_held(uploads: Sequence[Upload]) -> list[Any]:
    """Uploads without the rows that their clients do not hold.

    In the place of one whose list of rows does not fit its tables stands the ValueError that says
    so.
    """
    naming = [place for place, upload in enumerate(uploads) if upload.rows is not None]
    odd = [place for place in naming if not _fits(uploads[place])]
    alone = each(_held_alone, [uploads[place] for place in odd])
    found = _changed(uploads, [place for place in naming if place not in set(odd)], _taken)
    for place, one in zip(odd, alone, strict=True):
        found[place] = one
    return found


def with_zeros(uploads: Sequence[Upload]) -> list[Upload]:
    """The inverse: zeros for the rows that were not sent, by lists that fit."""
    naming = [place for place, upload in enumerate(uploads) if upload.rows is not None]
    return _changed(uploads, naming, _spread)


def _fits(upload: Upload) -> bool:
    """Whether each table has a row for each entry of the list of rows."""
    assert upload.rows is not None
    shape = upload.rows.shape
    return len(shape) == 1 and all(v.shape[:1] == shape for v in upload.payload.values())


def _held_alone(upload: Upload) -> Upload:
    assert upload.rows is not None
    try:
        held = upload.rows.bool()
        payload = {key: value[held] for key, value in upload.payload.items()}
    except Exception as reason:  # what a client's function gave back may be anything
        raise ValueError(f"it cannot be sent: {reason}") from reason
    return upload._replace(payload=payload)


def _changed(uploads: Sequence[Upload], places: Sequence[int], change: Change) -> list[Any]:
    """Uploads with the tables of some changed, which name rows.

    Tables of one width, type and device are joined end to end, and so are the lists, on the CPU.
    """
    found = list(uploads)
    lists = moved([rows for place in places if (rows := uploads[place].rows) is not None], "cpu")
    held = dict(zip(places, lists, strict=True))
    kinds: dict[Hashable, list[tuple[int, str]]] = {}
    for place in places:
        payload, weight, rows = found[place]
        found[place] = Upload(dict(payload), weight, rows)
        for key, table in payload.items():
            kind = table.shape[1:], table.dtype, table.device
            kinds.setdefault(kind, []).append((place, key))
    for tables in kinds.values():
        whole = torch.cat([found[place].payload[key] for place, key in tables])
        mine = [held[place] for place, _ in tables]
        mask, lengths = torch.cat(mine).bool(), [one.shape[0] for one in mine]
        (index,) = moved([mask.nonzero().flatten()], whole.device)
        for (place, key), table in zip(tables, change(whole, index, mask, lengths), strict=True):
            found[place].payload[key] = table
    return found


def _taken(whole: Tensor, index: Tensor, held: Tensor, lengths: list[int]) -> Sequence[Tensor]:
    so_far = torch.nn.functional.pad(held.cumsum(dim=0), (1, 0))
    counts = so_far[torch.tensor([0, *lengths]).cumsum(dim=0)].diff()
    parts: Sequence[Tensor] = whole.index_select(0, index).split(counts.tolist())
    return parts


def _spread(whole: Tensor, index: Tensor, held: Tensor, lengths: list[int]) -> Sequence[Tensor]:
    zeros = whole.new_zeros((len(held), *whole.shape[1:]))
    parts: Sequence[Tensor] = zeros.index_copy_(0, index, whole).split(lengths)
    return parts
