"""Data of one's own whose targets are no classes: told apart, converted, refused, dealt out."""

import numpy as np
import pandas as pd
import pytest
import torch

from fedkd.data.federated_data import federate, pools
from fedkd.data.own.sources import data
from fedkd.data.own.targets import values
from fedkd.data.partition import partition
from fedkd.targets import NO_LABEL
from kdcore.rng import generator

X = np.arange(24.0).reshape(8, 3)
REAL = np.linspace(0.5, 4.0, 8)
HOT = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 1], [1, 1, 1]] * 2)
TOKENS = np.arange(40).reshape(8, 5) % 7


@pytest.mark.parametrize(
    ("y", "target", "shape", "many"),
    [
        (REAL, "real", (8, 1), 1),
        (REAL[:, None], "real", (8, 1), 1),
        (np.stack([REAL, 2 * REAL], axis=1), "real", (8, 2), 2),
        (torch.tensor(REAL), "real", (8, 1), 1),
        (list(REAL), "real", (8, 1), 1),
        (HOT, "labels", (8, 3), 3),
        (HOT.astype(bool), "labels", (8, 3), 3),
        (HOT.astype(float), "labels", (8, 3), 3),
        (TOKENS, "sequence", (8, 5), 7),
        (np.arange(8) % 3, "class", (8,), 3),
        (np.arange(8.0) % 3, "class", (8,), 3),
        (np.eye(3)[np.arange(8) % 3], "class", (8,), 3),
        (np.array(["a", "b"] * 4), "class", (8,), 2),
    ],
    ids=str,
)
def test_the_target_is_told_by_the_values(y, target, shape, many):
    found = data(X, y)
    assert (found.target.name, tuple(found.y.shape), found.num_classes) == (target, shape, many)
    assert (target == "class") == (f"target {target}" not in " ".join(found.notes))
    assert found.y.is_floating_point() == (target in ("real", "labels"))


def test_a_target_may_be_said():
    counts = np.arange(8)  # which would be taken for eight classes
    assert data(X, counts).target.name == "class"
    found = data(X, counts, target="real")
    assert found.y.tolist() == [[float(n)] for n in range(8)]
    one_hot = np.eye(2)[[0, 1] * 4]
    assert data(X, one_hot, target="labels").y.tolist() == one_hot.tolist()


@pytest.mark.parametrize(
    ("y", "target"),
    [
        (1000 * np.arange(21), "real"),
        (1000.0 * np.arange(21), "real"),
        (3 * np.arange(-5, 20)[:, None], "real"),
        (np.arange(21), "class"),
        (np.arange(40) % 21, "class"),
        (1000 * np.arange(20), None),
        (np.arange(1, 27), None),  # letters
        (np.arange(1900, 1960), None),  # years, or not
    ],
    ids=str,
)
def test_many_whole_numbers_far_apart_are_real(y, target):
    x = np.arange(2.0 * len(y)).reshape(-1, 2)
    if target is None:
        with pytest.raises(ValueError, match="which are not 0 to .*--target real"):
            data(x, y)
        return
    found = data(x, y)
    assert found.target.name == target
    said = f"labels are {len(y)} different whole numbers from {int(y.min())} to {int(y.max())}"
    assert (f"{said}: target real" in found.notes) == (target == "real")


def test_classes_that_are_said_are_classes():
    x, y = np.ones((21, 2)), 1000 * np.arange(21)
    assert data(x, y, classes=20_001).target.name == "class"


@pytest.mark.parametrize(
    ("y", "target", "reason"),
    [
        (REAL, "price", "expected one of class, real, labels, sequence"),
        (np.array(["a", "b"] * 4), "real", "text, such as 'a'"),
        (np.where(REAL > 3, np.nan, REAL), "real", "NaN or infinite in 2 rows, first row 6"),
        (REAL, "class", 'say target="real"'),
        (np.arange(8) * 1000, None, 'target="real"'),  # too few to be plainly no classes
        (np.arange(8) * 1000, "class", 'target="real"'),
        (TOKENS, "labels", "rows of 0 and 1"),
        (REAL, "sequence", "whole numbers (N, T)"),
        (TOKENS - 5, "sequence", "sequences hold -5"),
        (REAL[:7], "real", "7 labels for 8 examples"),
    ],
    ids=str,
)
def test_what_is_none_is_refused_in_a_line(y, target, reason):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        data(X, y, target=target)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_labels_in_one_text():
    films = pd.DataFrame({"year": [1.0, 2, 3], "genres": ["War|Drama", "", "Drama"]})
    found = data(films, label="genres", target="labels")
    assert found.label_names == ("Drama", "War")
    assert found.y.tolist() == [[1, 1], [0, 0], [1, 0]]


