"""What is to be learnt of examples, of any library: which target, and its values as tensors."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedkd.data.own.arrays import Names, as_array, in_order, labels
from fedkd.targets import CLASSES, LABELS, NO_LABEL, REAL, SEQUENCE, TARGETS, Target

KINDS = 20  # different whole numbers up to which they may be classes with gaps between them
BETWEEN = "|"  # separates the labels of an example that are written into one text


class Values(NamedTuple):
    """What is to be learnt.

    Attributes:
        target: what it is.
        y: its values, see `fedkd.targets`.
        names: what the classes, numbers or labels are called; empty if not known.
        many: how many of these there are.
    """

    target: Target
    y: Tensor
    names: Names
    many: int


def values(
    y: Any,
    examples: int,
    name: str | None,
    classes: int | None,
    notes: list[str],
    columns: Names = (),
) -> Values:
    """What is to be learnt of examples, and of which target it is where that is not said.

    Not said, real numbers that are not all whole are real targets, and so are whole ones that can
    be no classes: many, far apart, such as prices. Rows of 0 and 1 that are no one-hot rows are
    several labels; rows of other whole numbers are sequences; all else is one class.

    Args:
        y: an array, a tensor or a sequence, (N,) or (N, ...).
        examples: N, how many there are.
        name: of the target, where it is said.
        classes: C, where not every class, or token, has an example.
        notes: gets a line for each conversion.
        columns: of a table, what the columns are called.

    Raises:
        ValueError: it is none of a target, or the target is none; one line says what was expected.
    """
    if name is not None and name not in TARGETS:
        raise ValueError(f"target {name!r}: expected one of {', '.join(TARGETS)}")
    given = as_array(y, "labels")
    if len(given) != examples or given.ndim == 0:
        raise ValueError(f"{len(given)} labels for {examples} examples; each example needs one")
    apart = "" if name or classes else _far_apart(given)
    target = TARGETS[name] if name else REAL if apart else _guessed(given)
    if not name and target != CLASSES:
        notes.append(f"{apart or f'each example has {target.words}'}: target {target.name}")
    if target == CLASSES:
        numbers, names, count = labels(y, examples, classes, notes)
        return Values(target, numbers, names, count)
    read = {"real": _real, "labels": _several, "sequence": _sequence}[target.name]
    found, names = read(given, columns, notes)
    count = found.shape[1] if target != SEQUENCE else _tokens(found, classes)
    return Values(target, found, names, count)


def next_tokens(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a language model: (N, T + 1) tokens -> x and y, (N, T).

    y[n, t] is the token after x[n, t]. Where a token is -100 there is none: padding, which is read
    as token 0, and of which nothing is learnt.
    """
    if tokens.ndim != 2 or tokens.shape[1] < 2 or tokens.is_floating_point():
        raise ValueError(
            f"tokens are {tokens.dtype} of shape {tuple(tokens.shape)}; expected whole numbers "
            "(N, T + 1), at least two in a row"
        )
    x, y = tokens[:, :-1].long(), tokens[:, 1:].long()
    return x.masked_fill(x == NO_LABEL, 0), y


def _guessed(given: Any) -> Target:
    """The target that values are plainly of."""
    several = given.ndim == 2 and given.shape[1] > 1
    if given.dtype.kind == "f" and not several:
        whole = given[np.isfinite(given)]
        return CLASSES if (whole == np.round(whole)).all() else REAL
    if not several or given.dtype.kind not in "biuf":
        return CLASSES
    if np.isin(given, (0, 1)).all():
        return CLASSES if (given.sum(axis=1) == 1).all() else LABELS
    return REAL if given.dtype.kind == "f" else SEQUENCE


def _far_apart(given: Any) -> str:
    """What is said of whole numbers, one for each example, that are too many and too far apart.

    Nothing of others: classes are from 0 on, or from 1, or a few numbers of any kind.
    """
    if given.dtype.kind not in "iuf" or given.size != len(given) or not np.isfinite(given).all():
        return ""
    kinds = np.unique(given)
    least, most = kinds[0], kinds[-1]
    if (
        (kinds != np.round(kinds)).any()
        or len(kinds) <= KINDS
        or int(most) - int(least) < 2 * len(kinds)
    ):
        return ""
    return f"labels are {len(kinds)} different whole numbers from {int(least)} to {int(most)}"


