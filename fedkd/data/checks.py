"""Labels and examples of one's own: put in order where there is one way to, refused where not."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fedkd.targets import CLASSES, NO_LABEL, Target
from kdcore.training.batches import Examples


def integers(values: Tensor, name: str) -> Tensor:
    """Whole numbers (N,), int64, of a tensor that holds nothing else: (N,) or (N, 1), any type.

    Raises:
        ValueError: it holds something else.
    """
    if not isinstance(values, Tensor):
        raise ValueError(f"{name} are of {type(values)}; expected a tensor (N,) of whole numbers")
    flat = values.squeeze(1) if values.ndim == 2 and values.shape[1] == 1 else values
    if flat.ndim != 1:
        raise ValueError(
            f"{name} have shape {tuple(values.shape)}; expected (N,): take the argmax of one-hot "
            "rows, such as y.argmax(dim=1)"
        )
    if flat.is_complex():
        raise ValueError(f"{name} are {flat.dtype}; expected whole numbers")
    found = flat.long()
    wrong = (found != flat).nonzero().flatten() if flat.is_floating_point() else flat[:0]
    if len(wrong):
        first = int(wrong[0])
        raise ValueError(
            f"{name} hold {float(flat[first]):g} (row {first}), and are to be whole numbers; drop "
            "such rows, or number the classes from 0"
        )
    return found


def enough(labels: Tensor, clients: int, minimum: int = 1) -> Tensor:
    """The labels as whole numbers (N,); ValueError where they cannot be dealt out."""
    if clients < 1:
        raise ValueError(f"the number of clients must be at least 1, got {clients}")
    if minimum < 0:
        raise ValueError(f"the minimum size must be >= 0, got {minimum}")
    labels = integers(labels, "labels")
    if len(labels) < clients * max(minimum, 1):
        raise ValueError(
            f"{clients} clients with at least {max(minimum, 1)} examples each need "
            f"{clients * max(minimum, 1)}, and there are {len(labels)}; take fewer clients, or "
            "more private examples"
        )
    return labels


def check_labels(y: Tensor, classes: int) -> None:
    """Raise ValueError unless labels are from 0 to C - 1."""
    found = y.unique()
    if not len(found) or (int(found[0]) >= 0 and int(found[-1]) < classes):
        return
    shown = ", ".join(map(str, found[:4].tolist())) + (", ..." if len(found) > 4 else "")
    raise ValueError(
        f"labels are {shown} up to {int(found[-1])}, which are not 0 to {classes - 1}; renumber "
        "them, such as y = y.unique(return_inverse=True)[1], drop rows without a label, or say how "
        "many classes there are"
    )


def check_finite(x: Tensor, name: str = "examples") -> None:
    """Raise ValueError for examples that hold NaN or infinite numbers."""
    if x.is_floating_point() and not all_finite(x):
        rows = (~x.isfinite()).reshape(len(x), -1).any(dim=1).nonzero().flatten()
        raise ValueError(
            f"{name} hold NaN or infinite numbers in {len(rows)} rows, first row {int(rows[0])}; "
            "drop or fill them first"
        )


def all_finite(x: Tensor) -> bool:
    """Whether no number is NaN or infinite.

    A sum is finite only where all of its terms are, and takes a fraction of the time; one of finite
    terms may overflow.
    """
    return bool(x.sum().isfinite()) or bool(x.isfinite().all())


def check_targets(y: Tensor, target: Target, classes: int, places: int = 0) -> None:
    """Raise ValueError unless y is what the target says: (N,) of classes, else (N, ...)."""
    if target.name == "class":
        if y.ndim != 1 or y.is_floating_point() or y.is_complex():
            raise ValueError(
                f"labels are {y.dtype} of shape {tuple(y.shape)}; expected whole numbers (N,): "
                "take y.flatten().long(), or the argmax of one-hot rows"
            )
        check_labels(y, classes)
        return
    width, real = places or classes, target.name != "sequence"
    if y.ndim != 2 or y.shape[1] != width or y.is_floating_point() != real:
        raise ValueError(
            f"targets are {y.dtype} of shape {tuple(y.shape)}; of {target.words} expected "
            f"{'real' if real else 'whole'} numbers (N, {width})"
        )
    if target.name == "sequence":
        check_labels(y[y != NO_LABEL], classes)
    check_finite(y, "targets")
    if target.name == "labels" and not bool(((y == 0) | (y == 1)).all()):
        wrong = y[(y != 0) & (y != 1)][0]
        raise ValueError(
            f"targets hold {float(wrong):g}; of several labels at once expected 0 and 1, a column "
            "for each label"
        )


def check_examples(
    examples: Iterable[Examples], classes: int, target: Target = CLASSES, places: int = 0
) -> None:
    """Raise ValueError for examples that nobody could train on, of all clients at once."""
    alike: dict[tuple[int, int], list[Examples]] = {}
    for one in examples:
        alike.setdefault((id(one.x), id(one.y)), []).append(one)
    for several in alike.values():
        tables, y = tree_leaves(several[0].x), several[0].y
        x = tables[0]
        rows = torch.cat([one.rows for one in several])
        if not len(rows):
            continue
        first, last = int(rows.min()), int(rows.max())
        if first < 0 or last >= min(len(x), len(y)):
            raise ValueError(
                f"clients hold rows {first} to {last} of {len(x)} examples and {len(y)} labels; "
                f"expected rows from 0 to {min(len(x), len(y)) - 1}"
            )
        check_targets(y[rows], target, classes, places)
        for table in tables:
            if table.is_floating_point() and not all_finite(table):
                check_finite(table[rows], "private examples")
