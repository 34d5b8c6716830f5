"""Spoken digits: who speaks is a natural domain, so that a client can be a speaker."""

import io
import lzma
import tarfile
import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedkd.data.archive import located, members

SIDE = 16  # bands and frames of a spectrogram
WINDOW, HOP, RATE = 256, 64, 8000
ARCHIVE = "fsdd_recordings.tar.xz"


def spoken_digits(root: Path) -> tuple[Tensor, Tensor, Tensor, int]:
    """The Free Spoken Digit Dataset: 3,000 recordings of ten digits by six speakers.

    Zohar Jackson and others. https://github.com/Jakobovski/free-spoken-digit-dataset. A recording
    is a picture of 16 mel bands by 16 frames of equal length: the logarithm of its power, scaled
    to [0, 1] by its own smallest and largest value. The official test set, recordings 0 to 4 of
    each speaker and digit, comes last.

    Args:
        root: the folder of data sets; the archive is in its folder `fsdd`.

    Returns:
        x (N, 1, 16, 16), y (N,), the speaker (N,), and how many of the last rows are the test set.

    Raises:
        FileNotFoundError: there is no archive.
        ValueError: it is damaged.
    """
    source = "github.com/Jakobovski/free-spoken-digit-dataset"
    path = located(root, "fsdd", ARCHIVE, "the folder `recordings`", source)
    found = []
    try:
        for name, content in members(path, ".wav"):
            digit, speaker, take = name.stem.split("_")
            picture = spectrogram(_samples(content))
            found.append((int(take) < 5, speaker, int(digit), int(take), picture))
    except (tarfile.TarError, lzma.LZMAError, EOFError, ValueError, wave.Error) as reason:
        raise ValueError(f"{path} is damaged ({reason}); fetch it again") from reason
    found.sort(key=lambda one: one[:4])
    speakers = sorted({speaker for _, speaker, *_ in found})
    return (
        torch.stack([picture for *_, picture in found]).unsqueeze(1),
        torch.tensor([digit for _, _, digit, *_ in found]),
        torch.tensor([speakers.index(speaker) for _, speaker, *_ in found]),
        sum(test for test, *_ in found),
    )


def spectrogram(samples: Tensor) -> Tensor:
    """(T,) samples at 8 kHz -> (16, 16), mel bands from low to high by time; in [0, 1]."""
    short = max(0, WINDOW + (SIDE - 1) * HOP - len(samples))
    padded = torch.nn.functional.pad(samples, (0, short))
    frames = padded.unfold(0, WINDOW, HOP) * torch.hann_window(WINDOW)
    power = torch.fft.rfft(frames).abs().square() @ _mel_bands()  # (frames, SIDE)
    mean = torch.nn.functional.adaptive_avg_pool1d(power.T, SIDE)
    level = (mean + 1e-6).log()
    return (level - level.min()) / (level.max() - level.min()).clamp(min=1e-6)


def _mel_bands() -> Tensor:
    """(129, 16) triangles whose corners are evenly spaced in mel, 2595 log10(1 + f / 700)."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    corners = torch.tensor(700 * (10 ** (np.linspace(0, top, SIDE + 2) / 2595) - 1))
    places = torch.linspace(0, RATE / 2, WINDOW // 2 + 1, dtype=torch.float64).unsqueeze(1)
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    rise, fall = (places - low) / (middle - low), (high - places) / (high - middle)
    return torch.minimum(rise, fall).clamp(min=0).float()


def _samples(content: bytes) -> Tensor:
    with wave.open(io.BytesIO(content)) as file:
        if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, RATE):
            raise ValueError("a recording that is not mono, 16 bit, 8 kHz")
        raw = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return torch.from_numpy(raw.astype(np.float32) / 2**15)
