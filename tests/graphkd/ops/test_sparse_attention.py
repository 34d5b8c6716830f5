import pytest
import torch
from torch.autograd import gradcheck
from torch_geometric.utils import softmax

from graphkd.ops import sparse, sparse_attention

EDGES = torch.tensor([[0, 1, 2, 2, 3, 0], [1, 0, 1, 3, 2, 3]])  # node 4 has no edges
MATRIX = sparse.total(EDGES, 5, torch.float64)
SOURCE, TARGET = MATRIX.rows.columns, MATRIX.row


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        yield


def test_the_entries_are_the_edges_and_the_loops_by_target():
    loops = torch.arange(5).repeat(2, 1)
    expected = set(map(tuple, torch.cat([EDGES, loops], 1).T.tolist()))
    assert set(zip(SOURCE.tolist(), TARGET.tolist(), strict=True)) == expected
    assert TARGET.tolist() == sorted(TARGET.tolist())


def test_additive_scores_are_those_of_the_paper():
    source, target = draw(5, 2), draw(5, 2)
    raw = source[SOURCE] + target[TARGET]
    found = sparse_attention.additive(source, target, MATRIX)
    torch.testing.assert_close(found, torch.where(raw > 0, raw, 0.2 * raw))
    assert gradcheck(lambda s, t: sparse_attention.additive(s, t, MATRIX), (source, target))


@pytest.mark.parametrize("chunk", [3, 10**6])
def test_dynamic_scores_are_those_of_the_paper(chunk, monkeypatch):
    monkeypatch.setattr(sparse_attention, "CHUNK", chunk)
    source, target, weight = draw(5, 6), draw(5, 6), draw(2, 3)
    raw = source[SOURCE] + target[TARGET]
    bent = torch.where(raw > 0, raw, 0.2 * raw).view(-1, 2, 3)
    found = sparse_attention.dynamic(source, target, weight, MATRIX)
    torch.testing.assert_close(found, (bent * weight).sum(2))
    given = source, target, weight
    assert gradcheck(lambda s, t, a: sparse_attention.dynamic(s, t, a, MATRIX), given)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("chunk", [3, 10**6])
def test_the_mean_is_that_of_torch_geometric_s_softmax(keep, chunk, monkeypatch):
    monkeypatch.setattr(sparse_attention, "CHUNK", chunk)
    scores, values = draw(len(SOURCE), 2), draw(5, 6)
    factors = torch.rand(len(SOURCE), 2, dtype=torch.float64) if keep else None
    alpha = softmax(scores, TARGET, num_nodes=5) * (factors if keep else 1)
    messages = alpha[:, :, None] * values[SOURCE].view(-1, 2, 3)
    expected = torch.zeros(5, 6, dtype=torch.float64).index_add(0, TARGET, messages.flatten(1))
    torch.testing.assert_close(sparse_attention.attend(scores, values, MATRIX, factors), expected)
    assert gradcheck(lambda s, v: sparse_attention.attend(s, v, MATRIX, factors), (scores, values))


def test_large_scores_do_not_overflow():
    scores = torch.tensor([[1e4]]).repeat(len(SOURCE), 1)
    values = torch.arange(5.0)[:, None]
    found = sparse_attention.attend(scores, values, MATRIX)
    mean = sparse.mean(EDGES, 5, torch.float32) @ values
    torch.testing.assert_close(found, mean)
