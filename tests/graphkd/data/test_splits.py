import networkx
import pytest
import torch

from graphkd.core import LeakError
from graphkd.data import datasets, splits
from graphkd.graph import HIDDEN, Graph
from kdcore import metrics

GRAPH = datasets.fake()


def changed(**fields):
    values = {"x": GRAPH.x, "edge_index": GRAPH.edge_index, "y": GRAPH.y, "classes": 3}
    return Graph(**{**values, **fields})


def ragged():
    """Two components and a lone node, with loops, parallel and one-way edges."""
    edges = [(0, 1), (1, 0), (1, 2), (1, 2), (2, 2), (4, 5), (5, 6), (6, 7), (7, 4), (8, 8)]
    return Graph(
        torch.randn(9, 2, generator=torch.Generator().manual_seed(0)),
        torch.tensor(edges).T,
        torch.arange(9) % 2,
        2,
    )


def both():
    return [splits.transductive(GRAPH, 0), splits.inductive(GRAPH, 0)]


def test_the_largest_component_is_simple_and_undirected():
    component, origin = splits.largest_component(ragged())
    assert origin.tolist() == [4, 5, 6, 7]
    pairs = {(0, 1), (1, 2), (2, 3), (0, 3)}
    assert set(map(tuple, component.edge_index.T.tolist())) == pairs | {(b, a) for a, b in pairs}
    assert component.edge_index.shape[1] == 8
    assert torch.equal(component.x, ragged().x[origin])


@pytest.mark.parametrize("seed", range(5))
def test_the_largest_component_is_that_of_networkx(seed):
    sparse = networkx.gnp_random_graph(60, 0.02, seed=seed)
    edges = torch.tensor(list(sparse.edges)).T
    graph = Graph(torch.ones(60, 1), edges, torch.arange(60) % 2, 2)
    component, origin = splits.largest_component(graph)
    sizes = [len(nodes) for nodes in networkx.connected_components(sparse)]
    assert len(origin) == max(sizes)
    assert networkx.is_connected(sparse.subgraph(origin.tolist()))
    assert component.edge_index.shape[1] == 2 * sparse.subgraph(origin.tolist()).number_of_edges()


def test_a_relabelled_graph_has_the_relabelled_component():
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    component, origin = splits.largest_component(ragged().subgraph(order))
    assert set(order[origin].tolist()) == {4, 5, 6, 7}
    assert component.edge_index.shape[1] == 8


def test_the_transductive_parts_are_disjoint_and_counted_per_class():
    split = splits.transductive(GRAPH, 3)
    whole = split.view("evaluate")
    parts = [split.parts[name] for name in ("train", "val", "tran")]
    assert torch.cat(parts).sort().values.tolist() == list(range(whole.graph.num_nodes))
    assert whole.graph.y[split.parts["train"]].bincount().tolist() == [20] * 3
    assert whole.graph.y[split.parts["val"]].bincount().tolist() == [30] * 3
    assert torch.equal(whole.part("test"), split.parts["tran"])
    assert "ind" not in split.parts


def test_the_inductive_protocol_holds_out_a_fifth_of_the_test_nodes():
    tran, ind = splits.transductive(GRAPH, 3), splits.inductive(GRAPH, 3)
    test = ind.view("evaluate").part("test")
    assert torch.equal(test, tran.parts["tran"])
    assert len(ind.parts["ind"]) == int(0.2 * len(test))
    assert torch.equal(torch.cat([ind.parts["tran"], ind.parts["ind"]]).sort().values, test)
    assert torch.equal(ind.parts["train"], tran.parts["train"])
    assert ind.parts["ind"].max() > ind.parts["tran"].median() > ind.parts["ind"].min()


def test_a_split_follows_from_its_seed():
    first, again, other = (splits.inductive(GRAPH, seed) for seed in (1, 1, 2))
    for name, part in first.parts.items():
        assert torch.equal(part, again.parts[name])
        assert not torch.equal(part, other.parts[name])


@pytest.mark.parametrize("phase", ["train", "distill"])
def test_only_the_labels_of_train_and_val_are_seen_before_the_evaluation(phase):
    for split in both():
        view, whole = split.view(phase), split.view("evaluate")
        known = torch.cat([view.part("train"), view.part("val")])
        assert torch.equal(view.graph.y[known], whole.graph.y[view.ids[known]])
        hidden = torch.ones(view.graph.num_nodes, dtype=torch.bool)
        hidden[known] = False
        assert (view.graph.y[hidden] == HIDDEN).all()
        with pytest.raises(ValueError, match="labels run from"):
            metrics.accuracy(torch.randn(3, 3), view.graph.y[hidden][:3])


