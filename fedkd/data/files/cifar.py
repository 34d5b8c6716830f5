"""CIFAR-10 and CIFAR-100, lossless, in the batches of their authors' "python version"."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedkd.data.files.places import folder_of, needed
from fedkd.data.files.unpickler import load

FOLDERS = {10: "cifar-10-batches-py", 100: "cifar-100-python"}
BATCHES = {
    10: ([f"data_batch_{number}" for number in range(1, 6)], "test_batch", "labels"),
    100: (["train"], "test", "fine_labels"),
}
HOW = (
    "unpack cifar-{0}-python.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html there (as "
    "torchvision.datasets.CIFAR{0} does)"
)


def cifar(classes: int, root: Path) -> tuple[Tensor, Tensor, int]:
    """50,000 training and 10,000 test photographs of 10 or 100 kinds of things.

    Alex Krizhevsky. "Learning Multiple Layers of Features from Tiny Images". 2009.
    https://www.cs.toronto.edu/~kriz/cifar.html. Of CIFAR-100 the labels are the 100 fine ones.

    Args:
        classes: 10 or 100.
        root: the folder of data sets, with `cifar-10-batches-py` or `cifar-100-python` in it.

    Returns:
        x (N, 3, 32, 32) in [0, 1], y (N,), and how many of the last rows are the test set.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or is a pickle that holds more than arrays.
    """
    where, how = folder_of(root, FOLDERS[classes]), HOW.format(classes)
    train, test, key = BATCHES[classes]
    found = [
        _batch(needed(where / n, f"cifar{classes}", how), key, classes) for n in (*train, test)
    ]
    x = torch.from_numpy(np.concatenate([pixels for pixels, _ in found]))
    y = torch.cat([labels for _, labels in found])
    return x.reshape(-1, 3, 32, 32).float().div_(255), y, len(found[-1][1])


def _batch(path: Path, key: str, classes: int) -> tuple[np.ndarray, Tensor]:
    """The pixels (N, 3072) and labels (N,) of one file."""
    found = load(path)
    pixels, labels = found.get("data"), found.get(key)
    whole = isinstance(labels, list) and all(type(label) is int for label in labels)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or not whole or not labels:
        raise ValueError(f"{path} has no arrays `data` and `{key}`; fetch it again")
    if pixels.shape != (len(labels), 3072) or not 0 <= min(labels) <= max(labels) < classes:
        raise ValueError(
            f"{path}: data of shape {pixels.shape} and {len(labels)} labels do not fit together; "
            "fetch it again"
        )
    return pixels, torch.tensor(labels)
