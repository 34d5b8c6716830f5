import pytest
import torch
from torch.autograd import gradcheck
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from graphkd.ops import sparse

EDGES = torch.tensor([[0, 1, 2, 2, 3], [1, 0, 1, 3, 2]])  # node 4 has no edges


def dense(matrix, columns):
    return matrix @ torch.eye(columns, dtype=torch.float64)


def test_a_product_is_that_of_the_dense_matrix_and_so_is_its_gradient():
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    full[torch.rand(5, 4, generator=generator) < 0.6] = 0
    row, column = full.nonzero(as_tuple=True)
    matrix = sparse.matrix(row, column, full[row, column], (5, 4))
    w = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(matrix @ w, full @ w)
    assert gradcheck(lambda w: matrix @ w, w)


def test_entries_at_one_place_add_up():
    place = torch.tensor([0, 0])
    matrix = sparse.matrix(place, place, torch.tensor([1.0, 2.0]), (1, 1))
    assert (matrix @ torch.ones(1, 1)).item() == 3


def test_a_matrix_without_entries_gives_zeros():
    none = torch.zeros(0, dtype=torch.long)
    matrix = sparse.matrix(none, none, torch.zeros(0), (3, 2))
    w = torch.ones(2, 4, requires_grad=True)
    (matrix @ w).sum().backward()
    assert (matrix @ w).tolist() == torch.zeros(3, 4).tolist()
    assert not w.grad.any()


def test_the_mean_is_over_a_node_and_its_neighbours():
    # Node 1 hears of 0 and 2, and of itself; node 4 of nobody else.
    expected = torch.tensor(
        [[3, 3, 0, 0, 0], [2, 2, 2, 0, 0], [0, 0, 3, 3, 0], [0, 0, 3, 3, 0], [0, 0, 0, 0, 6]]
    )
    mean = dense(sparse.mean(EDGES, 5, torch.float64), 5)
    torch.testing.assert_close(mean, expected.double() / 6)


def test_the_normalised_adjacency_is_that_of_torch_geometric():
    for edges in (EDGES, torch.cat([EDGES, EDGES.flip(0)], 1).unique(dim=1)):
        index, weight = gcn_norm(edges, None, 5, dtype=torch.float64)
        expected = torch.zeros(5, 5, dtype=torch.float64)
        expected[index[1], index[0]] = weight
        torch.testing.assert_close(dense(sparse.normalized(edges, 5, torch.float64), 5), expected)


@pytest.mark.parametrize(("nonzero", "kind"), [(5, sparse.Matrix), (50, torch.Tensor)])
def test_features_are_sparse_where_that_is_faster(nonzero, kind):
    x = torch.zeros(10, 10)
    x.view(-1)[:nonzero] = 1
    assert isinstance(sparse.features(x), kind)


def drawn(rows, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    full = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    full[torch.rand(rows, columns, generator=generator) < 0.6] = 0
    row, column = full.nonzero(as_tuple=True)
    mixed = torch.randperm(len(row), generator=generator)
    row, column = row[mixed], column[mixed]
    return full, sparse.matrix(row, column, full[row, column], (rows, columns))


def check(matrix, full):
    """The matrix, its transpose, and the order that leads from one to the other."""
    eye = torch.eye(full.shape[1], dtype=torch.float64)
    torch.testing.assert_close(matrix @ eye, full)
    torch.testing.assert_close(matrix.transposed.times(torch.eye(len(full)).double()), full.T)
    assert torch.equal(matrix.rows.values[matrix.order], matrix.transposed.values)
    assert torch.equal(matrix.row[matrix.order], matrix.transposed.columns)


def test_matrices_are_transposed_cut_and_set_side_by_side():
    full, matrix = drawn(6, 4)
    check(matrix, full)
    check(matrix.T, full.T)
    rows = torch.tensor([5, 0, 3])
    check(matrix.take(rows), full[rows])
    check(matrix.T.take(torch.tensor([2])).T, full[:, [2]])
    other, second = drawn(3, 5, seed=1)
    check(sparse.block_diagonal([matrix, second]), torch.block_diag(full, other))
    check(matrix.take(rows[:0]), full[:0])


def test_other_values_stand_at_the_same_places():
    full, matrix = drawn(6, 4)
    check(matrix.with_values(matrix.rows.values * 3), full * 3)


def test_the_total_is_the_sum_over_a_node_and_its_neighbours():
    total = dense(sparse.total(EDGES, 5, torch.float64), 5)
    expected = torch.eye(5, dtype=torch.float64)
    expected[EDGES[1], EDGES[0]] = 1
    assert torch.equal(total, expected)
