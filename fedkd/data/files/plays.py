"""Tiny Shakespeare: plays in which everybody who speaks can be a client."""

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fedkd.data.files.places import needed

FILE = "input.txt"
HOW = "put data/tinyshakespeare/input.txt of github.com/karpathy/char-rnn there"
LENGTH = 64  # characters of an example
SPEAKERS = 10  # those who say most, each a client
HELD = 30  # the last windows of each of these, which are tested on
UNSEEN = 300  # windows of those whom nobody trains on, which are tested on


class Plays(NamedTuple):
    """Windows of text: those that may be public, those to train on, and the test set.

    Attributes:
        tokens: (N, T + 1) characters, numbered as in `alphabet`.
        speaker: (N,) 0 to 9 of the clients; 10 of people who are tested on alone, 11 of those whose
            text may be public.
        alphabet: the characters, in order.
        public: how many of the first rows may be public.
        test: how many of the last rows are the test set.
    """

    tokens: Tensor
    speaker: Tensor
    alphabet: tuple[str, ...]
    public: int
    test: int


def shakespeare(root: Path) -> Plays:
    """A million characters by 301 people, of whom ten are clients; the next character is foretold.

    Andrej Karpathy. "The Unreasonable Effectiveness of Recurrent Neural Networks". 2015.
    https://github.com/karpathy/char-rnn. By speaker as in LEAF (Sebastian Caldas and others. 2018.
    https://arxiv.org/abs/1812.01097), where clients are the roles of all plays. What somebody says
    in the whole file is one text, cut into windows of 64 characters that each share one with the
    next.

    The ten who say most are clients: of each the last 30 windows are tested on. The others take
    turns, from who says most on: one is tested on (300 windows in all, evenly spaced), whom nobody
    trains on, the next one's text may be public.

    Args:
        root: the folder of data sets, with the file in its folder `text/tinyshakespeare`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there are fewer speakers, or they say too little.
    """
    path = needed(root / "text" / "tinyshakespeare" / FILE, "shakespeare", HOW)
    text = path.read_text(encoding="utf-8", errors="replace")
    alphabet = tuple(sorted(set(text)))
    places = {letter: place for place, letter in enumerate(alphabet)}
    said = [_windows(one, places) for one in _by_speaker(text)]
    own, others = said[:SPEAKERS], said[SPEAKERS:]
    tested, public = (torch.cat([*others[k::2], torch.empty(0, LENGTH + 1)]) for k in (0, 1))
    if len(own) < SPEAKERS or len(own[-1]) <= HELD or min(len(tested), len(public)) < UNSEEN:
        raise ValueError(f"{path} is damaged: it has too few speakers, or they say too little")
    spaced = torch.arange(UNSEEN) * len(tested) // UNSEEN
    blocks = [
        (public, SPEAKERS + 1),
        *((one[:-HELD], speaker) for speaker, one in enumerate(own)),
        *((one[-HELD:], speaker) for speaker, one in enumerate(own)),
        (tested[spaced], SPEAKERS),
    ]
    speaker = torch.cat([torch.full((len(block),), of) for block, of in blocks])
    tokens = torch.cat([block for block, _ in blocks]).long()
    return Plays(tokens, speaker, alphabet, len(public), SPEAKERS * HELD + UNSEEN)


def _by_speaker(text: str) -> list[str]:
    """What each says, from who says most to who says least."""
    found: defaultdict[str, str] = defaultdict(str)
    for part in text.split("\n\n"):
        name, colon, said = part.partition(":\n")
        if colon:
            found[name] += f"{said}\n"
    return [found[name] for name in sorted(found, key=lambda name: (-len(found[name]), name))]


def _windows(text: str, places: dict[str, int]) -> Tensor:
    """(N, LENGTH + 1) of a text; none of one that is shorter."""
    tokens = torch.tensor([places[letter] for letter in text])
    if len(tokens) <= LENGTH:
        return tokens.new_empty(0, LENGTH + 1)
    return tokens.unfold(0, LENGTH + 1, LENGTH)
