"""A lock on a folder, on every system that Python runs on; it ends with its process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fedkd.storage import atomic_files


@contextmanager
def held(path: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold the folder of a lock file, in which is the number of the process that has it.

    Args:
        path: of the file.
        patience: seconds to wait for another process to let go.

    Raises:
        ValueError: another process holds it.
    """
    lock = FileLock(path, timeout=patience)
    holder = ""
    with suppress(OSError):  # it is not there; or Windows lets nobody read it, which is as well
        holder = path.read_text(encoding="utf-8").strip()
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"{path.parent} is in use by process {holder or 'unknown'}; wait until it has ended, "
            "or name another folder with --out"
        ) from None
    try:
        # Windows locks what the file holds.
        with suppress(PermissionError), atomic_files.naming(path):
            path.write_text(f"{os.getpid()}\n", encoding="utf-8")
        yield
    finally:
        lock.release()
