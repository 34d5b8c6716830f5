"""Data sets in tiny files, laid out as torchvision stores the real ones."""

import gzip
import pickle
import struct

import numpy as np
import pytest
import torch
from scipy.io import savemat

from fedkd.data.datasets import data_root, load
from fedkd.data.files.cifar import cifar
from fedkd.data.files.emnist import emnist
from fedkd.data.files.sensors import SIGNALS, har
from fedkd.data.files.stl10 import stl10
from fedkd.data.files.svhn import svhn

DRAW = np.random.default_rng(0)


def pixels(*shape):
    return DRAW.integers(0, 256, shape, dtype=np.uint8)


def dump(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol=2))


@pytest.mark.parametrize("above", ["", "torchvision"])
def test_cifar10_is_five_batches_and_a_test_batch(above, tmp_path):
    shown = pixels(12, 3072)
    names = [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]
    for place, name in enumerate(names):
        rows = slice(2 * place, 2 * place + 2)
        batch = {"data": shown[rows], "labels": [place, 9], "filenames": ["a", "b"]}
        dump(tmp_path / above / "cifar-10-batches-py" / name, batch)
    x, y, test = cifar(10, tmp_path)
    assert torch.equal(x, torch.from_numpy(shown.reshape(12, 3, 32, 32)).float() / 255)
    assert y.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert test == 2


def test_cifar100_has_the_fine_labels(tmp_path):
    for name, count in (("train", 4), ("test", 2)):
        batch = {
            "data": pixels(count, 3072),
            "fine_labels": [99] * count,
            "coarse_labels": [1] * count,
        }
        dump(tmp_path / "cifar-100-python" / name, batch)
    found = load("cifar100", tmp_path)
    assert (found.num_classes, found.official, found.shape) == (100, 2, (3, 32, 32))
    assert found.y.tolist() == [99] * 6


@pytest.mark.parametrize(
    "batch",
    [
        {"data": pixels(2, 3072)},
        {"data": pixels(2, 3072), "labels": [1]},
        {"data": pixels(2, 3072), "labels": [1, 10]},
        {"data": pixels(2, 3072), "labels": [1, "2"]},
        {"data": pixels(2, 3000), "labels": [1, 2]},
        {"data": [1, 2], "labels": [1, 2]},
    ],
)
def test_batches_that_are_none_are_refused(batch, tmp_path):
    for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"):
        dump(tmp_path / "cifar-10-batches-py" / name, batch)
    dump(tmp_path / "cifar-10-batches-py" / "test_batch", batch)
    with pytest.raises(ValueError, match="fetch it again"):
        cifar(10, tmp_path)


@pytest.mark.parametrize("folder", ["", "svhn", "torchvision/svhn"])
def test_svhn_is_turned_and_ten_is_the_digit_zero(folder, tmp_path):
    where = tmp_path / folder
    where.mkdir(parents=True, exist_ok=True)
    shown = pixels(32, 32, 3, 5)
    for part, rows in (("train", slice(3)), ("test", slice(3, 5))):
        labels = np.array([[10], [1], [9], [10], [5]], np.uint8)[rows]
        savemat(where / f"{part}_32x32.mat", {"X": shown[..., rows], "y": labels})
    x, y, test = svhn(tmp_path)
    for place in range(5):
        expected = torch.from_numpy(shown[..., place].transpose(2, 0, 1).copy()).float() / 255
        assert torch.equal(x[place], expected)
    assert (y.tolist(), test) == ([0, 1, 9, 0, 5], 2)


@pytest.mark.parametrize("content", [b"", b"none", b"\0" * 200])
def test_svhn_that_is_damaged_is_refused(content, tmp_path):
    (tmp_path / "train_32x32.mat").write_bytes(content)
    (tmp_path / "test_32x32.mat").write_bytes(content)
    with pytest.raises(ValueError, match="train_32x32.mat"):
        svhn(tmp_path)


def test_stl10_is_by_columns_and_its_labels_from_one(tmp_path):
    where = tmp_path / "stl10_binary"
    where.mkdir()
    shown = pixels(3, 3, 96, 96)  # picture, channel, column, row
    for part, rows, labels in (("train", slice(2), [1, 10]), ("test", slice(2, 3), [3])):
        (where / f"{part}_X.bin").write_bytes(shown[rows].tobytes())
        (where / f"{part}_y.bin").write_bytes(bytes(labels))
    x, y, test = stl10(tmp_path)
    assert float(x[1, 2, 5, 7]) == pytest.approx(shown[1, 2, 7, 5] / 255)
    assert torch.equal(x, torch.from_numpy(shown.transpose(0, 1, 3, 2).copy()).float() / 255)
    assert (y.tolist(), test) == ([0, 9, 2], 1)
    (where / "train_y.bin").write_bytes(bytes([1, 11]))
    with pytest.raises(ValueError, match="do not fit together"):
        stl10(tmp_path)


