"""EMNIST: handwritten letters and digits, in six splits."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedkd.data.files.idx import read
from fedkd.data.files.places import folder_of

SPLITS = {"byclass": 62, "bymerge": 47, "balanced": 47, "letters": 26, "digits": 10, "mnist": 10}
HOW = (
    "put the idx files of https://www.nist.gov/itl/products-and-services/emnist-dataset there (as "
    "torchvision.datasets.EMNIST stores them)"
)


def emnist(split: str, root: Path) -> tuple[Tensor, Tensor, int]:
    """A split of EMNIST, upright: in the files rows and columns are exchanged.

    Gregory Cohen, Saeed Afshar, Jonathan Tapson, André van Schaik. "EMNIST: an extension of MNIST
    to handwritten letters". IJCNN 2017. https://arxiv.org/abs/1702.05373. Labels of `letters`,
    there 1 to 26, are from 0 on. torchvision leaves pictures lying and `letters` with 27 classes.

    Args:
        split: one of `SPLITS`.
        root: the folder of data sets, with `EMNIST/raw` in it.

    Returns:
        x (N, 1, 28, 28) in [0, 1], y (N,), and how many of the last rows are the test set.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or files do not fit together.
    """
    raw = folder_of(root, "EMNIST") / "raw"
    pixels, labels = [], []
    for part in ("train", "test"):
        path, name = raw / f"emnist-{split}-{part}", f"emnist-{split}"
        shown = read(path.with_name(f"{path.name}-images-idx3-ubyte"), 3, name, HOW)
        named = read(path.with_name(f"{path.name}-labels-idx1-ubyte"), 1, name, HOW)
        first = int(split == "letters")
        last = SPLITS[split] - 1 + first
        fits = shown.shape == (len(named), 28, 28) and len(named) > 0
        if not fits or not first <= int(named.min()) <= int(named.max()) <= last:
            raise ValueError(
                f"{path}...: images of shape {shown.shape} and {len(named)} labels up to "
                f"{named.max(initial=0)} do not fit together; fetch the files again"
            )
        pixels.append(shown.transpose(0, 2, 1))
        labels.append(named.astype(np.int64) - first)
    x = torch.from_numpy(np.concatenate(pixels)).unsqueeze(1).float().div_(255)
    return x, torch.from_numpy(np.concatenate(labels)), len(labels[1])
