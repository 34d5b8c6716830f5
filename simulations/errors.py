"""What goes wrong by the user's input: one line, and an exit status."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import click

from simulations import process

# A disk that is full or broken, and a pipe that nobody reads, are nobody's mistake.
NOT_THEIRS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE}


class UsageError(click.ClickException):
    """The user's input is wrong; its one line says what, and the way out."""

    exit_code = process.WRONG


class Stopped(click.ClickException):
    """The user stopped it, or the system."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.exit_code = process.stopped()  # type: ignore[misc]  # click reads the instance's


@contextmanager
def users_input() -> Iterator[None]:
    """What goes wrong in here is the user's input."""
    try:
        yield
    except RecursionError as error:
        raise UsageError("lists or tables in the input are nested too deep to be read") from error
    except (ValueError, OSError) as error:
        if getattr(error, "errno", None) in NOT_THEIRS:
            raise
        raise UsageError(" ".join(_words(error).split())) from error


def _words(error: ValueError | OSError) -> str:
    """The message; of a file or folder that the system refuses, with its path and the way out."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        why = f"{error.strerror[0].lower()}{error.strerror[1:]}"
        return f"{error.filename} cannot be used: {why}; name another place, or see who owns it"
    return str(error)
