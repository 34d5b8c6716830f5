"""SVHN: house numbers in photographs, cropped to a digit."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedkd.data.files.places import folder_of, needed

HOW = (
    "put train_32x32.mat and test_32x32.mat of http://ufldl.stanford.edu/housenumbers/ there (as "
    "torchvision.datasets.SVHN stores them)"
)


def svhn(root: Path) -> tuple[Tensor, Tensor, int]:
    """73,257 training and 26,032 test pictures of 32 x 32 pixels; digit 0, there label 10, is 0.

    Yuval Netzer and others. "Reading Digits in Natural Images with Unsupervised Feature Learning".
    2011. http://ufldl.stanford.edu/housenumbers/. The 531,131 extra pictures are left out.

    Args:
        root: the folder of data sets, with the .mat files in it or in its folder `svhn`.

    Returns:
        x (N, 3, 32, 32) in [0, 1], y (N,), and how many of the last rows are the test set.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged.
    """
    inside = folder_of(root, "svhn")
    where = root if (root / "train_32x32.mat").is_file() else inside
    files = [needed(where / f"{part}_32x32.mat", "svhn", HOW) for part in ("train", "test")]
    found = [_read(file) for file in files]
    x = torch.from_numpy(np.concatenate([pixels for pixels, _ in found]))
    y = torch.from_numpy(np.concatenate([labels for _, labels in found])).long() % 10
    return x.float().div_(255), y, len(found[1][1])


def _read(path: Path) -> tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]:
    """Pixels (N, 3, 32, 32) and labels (N,), 1 to 10."""
    from scipy.io import loadmat  # takes a while to import
    from scipy.io.matlab import MatReadError

    try:
        found = loadmat(path, variable_names=["X", "y"])
        pixels, labels = found["X"], found["y"].reshape(-1)
    except (MatReadError, ValueError, TypeError, KeyError, OSError, NotImplementedError) as reason:
        raise ValueError(f"{path} is damaged ({reason}); fetch it again") from reason
    fits = pixels.shape == (32, 32, 3, len(labels)) and pixels.dtype == np.uint8
    if not fits or not len(labels) or not np.isin(labels, range(1, 11)).all():
        raise ValueError(
            f"{path}: X of shape {pixels.shape} and {len(labels)} labels do not fit together; "
            "fetch it again"
        )
    return pixels.transpose(3, 2, 0, 1), labels
