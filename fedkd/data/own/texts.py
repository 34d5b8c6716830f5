"""Text files as sequences of characters."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fedkd.data.own.arrays import Names

LENGTH = 64  # characters of an example


class Text(NamedTuple):
    """What is in a text file."""

    text: str

    def __len__(self) -> int:
        return len(self.text)


def read(path: Path) -> Text:
    """The text in a file.

    Raises:
        ValueError: it is no UTF-8.
    """
    try:
        return Text(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as reason:
        raise ValueError(f"{path} is no text in UTF-8 ({reason.reason})") from None


def windows(texts: Sequence[Text], length: int) -> tuple[list[Tensor], Names]:
    """Each text cut into (N, length + 1) characters, numbered alike in all, and what they are.

    Windows follow each other and share one character: each is once a target. What is left at the
    end is dropped.

    Raises:
        ValueError: a text that is shorter than a window.
    """
    alphabet = sorted({letter for one in texts for letter in one.text})
    places = {letter: place for place, letter in enumerate(alphabet)}
    found = []
    for one in texts:
        tokens = torch.tensor([places[letter] for letter in one.text], dtype=torch.long)
        if len(tokens) <= length:
            raise ValueError(
                f"a text of {len(tokens)} characters is shorter than an example, {length + 1}; "
                "take a smaller length=..., or more text"
            )
        found.append(tokens.unfold(0, length + 1, length))
    return found, tuple(alphabet)
