"""Graphs of other libraries; PyTorch Geometric's own converters say what is right."""

import networkx
import numpy as np
import pytest
import scipy.sparse
import torch
from torch_geometric.data import Data
from torch_geometric.utils import coalesce, remove_self_loops, to_undirected

from graphkd import Graph
from graphkd.data import datasets, splits
from graphkd.graph import HIDDEN

FAKE = datasets.fake(size=20)
SQUARE = [[0, 1, 1, 2, 2, 3, 3, 0], [1, 0, 2, 1, 3, 2, 0, 3]]


def square(**more):
    given = {"x": torch.eye(4), "edge_index": torch.tensor(SQUARE), "y": torch.tensor([0, 1, 0, 1])}
    return Data(**given | more)


def same(one, other):
    return all(torch.equal(getattr(one, n), getattr(other, n)) for n in ("x", "edge_index", "y"))


def clubs():
    graph = networkx.Graph()
    for name, age, club in (("ann", 30, "chess"), ("bob", 20, "go"), ("cid", 25, None)):
        graph.add_node(name, age=age, size=[1.0, 2.0], **({"club": club} if club else {}))
    graph.add_edge("ann", "bob", weight=3.0)
    graph.add_edge("cid", "cid")
    return graph


@pytest.mark.parametrize("edges", [torch.int32, torch.int64, torch.float32])
@pytest.mark.parametrize("labels", [torch.int16, torch.int64, torch.float64])
def test_a_graph_goes_to_pyg_and_comes_back(edges, labels):
    data = FAKE.to_pyg()
    data.edge_index, data.y = data.edge_index.to(edges), data.y.to(labels)[:, None]
    back = Graph.from_pyg(data, name="back")
    assert same(back, FAKE)
    assert back.edge_index.dtype == back.y.dtype == torch.int64
    assert (back.classes, back.name, back.notes) == (3, "back", ())


def test_edges_are_those_of_pygs_own_transforms():
    draw = torch.Generator().manual_seed(0)
    pairs = torch.randint(4, (2, 30), generator=draw)
    expected = coalesce(to_undirected(remove_self_loops(pairs)[0]))
    assert torch.equal(Graph.from_pyg(square(edge_index=pairs)).edge_index, expected)


def test_what_was_done_to_the_edges_is_said():
    """Loops at 2 and 3; 0-1 twice; 1-2 and 0-3 one way."""
    pairs = torch.tensor([[0, 0, 1, 1, 2, 3, 3], [1, 1, 0, 2, 2, 3, 0]])
    graph = Graph.from_pyg(square(edge_index=pairs, edge_attr=torch.ones(7, 1)))
    assert graph.notes == (
        "2 self-loops left out",
        "1 repeated edges left out",
        "2 edges had no opposite and now go both ways",
        "edge_attr is not used",
    )
    assert graph.edge_index.tolist() == [[0, 0, 1, 1, 2, 3], [1, 3, 0, 2, 1, 0]]


def test_labels_that_are_missing_are_hidden_and_come_back_as_minus_one():
    for y in ([0, -1, 1, -1], [0.0, torch.nan, 1.0, -1.0]):
        graph = Graph.from_pyg(square(y=torch.tensor(y)))
        assert graph.y.tolist() == [0, HIDDEN, 1, HIDDEN]
        assert graph.notes == ("2 of 4 nodes have no label",)
        assert graph.to_pyg().y.tolist() == [0, -1, 1, -1]


def test_the_masks_of_pyg_are_a_split():
    masks = {f"{part}_mask": torch.arange(60) % 3 == i for i, part in enumerate(splits_parts())}
    data = FAKE.to_pyg()
    data.update(masks)
    graph = Graph.from_pyg(data)
    split = splits.split(graph, "transductive", 0)
    assert [len(split.parts[name]) for name in ("train", "val", "tran")] == [20, 20, 20]
    again = graph.to_pyg()
    assert all(torch.equal(again[name], mask) for name, mask in masks.items())
    del data["val_mask"]
    assert not Graph.from_pyg(data).parts


def splits_parts():
    return ("train", "val", "test")


def test_a_transposed_adjacency_is_read_too():
    """Edges 0 -> 1 and 0 -> 2: row i of the transpose has those that i hears."""
    rows = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).to_sparse()
    graph = Graph.from_pyg(Data(x=torch.eye(4), y=torch.arange(4) % 2, adj_t=rows))
    assert graph.edge_index.tolist() == [[0, 0, 1, 2], [1, 2, 0, 0]]