def _numeric(given: Any, what: str) -> Any:
    if given.dtype.kind not in "biuf":
        raise ValueError(f"{what} are text, such as {str(given.flat[0])!r}; expected numbers")
    wide = given.astype(np.float64)
    lost = np.flatnonzero(~np.isfinite(wide.reshape(len(wide), -1)).all(axis=1))
    if len(lost):
        raise ValueError(
            f"{what} are NaN or infinite in {len(lost)} rows, first row {lost[0]}; drop such rows"
        )
    return wide


def _real(given: Any, columns: Names, notes: list[str]) -> tuple[Tensor, Names]:
    wide = _numeric(given, "real targets")
    if wide.ndim > 2:
        raise ValueError(f"real targets have shape {wide.shape}; expected (N,) or (N, D)")
    y = torch.from_numpy(wide.reshape(len(wide), -1)).to(torch.get_default_dtype())
    return y, columns


def _several(given: Any, columns: Names, notes: list[str]) -> tuple[Tensor, Names]:
    if given.dtype.kind in "OUS":
        return _named(given, notes)
    wide = _numeric(given, "labels")
    if wide.ndim != 2 or not np.isin(wide, (0, 1)).all():
        raise ValueError(
            f"several labels at once have shape {wide.shape}; expected rows of 0 and 1, a column "
            f"for each label, or texts such as 'red{BETWEEN}round'"
        )
    return torch.from_numpy(wide).to(torch.get_default_dtype()), columns


def _named(given: Any, notes: list[str]) -> tuple[Tensor, Names]:
    """Labels written into one text for each example."""
    if given.ndim != 1:
        raise ValueError(f"labels as texts have shape {given.shape}; expected ({len(given)},)")
    lost = [row for row, text in enumerate(given) if not isinstance(text, str | bytes)]
    if lost:
        raise ValueError(f"labels are no text in {len(lost)} rows, first row {lost[0]}")
    parts = [[part for part in str(text).split(BETWEEN) if part] for text in given]
    names = in_order({part for several in parts for part in several})
    if not names:
        raise ValueError("no example has a label")
    places = {name: place for place, name in enumerate(names)}
    y = torch.zeros(len(parts), len(names), dtype=torch.get_default_dtype())
    for row, several in enumerate(parts):
        y[row, [places[part] for part in several]] = 1
    notes.append(f"labels are texts with {BETWEEN} between them: {len(names)} different ones")
    return y, names


def _sequence(given: Any, columns: Names, notes: list[str]) -> tuple[Tensor, Names]:
    wide = _numeric(given, "sequences")
    if wide.ndim != 2 or (wide != np.round(wide)).any():
        raise ValueError(
            f"sequences have shape {wide.shape}; expected whole numbers (N, T), a token or class "
            f"for each place, and {NO_LABEL} where there is none"
        )
    return torch.from_numpy(wide).long(), ()


def _tokens(y: Tensor, classes: int | None) -> int:
    """C, how many tokens there are; ValueError where there is none to learn."""
    known = y[y != NO_LABEL]
    if not len(known) or int(known.min()) < 0:
        raise ValueError(
            f"sequences hold {int(y.min())}; expected whole numbers from 0 on, and {NO_LABEL} at "
            "places where there is none"
        )
    return max(classes or 0, int(known.max()) + 1)


def number(values: Any, examples: int, what: str) -> Tensor:
    """(N,) numbers by which examples are dealt out.

    Raises:
        ValueError: they are no numbers, or not one for each example.
    """
    given = as_array(values, what)
    if given.shape not in ((examples,), (examples, 1)):
        raise ValueError(f"{what} has shape {given.shape}; expected ({examples},)")
    return torch.from_numpy(_numeric(given, f"numbers of {what}").reshape(-1))
