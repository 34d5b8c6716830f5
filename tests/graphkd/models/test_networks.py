import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn

from graphkd.data import datasets, splits
from graphkd.graph import Graph
from graphkd.models import networks
from graphkd.training.loop import predict, seeded

GRAPH = splits.largest_component(datasets.fake())[0]


def build(name, graph=GRAPH, dropout=0.5):
    with seeded(0, torch.device("cpu"), "test"):
        return networks.build(name, graph, 16, 2, dropout)


def wide(graph=GRAPH):
    """The same graph with features that are nearly all zero, so that they are kept sparse."""
    x = torch.zeros(graph.num_nodes, 200)
    x[:, :3] = torch.eye(3)[graph.y]
    return Graph(x, graph.edge_index, graph.y, graph.classes)


def adjacency(graph):
    a = torch.zeros(graph.num_nodes, graph.num_nodes)
    a[graph.edge_index[1], graph.edge_index[0]] = 1
    return a + torch.eye(len(a))


@pytest.fixture(params=[GRAPH, wide()], ids=["dense features", "sparse features"])
def graph(request):
    return request.param


def test_the_mlp_starts_as_pytorch_s_own():
    first = build("mlp").layers[0]
    with seeded(0, torch.device("cpu"), "test"):
        own = nn.Linear(GRAPH.x.shape[1], 16)
    assert torch.equal(first.weight, own.weight)
    assert torch.equal(first.bias, own.bias)


def test_mlp_is_two_matrices(graph):
    network = build("mlp", graph)
    first, last = network.layers
    hidden = (graph.x @ first.weight.T + first.bias).relu()
    outputs = predict(network, graph)
    torch.testing.assert_close(outputs.hidden[0], hidden)
    torch.testing.assert_close(outputs.logits, hidden @ last.weight.T + last.bias)


def test_sage_is_the_dense_formula(graph):
    network = build("sage", graph)
    mean = adjacency(graph)
    mean = mean / mean.sum(1, keepdim=True)
    first, last = (layer.lin_l for layer in network.layers)
    hidden = (mean @ graph.x @ first.weight.T + first.bias).relu()
    expected = mean @ hidden @ last.weight.T + last.bias
    torch.testing.assert_close(predict(network, graph).logits, expected)


def test_gcn_is_the_dense_formula(graph):
    network = build("gcn", graph)
    a = adjacency(graph)
    root = a.sum(1).rsqrt()
    a = root[:, None] * a * root
    first, last = network.layers
    hidden = (a @ graph.x @ first.lin.weight.T + first.bias).relu()
    expected = a @ hidden @ last.lin.weight.T + last.bias
    torch.testing.assert_close(predict(network, graph).logits, expected)


def test_appnp_is_personalised_pagerank_of_the_mlp(graph):
    network = build("appnp", graph)
    a = adjacency(graph)
    root = a.sum(1).rsqrt()
    a = root[:, None] * a * root
    start = z = predict(network.predict, graph).logits
    for _ in range(10):
        z = 0.9 * a @ z + 0.1 * start
    torch.testing.assert_close(predict(network, graph).logits, z)
    by_pyg = pyg.APPNP(K=10, alpha=0.1)(start, graph.edge_index)
    torch.testing.assert_close(z, by_pyg)


def by_message_passing(name, network, graph):
    """The logits by PyG's own forward passes."""
    edge_index = graph.edge_index
    if name == "sage":
        loops = torch.arange(graph.num_nodes).repeat(2, 1)
        edge_index = torch.cat([edge_index, loops], 1)
    if name == "sgc":
        return network.layer(graph.x, edge_index)
    first, last = network.layers
    bend = nn.functional.elu if name.startswith("gat") else nn.functional.relu
    return last(bend(first(graph.x, edge_index)), edge_index)


@pytest.mark.parametrize("name", ["gat", "gatv2", "gcn", "gin", "sage", "sgc"])
def test_the_fast_products_are_message_passing(name, graph):
    network = build(name, graph).eval()
    slow = by_message_passing(name, network, graph)
    fast = network(graph).logits
    torch.testing.assert_close(fast, slow)
    weights = list(network.parameters())
    for a, b in zip(
        torch.autograd.grad(fast.square().sum(), weights),
        torch.autograd.grad(slow.square().sum(), weights),
        strict=True,
    ):
        # In float32, sums over hundreds of nodes are as exact as their largest terms, which differ
        # in order between processors; an entry that is small by cancellation is not more exact.
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * max(1.0, float(b.abs().max())))


