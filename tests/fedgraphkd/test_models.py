import pytest
import torch
from torch import nn

from fedgraphkd import convolutions
from fedgraphkd.convolutions import propagated
from fedgraphkd.models import build, names
from fedgraphkd.union import Union
from graphkd.graph import Graph
from graphkd.models import networks
from kdcore.rng import generator
from kdcore.training.loop import predict_logits
from tests.fedgraphkd.graphs import ragged

SIZES = (5, 9, 3)
STACKED = ["gcn-7", "gcn-7-6", "sage-7", "gin-7", "gin-7-6", "mlp-7", "gcn-7@4", "mlp"]


@pytest.fixture
def union():
    return Union(ragged(SIZES))


@pytest.fixture
def sparse_union():
    """Features of which few are not zero are multiplied as sparse ones."""
    blocks = []
    for number, graph in enumerate(ragged(SIZES)):
        x = torch.zeros(graph.num_nodes, 40)
        x[torch.arange(len(x)), torch.arange(len(x)) * 3 % 40] = 1.0 + number
        blocks.append(Graph(x, graph.edge_index, graph.y, graph.classes))
    return Union(blocks)


def made(name, union, seed=0):
    model = build(name, union, union.table[1:4])
    return model, model.init(generator(seed, name))


@pytest.mark.parametrize("name", ["gcn", "sage", "mlp"])
def test_a_network_is_that_of_graphkd(name, union):
    model, params = made(f"{name}-7", union)
    network = networks.NETWORKS[name]([5, 7, 3], 0.0)
    pairs = {"gcn": ("lin.weight", "bias"), "sage": ("lin_l.weight", "lin_l.bias")}
    weight, bias = pairs.get(name, ("weight", "bias"))
    own = {}
    for place, layer in enumerate(("layer0", "head")):
        own |= {f"layers.{place}.{weight}": params[f"{layer}.weight"]}
        own |= {f"layers.{place}.{bias}": params[f"{layer}.bias"]}
    network.load_state_dict(own)
    expected = network(union.block(1, torch.device("cpu"))).logits
    found = model.predict(params, union.table[union.numbers(1)])
    torch.testing.assert_close(found.logits, expected)


def test_gin_is_its_equation(union):
    model, params = made("gin-7", union)
    graph = union.block(0, torch.device("cpu"))
    total = torch.eye(5)
    total[graph.edge_index[1], graph.edge_index[0]] += 1

    def linear(name, h):
        return h @ params[f"{name}.weight"].T + params[f"{name}.bias"]

    h = linear("layer0", linear("layer0.inner", total @ graph.x).relu()).relu()
    features = linear("layer1.inner", total @ h).relu()
    found = model.predict(params, union.table[union.numbers(0)])
    torch.testing.assert_close(found.hidden[-1], features)
    torch.testing.assert_close(found.logits, linear("head", features))


@pytest.mark.parametrize("name", [*STACKED, "gat-8@4"])
def test_the_head_is_linear_on_what_is_shown(name, union):
    model, params = made(name, union)
    shown = model.predict(params, union.table[1:])
    weight, bias = list(params.values())[-2:]
    torch.testing.assert_close(shown.hidden[-1] @ weight.T + bias, shown.logits)


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("kind", ["union", "sparse_union"])
@pytest.mark.parametrize("name", STACKED)
def test_a_stack_says_and_learns_what_each_model_does_alone(
    name, kind, large, request, monkeypatch
):
    if large:  # models take turns
        monkeypatch.setattr(convolutions, "AT_ONCE", 1)
        monkeypatch.setattr(convolutions, "BLOCKS_AT_ONCE", 1)
    union = request.getfixturevalue(kind)
    model = build(name, union, union.table[1:4])
    each = [model.init(generator(k, "stack")) for k in range(3)]
    own = torch.tensor([[6, 8, 14, 0], [15, 17, 15, 0], [1, 2, 3, 4]])  # the last of two is nobody
    shared = union.table[torch.tensor([[1, 16, 7, 8]])]
    for x in (union.table[own], shared):
        stacked = {k: torch.stack([p[k] for p in each]).requires_grad_() for k in each[0]}
        found = model.predict.stack(stacked, x)
        one = [model.predict(p, x[min(k, len(x) - 1)]) for k, p in enumerate(each)]
        real = x[..., 0] != 0
        for k, alone in enumerate(one):
            mask = real[min(k, len(x) - 1)]
            torch.testing.assert_close(found.logits[k][mask], alone.logits[mask])
            torch.testing.assert_close(found.hidden[-1][k][mask], alone.hidden[-1][mask])
        found.logits[real.expand(3, -1)].square().sum().backward()
        for k, params in enumerate(each):
            leaves = {n: v.clone().requires_grad_() for n, v in params.items()}
            mask = real[min(k, len(x) - 1)]
            out = model.predict(leaves, x[min(k, len(x) - 1)]).logits[mask]
            out.square().sum().backward()
            for n, leaf in leaves.items():
                torch.testing.assert_close(stacked[n].grad[k], leaf.grad, rtol=1e-4, atol=1e-5)


