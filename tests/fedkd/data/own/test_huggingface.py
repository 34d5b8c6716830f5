"""Against Hugging Face's and Flower's own libraries, where they are installed."""

import numpy as np
import pytest
import torch
from PIL import Image

from fedkd.data.own.sources import data

datasets = pytest.importorskip("datasets")

X = np.random.default_rng(0).random((60, 3))
Y = np.arange(60) % 3


def split():
    columns = {"a": X[:, 0], "b": X[:, 1], "job": ["x", "y"] * 30, "label": Y}
    kind = datasets.ClassLabel(names=["u", "v", "w"])
    return datasets.Dataset.from_dict(columns).cast_column("label", kind)


def test_a_split_is_a_table_and_its_classes_have_names():
    found = data(datasets.DatasetDict(train=split(), test=split().select(range(9))))
    assert found.label_names == ("u", "v", "w")
    assert (found.official, found.standardise) == (9, (0, 1))
    assert found.y[:60].tolist() == Y.tolist()
    torch.testing.assert_close(found.x[:60, :2], torch.from_numpy(X[:, :2]).float())


def test_pictures_and_rows_of_numbers_are_features():
    pixels = np.random.default_rng(1).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    columns = {"img": [Image.fromarray(one) for one in pixels], "label": [0, 1] * 3}
    found = data(datasets.Dataset.from_dict(columns))
    assert torch.equal(found.x, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    rows = datasets.Dataset.from_dict({"x": X.tolist(), "y": Y})
    torch.testing.assert_close(data(rows).x, torch.from_numpy(X).float())
    torch.testing.assert_close(data(rows.with_format("torch")).x, torch.from_numpy(X).float())


def test_partitions_of_flower_are_clients():
    partitioner = pytest.importorskip("flwr_datasets.partitioner")
    dealt = partitioner.IidPartitioner(num_partitions=4)
    dealt.dataset = split()
    found = data(dealt)
    assert found.domains.bincount().tolist() == [15] * 4
    listed = data([dealt.load_partition(number) for number in range(4)])
    assert torch.equal(listed.x, found.x)
