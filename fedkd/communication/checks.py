"""What an upload has to be: plain tensors under names, of the shapes and numbers that are due."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedkd.communication.measures import Asked, Measures
from fedkd.messages import ANY, Message, PayloadSpec, Upload


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
    rows = {} if upload.rows is None else {"its list of rows": upload.rows}
    for key, value in (dict(upload.payload) | rows).items():
        if not isinstance(key, str):
            raise ValueError(f"its payload has a key {key!r}, which is no name")
        if not isinstance(value, Tensor):
            raise ValueError(f"{key} is a {type(value).__name__}, and no tensor")
        if stored_otherwise(value):
            raise ValueError(f"{key} is no plain tensor: {value.layout}, {value.device}")


def stored_otherwise(value: Tensor) -> bool:
    """Whether its numbers do not lie one beside the other: sparse, nested, quantised, or none."""
    dense = value.layout is torch.strided and value.device.type != "meta"
    return not dense or value.is_nested or value.is_quantized


def shaped(payload: Message, rows: Tensor | None, specs: Mapping[str, PayloadSpec]) -> Shaped:
    """The tensors of a payload that have the shape and the type that are due; `rows` at hand.

    Raises:
        ValueError: other keys than are due, or rows are named where they should not be.
    """
    if set(payload) != set(specs):
        raise ValueError(f"keys {sorted(payload)} instead of {sorted(specs)}")
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