def test_models_with_nodes_of_several_blocks_each_take_turns(union):
    model = build("gcn-7", union, union.table[1:4])
    each = [model.init(generator(k)) for k in range(2)]
    x = union.table[torch.tensor([[1, 7], [16, 2]])]
    found = model.predict.stack({k: torch.stack([p[k] for p in each]) for k in each[0]}, x)
    for k, params in enumerate(each):
        torch.testing.assert_close(found.logits[k], model.predict(params, x[k]).logits)


def test_a_network_is_asked_about_all_nodes_at_once(union, monkeypatch):
    model, params = made("gcn-7", union)
    asked = []
    found = union.found
    monkeypatch.setattr(union, "found", lambda x: asked.append(len(x)) or found(x))
    wanted = torch.arange(1, 18)
    logits = predict_logits(model.predict, params, union.table, wanted, at_once=4)
    assert asked == [17]
    torch.testing.assert_close(logits, model.predict(params, union.table[wanted]).logits)


class Mine(nn.Module):
    """As a user of PyTorch Geometric writes one, with dropout."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.first, self.last = nn.Linear(in_channels, 6), nn.Linear(6, out_channels)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x, edge_index):
        source, target = edge_index
        h = self.dropout(self.first(x).relu())
        return self.last(h.index_add(0, target, h[source]))


@pytest.mark.parametrize("what", [Mine, "gat-8", "appnp-7"])
def test_other_networks_run_in_turn_and_can_be_taken_away(what, union):
    model, params = made(what, union)
    assert "form for a stack" in model.predict.alone or "dropout" in model.predict.alone
    numbers = union.numbers(1)
    logits = model.predict(params, union.table[numbers]).logits
    graph = union.block(1, torch.device("cpu"))
    taken = model.module(params)
    torch.testing.assert_close(taken(graph.x, graph.edge_index), logits)
    others = model.predict(params, union.table[[16, *numbers.tolist()]]).logits[1:]
    torch.testing.assert_close(others, logits)


@pytest.mark.parametrize("name", ["gcn-7", "gin-7@4"])
def test_a_network_by_name_can_be_taken_away(name, union):
    model, params = made(name, union)
    x, graph = union.table[union.numbers(1)], union.block(1, torch.device("cpu"))
    taken = model.module(params)
    logits = model.predict(params, x).logits
    torch.testing.assert_close(taken(graph.x, graph.edge_index), logits)
    torch.testing.assert_close(taken(x), logits)
    assert dict(taken.named_parameters()).keys() == params.keys()


def test_a_model_holds_no_graphs_but_those_that_are_needed(union):
    model, params = made("gcn-7", union)
    x = union.table[torch.tensor([7, 8])]
    less = model.held(x)
    assert torch.equal(less.predict(params, x).logits, model.predict(params, x).logits)
    with pytest.raises(LookupError):
        less.predict(params, union.table[1:2])
    beside = less.predict.beside("sage-4")
    with pytest.raises(LookupError):
        beside(made("sage-4", union)[1], union.table[1:2])


def test_nodes_are_compared_by_what_two_mixings_leave_of_their_features(union):
    nodes = torch.tensor([[2], [14], [5], [7]])  # of the blocks 0, 1, 0 and 1
    blocks, places = (0, 1, 0, 1), (1, 8, 4, 1)
    graphs = [union.block(b, torch.device("cpu")) for b in blocks]
    expected = []
    for graph, place in zip(graphs, places, strict=True):
        a = torch.eye(graph.num_nodes)
        a[graph.edge_index[0], graph.edge_index[1]] = 1
        degree = a.sum(dim=1)
        a = a / (degree.unsqueeze(0) * degree.unsqueeze(1)).sqrt()
        expected.append((a @ a @ graph.x)[place])
    torch.testing.assert_close(propagated(union, nodes), torch.stack(expected))
    for name in ("gcn-7", "gat-8"):
        network = made(name, union)[0].predict
        torch.testing.assert_close(network.embedding(nodes), torch.stack(expected))


@pytest.mark.parametrize("name", ["cnn", "resnet8-32", "gcn-", "gcn-0", "gnc-64", "gat-64@x"])
def test_other_names_are_refused_in_a_line(name, union):
    with pytest.raises(ValueError, match="unknown model .* on a graph; .*gat, gatv2, gcn") as said:
        build(name, union, union.table[1:3])
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("name", ["han", "hgt-8", "rgcn-8@4"])
def test_networks_of_typed_edges_are_refused_for_what_they_are(name, union):
    with pytest.raises(ValueError, match="(han|hgt|rgcn) looks at the types of .* gcn or gat$"):
        build(name, union, union.table[1:3])
    assert name.partition("-")[0] not in names()
