"""CIFAR-10 from JPEG files: order, labels and pixels; and what is said when it is not right."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from fedkd.data.cifar import cifar10_jpeg
from fedkd.data.datasets import load

COLOURS = {"bird": (200, 30, 30), "cat": (30, 200, 30), "airplane": (30, 30, 200)}


def picture(colour, side=32):
    content = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), colour, dtype=np.uint8)).save(content, "JPEG")
    return content.getvalue()


def archive(root, side=32):
    """Three classes; two training pictures of each and one test picture; names in no order."""
    (root / "cifar10-jpeg").mkdir()
    path = root / "cifar10-jpeg" / "cifar10_jpeg.tar.xz"
    with tarfile.open(path, "w:xz") as file:
        for part, number in (("test", 0), ("train", 1), ("train", 0)):
            for name, colour in COLOURS.items():
                content = picture(tuple(c + 10 * number for c in colour), side)
                info = tarfile.TarInfo(f"{part}/{name}/{number:04d}.jpg")
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return path


def test_training_comes_first_then_the_alphabet_then_the_number(tmp_path):
    archive(tmp_path)
    x, y, test = cifar10_jpeg(tmp_path)
    assert x.shape == (9, 3, 32, 32)
    assert y.tolist() == [0, 0, 1, 1, 2, 2, 0, 1, 2]  # airplane, bird, cat
    assert test == 3
    added = [0, 10, 0, 10, 0, 10, 0, 0, 0]
    names = sorted(COLOURS)
    for image, label, more in zip(x, y.tolist(), added, strict=True):
        colour = torch.tensor([c + more for c in COLOURS[names[label]]]) / 255
        # a picture of one colour is the same after JPEG, but for its rounding of YCbCr
        torch.testing.assert_close(image.mean(dim=(1, 2)), colour, atol=3 / 255, rtol=0)


def test_it_is_a_data_set_with_an_official_test_set(tmp_path):
    archive(tmp_path)
    data = load("cifar10-jpeg", tmp_path)
    assert (data.num_classes, data.official, data.shape) == (10, 3, (3, 32, 32))
    assert (data.x.dtype, data.y.dtype) == (torch.float32, torch.int64)


def test_a_missing_archive_is_an_error_that_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="no cifar10_jpeg.tar.xz in .*cifar10-jpeg; pack"):
        cifar10_jpeg(tmp_path)


@pytest.mark.parametrize("harm", ["cut", "size", "text"])
def test_a_damaged_archive_is_an_error_that_names_it(harm, tmp_path):
    path = archive(tmp_path, side=16 if harm == "size" else 32)
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-60])
    elif harm == "text":
        path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="cifar10_jpeg.tar.xz is damaged"):
        cifar10_jpeg(tmp_path)
