import copy
import pickle

import pytest
import torch

from fedgraphkd.collection import NOBODY, Collection, side_by_side
from tests.fedgraphkd.graphs import trees

MANY = trees(12)


def column(*numbers):
    return torch.tensor(numbers).unsqueeze(1)


def alone(number):
    return MANY.cut(torch.tensor([number - 1]))


def test_graphs_are_numbered_from_one_and_zero_is_nobody():
    found = Collection(MANY)
    assert found.table.flatten().tolist() == list(range(13))
    assert found.table.dtype == torch.int64
    assert torch.equal(found.y[1:], MANY.y)
    assert found.sizes.tolist() == [0, *(len(alone(n).x) for n in range(1, 13))]
    assert found.held == {*range(1, 13)}


@pytest.mark.parametrize("adjacency", ["normalized", "mean", "total"])
def test_a_batch_has_the_adjacency_of_its_graphs_and_of_no_others(adjacency):
    asked = torch.tensor([[7, 2, 7, NOBODY], [3, 12, 1, 5]])
    batch, places = Collection(MANY).batch(asked.unsqueeze(-1), adjacency)
    height = batch.first.shape[1]
    expected = torch.zeros(2 * height, 2 * height)
    features = torch.zeros(2 * height, 3)
    for model, numbers in enumerate([(2, 7), (1, 3, 5, 12)]):
        top = model * height
        for number in numbers:
            graph = alone(number)
            own, end = getattr(graph.union, adjacency), top + len(graph.x)
            expected[top:end, top:end] = own @ torch.eye(len(graph.x))
            features[top:end] = own @ graph.x
            top = end
    torch.testing.assert_close(batch.adjacency @ torch.eye(2 * height), expected)
    torch.testing.assert_close(batch.adjacency.T @ torch.eye(2 * height), expected.T)
    torch.testing.assert_close(batch.first.flatten(0, 1), features)
    values = torch.arange(1.0, len(batch.adjacency.order) + 1)  # the transpose knows which is which
    other = batch.adjacency.with_values(values)
    dense = other @ torch.eye(2 * height)
    torch.testing.assert_close(other.T @ torch.eye(2 * height), dense.T)
    counts = batch.owner.bincount(minlength=9)
    assert counts[places[0] + 0].tolist() == [len(alone(7).x), len(alone(2).x), len(alone(7).x), 0]
    assert counts[4 + places[1]].tolist() == [len(alone(n).x) for n in (3, 12, 1, 5)]


def test_a_mini_batch_costs_what_its_own_graphs_do():
    batch, _ = Collection(MANY).batch(column(4, 9).unsqueeze(0), "mean")
    assert batch.first.shape[1] == len(alone(4).x) + len(alone(9).x)


def test_the_same_graphs_in_another_order_are_put_together_once():
    found = Collection(MANY)
    first, one = found.batch(column(4, 9, 2).unsqueeze(0), "mean")
    second, other = found.batch(column(9, 2, 4).unsqueeze(0), "mean")
    assert first is second
    assert (one.tolist(), other.tolist()) == ([[1, 2, 0]], [[2, 0, 1]])


def test_a_part_has_the_graphs_that_were_asked_for_and_no_others():
    part = Collection(MANY).only(torch.tensor([9, NOBODY, 4]))
    part = pickle.loads(pickle.dumps(part))
    assert part.held == {4, 9}
    assert torch.equal(part.cut(column(9, 4)).x, MANY.cut(torch.tensor([8, 3])).x)
    assert part.mean_size == Collection(MANY).mean_size
    with pytest.raises(LookupError, match="graph 5 is not here, but 2 others are"):
        part.batch(column(4, 5).unsqueeze(0), "mean")
    assert copy.deepcopy(part) is part


def test_domains_share_neither_features_nor_classes():
    one, other = trees(6), MANY
    joint = side_by_side([one, other])
    assert (joint.num_nodes, joint.classes, joint.x.shape[1]) == (18, 4, 6)
    assert joint.domains.tolist() == [0] * 6 + [1] * 12
    cut = joint.cut(torch.tensor([1, 10]))
    assert cut.domains.tolist() == [0, 1]
    first = len(one.cut(torch.tensor([1])).x)
    assert torch.equal(cut.x[:first, :3], one.cut(torch.tensor([1])).x)
    assert torch.equal(cut.x[first:, 3:], alone(5).x)
    assert not cut.x[:first, 3:].any()
    assert not cut.x[first:, :3].any()
    assert cut.y.tolist() == [int(one.y[1]), 2 + int(other.y[4])]
