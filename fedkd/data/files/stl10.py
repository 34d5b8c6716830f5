"""STL-10: few labelled photographs of ten kinds of things."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedkd.data.files.places import folder_of, needed

FOLDER, SIDE = "stl10_binary", 96
HOW = (
    "unpack stl10_binary.tar.gz of https://cs.stanford.edu/~acoates/stl10/ there (as "
    "torchvision.datasets.STL10 does)"
)


def stl10(root: Path) -> tuple[Tensor, Tensor, int]:
    """5,000 training and 8,000 test photographs of 96 x 96 pixels.

    Adam Coates, Honglak Lee, Andrew Ng. "An Analysis of Single-Layer Networks in Unsupervised
    Feature Learning". AISTATS 2011. https://cs.stanford.edu/~acoates/stl10/. Labels, there 1 to 10,
    are from 0 on. The 100,000 photographs without labels are left out.

    Args:
        root: the folder of data sets, with `stl10_binary` in it.

    Returns:
        x (N, 3, 96, 96) in [0, 1], y (N,), and how many of the last rows are the test set.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: files do not fit together.
    """
    where = folder_of(root, FOLDER)
    pixels, labels = [], []
    for part in ("train", "test"):
        path = needed(where / f"{part}_X.bin", "stl10", HOW)
        shown = np.fromfile(path, np.uint8)
        named = np.fromfile(needed(where / f"{part}_y.bin", "stl10", HOW), np.uint8)
        fits = shown.size == named.size * 3 * SIDE * SIDE
        if not fits or not named.size or not np.isin(named, range(1, 11)).all():
            raise ValueError(
                f"{path}: {shown.size} bytes and {named.size} labels do not fit together; fetch "
                "the files again"
            )
        columns_first = shown.reshape(-1, 3, SIDE, SIDE)
        pixels.append(torch.from_numpy(columns_first.transpose(0, 1, 3, 2).copy()))
        labels.append(torch.from_numpy(named).long() - 1)
    return torch.cat(pixels).float().div_(255), torch.cat(labels), len(labels[1])
