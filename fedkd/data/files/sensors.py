"""UCI HAR: what 30 people do, from the sensors of a phone at the waist."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fedkd.data.files.places import folder_of, needed

FOLDER = "UCI HAR Dataset"
SIGNALS = [
    f"{kind}_{axis}" for kind in ("body_acc", "body_gyro", "total_acc") for axis in ("x", "y", "z")
]
HOW = (
    "unpack UCI HAR Dataset.zip of https://archive.ics.uci.edu/dataset/240 there, with its folders "
    "train and test"
)


def har(root: Path) -> tuple[Tensor, Tensor, Tensor]:
    """10,299 windows of 2.56 s at 50 Hz: six activities of 30 people, who are its domains.

    Davide Anguita and others. "A Public Domain Dataset for Human Activity Recognition Using
    Smartphones". ESANN 2013. https://archive.ics.uci.edu/dataset/240. The authors' test set is of
    nine people who are not in the training set; here there is one set of all, from which a test set
    is drawn, so that each client can be tested on what it does itself.

    Args:
        root: the folder of data sets, with `UCI HAR Dataset` in it, as unpacked.

    Returns:
        x (N, 9, 128), the three axes of body acceleration, angular velocity and total acceleration;
        y (N,), and the person (N,), numbered from 0 in the order of the authors' numbers.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or files do not fit together.
    """
    where = folder_of(root, FOLDER)
    parts = [_part(where / part, part) for part in ("train", "test")]
    x, y, person = (np.concatenate(one) for one in zip(*parts, strict=True))
    if not np.isin(y, range(1, 7)).all():
        raise ValueError(
            f"{where}: activities must be 1 to 6, got {int(y.min())} to {int(y.max())}"
        )
    _, people = np.unique(person, return_inverse=True)
    return (
        torch.from_numpy(x).float(),
        torch.from_numpy(y.astype(np.int64) - 1),
        torch.from_numpy(people.astype(np.int64)),
    )


def _part(folder: Path, part: str) -> tuple["np.ndarray[Any, Any]", ...]:
    """Windows (N, 9, T), activities (N,) and people (N,) of a folder."""
    signals = [_numbers(folder / "Inertial Signals" / f"{n}_{part}.txt", 2) for n in SIGNALS]
    y, person = (_numbers(folder / f"{name}_{part}.txt", 1) for name in ("y", "subject"))
    shapes = {one.shape for one in signals}
    if len(shapes) > 1 or len(y) != len(signals[0]) or len(person) != len(y):
        raise ValueError(
            f"{folder}: signals of shapes {sorted(shapes)}, {len(y)} activities and {len(person)} "
            "people do not fit together; unpack it again"
        )
    return np.stack(signals, axis=1), y, person


def _numbers(path: Path, dims: Literal[1, 2]) -> "np.ndarray[Any, Any]":
    try:
        return np.loadtxt(needed(path, "har", HOW), ndmin=dims)
    except ValueError as reason:
        raise ValueError(f"{path} is damaged ({reason}); unpack it again") from reason