@pytest.mark.parametrize("phase", ["train", "distill"])
def test_the_observed_graph_is_the_induced_one(phase):
    split = splits.inductive(GRAPH, 0)
    view, whole = split.view(phase), split.view("evaluate")
    held_out = set(split.parts["ind"].tolist())
    assert not held_out & set(view.ids.tolist())
    assert len(view.ids) + len(held_out) == whole.graph.num_nodes
    edges = set(map(tuple, view.ids[view.graph.edge_index].T.tolist()))
    expected = {(a, b) for a, b in whole.graph.edge_index.T.tolist() if not {a, b} & held_out}
    assert edges == expected
    assert torch.equal(view.graph.x, whole.graph.x[view.ids])


def test_local_and_global_ids_lead_to_the_same_nodes():
    split = splits.inductive(GRAPH, 0)
    view = split.view("distill")
    for name in ("train", "val"):
        assert torch.equal(view.ids[view.part(name)], split.parts[name])
        assert torch.equal(view.local(split.parts[name]), view.part(name))
    assert view.part("soft").tolist() == list(range(view.graph.num_nodes))


def test_asking_for_more_is_an_error():
    split = splits.inductive(GRAPH, 0)
    with pytest.raises(LeakError, match="'train' may not see the part 'ind', only train, val"):
        split.view("train").part("ind")
    for name in ("tran", "test"):
        with pytest.raises(LeakError, match="may not see"):
            split.view("distill").part(name)
    with pytest.raises(LeakError, match="held out of the phase 'distill'"):
        split.view("distill").local(split.parts["ind"])
    with pytest.raises(LeakError, match="choose one of train, distill, evaluate"):
        split.view("everything")


def test_the_nodes_are_traced_back_to_the_graph_that_was_cut():
    mixed = changed(edge_index=GRAPH.edge_index[:, (GRAPH.edge_index > 5).all(0)])
    split = splits.transductive(mixed, 0)
    assert torch.equal(split.view("evaluate").graph.x, GRAPH.x[split.origin])
    assert split.origin.min() == 6


def nan_features():
    x = GRAPH.x.clone()
    x[4, 0] = torch.nan
    return x


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (changed(edge_index=torch.zeros(2, 0, dtype=torch.long)), "180 nodes and no edges"),
        (changed(edge_index=torch.tensor([[3, 4], [3, 4]])), "no edges"),
        (changed(x=GRAPH.x[:, :0]), "nodes without features"),
        (changed(x=GRAPH.x.long()), "features of torch.int64; .*convert them"),
        (changed(y=GRAPH.y + 0.5), r"the label 0\.5 at node 0; expected whole numbers from 0 to 2"),
        (changed(y=GRAPH.y * torch.nan), "the label nan at node 0.*leave out what has no label"),
        (changed(x=nan_features()), "NaN or infinite at 1 nodes, first 4"),
        (changed(y=torch.zeros(180, dtype=torch.long), classes=1), "1 class"),
        (changed(y=GRAPH.y + 1), r"labels from 1 to 3; expected 0 to 2: number .*return_inverse"),
        (changed(y=GRAPH.y - 1), "labels from -1 to 1; .*leave out what has no label"),
        (changed(y=GRAPH.y * 2, classes=5), r"no node of class 1, of 5 classes.*classes=3"),
        (changed(edge_index=torch.tensor([[0.5], [1.0]])), "edges that are no whole numbers"),
        (changed(edge_index=GRAPH.edge_index.T), "transpose a list of pairs"),
        (changed(y=torch.eye(3)[GRAPH.y]), "take the argmax of one-hot labels"),
        (changed(edge_index=torch.tensor([[0], [180]])), "edges to node 180"),
        (changed(y=GRAPH.y[:-1]), r"expected \(N, D\), \(N,\) and \(2, E\)"),
        (changed(y=(GRAPH.y == 0).long() * 2), "no node of class 1, of 3 classes"),
        (datasets.fake(size=49), "class 0 of fake has 49 nodes"),
        (datasets.fake(size=50), "no node left to test"),
    ],
)
def test_graphs_that_cannot_be_split_say_why(graph, message):
    with pytest.raises(ValueError, match=message):
        splits.transductive(graph, 0)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.float32])
