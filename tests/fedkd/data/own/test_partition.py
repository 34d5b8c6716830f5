"""Clients that hold the rows they are given, and are tested on rows of their own."""

import numpy as np
import pytest
import torch

from fedkd.algorithms.local import Local
from fedkd.data.datasets import Dataset
from fedkd.data.own.partition import deal, federate_parts
from fedkd.data.own.sources import data
from fedkd.data.partition import natural
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.rounds.evaluation import evaluate
from fedkd.rounds.synchronous import simulate
from kdcore.rng import generator


def dataset(count=20, official=0):
    x = torch.arange(float(count)).reshape(count, 1)
    return Dataset(x, torch.arange(count) % 2, 2, official)


@pytest.mark.parametrize(
    "parts",
    [
        [[3, 1], [0, 7, 5]],
        [torch.tensor([3, 1]), np.array([0, 7, 5], np.int32)],
        {"north": [3, 1], "south": [0, 7, 5]},
    ],
)
def test_clients_hold_the_rows_they_are_given(parts):
    found = federate_parts(dataset(), parts, ["mlp-4"], public=4, validation=3)
    assert [one.private.rows.tolist() for one in found.clients] == [[3, 1], [0, 7, 5]]
    assert [one.id for one in found.clients] == [0, 1]
    pools = [found.task.public.flatten().long(), found.validation.rows, found.test.rows]
    assert [len(one) for one in pools] == [4, 3, 8]
    assert sorted(torch.cat(pools).tolist()) == sorted(set(range(20)) - {3, 1, 0, 7, 5})
    assert found.tests == ()


def test_an_official_test_set_stays_the_test_set():
    found = deal(dataset(official=5), [[0, 1], [2]], 2, 0, 0, seed=0)
    assert found.pools.test.tolist() == [15, 16, 17, 18, 19]
    assert deal(dataset(official=5), [[0, 1], [2]], 2, 0, 3, seed=0).pools.test.tolist() == [
        15,
        16,
        17,
    ]


def test_test_rows_of_all_clients_are_the_test_set_where_nothing_is_left():
    parts = [(range(8), [16, 17]), (range(8, 16), [17, 18, 19])]
    found = deal(dataset(), parts, 0, 0, 0, seed=0)
    assert found.pools.test.tolist() == [16, 17, 18, 19]
    assert [one.tolist() for one in found.tests] == [[16, 17], [17, 18, 19]]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "the rows of one client at least"),
        ([[0, 1], [1, 2]], r"row 1 is dealt out 2 times, to \[0, 1\]"),
        ([[0], []], "client 1 has rows of shape"),
        ([[0, 99]], "client 0 has rows 0 to 99, and there are 0 to 19"),
        ([[0, -1]], "client 0 has rows -1 to 0"),
        ([[0.5]], "rows of client 0 hold 0.5"),
        ([[True, False]], "rows of client 0 are bool"),
        ([3, 4], "rows of client 0 are a int"),
        ([([0], [20])], "client 0 has test rows 20 to 20"),
        ([([0], [1, 1])], "client 0 has a test row twice"),
        ([([0], [1]), ([2, 3], [0])], "row 0 is a test row of client 1, and is trained on"),
        ([range(20)], "some test examples are needed, and 0 rows are left"),
    ],
)
def test_rows_that_cannot_be_dealt_are_named(parts, message):
    with pytest.raises(ValueError, match=message) as error:
        deal(dataset(), parts, 0, 0, 0, seed=0)
    assert "\n" not in str(error.value)


def test_more_than_is_left_is_an_error():
    with pytest.raises(
        ValueError, match="9 public and 0 validation .* and 8 rows were given to no"
    ):
        deal(dataset(), [range(12)], 9, 0, 0, seed=0)
    with pytest.raises(ValueError, match="9 test examples are needed, and 8 rows are left"):
        deal(dataset(), [range(12)], 0, 0, 9, seed=0)


@pytest.mark.parametrize("engine", [sequential, batched()], ids=["sequential", "batched"])
def test_accuracy_on_own_data_is_that_on_own_test_examples(engine):
    given = data(np.random.default_rng(0).random((60, 3)), np.arange(60) % 3)
    parts = [(range(20), range(20, 30)), range(30, 40), (range(40, 50), range(50, 57))]
    found = federate_parts(given, parts, ["mlp-8"])
    (last,) = simulate(Local(), found.task, found.clients, rounds=1)
    own = found.kind_counts, engine, found.kinds
    scores = evaluate(found.task, last.clients, found.test, *own, found.tests)
    without = evaluate(found.task, last.clients, found.test, *own)
    model = found.task.models["mlp-8"]
    for place, rows in ((0, range(20, 30)), (2, range(50, 57))):
        rows = torch.tensor(rows)
        said = model.predict(last.clients[place].params, given.x[rows]).logits.argmax(dim=1)
        right = int((said == given.y[rows]).sum())
        assert float(scores.accuracy_local[place]) == right / len(rows)
    assert scores.accuracy_local[1] == without.accuracy_local[1]  # it has none of its own
    assert torch.equal(scores.accuracy, without.accuracy)


def test_own_data_are_told_by_labels_where_domains_are_not_in_the_test_set():
    """A client whose domain has no test examples would be measured on nothing."""
    x, y = np.random.default_rng(0).random((20, 3)), np.arange(20) % 2
    given = data([(x, y), (x, y)], test=(x, y))
    parts = natural(given.domains[:40], 2, generator(0, "parts"))
    found = federate_parts(given, parts, ["mlp-4"])
    assert torch.equal(found.kinds, given.y[40:])
    assert found.kind_counts.tolist() == [[10, 10], [10, 10]]
