"""Whatever holds examples and labels is taken as it is meant, or refused in one line."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, TensorDataset

from fedkd.data.own.sources import data

X = np.random.default_rng(0).random((60, 4)).astype(np.float32)
Y = np.arange(60) % 3
BYTES = np.random.default_rng(1).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)


def table():
    return pd.DataFrame(
        {
            "age": range(30),
            "job": ["cook", "smith", None] * 10,
            "site": ["north", "south"] * 15,
            "risk": ["yes", "no", "no"] * 10,
        }
    )


def said(found):
    return " / ".join(found.notes)


# Arrays


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        (lambda: data(X, Y), Y),
        (lambda: data((X, Y)), Y),
        (lambda: data(torch.from_numpy(X), torch.from_numpy(Y)), Y),
        (lambda: data(X.astype(np.float64), Y.astype(np.int32)), Y),
        (lambda: data(X.astype(">f4"), Y.astype(float)), Y),
        (lambda: data(X.tolist(), Y.tolist()), Y),
        (lambda: data(X, Y[:, None]), Y),
        (lambda: data(X, np.eye(3)[Y]), Y),
        (lambda: data(X, np.array(["a", "b", "c"])[Y]), Y),
        (lambda: data(X, Y > 0), Y > 0),
        (lambda: data({"x": X, "y": Y}), Y),
        (lambda: data({"train": (X[:50], Y[:50]), "test": (X[50:], Y[50:])}), Y),
        (lambda: data(pd.DataFrame(X), pd.Series(Y), standardise=False), Y),
        (lambda: data(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))), Y),
        (lambda: data(list(zip(X, Y, strict=True))), Y),
    ],
)
def test_arrays_lists_and_items_are_the_same_data(given, labels):
    found = given()
    assert found.x.dtype == torch.float32
    assert torch.equal(found.x, torch.from_numpy(X))
    assert torch.equal(found.y, torch.from_numpy(labels.astype(np.int64)))
    assert found.num_classes == len(set(labels.tolist()))


def test_bytes_are_parts_of_255_and_channels_come_first():
    expected = torch.from_numpy(BYTES).permute(0, 3, 1, 2).float() / 255
    for given in (BYTES, BYTES.transpose(0, 3, 1, 2)):
        found = data(given, Y)
        assert torch.equal(found.x, expected)
    assert "channels, which came last, are put first" in said(data(BYTES, Y))
    assert "divided by 255" in said(found)
    assert data(BYTES[..., 0], Y).shape == (1, 8, 8)  # grey


def test_whole_numbers_stay_whole():
    tokens = np.arange(120).reshape(60, 2)
    for kind in (np.int64, np.int32, np.uint16):
        found = data(tokens.astype(kind), Y)
        assert found.x.dtype == torch.int64
        assert found.x.tolist() == tokens.tolist()
        assert "stay so" in said(found)


def test_several_inputs_stay_several():
    found = data((X, X[:, :2]), Y)
    assert [one.shape for one in found.x] == [(60, 4), (60, 2)]
    assert found.shape == ((4,), (2,))


def test_classes_without_an_example_are_said():
    found = data(X, Y + 1, classes=4)
    assert found.num_classes == 4
    assert found.y.tolist() == (Y + 1).tolist()


def test_text_labels_are_numbered_in_order_and_numerals_by_value():
    assert data(X, np.array(["no", "yes"])[Y % 2]).label_names == ("no", "yes")
    found = data(X, [str(8 + n) for n in Y])
    assert found.label_names == ("8", "9", "10")
    assert found.y.tolist() == Y.tolist()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((X, Y + 1), "labels are 1, 2, 3 .* which are not 0 to 2; renumber them, or say classes=4"),
        ((X, Y - 1), r"labels are -1, 0, 1 \(row 0: -1\)"),
        ((X, np.where(Y == 2, np.nan, Y)), "20 labels are NaN, first row 2"),
        ((X, Y * 0), "all labels are 0"),
        ((X, Y[:5]), "5 labels for 60 examples"),
        ((X, [None, *"ab" * 29, "a"]), "1 are missing, first row 0"),
        ((np.where(X[7, 2] == X, np.nan, X), Y), "NaN or infinite numbers in 1 rows, first row 7"),
        ((X[:0], Y[:0]), r"examples of shape \(0, 4\)"),
        ((X.astype(str), Y), "examples are an array of <U32"),
        ((X + 1j, Y), "examples are an array of complex64"),
        (([[1.0, 2.0], [1.0]], [0, 1]), "rows of different shapes"),
        (((X, X[:5]), Y), "inputs of 60, 5 examples"),
        (X, r"an array of shape \(60, 4\) without labels"),
        ([1, 2, 3], "item 0 of list is a int"),
        ([("a", 1), ("b", 0)], "the features of item 0 are a str"),
        ([(X[0], 1), (X[0, :2], 0)], r"differ in shape: \(4,\) \(row 0\) and \(2,\) \(row 1\)"),
        ({"a": 1}, "data with a; expected x and y"),
        (3, "data of type int"),
        ({"train": (X, Y), "test": (X[:, :2], Y)}, "examples of shapes"),
        ({"train": (X, Y), "test": table()}, "a table and arrays"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(source, message):
    with pytest.raises(ValueError, match=message) as error:
        data(source)
    assert "\n" not in str(error.value)


def test_a_column_of_what_has_none_is_refused():
    for settings in ({"label": "a"}, {"client": "a"}, {"features": ["a"]}):
        with pytest.raises(ValueError, match="column"):
            data(X, Y, **settings)


# Torch data sets


def test_a_test_set_is_kept_apart_and_names_of_classes_are_read():
    train = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    train.classes = ["cat", "dog", "eel", "fox"]
    found = data(train, test=Subset(train, range(7)))
    assert (found.official, found.num_classes) == (7, 4)
    assert found.label_names == ("cat", "dog", "eel", "fox")
    assert torch.equal(found.x[60:], found.x[:7])


def test_pictures_of_pil_and_items_of_several_inputs():
    pictures = [(Image.fromarray(one), int(label)) for one, label in zip(BYTES, Y, strict=True)]
    assert torch.equal(data(pictures).x, data(BYTES, Y).x)
    grey = [(Image.fromarray(one[..., 0]), int(label)) for one, label in zip(BYTES, Y, strict=True)]
    assert data(grey).shape == (1, 8, 8)
    several = [((torch.ones(3), torch.zeros(2)), 0), ((torch.ones(3), torch.zeros(2)), 1)]
    assert [one.shape for one in data(several).x] == [(2, 3), (2, 2)]


def test_several_sources_are_a_client_each():
    halves = [(X[:20], Y[:20]), (X[20:], Y[20:])]
    found = data(halves, test=(X[:5], Y[:5]))
    assert found.domains.tolist() == [0] * 20 + [1] * 40 + [2] * 5  # test rows are nobody's
    assert torch.equal(found.x[:60], torch.from_numpy(X))


class Partitioner:
    """As those of flwr_datasets."""

    num_partitions = 3

    def load_partition(self, number):
        return X[number::3], Y[number::3]


class Federated:
    """As flwr_datasets.FederatedDataset."""

    partitioners = {"train": Partitioner()}

    def load_partition(self, number, split):
        assert split == "train"
        return self.partitioners[split].load_partition(number)


@pytest.mark.parametrize("source", [Partitioner, Federated])
def test_a_partitioner_is_a_client_for_each_partition(source):
    found = data(source())
    assert found.domains.tolist() == [0] * 20 + [1] * 20 + [2] * 20
    assert torch.equal(found.x[20:40], torch.from_numpy(X[1::3]))


# Tables


def test_a_table_has_text_one_hot_numbers_standardised_and_a_client_column():
    found = data(table(), label="risk", client="site", name="patients")
    kinds = {"(missing)": [1, 0, 0], "cook": [0, 1, 0], "smith": [0, 0, 1]}
    expected = [
        [age, *kinds[job if isinstance(job, str) else "(missing)"]]
        for age, job in zip(table().age, table().job, strict=True)
    ]
    assert found.x.tolist() == expected
    assert found.standardise == (0,)
    assert found.y.tolist() == [1, 0, 0] * 10
    assert found.label_names == ("no", "yes")
    assert found.domains.tolist() == [0, 1] * 15
    assert found.name == "patients"
    assert "column job is text: one-hot, 3 kinds, 10 missing" in said(found)
    assert "column site says whose a row is: 2 domains" in said(found)


def test_files_of_tables_and_arrays_are_what_was_written(tmp_path):
    whole = data(table(), label="risk")
    for name in ("t.csv", "t.csv.gz"):
        table().to_csv(tmp_path / name, index=False, encoding="utf-8-sig")
        assert torch.equal(data(tmp_path / name, label="risk").x, whole.x)
        assert data(str(tmp_path / name), label="risk", standardise=False).standardise == ()
    table().to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    found = data(tmp_path / "t.tsv", label="risk", test=table(), features=["age"])
    assert (found.official, found.shape) == (30, (1,))
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    assert torch.equal(data(tmp_path / "a.npz").x, torch.from_numpy(X))
    np.savez(tmp_path / "b.npz", x_train=X, y_train=Y, x_test=X[:9], y_test=Y[:9])
    assert data(tmp_path / "b.npz").official == 9


def test_parquet_is_read_where_pyarrow_is(tmp_path):
    pytest.importorskip("pyarrow")
    table().to_parquet(tmp_path / "t.parquet")
    found = data(tmp_path / "t.parquet", label="risk")
    assert torch.equal(found.x, data(table(), label="risk").x)


def test_labels_beside_a_table_are_its_labels():
    found = data(table().drop(columns="risk"), table().risk)
    whole = data(table(), label="risk")
    assert torch.equal(found.x, whole.x)
    assert torch.equal(found.y, whole.y)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({}, {}, "which column is the label"),
        ({}, {"label": "rsk"}, "no column 'rsk'; did you mean 'risk'"),
        ({}, {"label": "risk", "client": "town"}, "no column 'town'"),
        ({}, {"label": "risk", "features": ["risk"]}, "column 'risk' is no feature"),
        ({}, {"label": "risk", "features": []}, "no column beside 'risk'"),
        (
            {"age": [None, *range(29)]},
            {"label": "risk"},
            "'age': 1 values are missing, first row 0",
        ),
        ({"age": pd.Timestamp("2020-01-01")}, {"label": "risk"}, "neither numbers nor text"),
        ({"site": [None] + ["n"] * 29}, {"label": "risk", "client": "site"}, "whose 1 rows"),
        ({"risk": [None] + ["n"] * 29}, {"label": "risk"}, "1 are missing, first row 0"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(change, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        data(table().assign(**change), **settings)
    assert "\n" not in str(error.value)


def test_text_of_too_many_kinds_is_refused():
    names = pd.DataFrame({"name": [f"id{n}" for n in range(60)], "y": Y})
    with pytest.raises(ValueError, match="'name' is text of 60 different values, over 50") as no:
        data(names)
    assert "features=[...]" in str(no.value)
    assert "mine.py:load" in str(no.value)  # no flag says which columns are features


# Folders of pictures


def draw(folder, count=2, size=8):
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(BYTES[number, :size]).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("no picture")


def test_pictures_in_a_folder_for_each_class(tmp_path):
    draw(tmp_path / "cat")
    draw(tmp_path / "dog", 3)
    found = data(tmp_path)
    assert torch.equal(found.x[:2], data(BYTES, Y).x[:2])
    assert found.y.tolist() == [0, 0, 1, 1, 1]
    assert found.label_names == ("cat", "dog")


def test_folders_of_training_and_test_pictures(tmp_path):
    for part, count in (("train", 3), ("test", 2)):
        draw(tmp_path / part / "cat", count)
        draw(tmp_path / part / "dog", count)
    found = data(tmp_path)
    assert (found.official, found.y.tolist()) == (4, [0, 0, 0, 1, 1, 1, 0, 0, 1, 1])


def test_folders_that_are_none_are_refused(tmp_path):
    draw(tmp_path / "cat")
    with pytest.raises(ValueError, match="no pictures .* in a folder for each class"):
        data(tmp_path / "cat")
    draw(tmp_path / "dog", size=4)
    with pytest.raises(ValueError, match="pictures differ in size"):
        data(tmp_path)
    (tmp_path / "cat" / "0.png").write_bytes(b"none")
    with pytest.raises(ValueError, match="is no picture that can be read"):
        data(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npz", b"none", "cannot be read; expected arrays"),
        ("a.csv", b"", "is no table that can be read"),
        ("a.doc", b"", "expected a .csv, .tsv, .parquet, .npz or .txt file"),
        ("a.txt", b"", "a text of 0 characters is shorter than an example"),
        ("b.txt", b"\xff\xfe\xff", "is no text in UTF-8"),
    ],
)
def test_files_that_are_none_are_refused(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        data(tmp_path / name)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        data("nowhere.csv")


def test_an_npz_with_objects_is_not_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{}], object), y=np.array([0]))
    with pytest.raises(ValueError, match="no objects"):
        data(tmp_path / "a.npz")
