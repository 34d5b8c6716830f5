"""This process and what is around it: signals, readers of its output that leave, and encodings."""

import codecs
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# How a command ends, beside 0; from 128 on as a shell has it for the number of the signal.
FAILED, WRONG = 1, 2
INTERRUPTED, UNREAD, TERMINATED = 128 + signal.SIGINT, 141, 128 + signal.SIGTERM

PLAIN = {"±": "+-", "−": "-", "–": "-", "…": "...", "²": "2", "×": "x", "·": "*"}
_came: list[int] = []  # the signals that were to end the command


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM in here is a KeyboardInterrupt, as Ctrl-C is: all that is open is closed.

    Ray hears of no other exception that a signal has raised. Both are remembered: where one comes
    while a module is loaded, it is an ImportError that arrives. Who ignores Ctrl-C still does.
    """
    _came.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, _end)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def own_signals() -> Iterator[None]:
    """What happens on SIGTERM stays as it is; Ray, as it starts, would have it exit."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        _end(signal.SIGTERM, None)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def to_end() -> bool:
    """Whether a signal has come: any error is then of its making."""
    return bool(_came)


def stopped() -> int:
    """The exit status of a command that was stopped: by SIGTERM, or by Ctrl-C."""
    return TERMINATED if signal.SIGTERM in _came else INTERRUPTED


def speak_plainly() -> None:
    """What the encoding of the output does not have is written in ASCII, or as a question mark."""
    codecs.register_error("kdsim", _plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="kdsim")


def complain(text: str) -> None:
    """A line on standard error, if anybody reads it."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def fall_silent() -> None:
    """Nobody reads standard output any more: nothing that is left in it is written, or missed."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _end(number: int, frame: FrameType | None) -> None:
    _came.append(number)
    raise KeyboardInterrupt


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(PLAIN.get(letter, "?") for letter in text), error.end