def test_gin_is_the_dense_formula():
    network = build("gin")
    h = GRAPH.x
    for i, layer in enumerate(network.layers):
        inner, _, outer = layer.nn
        h = outer(inner(adjacency(GRAPH) @ (h.relu() if i else h)).relu())
    torch.testing.assert_close(predict(network, GRAPH).logits, h)


def test_sgc_is_a_power_of_the_adjacency():
    a = adjacency(GRAPH)
    root = a.sum(1).rsqrt()
    a = root[:, None] * a * root
    with seeded(0, torch.device("cpu"), "test"):
        network = networks.build("sgc", GRAPH, 16, 3, 0.5)
    linear = network.layer.lin
    expected = a @ a @ a @ GRAPH.x @ linear.weight.T + linear.bias
    torch.testing.assert_close(predict(network, GRAPH).logits, expected)


def test_gat_weighs_neighbours_by_attention():
    network = build("gat")
    layer = network.layers[-1]
    outputs = predict(network, GRAPH)
    h = outputs.hidden[0] @ layer.lin.weight.T
    score = (h * layer.att_src[0]).sum(1) + (h * layer.att_dst[0]).sum(1)[:, None]
    score = nn.functional.leaky_relu(score, 0.2)
    score = score.masked_fill(adjacency(GRAPH) == 0, -torch.inf)
    torch.testing.assert_close(outputs.logits, score.softmax(1) @ h + layer.bias)


@pytest.mark.parametrize("name", networks.names())
def test_relabelled_nodes_have_relabelled_outputs(name):
    network = build(name)
    order = torch.randperm(GRAPH.num_nodes, generator=torch.Generator().manual_seed(1))
    expected = networks.rows(predict(network, GRAPH), order)
    found = predict(network, GRAPH.subgraph(order))
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.hidden, expected.hidden)


@pytest.mark.parametrize("name", networks.names())
def test_three_layers_show_two_hidden_states(name):
    with seeded(0, torch.device("cpu"), "test"):
        network = networks.build(name, GRAPH, 16, 3, 0.5)
    outputs = predict(network, GRAPH)
    assert outputs.logits.shape == (GRAPH.num_nodes, GRAPH.classes)
    widths = [] if name == "sgc" else [(GRAPH.num_nodes, 16)] * 2
    assert [h.shape for h in outputs.hidden] == widths


@pytest.mark.parametrize("name", networks.names())
def test_some_nodes_have_the_outputs_that_they_have_among_all(name, graph):
    network = build(name, graph)
    nodes = torch.tensor([5, 0, 17])
    expected = networks.rows(predict(network, graph), nodes)
    found = predict(network, graph, nodes)
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.hidden, expected.hidden)


@pytest.mark.parametrize("name", networks.names())
def test_weights_and_dropout_come_from_the_seed_alone(name):
    def outcome():
        network = build(name).train()
        with seeded(3, torch.device("cpu"), "dropout"):
            return network(GRAPH).logits

    before = torch.random.get_rng_state()
    first = outcome()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(first, outcome())
    with seeded(4, torch.device("cpu"), "dropout"):
        dropped = name != "sgc"  # which has no hidden state to drop from
        assert dropped != torch.equal(first, build(name).train()(GRAPH).logits)


@pytest.mark.parametrize("name", networks.names())
def test_a_node_without_neighbours_has_finite_outputs(name):
    alone = Graph(torch.ones(2, 5), torch.zeros(2, 0, dtype=torch.long), torch.tensor([0, 1]), 2)
    outputs = predict(build(name, alone), alone)
    assert outputs.logits.isfinite().all()
    torch.testing.assert_close(outputs.logits[0], outputs.logits[1])


def test_errors_say_the_way_out():
    with pytest.raises(
        ValueError,
        match="mean 'sage'.*choose one of appnp, .*gin, han, hgt, mlp, rgcn, sage, sgc",
    ):
        build("sagee")
    with pytest.raises(ValueError, match="multiple of 8"):
        networks.build("gat", GRAPH, 12, 2, 0.0)
    with pytest.raises(ValueError, match="2 layers or more"):
        networks.build("mlp", GRAPH, 16, 1, 0.0)
