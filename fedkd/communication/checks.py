"""What an upload has to be: plain tensors under names, of the shapes and numbers that are due."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedkd.communication.measures import Asked, Measures
from fedkd.messages import ANY, Message, PayloadSpec, Upload

COUNTING = {  # types that count exactly, and that torch adds up with each other
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float32, torch.float64),
}


class Field(NamedTuple):
    """A tensor of a payload that has the shape and the type that are due."""

    key: str
    value: Tensor
    spec: PayloadSpec

    @property
    def asked(self) -> Asked:
        """What is to be known of its numbers."""
        bounds = self.spec.below, self.spec.most, self.spec.least
        return Asked(self.value, self.spec.simplex, any(bound is not None for bound in bounds))


class Shaped(NamedTuple):
    """A payload up to its first tensor that is not what is due, and what is wrong with that."""

    fields: list[Field]
    wrong: ValueError | None


def check_form(upload: object) -> None:
    """Raise ValueError unless this is an upload of plain tensors under names."""
    if not isinstance(upload, Upload):
        raise ValueError(f"it is a {type(upload).__name__}, and no upload")
    if not isinstance(upload.payload, Mapping):
        raise ValueError(f"its payload is a {type(upload.payload).__name__}, and no dictionary")
    for key, value in upload.payload.items():
        _check_tensor(key, value)
    if upload.rows is not None:
        _check_tensor("its list of rows", upload.rows)
        if upload.rows.dtype not in COUNTING:
            raise ValueError(f"its list of rows has type {upload.rows.dtype}, which does not count")


def _check_tensor(key: object, value: object) -> None:
    if not isinstance(key, str):
        raise ValueError(f"its payload has a key {key!r}, which is no name")
    if not isinstance(value, Tensor):
        raise ValueError(f"{key} is a {type(value).__name__}, and no tensor")
    if stored_otherwise(value):
        raise ValueError(f"{key} is no plain tensor: {value.layout}, {value.device}")


def stored_otherwise(value: Tensor) -> bool:
    """Whether its numbers do not lie one beside the other: sparse, nested, quantised, or none."""
    dense = value.layout is torch.strided and not value.is_meta
    return not dense or value.is_nested or value.is_quantized


def shaped(payload: Message, rows: Tensor | None, specs: Mapping[str, PayloadSpec]) -> Shaped:
    """The tensors of a payload that have the shape and the type that are due; `rows` at hand.

    Raises:
        ValueError: other keys than are due, or rows are named where they should not be.
    """
    due = {key for key, spec in specs.items() if not spec.once}
    if not due <= set(payload) <= set(specs):
        raise ValueError(f"keys {sorted(payload)} instead of {sorted(specs)}")
    specs = {key: spec for key, spec in specs.items() if key in payload}
    if any(spec.rows != (rows is not None) for spec in specs.values()):
        raise ValueError("rows are named where all are due, or not named where some are")
    fields: list[Field] = []
    try:
        for key, spec in specs.items():
            shape = spec.shape if rows is None else _held_shape(spec, rows)
            _check_shape(key, payload[key], spec._replace(shape=shape))
            fields.append(Field(key, payload[key], spec))
    except ValueError as reason:
        return Shaped(fields, reason)
    return Shaped(fields, None)


def check_numbers(found: Shaped, measures: Sequence[Measures], slack: float) -> None:
    """Raise ValueError for the first tensor that is not what is due, by its numbers or its shape.

    `slack` is by how much an entry of a distribution may miss.
    """
    for field, numbers in zip(found.fields, measures, strict=True):
        _check_numbers(field, numbers, slack)
    if found.wrong is not None:
        raise found.wrong


class Alike(NamedTuple):
    """Uploads that differ in numbers alone, each of the shapes and types that are due.

    Attributes:
        places: where they stand among those that were looked at.
        fields: the tensors of the first.
        columns: of each field, the tensors of all.
        named: how many entries their lists of rows have; None where there are no lists.
        slack: by how much an entry of a distribution may miss.
    """

    places: list[int]
    fields: list[Field]
    columns: list[list[Tensor]]
    named: int | None
    slack: float

    @property
    def asked(self) -> list[tuple[list[Tensor], bool, bool]]:
        """What is to be known of the numbers of each column; see `measures.tabled`."""
        pairs = zip(self.fields, self.columns, strict=True)
        return [(column, field.asked.simplex, field.asked.ends) for field, column in pairs]


def alike(
    uploads: Sequence[Any], specs: Sequence[Mapping[str, PayloadSpec]], slacks: Sequence[float]
) -> list[Alike]:
    """Those of some uploads with which `shaped` finds nothing wrong, form by form.

    Of any other `shaped` says what is wrong; `specs` and `slacks` are of each.
    """
    forms: dict[Hashable, list[int]] = {}
    for place, (upload, spec, slack) in enumerate(zip(uploads, specs, slacks, strict=True)):
        if isinstance(upload, Upload) and type(upload.payload) is dict:
            forms.setdefault((id(spec), slack, *_form(upload)), []).append(place)
    found = []
    for places in forms.values():
        fitting = _naming_what_came([uploads[place] for place in places])
        if members := [place for place, fits in zip(places, fitting, strict=True) if fits]:
            first = members[0]
            try:
                fields, wrong = shaped(uploads[first].payload, uploads[first].rows, specs[first])
            except ValueError:
                continue
            if wrong is None:
                payloads = [uploads[place].payload for place in members]
                columns = [[payload[field.key] for payload in payloads] for field in fields]
                rows = uploads[first].rows
                named = None if rows is None else len(rows)
                found.append(Alike(members, fields, columns, named, slacks[first]))
    return found


def _form(upload: Upload) -> tuple[Hashable, ...]:
    """All that `shaped` looks at, but the numbers in a list of rows."""
    rows = upload.rows
    tensors = [(key, v.shape, v.dtype, v.device) for key, v in upload.payload.items()]
    return (*tensors, None if rows is None else (rows.shape, rows.dtype, rows.device))


def _naming_what_came(uploads: Sequence[Upload]) -> list[bool]:
    """Whether lists of rows, of uploads of one form, are of 0 and 1 and name as many as came."""
    if uploads[0].rows is None or not uploads[0].payload:
        return [True] * len(uploads)
    if uploads[0].rows.ndim != 1:
        return [False] * len(uploads)
    lists = torch.stack([upload.rows for upload in uploads if upload.rows is not None])
    came = next(iter(uploads[0].payload.values())).shape[:1]
    fits = ((lists == 0) | (lists == 1)).all(dim=1) & (lists.sum(dim=1) == sum(came))
    return fits.tolist()


def fine_numbers(stack: Alike, numbers: Sequence[Tensor]) -> Tensor:
    """(K,) whether `check_numbers` finds nothing wrong; `numbers` (K, 4) are measured columns."""
    found = torch.ones(len(stack.places), dtype=torch.bool)
    for (_, value, spec), table in zip(stack.fields, numbers, strict=True):
        squares, low, high, off = table.unbind(1)
        found &= squares.isfinite()
        if spec.below is not None and value.numel():
            found &= (low >= 0) & (high < spec.below)
        if spec.simplex and math.isfinite(stack.slack) and value.numel():
            found &= (low >= -stack.slack) & (off <= stack.slack * value.shape[-1])
    return found


def _held_shape(spec: PayloadSpec, rows: Tensor) -> tuple[int, ...]:
    fits = rows.ndim == 1 if spec.shape[0] == ANY else rows.shape == spec.shape[:1]
    held = rows.tolist() if fits else []  # they are few: three operations of torch take longer
    if not fits or not set(held) <= {0, 1}:
        raise ValueError(f"a list of rows of shape {tuple(rows.shape)} that are not all 0 or 1")
    return (int(sum(held)), *spec.shape[1:])


def _check_shape(key: str, value: Tensor, spec: PayloadSpec) -> None:
    length = value.shape[:1] if spec.shape[:1] == (ANY,) else spec.shape[:1]
    shape = (*length, *spec.shape[1:])
    if tuple(value.shape) != shape:
        said = ", by its list of rows" if spec.rows else ""
        raise ValueError(f"{key} has shape {tuple(value.shape)} instead of {shape}{said}")
    kind = torch.get_default_dtype() if spec.below is None else torch.int32
    if value.dtype != kind:
        raise ValueError(f"{key} has type {value.dtype} instead of {kind}")


def _check_numbers(field: Field, numbers: Measures, slack: float) -> None:
    key, value, spec = field
    if spec.below is not None and numbers.size:
        first, last = int(numbers.low), int(numbers.high)
        if first < 0 or last >= spec.below:
            raise ValueError(f"{key} goes from {first} to {last}, not 0 to {spec.below - 1}")
    if not math.isfinite(numbers.squares) and not bool(torch.isfinite(value).all()):
        count = int((~torch.isfinite(value)).sum())
        raise ValueError(f"{key} holds {count} entries that are not finite")
    distribution = spec.simplex and math.isfinite(slack) and numbers.size
    if distribution and (numbers.low < -slack or numbers.off > slack * value.shape[-1]):
        raise ValueError(
            f"{key} has rows that are no distribution (smallest entry {numbers.low:.3g}, "
            f"a sum off by {numbers.off:.3g})"
        )
