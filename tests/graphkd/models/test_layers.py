import pytest
import torch

from graphkd.data import datasets
from graphkd.graph import Graph
from graphkd.models.layers import first, linear

DENSE = datasets.fake(size=20)
SPARSE = Graph(torch.eye(DENSE.num_nodes), DENSE.edge_index, DENSE.y, DENSE.classes)


@pytest.mark.parametrize("graph", [DENSE, SPARSE], ids=["dense", "sparse"])
def test_first_products_are_the_dense_ones(graph):
    weight = torch.randn(6, graph.x.shape[1], generator=torch.Generator().manual_seed(0))
    bias, nodes = torch.arange(6.0), torch.tensor([4, 1])
    expected = graph.x @ weight.T
    torch.testing.assert_close(linear(graph.features, weight), expected)
    torch.testing.assert_close(linear(graph.features, weight, bias, nodes), expected[nodes] + bias)
    for name in ("mean", "normalized", "total"):
        mixed = getattr(graph, name) @ expected
        torch.testing.assert_close(first(graph, name, weight), mixed, rtol=1e-4, atol=1e-4)
