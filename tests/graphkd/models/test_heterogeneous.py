"""Networks of several types against PyG's layers on the dictionaries that PyG takes."""

import pytest
import torch
from torch_geometric.data import HeteroData
from torch_geometric.nn import HANConv

import graphkd
from graphkd import methods, networks
from graphkd.data import registry
from graphkd.data.neighbor_sampling import neighbourhood
from graphkd.evaluation import latency
from graphkd.evaluation.latency import hops
from graphkd.graph import HIDDEN, Graph, TypedGraph, Types
from graphkd.training.loop import predict, seeded

FILMS, PEOPLE = 40, 12


def cinema(**more):
    """Films of two classes, the people in them, and which film follows which."""
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(FILMS) % 2
    data = HeteroData()
    data["film"].x = torch.randn(FILMS, 6, generator=draw)
    data["film"].y = y
    data["person"].x = torch.randn(PEOPLE, 6, generator=draw)
    # People of one half are in films of one class.
    who = y * (PEOPLE // 2) + torch.randint(PEOPLE // 2, (2, FILMS), generator=draw)
    data["film", "with", "person"].edge_index = torch.stack(
        [torch.arange(FILMS).repeat(2), who.flatten()]
    )
    data["film", "follows", "film"].edge_index = torch.stack(
        [torch.arange(1, FILMS), torch.arange(FILMS - 1)]
    )
    places = torch.arange(FILMS)
    for part, mask in (("train", places < 12), ("val", (places >= 12) & (places < 20))):
        data["film"][f"{part}_mask"] = mask
    data["film"].test_mask = places >= 20
    for name, value in more.items():
        data["film"][name] = value
    return data


GRAPH = Graph.from_pyg(cinema(), "cinema")


def build(name, graph=GRAPH, layers=2):
    with seeded(0, torch.device("cpu"), "test"):
        return networks.build(name, graph, 16, layers, 0.5)


def test_hetero_data_becomes_one_graph_with_types():
    assert isinstance(GRAPH, TypedGraph)
    assert GRAPH.types == Types(("film", "person"), ((0, 1), (0, 0), (1, 0), (0, 0)))
    assert GRAPH.node_type.tolist() == [0] * FILMS + [1] * PEOPLE
    with_, follows, in_, before = GRAPH.relations
    data = cinema()
    theirs = data["film", "with", "person"].edge_index + torch.tensor([[0], [FILMS]])
    pairs = {tuple(pair) for pair in theirs.T.tolist()}
    assert {tuple(pair) for pair in with_.T.tolist()} == pairs
    assert {tuple(pair[::-1]) for pair in in_.T.tolist()} == pairs
    assert torch.equal(follows.flip(0), before)
    assert GRAPH.examples.nonzero()[:, 0].tolist() == list(range(FILMS))
    assert (GRAPH.y[FILMS:] == HIDDEN).all()
    assert GRAPH.edge_index.shape[1] == 2 * (len(pairs) + FILMS - 1)
    assert "edges film with person had no opposite, and have one of their own now" in GRAPH.notes
    assert set(GRAPH.parts) == {"train", "val", "test"}


def test_relations_with_an_opposite_get_no_other():
    data = cinema()
    data["person", "in", "film"].edge_index = data["film", "with", "person"].edge_index.flip(0)
    data["film", "beside", "film"].edge_index = torch.tensor([[0, 1], [1, 0]])
    graph = Graph.from_pyg(data)
    assert len(graph.types.relations) == 5  # film follows film alone got one


def test_features_of_other_widths_stand_side_by_side_and_none_are_ones():
    data = cinema()
    data["person"].x = torch.ones(PEOPLE, 2)
    data["place"].num_nodes = 3
    data["film", "at", "place"].edge_index = torch.tensor([[0], [2]])
    graph = Graph.from_pyg(data)
    expected = torch.block_diag(data["film"].x, data["person"].x, torch.ones(3, 1))
    assert torch.equal(graph.x, expected)
    assert "the type 'place' has no features: a column of ones" in graph.notes


def test_an_rgcn_layer_is_pygs(monkeypatch):
    network = build("rgcn")
    ends = torch.cat(GRAPH.relations, dim=1)
    kind = torch.cat([torch.full((e.shape[1],), r) for r, e in enumerate(GRAPH.relations)])
    h = network.layers[0](GRAPH.x, ends, kind).relu()
    outputs = predict(network, GRAPH)
    torch.testing.assert_close(outputs.hidden[0], h)
    torch.testing.assert_close(outputs.logits, network.layers[1](h, ends, kind))


def test_hgt_is_pygs_on_dictionaries():
    network = build("hgt", layers=3).eval()
    first, second = network.layers
    width = 16
    weight, bias = network.inputs.weight.view(2, width, -1), network.inputs.bias.view(2, width)
    split = {
        "0": GRAPH.x[:FILMS] @ weight[0].T + bias[0],
        "1": GRAPH.x[FILMS:] @ weight[1].T + bias[1],
    }
    split = {kind: h.relu() for kind, h in split.items()}
    start = torch.tensor([0, FILMS])
    pairs = {
        (str(a), f"r{r}", str(b)): ends - start[[a, b]][:, None]
        for r, ((a, b), ends) in enumerate(zip(GRAPH.types.relations, GRAPH.relations, strict=True))
    }
    last = second(first(split, pairs), pairs)
    expected = network.outputs(torch.cat([last["0"], last["1"]]))
    torch.testing.assert_close(predict(network, GRAPH).logits, expected)


def test_meta_paths_join_films_with_one_person_in_common_and_each_film_with_itself():
    with_, follows, in_, before = (edges.T.tolist() for edges in GRAPH.relations)
    common = {(a, c) for a, who in with_ for other, c in in_ if who == other}
    assert GRAPH.types.meta_paths == ((1,), (3,), (0, 2))
    itself = {(i, i) for i in range(FILMS)}
    for ours, expected in zip(GRAPH.meta_paths, (follows, before, common), strict=True):
        pairs = [tuple(pair) for pair in ours.T.tolist()]
        assert len(pairs) == len(set(pairs))
        assert set(pairs) == {tuple(pair) for pair in expected} | itself


def test_han_is_pygs_on_meta_paths():
    network = build("han", layers=3).eval()
    theirs, films = [], GRAPH.x[:FILMS]
    names = [("film", f"way{p}", "film") for p in range(3)]
    for own, inputs in zip(network.layers, network.inputs, strict=True):
        layer = HANConv(inputs.in_features, 16, (["film"], names), heads=8)
        layer.proj["film"].load_state_dict(inputs.state_dict())
        state = {
            key.replace("node__p", "film__way").replace("__node", "__film"): value
            for key, value in own.state_dict().items()
        }
        assert not layer.load_state_dict(state, strict=False).unexpected_keys
        theirs.append(layer.eval())
    pairs = dict(zip(names, GRAPH.meta_paths, strict=True))
    for layer in theirs:
        films = layer({"film": films}, pairs)["film"]
    outputs = predict(network, GRAPH)
    torch.testing.assert_close(outputs.logits[:FILMS], network.outputs(films))
    torch.testing.assert_close(outputs.hidden[-1][:FILMS], films)
    assert not outputs.hidden[-1][FILMS:].any()


def test_han_has_nothing_to_attend_to_without_a_way_back():
    types = Types(("film", "person"), ((1, 1),))
    with pytest.raises(ValueError, match="no meta-path joins nodes film .* take rgcn or hgt"):
        networks.HAN([4, 16, 2], 0.0, types)


@pytest.mark.parametrize("name", networks.TYPED)
def test_types_matter_to_these_networks_and_an_order_of_nodes_does_not(name):
    network = build(name)
    order = torch.randperm(GRAPH.num_nodes, generator=torch.Generator().manual_seed(1))
    expected = predict(network, GRAPH).logits[order]
    torch.testing.assert_close(predict(network, GRAPH.subgraph(order)).logits, expected)
    with pytest.raises(ValueError, match="made for 4 relations among film, person, and the graph"):
        network(GRAPH.x, GRAPH.edge_index)
    few = torch.arange(5)  # nobody is left in them
    assert predict(network, GRAPH.subgraph(few)).logits.isfinite().all()


@pytest.mark.parametrize("name", ["rgcn", "hgt"])
def test_a_neighbourhood_says_of_a_node_what_the_whole_graph_says(name):
    network, nodes = build(name).eval(), torch.tensor([7, FILMS + 3])
    part, ids = neighbourhood(GRAPH, nodes, hops(network))
    assert 2 < part.num_nodes < GRAPH.num_nodes
    assert torch.equal(part.node_type, GRAPH.node_type[ids])
    expected, found = predict(network, GRAPH).logits[nodes], predict(network, part).logits[:2]
    torch.testing.assert_close(found, expected)


def test_a_neighbourhood_has_the_types_of_its_edges():
    # One step before film 7: the films on either side of it and the people in it.
    part, ids = neighbourhood(GRAPH, torch.tensor([7]), 1)
    found = {(*ids[ends].tolist(), r) for r, pairs in enumerate(part.relations) for ends in pairs.T}
    into = {(a, b, r) for r, e in enumerate(GRAPH.relations) for a, b in e.T.tolist() if b == 7}
    assert found == into
    assert {(6, 7), (8, 7)} <= {(a, b) for a, b, _ in found}


@pytest.mark.parametrize("name", networks.TYPED)
def test_how_long_an_answer_takes_is_measured(name):
    found = latency.measure({"it": build(name)}, GRAPH, "cold", repeats=2, warmup=0)["it"]
    assert len(found.seconds) == 2


@pytest.mark.parametrize("teacher", [*networks.TYPED, "gcn"])
def test_a_typed_teacher_teaches_an_mlp_on_nodes_of_the_type_with_labels(teacher):
    split = registry.split(GRAPH, "transductive", 0)
    assert split.view("distill").part("soft").tolist() == list(range(FILMS))
    method = methods.get("glnn")(teacher=teacher, epochs=20, teacher_epochs=20, batch=8)
    *_, result = graphkd.run(method, split, seed=0)
    assert set(result.metrics) >= {"accuracy", "accuracy_teacher", "accuracy_baseline"}
    again = list(graphkd.run(method, split, seed=0))[-1]
    assert again == result


def test_what_a_teacher_says_of_other_types_teaches_nobody():
    table = torch.randn(GRAPH.num_nodes, 2, generator=torch.Generator().manual_seed(0))
    other = table.clone()
    other[FILMS:] = 7.0
    weights = []
    for one in (table, other):
        method = methods.get("glnn")(epochs=3, batch=8)
        teacher = graphkd.TeacherLogits(one)
        *_, result = graphkd.run(method, cinema(), teacher=teacher, seed=0)
        weights.append(result.trained["student"].network.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


FIT = {"adagmlp", "gcrd", "glnn", "gsp", "logits", "mlp", "multiteacher", "privileged", "rkd"}


@pytest.mark.parametrize("name", methods.names())
def test_a_method_takes_several_types_or_says_which_ones_do(name):
    settings = {"epochs": 2, "teacher_epochs": 2, "hidden": 8, "teacher_hidden": 8}
    if name in FIT:
        *_, result = graphkd.run(methods.get(name)(**settings), cinema(), seed=0)
        assert 0 <= result.metrics["accuracy"] <= 1
    else:
        with pytest.raises(ValueError, match="of several types"):
            list(graphkd.run(methods.get(name)(**settings), cinema(), seed=0))


def test_what_makes_no_graph_of_types_is_refused_with_the_way_out():
    none, two = cinema(), cinema()
    del none["film"].y
    two["person"].y = torch.zeros(PEOPLE)
    lost = cinema()
    lost["film", "with", "person"].edge_index[1, 0] = 99
    for data, message in (
        (none, r"labels y of none of its types .*del data\['author'\]\.y"),
        (two, r"labels y of 'film' and 'person' .*del data\['person'\]\.y"),
        (lost, "edges film with person go to node 99 of 12 nodes person; expected ids from 0"),
        (HeteroData(), "has 0 types of edges"),
    ):
        with pytest.raises(ValueError, match=message):
            Graph.from_pyg(data)
    with pytest.raises(ValueError, match="removed_edges is for one: leave it out"):
        registry.split(GRAPH, "transductive", 0, removed_edges=0.5)
    with pytest.raises(ValueError, match="hidden is 12; attention divides it among 8 heads"):
        networks.build("hgt", GRAPH, 12, 2, 0.0)
