"""Spoken digits: pictures of sounds, by speaker; and what is said when the file is not right."""

import io
import math
import tarfile
import wave

import pytest
import torch

from fedkd.data.datasets import load
from fedkd.data.speech import RATE, SIDE, spectrogram, spoken_digits


def sound(hertz, seconds=0.5):
    time = torch.arange(int(seconds * RATE)) / RATE
    return (2 * math.pi * hertz * time).sin()


def recording(hertz, rate=RATE):
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((sound(hertz) * 20000).short().numpy().tobytes())
    return content.getvalue()


def archive(root, **more):
    """Two speakers, three digits, takes 3 to 6; the names come in no order."""
    (root / "fsdd").mkdir()
    path = root / "fsdd" / "fsdd_recordings.tar.xz"
    with tarfile.open(path, "w:xz") as file:
        for take in (6, 3, 5, 4):
            for speaker in ("zoe", "adam"):
                for digit in (2, 0, 1):
                    content = recording(300 * (digit + 1), **more)
                    info = tarfile.TarInfo(f"recordings/{digit}_{speaker}_{take}.wav")
                    info.size = len(content)
                    file.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("hertz", [200, 500, 1200, 2500, 3500])
def test_a_tone_is_in_the_band_of_its_pitch(hertz):
    mel = 2595 * math.log10(1 + hertz / 700)
    top = 2595 * math.log10(1 + RATE / 2 / 700)
    expected = mel / top * (SIDE + 1) - 1  # triangle i has its middle at corner i + 1
    picture = spectrogram(sound(hertz))
    assert picture.shape == (SIDE, SIDE)
    assert (picture.min(), picture.max()) == (0, 1)
    assert abs(int(picture.mean(dim=1).argmax()) - expected) <= 1


def test_a_rising_tone_rises_and_a_short_one_is_no_error():
    rising = torch.cat([sound(300, 0.3), sound(3000, 0.3)])
    bands = spectrogram(rising).argmax(dim=0)
    assert (bands[:7] < bands[9:].min()).all()
    assert spectrogram(torch.ones(10)).isfinite().all()
    assert spectrogram(torch.zeros(4000)).tolist() == [[0.0] * SIDE] * SIDE


def test_recordings_are_sorted_with_the_test_set_last(tmp_path):
    archive(tmp_path)
    x, y, speakers, test = spoken_digits(tmp_path)
    assert x.shape == (24, 1, SIDE, SIDE)
    assert test == 12  # takes 3 and 4
    assert speakers.tolist() == [0] * 6 + [1] * 6 + [0] * 6 + [1] * 6
    assert y[:6].tolist() == [0, 0, 1, 1, 2, 2]
    for digit in (0, 1, 2):  # the higher the digit, the higher its tone
        torch.testing.assert_close(x[y == digit], x[y == digit][:1].expand(8, -1, -1, -1))


def test_missing_and_damaged_files_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="fsdd: no fsdd_recordings.tar.xz in .*--data-root"):
        load("fsdd", tmp_path)
    path = archive(tmp_path, rate=16000)
    with pytest.raises(ValueError, match="damaged .a recording that is not mono, 16 bit, 8 kHz"):
        spoken_digits(tmp_path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is damaged .*; fetch it again"):
        spoken_digits(tmp_path)


@pytest.mark.data
def test_the_real_set():
    data = load("fsdd")
    assert (len(data.x), data.official, data.num_classes) == (3000, 300, 10)
    assert torch.bincount(data.y).tolist() == [300] * 10
    assert torch.bincount(data.domains).tolist() == [500] * 6
