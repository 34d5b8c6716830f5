"""Arrays, text, numbers, lists and dictionaries out of a pickle, and nothing else.

A pickle is a program that may call any function of any module. CIFAR comes as pickles. Here a
pickle can name what arrays are made of, which stands for classes of this file that only keep what
they are given; and it may have those instructions that plain values are written in. The worst that
a hostile one does is to be refused.
"""

import io
import math
import pickle
import pickletools
import warnings
from pathlib import Path
from typing import Any

import numpy as np

KINDS = "u1", "i1", "u2", "i2", "i4", "u4", "i8", "u8", "f4", "f8", "b1"

_WRITTEN_IN = """
    PROTO FRAME STOP MARK EMPTY_DICT EMPTY_LIST EMPTY_TUPLE DICT LIST TUPLE TUPLE1 TUPLE2 TUPLE3
    APPEND APPENDS SETITEM SETITEMS NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1
    FLOAT BINFLOAT BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINBYTES
    SHORT_BINBYTES PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE
    BUILD"""
INSTRUCTIONS = frozenset(_WRITTEN_IN.split())


class _Type:
    """In the place of numpy.dtype: its name, and the order of bytes."""

    def __init__(self, name: Any = None, *_: Any) -> None:
        self.name, self.order = name, "|"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1:
            self.order = state[1]

    def found(self) -> "np.dtype[Any]":
        if self.name not in KINDS or self.order not in ("|", "<", ">", "="):
            raise pickle.UnpicklingError(f"an array of {self.order}{self.name}")
        found: np.dtype[Any] = np.dtype(self.name).newbyteorder(self.order)
        return found


class _Array:
    """In the place of numpy.ndarray: its shape, type and bytes."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def found(self) -> "np.ndarray[Any, Any]":
        if not (isinstance(self.state, tuple) and len(self.state) == 5):
            raise pickle.UnpicklingError("an array without content")
        _, shape, kind, by_columns, content = self.state
        if isinstance(content, str):  # of Python 2, whose text was bytes
            content = content.encode("latin1")
        sizes = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not (sizes and isinstance(kind, _Type) and isinstance(content, bytes)):
            raise pickle.UnpicklingError("an array of another form")
        kind = kind.found()
        if math.prod(shape) * kind.itemsize != len(content):
            raise pickle.UnpicklingError(f"an array of shape {shape} in {len(content)} bytes")
        return np.frombuffer(content, kind).reshape(shape, order="F" if by_columns else "C")


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    """In the place of _codecs.encode, as which Python 3 writes bytes for Python 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"text in {encoding!r}")
    return text.encode("latin1")


def _empty(*given: Any) -> bytes:
    """In the place of bytes, which Python 3 calls with nothing for none."""
    if given:
        raise pickle.UnpicklingError("bytes that are made of something")
    return b""


_NAMED: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("_codecs", "encode"): _encoded,
    ("__builtin__", "bytes"): _empty,
    ("builtins", "bytes"): _empty,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The class of ours that a name stands for; UnpicklingError for all others."""
        if (module, name) not in _NAMED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of an array")
        return _NAMED[module, name]


def load(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle of Python 2 or 3.

    Raises:
        ValueError: it is damaged, or holds anything but arrays of numbers, text, bytes, numbers,
            lists, tuples and dictionaries.
    """
    try:
        found = _plain(_read(path.read_bytes()))
    except _FAULTS as reason:
        said = str(reason) or type(reason).__name__
        raise ValueError(f"{path} is damaged or is not what it should be ({said})") from reason
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ValueError(f"{path} holds a {type(found).__name__}; expected a dictionary")
    return found


# What the standard library raises for streams that are none, besides its own error.
_FAULTS = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
    ImportError,
)


def _read(content: bytes) -> Any:
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of bad escapes
        for instruction, argument, _ in pickletools.genops(content):
            if instruction.name not in INSTRUCTIONS:
                raise pickle.UnpicklingError(f"it has the instruction {instruction.name}")
            if instruction.name.endswith("PUT") and int(str(argument)) > len(content):
                raise pickle.UnpicklingError("it asks for more memory than it fills")
    return _Unpickler(io.BytesIO(content), encoding="latin1").load()


def _plain(value: Any, depth: int = 0) -> Any:
    """The value with arrays in the place of what stands for them."""
    if depth > 8:
        raise pickle.UnpicklingError("lists in lists in lists")
    if isinstance(value, _Array):
        return value.found()
    if type(value) in (str, bytes, int, float, bool, type(None)):
        return value
    if type(value) in (list, tuple):
        return type(value)(_plain(one, depth + 1) for one in value)
    if type(value) is dict:
        return {_plain(key, depth + 1): _plain(one, depth + 1) for key, one in value.items()}
    raise pickle.UnpicklingError(f"it holds a {type(value).__name__}")
