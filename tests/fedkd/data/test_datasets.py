"""Images and labels as they are in the files; and what is said when the files are not right."""

import gzip
import struct

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from fedkd.data import datasets
from fedkd.data.datasets import Dataset, data_root, load, names, of_labels

TRAIN, TEST = 7, 4


@pytest.fixture(autouse=True)
def _forget():
    """What was loaded from one folder is not taken for what is in another."""
    yield
    datasets._idx.cache_clear()


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def labels(count):
    return np.arange(count, dtype=np.uint8) % 10


def idx(values):
    """The idx format: two zeros, 8 for bytes, the number of axes, their lengths, the bytes."""
    return (
        struct.pack(f">BBBB{values.ndim}i", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()
    )


def write(folder, packed):
    """The four files of the MNIST family; images of the test set are those of seed 1."""
    folder.mkdir(parents=True)
    for part, count, seed in (("train", TRAIN, 0), ("t10k", TEST, 1)):
        for kind, values in (("images-idx3", images(count, seed)), ("labels-idx1", labels(count))):
            content, name = idx(values), f"{part}-{kind}-ubyte"
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
    return folder


def test_the_names():
    assert {"digits", "mnist", "fashion-mnist"} <= set(names())


def test_digits_come_with_scikit_learn():
    data = load("digits")
    assert data.x.shape == (1797, 1, 8, 8)
    assert data.shape == (1, 8, 8)
    assert (data.x.dtype, data.y.dtype) == (torch.float32, torch.int64)
    assert (data.x.min(), data.x.max()) == (0.0, 1.0)
    assert data.y.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (data.num_classes, data.official) == (10, 0)
    pixels, labels = load_digits(return_X_y=True)  # the library's own reader
    assert (data.x.flatten(1).numpy() == (pixels / 16).astype(np.float32)).all()
    assert (data.y.numpy() == labels).all()


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
@pytest.mark.parametrize("above", ["", "torchvision"], ids=["root", "torchvision"])
@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")]
)
def test_idx_files_are_read_as_they_are(name, folder, above, packed, tmp_path):
    write(tmp_path / above / folder / "raw", packed)
    data = load(name, tmp_path)
    expected = np.concatenate([images(TRAIN, 0), images(TEST, 1)])
    assert data.x.shape == (TRAIN + TEST, 1, 28, 28)
    assert torch.equal((data.x * 255).round().byte().squeeze(1), torch.from_numpy(expected))
    assert data.y.tolist() == [*labels(TRAIN), *labels(TEST)]
    assert (data.num_classes, data.official) == (10, TEST)