def write_emnist(folder, split, labels, packed):
    folder.mkdir(parents=True, exist_ok=True)
    shown = pixels(len(labels), 28, 28)
    for part, rows in (("train", slice(2)), ("test", slice(2, None))):
        for kind, values in (
            ("images-idx3", shown[rows]),
            ("labels-idx1", np.array(labels, np.uint8)[rows]),
        ):
            head = struct.pack(f">BBBB{values.ndim}i", 0, 0, 8, values.ndim, *values.shape)
            name = f"emnist-{split}-{part}-{kind}-ubyte"
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(head + values.tobytes()))
            else:
                (folder / name).write_bytes(head + values.tobytes())
    return shown


@pytest.mark.parametrize("packed", [False, True])
def test_emnist_stands_upright(packed, tmp_path):
    shown = write_emnist(tmp_path / "EMNIST" / "raw", "balanced", [0, 46, 3], packed)
    x, y, test = emnist("balanced", tmp_path)
    assert torch.equal(x[:, 0], torch.from_numpy(shown.transpose(0, 2, 1).copy()).float() / 255)
    assert (y.tolist(), test) == ([0, 46, 3], 1)


def test_letters_of_emnist_are_from_zero_on(tmp_path):
    raw = tmp_path / "EMNIST" / "raw"
    write_emnist(raw, "letters", [1, 26, 2], True)
    assert emnist("letters", tmp_path)[1].tolist() == [0, 25, 1]
    write_emnist(raw, "letters", [1, 0, 2], True)
    with pytest.raises(ValueError, match="do not fit together"):
        emnist("letters", tmp_path)


def write_har(root, people=((1, 3, 1), (2, 2))):
    windows = {}
    for part, persons in zip(("train", "test"), people, strict=True):
        folder = root / "UCI HAR Dataset" / part
        (folder / "Inertial Signals").mkdir(parents=True, exist_ok=True)
        for name in SIGNALS:
            windows[part, name] = DRAW.random((len(persons), 128)).round(7)
            path = folder / "Inertial Signals" / f"{name}_{part}.txt"
            np.savetxt(path, windows[part, name], fmt="%16.7e")
        np.savetxt(folder / f"y_{part}.txt", [1 + n % 6 for n in range(len(persons))], fmt="%d")
        np.savetxt(folder / f"subject_{part}.txt", persons, fmt="%d")
    return windows


def test_har_has_windows_of_nine_signals_and_people(tmp_path):
    windows = write_har(tmp_path)
    x, y, person = har(tmp_path)
    assert x.shape == (5, 9, 128)
    for place, name in enumerate(SIGNALS):
        both = np.concatenate([windows["train", name], windows["test", name]])
        torch.testing.assert_close(x[:, place], torch.from_numpy(both).float())
    assert y.tolist() == [0, 1, 2, 0, 1]
    assert person.tolist() == [0, 2, 0, 1, 1]
    found = load("har", tmp_path)
    assert (found.official, found.domains.tolist()) == (0, [0, 2, 0, 1, 1])


def test_har_that_does_not_fit_is_refused(tmp_path):
    write_har(tmp_path)
    path = tmp_path / "UCI HAR Dataset" / "test" / "subject_test.txt"
    path.write_text("1\n")
    with pytest.raises(ValueError, match="do not fit together"):
        har(tmp_path)
    path.write_text("somebody\n")
    with pytest.raises(ValueError, match="is damaged"):
        har(tmp_path)


@pytest.mark.parametrize(
    ("name", "missing", "way"),
    [
        ("cifar10", "data_batch_1", "cifar-10-python.tar.gz"),
        ("cifar100", "train", "cifar-100-python.tar.gz"),
        ("svhn", "train_32x32.mat", "ufldl.stanford.edu"),
        ("stl10", "train_X.bin", "stl10_binary.tar.gz"),
        ("emnist-letters", "emnist-letters-train-images-idx3-ubyte.gz", "nist.gov"),
        ("har", "body_acc_x_train.txt", "archive.ics.uci.edu"),
        ("california", "cal_housing.data", "cal_housing.tgz"),
        ("abalone", "abalone.data", "archive.ics.uci.edu"),
        ("movielens", "movies.csv", "files.grouplens.org"),
        ("shakespeare", "input.txt", "karpathy/char-rnn"),
    ],
)
def test_files_that_are_missing_are_named_and_how_to_get_them(name, missing, way, tmp_path):
    with pytest.raises(FileNotFoundError, match=missing) as error:
        load(name, tmp_path)
    said = str(error.value)
    assert way in said
    assert str(data_root(tmp_path)) in said
    assert "--data-root" in said
    assert "\n" not in said
