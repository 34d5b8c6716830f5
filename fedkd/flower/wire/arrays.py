"""Arrays as Flower sends them: numpy's own file format, written and read without numpy's parser.

A round's messages hold few kinds of arrays many times over. The header of a file says type, order
and shape; each is made, and parsed, once.
"""

import io
from functools import lru_cache

import numpy as np
from flwr.app import Array

MAGIC = b"\x93NUMPY\x01\x00"  # version 1.0, which numpy takes wherever it can
SIZE = slice(8, 10)  # of what follows, in bytes
STYPE = "numpy.ndarray"  # flwr.common.constant.SType.NUMPY


def to_array(value: np.ndarray) -> Array:
    """An array of numbers, in C order, as `np.save` writes it."""
    data = _header(value.dtype.str, value.shape) + value.tobytes()
    return Array(str(value.dtype), tuple(value.shape), STYPE, data)


def to_numpy(array: Array) -> np.ndarray:
    """The values again, writable; what is not of this format is left to Flower to read."""
    data = array.data
    if array.stype != STYPE or data[: len(MAGIC)] != MAGIC:
        return array.numpy()
    start = SIZE.stop + int.from_bytes(data[SIZE], "little")
    shape, fortran, dtype = _layout(data[:start])
    values = np.frombuffer(data, dtype, int(np.prod(shape, dtype=np.int64)), start)
    return values.reshape(shape, order="F" if fortran else "C").copy()


@lru_cache(maxsize=256)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    layout = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, layout)
    return file.getvalue()


@lru_cache(maxsize=256)
def _layout(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    file = io.BytesIO(header[len(MAGIC) :])
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError("an array of objects, which only pickle could read")
    return shape, fortran, dtype