def test_networkx_keeps_names_numbers_text_and_says_so():
    graph = Graph.from_networkx(clubs(), features=["age", "size"], label="club", name="clubs")
    assert graph.node_names == ("ann", "bob", "cid")
    assert graph.x.tolist() == [[30, 1, 2], [20, 1, 2], [25, 1, 2]]
    assert graph.y.tolist() == [0, 1, HIDDEN]
    assert graph.edge_index.tolist() == [[0, 1], [1, 0]]
    assert graph.notes == (
        "1 self-loops left out",
        "weight is not used",
        "1 of 3 nodes have no label",
        "labels numbered: chess is 0, go is 1",
    )


@pytest.mark.parametrize("kind", [networkx.Graph, networkx.DiGraph, networkx.MultiGraph])
def test_networkx_and_scipy_give_the_graph_of_pyg(kind):
    graph = kind()
    graph.add_nodes_from((i, {"x": FAKE.x[i].numpy(), "y": int(FAKE.y[i])}) for i in range(60))
    graph.add_edges_from(FAKE.edge_index.T.tolist())
    read = Graph.from_networkx(graph)
    assert same(read, FAKE)
    assert bool(read.notes) == (kind is networkx.MultiGraph)  # to which both ways were added
    assert read.node_names == ()  # they are called 0, 1, 2, ...
    adjacency = networkx.to_scipy_sparse_array(graph)
    for matrix in (adjacency, scipy.sparse.coo_matrix(adjacency), adjacency.toarray()):
        features = scipy.sparse.csr_array(FAKE.x.numpy())
        for x in (FAKE.x, FAKE.x.numpy(), features):
            assert same(Graph.from_scipy(matrix, x, FAKE.y.numpy()), FAKE)


def test_scipys_zeros_are_no_edges_and_its_weights_are_not_used():
    entries = ([1.0, 0.0, 2.0], ([0, 1, 2], [1, 2, 3]))
    matrix = scipy.sparse.coo_array(entries, shape=(4, 4))
    graph = Graph.from_scipy(matrix, np.eye(4, dtype=np.float64), ["b", "a", "b", "a"])
    assert graph.edge_index.tolist() == [[0, 1, 2, 3], [1, 0, 3, 2]]
    assert graph.x.dtype == torch.float64
    assert graph.y.tolist() == [1, 0, 1, 0]
    assert "the weight of an edge is not used" in graph.notes


def test_a_part_of_a_graph_keeps_the_names_of_its_nodes():
    graph = Graph.from_networkx(clubs(), features="age", label="club")
    part = graph.subgraph(torch.tensor([2, 0]))
    assert part.node_names == ("cid", "ann")
    assert part.x[:, 0].tolist() == [25, 30]


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: Graph.from_pyg(Data(edge_index=torch.tensor(SQUARE))), "has no x and no y"),
        (lambda: Graph.from_pyg(Data(x=torch.eye(2), y=torch.zeros(2))), "has no edge_index"),
        (lambda: Graph.from_pyg([]), "the list has no x"),
        (lambda: Graph.from_pyg(square(y=torch.eye(4))), "of one-hot labels take the argmax"),
        (
            lambda: Graph.from_pyg(square(y=torch.rand(4)), classes=2),
            r" at node 0; .*classes=1, no",
        ),
        (lambda: Graph.from_pyg(square(y=torch.zeros(3))), "features of 4 and labels of 3"),
        (lambda: Graph.from_pyg(square(edge_index=torch.tensor([[0], [4]]))), "edges to node 4"),
        (lambda: Graph.from_pyg(square(edge_index=torch.tensor(SQUARE).T)), "transpose a list"),
        (lambda: Graph.from_pyg(square(edge_index=torch.rand(2, 3))), "edges .* no whole numbers"),
        (lambda: Graph.from_pyg(square(x=torch.zeros(4, 2, 2))), r"features \(4, 2, 2\)"),
        (lambda: Graph.from_networkx(clubs(), label="club"), "'ann' has no attribute 'x', only"),
        (lambda: Graph.from_networkx(networkx.path_graph(2)), "node 0 has no attribute 'x'; name"),
        (lambda: Graph.from_networkx(clubs(), features="age"), "no node has the attribute 'y'"),
        (lambda: Graph.from_networkx(clubs(), "club", "age"), "'ann' are no numbers"),
        (lambda: Graph.from_scipy(np.ones((2, 3)), np.eye(2), [0, 1]), "2 x 3; expected a square"),
        (lambda: Graph.from_scipy(np.ones((3, 3)), np.eye(2), [0, 1]), "has 3 nodes, features of"),
    ],
)
def test_what_cannot_be_read_says_why(read, message):
    with pytest.raises(ValueError, match=message):
        read()
