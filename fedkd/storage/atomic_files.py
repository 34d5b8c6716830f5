"""Files that are there as a whole or not at all: written beside, forced to the disk, renamed.

Errors of the disk say which file could not be written; those of writing leave it out. Arrays carry
a SHA-256 of all that their file holds, so that a damaged one is not taken for what was saved.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

DRAFT = ".draft-"  # how the names of what is being written begin
SAID, CHECKSUM = "said", "sha256"


def write(path: Path, content: str | bytes) -> None:
    """Write a file; text is UTF-8.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    with replacing(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside a file or folder to write to; in the end, what is there takes its place.

    Folders above are made where they are not there.

    Raises:
        OSError: it cannot be written, or a folder stands where a file is to be; what was there
            before still is.
    """
    draft = path.with_name(f"{DRAFT}{path.name}-{os.getpid()}")
    try:
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove(draft)
            yield draft
            for file in draft.iterdir() if draft.is_dir() else ():
                flush(file)
            flush(draft)
            if draft.is_dir() and path.is_dir():
                _remove(path)
            draft.replace(path)
            flush(path.parent)
    finally:
        _remove(draft)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the disk in here are errors of this file."""
    try:
        yield
    except OSError as error:
        said = error.strerror or str(error)
        raise OSError(error.errno or errno.EIO, said, str(path)) from error
    except SafetensorError as error:
        raise OSError(_number(str(error)), str(error), str(path)) from error


def save(path: Path, arrays: Mapping[str, np.ndarray], **said: str) -> None:
    """Write arrays by name as safetensors, and texts beside them.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as draft:
        text = json.dumps(said | {CHECKSUM: _sum(arrays, said)})
        rows = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        save_file(rows, draft, {SAID: text})  # of several texts, the order would be random


def load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and texts of a file that `save` has written; those without a sum are believed.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    try:
        with safe_open(path, "np") as file:
            said = json.loads((file.metadata() or {}).get(SAID, "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error})") from None
    expected = said.pop(CHECKSUM, None)
    if expected is not None and expected != _sum(arrays, said):
        raise ValueError(f"{path} is damaged (its checksum is not that of what it holds)")
    return arrays, said


def sweep(folder: Path) -> None:
    """Remove what a killed process was writing in a folder, or below it."""
    for draft in folder.rglob(f"{DRAFT}*"):
        _remove(draft)


def flush(path: Path) -> None:
    """Force a file or folder to the disk, as far as the system knows how to."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # then it is not there, or cannot be helped
            path.unlink()


def _sum(arrays: Mapping[str, np.ndarray], said: Mapping[str, str]) -> str:
    found = hashlib.sha256(repr(sorted(said.items())).encode())
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def _number(said: str) -> int:
    """The system's number of an error that safetensors has put into words."""
    _, _, number = said.rpartition("os error ")
    return int(number.rstrip(") ")) if number.rstrip(") ").isdecimal() else errno.EIO
