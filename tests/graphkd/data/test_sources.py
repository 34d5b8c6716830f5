"""What people have for a graph: each kind of it is read as meant, or refused in one line."""

from types import SimpleNamespace

import networkx
import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data, HeteroData, InMemoryDataset, TemporalData

import graphkd
from graphkd.data import registry, splits
from graphkd.data.graph_collection import Graphs
from graphkd.data.sources import graph_of
from graphkd.graph import HIDDEN
from graphkd.methods.glnn import GLNN
from graphkd.methods.gsp import GSP
from graphkd.methods.logits import Logits
from graphkd.methods.mlp import MLP
from kdcore.rng import generator

RING = torch.stack([torch.arange(60), (torch.arange(60) + 1) % 60])  # 60 edges, each one way
BOTH = torch.cat([RING, RING.flip(0)], 1)
ADJACENCY = torch.zeros(60, 60).index_put((*BOTH,), torch.ones(())).to_sparse()
PARTS = torch.arange(60) % 3


def ring(**more):
    """A ring of 60 nodes of two classes."""
    x = torch.randn(60, 4, generator=generator(0, "ring"))
    return Data(**{"x": x, "edge_index": BOTH, "y": torch.arange(60) % 2} | more)


def paths(count=30, **more):
    """Paths of 3, 4, 5, 3, ... nodes, which are classes 0, 1, 2 in turn."""
    found = []
    for i in range(count):
        size = 3 + i % 3
        ends = torch.arange(size - 1)
        given = {"x": torch.ones(size, 2) * i, "y": torch.tensor([i % 3])}
        found.append(Data(edge_index=torch.stack([ends, ends + 1]), **given | more))
    return found


def split(data):
    return splits.split(graph_of(data), "transductive", 0, train=5, val=5)


class Own(InMemoryDataset):
    """A data set of PyG from a list of graphs, without files."""

    def __init__(self, graphs):
        super().__init__()
        self.data, self.slices = self.collate(graphs)


def directed():
    net = networkx.DiGraph([(i, (i + 1) % 60) for i in range(60)])
    networkx.set_node_attributes(net, {i: {"x": [float(i)], "y": i % 2} for i in net})
    return net