def test_the_root_may_come_from_the_environment(tmp_path, monkeypatch):
    write(tmp_path / "MNIST" / "raw", packed=True)
    monkeypatch.setenv("KDSIM_DATA", str(tmp_path))
    assert data_root() == tmp_path
    assert len(load("mnist").x) == TRAIN + TEST
    monkeypatch.delenv("KDSIM_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_root() == tmp_path / ".cache" / "kdsim"


@pytest.mark.parametrize(
    "lost", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"], ids=["images", "labels"]
)
def test_a_file_that_is_missing_is_named_with_the_place_and_the_way_out(lost, tmp_path):
    folder = write(tmp_path / "MNIST" / "raw", packed=True)
    (folder / f"{lost}.gz").unlink()
    with pytest.raises(FileNotFoundError) as error:
        load("mnist", tmp_path)
    for part in (f"{lost}.gz", str(folder), "torchvision.datasets.MNIST", "KDSIM_DATA", "digits"):
        assert part in str(error.value)


def test_a_root_that_is_empty_is_an_error_that_names_where_was_looked(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"FashionMNIST: no .* in {tmp_path}/FashionMNIST"):
        load("fashion-mnist", tmp_path)


def cut(content):
    return content[:-1]


@pytest.mark.parametrize(
    ("damage", "packed"),
    [
        (cut, True),  # the end of a gzip stream is missing
        (lambda content: content[: len(content) // 2], True),
        (lambda content: b"<html>not found</html>", True),
        (lambda content: content[:20] + bytes(20) + content[40:], True),  # a bad checksum or block
        (cut, False),
        (lambda content: content + b"\0", False),
        (lambda content: b"", False),
        (lambda content: content[:6], False),
        (lambda content: b"\0\0\x09\3" + content[4:], False),  # another type
        (lambda content: b"\0\0\x08\2" + content[4:], False),  # another number of axes
    ],
)
def test_a_damaged_file_is_named(damage, packed, tmp_path):
    folder = write(tmp_path / "MNIST" / "raw", packed)
    name = "t10k-images-idx3-ubyte" + (".gz" if packed else "")
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte.* is damaged .*fetch it again"):
        load("mnist", tmp_path)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("t10k-images-idx3-ubyte", images(TEST + 1)),
        ("t10k-images-idx3-ubyte", images(TEST)[:, :14, :14]),
        ("t10k-labels-idx1-ubyte", labels(TEST) + 10),
    ],
    ids=["more images", "smaller images", "no digits"],
)
def test_files_that_do_not_fit_together_are_an_error(name, values, tmp_path):
    folder = write(tmp_path / "MNIST" / "raw", packed=False)
    (folder / name).write_bytes(idx(values))
    with pytest.raises(ValueError, match="do not fit together; fetch the files again"):
        load("mnist", tmp_path)


def test_an_unknown_data_set_is_an_error_that_names_the_nearest():
    with pytest.raises(ValueError, match="unknown data set 'minst'; did you mean 'mnist'?"):
        load("minst")
    with pytest.raises(
        ValueError, match="unknown data set 'zzz'; choose one of abalone, .*, cifar10, .*, digits, "
    ):
        load("zzz")


@pytest.mark.data
@pytest.mark.parametrize(("name", "pixel_mean"), [("mnist", 0.1307), ("fashion-mnist", 0.2860)])
def test_the_real_files(name, pixel_mean):
    data = load(name)
    assert data.x.shape == (70_000, 1, 28, 28)
    assert data.official == 10_000
    train, test = data.y[:-10_000].bincount(), data.y[-10_000:].bincount()
    if name == "mnist":
        assert train.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert test.tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    else:
        assert train.tolist() == [6000] * 10
        assert test.tolist() == [1000] * 10
    assert (data.x.min(), data.x.max()) == (0.0, 1.0)
    assert data.x[:60_000].mean().item() == pytest.approx(pixel_mean, abs=1e-4)


def test_some_labels_of_a_data_set_alone():
    whole, some = load("digits"), load("digits:5-9")
    assert torch.equal(some.x, whole.x[whole.y >= 5])
    assert torch.equal(some.y, whole.y[whole.y >= 5] - 5)
    assert some.num_classes == 5
    both = load("digits:5-9+digits:0-4")  # related, but of other classes
    assert (both.num_classes, both.foreign) == (10, int((whole.y < 5).sum()))
    assert torch.equal(both.y[both.foreign :], some.y)
    assert torch.equal(both.y[: both.foreign], 5 + whole.y[whole.y < 5])


def test_some_labels_keep_what_is_official_and_where_examples_are_from():
    x, y = torch.arange(6.0).reshape(6, 1, 1, 1), torch.tensor([0, 1, 2, 0, 1, 2])
    domains = torch.tensor([7, 8, 9, 7, 8, 9])
    some = of_labels(Dataset(x, y, 3, official=2, domains=domains), "0-1", "some")
    assert some.y.tolist() == [0, 1, 0, 1]
    assert some.official == 1  # of the last two rows, that of label 1
    assert some.domains.tolist() == [7, 8, 7, 8]


@pytest.mark.parametrize("labels", ["", "5", "a-b", "3-3", "5-4", "0-10", "-1-4"])
def test_labels_that_are_not_there_are_refused(labels):
    with pytest.raises(ValueError, match=r"labels must be FIRST-LAST, at least two of 0 to 9"):
        load(f"digits:{labels}")


def test_two_data_sets_beside_each_other(tmp_path):
    for folder in ("MNIST", "FashionMNIST"):
        write(tmp_path / folder / "raw", True)
    both = load("fashion-mnist+mnist", tmp_path)
    first, second = load("fashion-mnist", tmp_path), load("mnist", tmp_path)
    assert (both.num_classes, both.official, both.foreign) == (20, TEST, TRAIN)
    assert torch.equal(both.x, torch.cat([second.x[:TRAIN], first.x]))  # no test image of MNIST
    assert both.y.tolist() == [*(second.y[:TRAIN] + 10).tolist(), *first.y.tolist()]


def test_of_several_inputs_each_is_chosen_and_joined():
    one, other = torch.arange(8.0).reshape(4, 2), torch.arange(4).reshape(4, 1)
    data = Dataset((one, other), torch.tensor([0, 1, 2, 1]), 3)
    some = of_labels(data, "1-2", "some")
    assert [table.tolist() for table in some.x] == [[[2, 3], [4, 5], [6, 7]], [[1], [2], [3]]]
    both = datasets.beside(data, some, "both")
    assert (both.foreign, both.num_classes) == (3, 5)
    assert both.x[0].tolist() == [*some.x[0].tolist(), *one.tolist()]
    assert both.x[1].tolist() == [*some.x[1].tolist(), *other.tolist()]
    assert both.y.tolist() == [3, 4, 3, 0, 1, 2, 1]


def test_of_two_data_sets_each_has_to_exist_and_shapes_have_to_fit(tmp_path):
    write(tmp_path / "MNIST" / "raw", True)
    with pytest.raises(ValueError, match=r"mnist\+digits: examples of shape \(1, 28, 28\) beside"):
        load("mnist+digits", tmp_path)
    with pytest.raises(ValueError, match="unknown data set 'mnits'; did you mean 'mnist'"):
        load("digits+mnits", tmp_path)
