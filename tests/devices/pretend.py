"""The device "pretend": CUDA's manners on a machine without a GPU (`pretend.cpp`).

It is built where there is a compiler, once, and kept in a folder of temporary files by what it was
made from; torch knows one such device in a process, for good.
"""

import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

SOURCE = Path(__file__).with_name("pretend.cpp")


class Counts(NamedTuple):
    """What has happened on the device until now.

    Attributes:
        to_device, to_host: copies of tensors with at least one number.
        reads: numbers read, and operations the size of whose answer depends on numbers: both wait.
        draws: of random numbers.
    """

    to_device: int
    to_host: int
    reads: int
    draws: int


class UnavailableError(Exception):
    """Why there is no such device here."""


@functools.cache
def start() -> torch.device:
    """The device, built and known to torch.

    Raises:
        UnavailableError: it cannot be built on this machine.
    """
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        raise UnavailableError("the pretend device needs a C++ compiler, and there is none")
    try:
        _load()
    except Exception as error:
        said = str(error).strip().splitlines()
        raise UnavailableError(
            f"the pretend device was not built: {said[-1] if said else error!r}"
        ) from error
    torch.utils.rename_privateuse1_backend("pretend")
    torch._register_device_module("pretend", _module())  # type: ignore[no-untyped-call]
    torch.utils.generate_methods_for_privateuse1_backend()
    return torch.device("pretend:0")


def counts() -> Counts:
    """What has happened on the device until now."""
    return Counts(*torch.ops.pretend.counts())


def _load() -> None:
    from torch.utils.cpp_extension import load  # it imports setuptools

    made_from = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"kdsim-pretend-{os.getuid()}-{made_from}"
    folder.mkdir(mode=0o700, exist_ok=True)
    load(
        "pretend_device",
        [str(SOURCE)],
        build_directory=str(folder),
        is_python_module=False,
        extra_cflags=["-O0"],  # an eighth of the time that it takes otherwise
    )
    torch.ops.pretend.start()


def _module() -> ModuleType:
    """What torch expects to find at `torch.pretend`."""
    module = ModuleType("torch.pretend")
    found: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "_is_in_bad_fork": lambda: False,
        "manual_seed_all": lambda seed: None,
    }
    vars(module).update(found)
    return module


if __name__ == "__main__":  # builds it, and says why it cannot
    try:
        start()
    except UnavailableError as reason:
        raise SystemExit(str(reason)) from None
