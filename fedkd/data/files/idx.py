"""The idx format of MNIST and its kin: arrays of bytes, packed with gzip or not."""

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from fedkd.data.files.places import needed


def read(path: Path, dims: int, name: str, how: str) -> "np.ndarray[Any, Any]":
    """The array in an idx file of bytes, or in the same file with .gz behind its name.

    Args:
        path: of the file that is not packed.
        dims: how many axes the array has.
        name: the data set's, for what is said where neither is there.
        how: how to get its files (`places.needed`).

    Raises:
        FileNotFoundError: neither is there.
        ValueError: it is damaged.
    """
    try:
        content = _content(path, name, how)
        shape = tuple(np.frombuffer(content, ">i4", count=dims, offset=4).tolist())
        if content[:4] != bytes([0, 0, 8, dims]):
            raise ValueError(f"it begins with {content[:4].hex()}")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape)
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as reason:
        raise ValueError(f"{path} is damaged ({reason}); fetch it again") from reason


def _content(path: Path, name: str, how: str) -> bytes:
    if path.is_file():
        return path.read_bytes()
    return gzip.decompress(needed(path.with_name(path.name + ".gz"), name, how).read_bytes())