ACCEPTED = {
    "as it is": (ring(), ()),
    "directed": (ring(edge_index=RING), ("60 edges had no opposite and now go both ways",)),
    "directed, of networkx": (directed(), ("60 edges had no opposite and now go both ways",)),
    "a part of it both ways": (
        ring(edge_index=torch.cat([RING, RING[:, :20].flip(0)], 1)),
        ("40 edges had no opposite and now go both ways",),
    ),
    "edges twice": (
        ring(edge_index=torch.cat([BOTH, BOTH[:, :7]], 1)),
        ("7 repeated edges left out",),
    ),
    "self loops": (
        ring(edge_index=torch.cat([BOTH, torch.tensor([[3], [3]])], 1)),
        ("1 self-loops left out",),
    ),
    "edges in 32 bits": (ring(edge_index=BOTH.int()), ()),
    "edges in NumPy": (ring(edge_index=BOTH.numpy()), ()),
    "weights": (ring(edge_weight=torch.rand(120)), ("edge_weight is not used",)),
    "attributes": (ring(edge_attr=torch.rand(120, 3)), ("edge_attr is not used",)),
    "labels as a column": (ring(y=(torch.arange(60) % 2)[:, None]), ()),
    "labels as booleans": (ring(y=torch.arange(60) % 2 == 1), ()),
    "labels as text": (ring(y=["no", "yes"] * 30), ("labels numbered: no is 0, yes is 1",)),
    "features as whole numbers": (
        ring(x=torch.arange(240).view(60, 4)),
        ("features of torch.int64 taken as torch.float32",),
    ),
    "features in one column": (ring(x=torch.rand(60)), ()),
    "sparse features": (ring(x=torch.eye(60).to_sparse()), ()),
    "a transposed adjacency": (Data(x=ring().x, y=ring().y, adj_t=ADJACENCY), ()),
    "a list of one": ([ring()], ()),
    "a data set of one": (Own([ring()]), ()),
    "one mask alone": (ring(train_mask=PARTS == 0), ("train_mask alone is not used",)),
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_a_graph_is_read_as_meant_and_what_was_done_is_said(kind):
    """All of these are the ring, whose classes alternate."""
    data, notes = ACCEPTED[kind]
    graph = graph_of(data)
    assert graph.notes == notes
    assert sorted(graph.edge_index.T.tolist()) == sorted(BOTH.T.tolist())
    assert graph.y.tolist() == [0, 1] * 30
    assert graph.x.shape[0] == 60
    assert graph.x.is_floating_point()
    assert split(data).notes[: len(notes)] == notes


def test_a_directed_edge_informs_both_of_its_ends():
    """0 -> 1 -> 2: the mean over a node and its neighbours is that of the undirected path."""
    data = Data(
        x=torch.tensor([[0.0], [3.0], [9.0]]),
        edge_index=torch.tensor([[0, 1], [1, 2]]),
        y=torch.tensor([0, 1, 0]),
    )
    assert (graph_of(data).mean @ data.x).flatten().tolist() == [1.5, 4.0, 6.0]


REFUSED = {
    "one-hot labels": (ring(y=torch.eye(60)), r"labels \(60, 60\).*take the argmax"),
    "several targets": (ring(y=torch.rand(60, 3)), "of several targets one"),
    "labels with a gap": (ring(y=torch.arange(60) % 2 * 2), "no node of class 1, of 3.*anew"),
    "one class": (ring(y=torch.zeros(60).long()), "1 class; .*or real targets in floating"),
    "no label at all": (ring(y=torch.full((60,), -1)), "no node|0 class"),
    "labels that are objects": (ring(y=[{}] * 60), "labels such as {} are neither numbers nor"),
    "NaN among the features": (ring(x=torch.full((60, 2), torch.nan)), "NaN or infinite at 60"),
    "no features": (Data(edge_index=BOTH, y=PARTS), "no x; .*OneHotDegree"),
    "no columns": (ring(x=torch.zeros(60, 0)), "without features"),
    "no nodes": (
        Data(x=torch.zeros(0, 2), edge_index=torch.zeros(2, 0).long(), y=torch.zeros(0, dtype=int)),
        "has no nodes",
    ),
    "no edges": (ring(edge_index=torch.zeros(2, 0).long()), "no edges between them; .*build them"),
    "edges to nowhere": (ring(edge_index=BOTH + 1), "edges to node 60 .*renumber the nodes"),
    "a list of pairs": (ring(edge_index=BOTH.T), "transpose a list of pairs"),
    "infinite targets": (
        ring(y=torch.tensor([0.5, torch.inf] * 30)),
        "the target inf at node 1; expected finite",
    ),
    "several kinds of nodes, none labelled": (HeteroData(), r"HeteroData has 0 types of edges"),
    "edges in time": (TemporalData(), "data is TemporalData; expected the name of a data set"),
    "a table": (np.zeros((3, 3)), "data is ndarray; expected .*of scipy: Graph.from_scipy"),
    "nothing": ([], "the list is empty; expected graphs"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_distilled_is_refused_in_one_line(kind):
    data, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message) as error:
        split(data)
    assert "\n" not in str(error.value)


def test_a_sparse_tensor_of_another_library_is_refused_with_the_line_that_opens_it():
    """torch_sparse is not here: what is asked of its tensor is that it is none of torch's."""
    data = SimpleNamespace(x=torch.eye(3), y=torch.tensor([0, 1, 0]), adj_t=object())
    with pytest.raises(ValueError, match=r"torch\.stack\(data\.adj_t\.t\(\)\.coo\(\)\[:2\]\)"):
        graphkd.Graph.from_pyg(data)


def test_isolated_nodes_stay_with_parts_of_ones_own_and_are_left_out_of_those_that_are_drawn():
    data = ring(edge_index=BOTH[:, (BOTH < 50).all(0)])  # a path of 50 nodes, and 10 alone
    drawn = split(data)
    assert drawn.node_names == tuple(range(50))
    said = "the protocol takes the largest connected component, 50 of 60 nodes, and leaves out 10"
    assert said in drawn.notes
    given = splits.own(graph_of(data), *((i == PARTS) for i in range(3)))
    assert given.node_names == tuple(range(60))
    assert given.notes == ()


@pytest.mark.parametrize("count", [10, 1])
def test_of_masks_in_columns_a_seed_takes_its_own(count):
    masks = torch.stack([(PARTS + shift) % 3 == 0 for shift in range(count)], 1)
    named = {"train_mask": masks, "val_mask": masks.roll(1, 0), "test_mask": masks.roll(2, 0)}
    for seed in (0, 1, 12):
        found = splits.split(graph_of(ring(**named)), "transductive", seed)
        mine = masks[:, seed % count]
        assert torch.equal(found.parts["train"], mine.nonzero()[:, 0])
        assert torch.equal(found.parts["tran"], mine.roll(2).nonzero()[:, 0])
        said = f"of 10 masks of a part number {seed % 10} is taken"
        assert found.notes == ((said,) if count == 10 else ())
    wiki = named | {"test_mask": PARTS == 2, "stopping_mask": masks}  # one test set for all
    assert splits.split(graph_of(ring(**wiki)), "transductive", 3).parts["tran"].tolist() == [
        *range(2, 60, 3)
    ]


@pytest.mark.parametrize("form", [list, tuple, Batch.from_data_list, Own])
def test_many_graphs_are_side_by_side_each_an_example(form):
    many = graph_of(form(paths()))
    assert isinstance(many, Graphs)
    assert (many.num_nodes, many.classes) == (30, 3)
    assert many.y.tolist() == [0, 1, 2] * 10
    assert torch.bincount(many.owner).tolist() == [3, 4, 5] * 10
    assert torch.equal(many.x[:, 0], many.owner.float())
    assert many.notes == ("90 edges had no opposite and now go both ways",)
    second = many.cut(torch.tensor([1]))
    assert second.edge_index.tolist() == [[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]]
    assert registry.split(many, "folds", 0).notes == many.notes


def test_many_graphs_run_in_folds_and_real_targets_of_them_too():
    *_, result = graphkd.run(GLNN(epochs=2, teacher_epochs=2, hidden=4, teacher_hidden=4), paths())
    assert (result.protocol, len(result.node_names)) == ("folds", 30)
    real = paths()
    for i, one in enumerate(real):
        one.y = torch.tensor(float(i))  # whole numbers; that they are no classes has to be said
    assert graph_of(real).classes == 30
    sizes = Graphs.from_pyg(real, "sizes", classes=1)
    assert sizes.y.tolist() == list(range(30))
    *_, result = graphkd.run(GSP(epochs=2, teacher_epochs=2, hidden=4, teacher_hidden=4), sizes)
    assert {"r2", "r2_teacher", "rmse"} <= result.metrics.keys()


def changed(place, **more):
    graphs = paths()
    graphs[place].update(more)
    return graphs


MANY_REFUSED = {
    "labels of nodes": (changed(4, y=torch.zeros(4)), r"graph 4 of graphs has labels \(4,\)"),
    "one-hot": (changed(0, y=torch.eye(3)[:1]), "expected one: of one-hot labels take the argmax"),
    "no label": (changed(7, y=torch.tensor([-1])), "1 graphs have no label .* first 7; leave"),
    "no y": (changed(2, y=None), "graph 2 of graphs: the Data has no y; .*one label y"),
    "other features": (changed(1, x=torch.ones(4, 3)), "have 2 to 3 features of a node"),
    "into the next": (
        changed(5, edge_index=torch.tensor([[0], [5]])),
        "graph 5 of graphs has edges to node 5 .*0 to 4",
    ),
    "too few": (paths(9), "9 graphs, 3 of its rarest class; 10 folds take 10 or more"),
    "not graphs": ([1, 2], "graph 0 of graphs: the int has no x and no y"),
}


@pytest.mark.parametrize("kind", MANY_REFUSED)
def test_of_many_graphs_the_one_that_is_wrong_is_named(kind):
    graphs, message = MANY_REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        next(graphkd.run("glnn", graphs))
    with pytest.raises(ValueError, match="is many graphs, and the protocol .*choose folds"):
        next(graphkd.run("glnn", paths(), "inductive"))


def real(**more):
    """The ring with targets that the features give: their sum."""
    data = ring()
    return ring(y=data.x.sum(1).double(), **more)


def test_real_targets_of_nodes_are_learnt():
    """A sum is what a linear network can say; of labels alone, by Adam, it says it nearly."""
    data = real(train_mask=PARTS == 0, val_mask=PARTS == 1, test_mask=PARTS == 2)
    graph = graph_of(data)
    assert (graph.classes, graph.y.dtype, graph.lacks) == (1, torch.float32, {"classes"})
    assert graph.notes == ("targets are real numbers: R^2 and RMSE in place of accuracy",)
    *_, alone = graphkd.run(MLP(epochs=200, dropout=0.0, hidden=16), data)
    assert alone.metrics["r2"] > 0.9
    spread = graph.y[PARTS == 2].std(correction=0)
    expected = (1 - alone.metrics["r2"]) ** 0.5 * float(spread)
    assert alone.metrics["rmse"] == pytest.approx(expected, rel=1e-4)
    method = Logits(epochs=2, teacher_epochs=2, hidden=4, teacher_hidden=4)
    for protocol in splits.PROTOCOLS:
        *_, taught = graphkd.run(method, data, protocol)
        assert {"r2", "r2_teacher", "r2_baseline", "rmse"} <= taught.metrics.keys()


def test_targets_that_are_missing_are_in_no_part_and_drawn_ones_are_of_all_nodes():
    data = real()
    data.y[::2] = torch.nan
    drawn = split(data)
    sizes = {name: len(ids) for name, ids in drawn.parts.items()}
    assert sizes == {"train": 5, "val": 5, "tran": 20}
    assert all((ids % 2 == 1).all() for ids in drawn.parts.values())
    assert "30 of 60 nodes have no label" in drawn.notes
    seen = drawn.view("train").graph.y
    assert seen.isfinite().nonzero()[:, 0].tolist() == sorted(
        [*drawn.parts["train"].tolist(), *drawn.parts["val"].tolist()]
    )
    with pytest.raises(ValueError, match="10 nodes of the part train have no label, first 0"):
        splits.own(graph_of(data), PARTS == 0, PARTS == 1, PARTS == 2)
    with pytest.raises(ValueError, match="has 30 labelled nodes in the largest .*ask for fewer$"):
        splits.split(graph_of(data), "transductive", 0)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (GLNN(), "no classes of the kind that glnn needs: its targets are real; choose .*logits"),
        (MLP(inputs="labelled"), "no inputs of the kind that mlp needs: its targets are real"),
        (Logits(teacher="sage+gcn"), "several teachers .* are mixed by the probabilities"),
    ],
)
def test_a_method_that_needs_classes_says_so_before_the_run(method, message):
    with pytest.raises(ValueError, match=message):
        next(graphkd.run(method, real()))


def test_labels_below_zero_are_missing_where_there_are_classes_alone():
    assert graph_of(ring(y=torch.tensor([0.0, 1.0, -1.0] * 20))).y[2] == HIDDEN
    assert graph_of(ring(y=torch.tensor([0.5, 1.0, -1.0] * 20))).y[2] == -1
