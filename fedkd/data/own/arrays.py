"""Features and labels of any library as tensors; each conversion is noted, all else refused."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedkd.data.checks import check_finite, integers

LABELS_SHOWN = 5

Names = tuple[str, ...]


def features(x: Any, notes: list[str]) -> Any:
    """Examples as a tensor (N, ...); of a tuple, for networks with several inputs, as one each.

    Bytes are divided by 255. Pictures whose channels come last are turned, and grey ones of bytes
    without a channel get one. Measurements have torch's default type; whole numbers stay whole,
    since they may be token numbers.

    Args:
        x: an array or a tensor, or a tuple of several.
        notes: gets a line for each conversion.

    Raises:
        ValueError: no numbers, NaN or infinite ones, or tables of different lengths.
    """
    if not isinstance(x, tuple):
        return _features(x, notes)
    found = tuple(_features(one, notes) for one in x)
    if len({len(one) for one in found}) != 1:
        raise ValueError(
            f"inputs of {', '.join(str(len(one)) for one in found)} examples; each needs a row for "
            "every example"
        )
    return found


def labels(y: Any, count: int, classes: int | None, notes: list[str]) -> tuple[Tensor, Names, int]:
    """Labels as whole numbers (N,) from 0, the names of the classes, and their number.

    Text is numbered in the order of the alphabet (numerals by their value), True is 1, and one-hot
    rows give the place of their 1.

    Args:
        y: an array, a tensor or a sequence.
        count: N, how many examples there are.
        classes: C, where labels need not say it: some class may have no example.
        notes: gets a line for each conversion.

    Raises:
        ValueError: no labels of one class each, from 0 to C - 1.
    """
    given = as_array(y, "labels")
    if len(given) != count or given.ndim == 0:
        raise ValueError(f"{len(given)} labels for {count} examples; each example needs one")
    if given.dtype.kind in "OUS":
        numbers, names = numbered(given, "labels")
        _note_names(names, notes)
    else:
        numbers, names = _numbers(given, notes), ()
    return numbers, names, _class_count(numbers, max(classes or 0, len(names)) or None)


def as_array(values: Any, what: str) -> "np.ndarray[Any, Any]":
    """An array of what a library gives as tensor, array, series or list.

    Raises:
        ValueError: rows of different lengths, or something that is no table of values.
    """
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    try:
        found = np.asarray(values)
    except ValueError:  # numpy's own words are of an "inhomogeneous shape"
        raise ValueError(f"{what} have rows of different shapes; bring them to one shape") from None
    if found.ndim == 0:
        raise ValueError(
            f"{what} are a {type(values).__name__}; expected an array or a tensor (.toarray() of a "
            "sparse matrix)"
        )
    return found


def numbered(values: "np.ndarray[Any, Any]", what: str) -> tuple[Tensor, Names]:
    """Text (N,) as numbers (N,) and the texts that they stand for, in order.

    Raises:
        ValueError: something is missing, or there is more than one text for a row.
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise ValueError(f"{what} have shape {values.shape}; expected ({len(values)},)")
    lost = [row for row, value in enumerate(values) if value is None or value != value]
    if lost:
        raise ValueError(f"{what}: {len(lost)} are missing, first row {lost[0]}; drop such rows")
    texts = [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    names = in_order(set(texts))
    places = {name: place for place, name in enumerate(names)}
    return torch.tensor([places[text] for text in texts]), names


def in_order(texts: set[str]) -> Names:
    """Texts in the order of the alphabet; numerals, where all are, by their value."""
    numerals = all(text.isascii() and text.isdecimal() for text in texts)
    return tuple(sorted(texts, key=(lambda text: (int(text), text)) if numerals else None))


def _features(given: Any, notes: list[str]) -> Tensor:
    x = (given if isinstance(given, Tensor) else _tensor(given)).detach().cpu()
    if not x.ndim or not len(x):
        raise ValueError(f"examples of shape {tuple(x.shape)}; expected (N, ...), N >= 1")
    if x.is_complex() or x.layout != torch.strided:
        raise ValueError(f"examples are {x.dtype}, {x.layout}; expected dense real numbers")
    x = _real(_as_pictures(x, notes), notes)
    check_finite(x)
    return x.unsqueeze(1) if x.ndim == 1 else x


def _tensor(given: Any) -> Tensor:
    table = as_array(given, "examples")
    kind, size = table.dtype.kind, table.dtype.itemsize
    if kind not in "biuf":
        raise ValueError(
            f"examples are an array of {table.dtype}; expected real numbers; for text make a table "
            "with named columns"
        )
    # torch has no swapped bytes, no long double, and no whole numbers without a sign but bytes
    plain = {"f": f"f{min(size, 8)}", "u": "u1" if size == 1 else "i8"}.get(kind, f"{kind}{size}")
    return torch.from_numpy(table.astype(plain))


def _as_pictures(x: Tensor, notes: list[str]) -> Tensor:
    if x.ndim == 4 and x.shape[-1] in (1, 3, 4) and x.shape[1] > 4:
        notes.append(f"pictures of {_times(x.shape[1:])}: channels, which came last, are put first")
        return x.permute(0, 3, 1, 2).contiguous()
    if x.ndim == 3 and x.dtype == torch.uint8:
        notes.append(f"pictures of {_times(x.shape[1:])} get a channel")
        return x.unsqueeze(1)
    return x


def _real(x: Tensor, notes: list[str]) -> Tensor:
    kind = torch.get_default_dtype()
    if x.dtype == torch.uint8:
        notes.append("features that are bytes are divided by 255")
        return x.to(kind) / 255
    if x.dtype == torch.bool:
        return x.to(kind)
    if not x.is_floating_point():
        notes.append(
            "features are whole numbers and stay so, as token numbers are; measurements should "
            "be given as floats"
        )
        return x.long()
    if x.dtype != kind:
        notes.append(f"features of {_word(x.dtype)} are taken as {_word(kind)}")
    return x.to(kind)


def _numbers(given: "np.ndarray[Any, Any]", notes: list[str]) -> Tensor:
    if given.dtype.kind not in "biuf":
        raise ValueError(f"labels are {given.dtype}; expected whole numbers or text")
    if given.ndim == 2 and given.shape[1] > 1:
        given = _places(given)
        notes.append("labels of one-hot rows are the places of their 1")
    elif given.ndim == 2:
        notes.append("labels of shape (N, 1) are taken as (N,)")
    if given.dtype.kind == "f" and not np.isfinite(given).all():
        lost = np.flatnonzero(~np.isfinite(given.reshape(len(given), -1)).all(axis=1))
        raise ValueError(f"{len(lost)} labels are NaN, first row {lost[0]}; drop such rows")
    numbers = given.astype(np.float64 if given.dtype.kind == "f" else np.int64)
    parts = np.flatnonzero(numbers != np.round(numbers))
    if len(parts):
        raise ValueError(
            f"labels are real numbers (row {parts[0]}: {numbers.flat[parts[0]]:g}); expected a "
            'class for each example, numbered from 0, or say target="real"'
        )
    return integers(torch.from_numpy(numbers), "labels")


def _places(rows: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    if not np.isin(rows, (0, 1)).all() or not (rows.sum(axis=1) == 1).all():
        raise ValueError(
            f"labels have shape {rows.shape}, and are no one-hot rows; expected one class for each "
            f"example, ({len(rows)},)"
        )
    found: np.ndarray[Any, Any] = rows.argmax(axis=1)
    return found


def _class_count(numbers: Tensor, classes: int | None) -> int:
    """C; ValueError where labels are not 0 to C - 1."""
    found = numbers.unique().tolist()
    count = len(found) if classes is None else classes
    first, last = found[0], found[-1]
    if count < 2:
        raise ValueError(f"all labels are {first}: two classes or more are needed")
    if first < 0 or last >= count:
        shown = ", ".join(map(str, found[:LABELS_SHOWN])) + ", ..." * (len(found) > LABELS_SHOWN)
        row = int((numbers == (first if first < 0 else last)).nonzero()[0])
        way = f", or say classes={last + 1}" if first >= 0 else ": drop rows without a label"
        way += ', or say target="real" (--target real) of real numbers'
        raise ValueError(
            f"labels are {shown} (row {row}: {int(numbers[row])}), which are not 0 to {count - 1}; "
            f"renumber them{way}"
        )
    return count


def _note_names(names: Sequence[str], notes: list[str]) -> None:
    shown = ", ".join(names[:LABELS_SHOWN]) + ", ..." * (len(names) > LABELS_SHOWN)
    notes.append(f"labels {shown} are numbered 0 to {len(names) - 1}")


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _word(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")