def test_edges_and_labels_of_any_type_are_the_same_graph(dtype):
    y, edges = GRAPH.y.to(dtype).unsqueeze(1), GRAPH.edge_index.to(dtype)
    for given in (changed(y=y), changed(edge_index=edges), changed(y=y, edge_index=edges)):
        assert given.y.dtype == given.edge_index.dtype == torch.int64
        one, other = (splits.inductive(graph, 3) for graph in (GRAPH, given))
        assert all(torch.equal(one.parts[name], other.parts[name]) for name in one.parts)
        for phase in ("distill", "evaluate"):
            seen, same = one.view(phase).graph, other.view(phase).graph
            assert torch.equal(seen.edge_index, same.edge_index)
            assert torch.equal(seen.y, same.y)


def test_the_edges_of_a_graph_too_large_for_int32_keys():
    nodes = 50_000  # whose square is above 2^31
    ends = torch.tensor([[nodes - 1, 0, 7], [nodes - 2, nodes - 1, 7]], dtype=torch.int32)
    expected = [[0, nodes - 2, nodes - 1, nodes - 1], [nodes - 1, nodes - 1, 0, nodes - 2]]
    assert splits.simple(ends, nodes).tolist() == expected


def test_withheld_nodes_are_in_the_graph_but_no_teacher_speaks_of_them():
    split, inductive = splits.withheld(GRAPH, 3), splits.inductive(GRAPH, 3)
    assert split.protocol == "withheld"
    for name, part in inductive.parts.items():
        assert torch.equal(part, split.parts[name])
    for phase in ("train", "distill"):
        view = split.view(phase)
        assert view.graph.num_nodes == split.view("evaluate").graph.num_nodes
        assert (view.graph.y[view.local(split.parts["ind"])] == HIDDEN).all()
    view = split.view("distill")
    soft = set(view.ids[view.part("soft")].tolist())
    assert soft == set(view.ids.tolist()) - set(split.parts["ind"].tolist())
    everything = inductive.view("distill")
    assert len(everything.part("soft")) == everything.graph.num_nodes


def test_disturbed_graphs_keep_their_parts():
    plain = splits.split(GRAPH, "inductive", 0)
    noisy = splits.split(GRAPH, "inductive", 0, feature_noise=0.3, removed_edges=0.25)
    one, two = (split.view("evaluate").graph for split in (plain, noisy))
    for name, part in plain.parts.items():
        assert torch.equal(part, noisy.parts[name])
    # (1 - a) x + a n has the variance a^2 about (1 - a) x.
    noise = (two.x - 0.7 * one.x) / 0.3
    assert noise.mean() == pytest.approx(0, abs=0.1)
    assert noise.std() == pytest.approx(1, abs=0.1)
    edges = [set(map(tuple, graph.edge_index.T.tolist())) for graph in (one, two)]
    assert edges[1] < edges[0]
    assert {(b, a) for a, b in edges[1]} == edges[1]
    assert len(edges[1]) == len(edges[0]) - 2 * round(0.25 * len(edges[0]) / 2)
    again = splits.split(GRAPH, "inductive", 0, feature_noise=0.3, removed_edges=0.25)
    assert torch.equal(again.view("evaluate").graph.x, two.x)
    nothing = splits.split(GRAPH, "transductive", 0, removed_edges=1.0).view("train").graph
    assert nothing.edge_index.shape == (2, 0)
    with pytest.raises(ValueError, match="removed_edges is 1.5; expected a share"):
        splits.split(GRAPH, "transductive", 0, removed_edges=1.5)
    with pytest.raises(ValueError, match="feature_noise is -1"):
        splits.split(GRAPH, "transductive", 0, feature_noise=-1)


def test_fewer_labels_are_asked_for_by_class():
    split = splits.split(GRAPH, "transductive", 0, train=5, val=10)
    assert GRAPH.y[split.origin[split.parts["train"]]].bincount().tolist() == [5] * 3
    assert len(split.parts["val"]) == 30


def test_counts_that_leave_a_part_empty_say_why():
    with pytest.raises(ValueError, match="part ind empty"):
        splits.inductive(GRAPH, 0, held_out=0.0)
    with pytest.raises(ValueError, match="part tran empty"):
        splits.inductive(GRAPH, 0, held_out=1.0)
    with pytest.raises(ValueError, match="val 0 nodes per class"):
        splits.transductive(GRAPH, 0, val=0)
    with pytest.raises(ValueError, match="unknown protocol 'inductiv'; did you mean 'inductive'"):
        splits.split(GRAPH, "inductiv", 0)