def test_a_table_with_a_real_column_in_bands_of_another(tmp_path):
    table = pd.DataFrame({"latitude": [3.0, 1, 2, 4], "price": [0.5, 1.5, 2.5, 3.5]})
    table.to_csv(tmp_path / "h.csv", index=False)
    found = data(tmp_path / "h.csv", label="price", by="latitude")
    assert found.key.tolist() == [3, 1, 2, 4]
    assert found.x.shape == (4, 1)  # it is a feature, too
    assert found.label_names == ("price",)
    both = data(table.assign(age=[1.0, 2, 3, 4]), label=["price", "age"])
    assert both.y.tolist() == [[0.5, 1], [1.5, 2], [2.5, 3], [3.5, 4]]
    with pytest.raises(ValueError, match="no column 'lat'"):
        data(table, label="price", by="lat")


def test_numbers_to_cut_by_are_one_for_each_example():
    assert data(X, REAL, by=np.arange(8)).key.tolist() == list(range(8))
    with pytest.raises(ValueError, match=r"by has shape \(7,\); expected \(8,\)"):
        data(X, REAL, by=np.arange(7))


def test_arrays_in_a_file(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=REAL)
    assert data(tmp_path / "a.npz").target.name == "real"


def test_items_of_a_torch_data_set():
    found = data(torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(HOT)))
    assert (found.target.name, found.y.tolist()) == ("labels", HOT.tolist())


# Sequences


def test_a_text_is_cut_into_windows(tmp_path):
    (tmp_path / "t.txt").write_text("abcabcab")
    found = data(tmp_path / "t.txt", length=3)
    assert found.label_names == ("a", "b", "c")
    assert found.x.tolist() == [[0, 1, 2], [0, 1, 2]]  # each is followed by the next
    assert found.y.tolist() == [[1, 2, 0], [1, 2, 0]]
    assert (found.num_classes, found.places) == (3, 3)
    with pytest.raises(ValueError, match="shorter than an example, 65"):
        data(tmp_path / "t.txt")


def test_texts_of_several_clients_have_one_alphabet(tmp_path):
    (tmp_path / "one.txt").write_text("aaaaa")
    (tmp_path / "two.txt").write_text("ababa")
    found = data([tmp_path / "one.txt", tmp_path / "two.txt"], length=4)
    assert found.x.tolist() == [[0, 0, 0, 0], [0, 1, 0, 1]]
    assert found.domains.tolist() == [0, 1]


def test_tokens_are_foretold_and_padding_is_not():
    tokens = np.array([[2, 0, 1], [1, 2, NO_LABEL], [1, NO_LABEL, NO_LABEL]])
    found = data(tokens)
    assert found.x.tolist() == [[2, 0], [1, 2], [1, 0]]
    assert found.y.tolist() == [[0, 1], [2, NO_LABEL], [NO_LABEL, NO_LABEL]]
    assert found.num_classes == 3


# Federations


def dealt(mine, name="bands", clients=4, **more):
    chosen = pools(mine, 5, 1, 0, 2, 0)
    key = more.get("key")
    cut = None if key is None else key[chosen.private]
    y = mine.y[chosen.private]
    parts = partition(name, y, clients, generator(0), 0.5, 1, 2, None, mine.target, cut)
    return chosen, parts


def test_real_targets_are_in_units_of_the_private_examples():
    mine = data(X, REAL)
    chosen, parts = dealt(mine)
    federation = federate(mine, chosen, parts, ["mlp-4"], 0)
    own = torch.tensor(REAL)[chosen.private]
    y = federation.clients[0].private.y[chosen.private].flatten().double()
    torch.testing.assert_close(y.mean(), torch.tensor(0.0).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(y * own.std(correction=0) + own.mean(), own, rtol=1e-5, atol=1e-5)
    assert federation.task.units.tolist() == pytest.approx([float(own.std(correction=0))])
    assert "mean 0 and standard deviation 1" in " ".join(federation.notes)


@pytest.mark.parametrize("name", ["dirichlet", "shards", "pathological", "dirichlet-min"])
def test_partitions_by_class_are_refused_in_a_line(name):
    with pytest.raises(ValueError, match="take iid, quantity, natural, bands, or auto"):
        dealt(data(X, REAL), name)


def test_absent_classes_are_of_classes():
    with pytest.raises(ValueError, match="absent classes are for classes"):
        pools(data(X, REAL), 4, 1, 0, 1, 0, absent=1)


def test_a_model_of_another_shape_is_refused_in_a_line():
    mine = data(TOKENS)
    chosen, parts = dealt(mine, "iid")
    with pytest.raises(ValueError, match=r"shape \(7,\) .* expected \(4, 7\)"):
        federate(mine, chosen, parts, ["mlp-4"], 0)


def test_values_are_named_only_where_they_are():
    notes = []
    assert values(REAL, 8, None, None, notes).names == ()
