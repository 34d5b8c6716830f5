import copy

import pytest
import torch

from fedgraphkd.union import NOBODY, Union
from tests.fedgraphkd.graphs import ragged

CPU = torch.device("cpu")


def column(*numbers):
    return torch.tensor(numbers).unsqueeze(1)


def test_nodes_are_numbered_from_one_and_zero_is_nobody():
    blocks = ragged((5, 9, 3))
    union = Union(blocks)
    assert union.starts.tolist() == [1, 6, 15]
    assert union.owner.tolist() == [-1] + [0] * 5 + [1] * 9 + [2] * 3
    assert union.numbers(1).tolist() == list(range(6, 15))
    assert torch.equal(union.y[union.numbers(2)], blocks[2].y)
    assert union.table.flatten().tolist() == list(range(18))
    assert union.table.dtype == torch.int64


@pytest.mark.parametrize("numbers", [(6, 14, 8), (17, 1, 9, 6, 1), (0, 15, 0), (2, NOBODY, 16)])
def test_nodes_are_found_with_their_own_features_and_edges(numbers):
    blocks = ragged((5, 9, 3))
    union = Union(blocks)
    graph, places = union.found(column(*numbers))
    neighbours = graph.normalized @ graph.x
    for number, place in zip(numbers, places.tolist(), strict=True):
        if number == NOBODY:
            continue
        block = int(union.owner[number])
        local = number - int(union.starts[block])
        torch.testing.assert_close(graph.x[place], blocks[block].x[local])
        own = blocks[block].normalized @ blocks[block].x
        torch.testing.assert_close(neighbours[place], own[local])


def test_sets_of_nodes_are_alone_where_each_is_of_one_block():
    union = Union(ragged((5, 9, 3)))
    assert union.alone(torch.stack([column(6, 0), column(1, 2)])) == (1, 0)
    assert union.alone(torch.stack([column(6, 1), column(1, 2)])) is None
    assert union.alone(torch.stack([column(0, 0), column(1, 2)])) is None


def test_blocks_side_by_side_are_padded_with_nothing():
    blocks = ragged((5, 9, 3))
    beside = Union(blocks).side_by_side((2, 0), "mean", CPU)
    dense = beside.adjacency @ torch.eye(2 * 5)
    expected = torch.zeros(10, 10)
    expected[:3, :3] = blocks[2].mean @ torch.eye(3)
    expected[5:, 5:] = blocks[0].mean @ torch.eye(5)
    torch.testing.assert_close(dense, expected)
    torch.testing.assert_close(beside.features[0, :3], blocks[2].mean @ blocks[2].x)
    assert not beside.features[0, 3:].any()


def test_a_part_of_a_union_has_the_same_numbers_and_no_other_graphs():
    union = Union(ragged((5, 9, 3)))
    less = union.only(torch.tensor([0, 6, 7, 16]))
    assert less.held == {1, 2}
    assert torch.equal(less.table, union.table)
    graph, places = less.found(column(7, 16))
    whole, same = union.found(column(7, 16))
    assert torch.equal(graph.x[places], whole.x[same])
    with pytest.raises(LookupError, match="block 0 is not here; here are those of 1, 2"):
        less.found(column(1))


def test_a_union_is_not_copied_and_what_is_worked_out_is_bounded():
    union = Union(ragged([3] * 12))
    assert copy.deepcopy(union) is union
    for first in range(10):
        union.found(column(int(union.starts[first]), int(union.starts[first + 1])))
    kept = [key for key in union._known if key[0] == "side"]
    assert len(kept) == 8
    assert kept[-1][1] == (9, 10)
