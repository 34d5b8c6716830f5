import pytest
import torch
from torch import nn

from fedgraphkd import readouts
from fedgraphkd.collection import Collection
from fedgraphkd.models import build
from graphkd.models import readout
from kdcore.rng import generator
from tests.fedgraphkd.graphs import trees

MANY = trees(12)
STACKED = ["gin-7", "gcn-7", "gcn-7-6", "sage-7", "mlp-7", "gin-7@4"]


@pytest.fixture
def found():
    return Collection(MANY)


def made(name, found):
    model = build(name, found, found.table[1:4])
    return model, model.init(generator(0, name))


def test_names_are_kept_where_networks_of_graphkd_have_others(found):
    _, params = made("gin-7", found)
    assert {name: tuple(v.shape) for name, v in params.items() if "weight" in name} == {
        "layer0.inner.weight": (7, 3),
        "layer0.weight": (7, 7),
        "layer1.inner.weight": (7, 7),
        "embedding.weight": (7, 7),
        "inner.weight": (7, 7),
        "head.weight": (2, 7),
    }


@pytest.mark.parametrize(
    ("name", "weight", "bias"),
    [
        ("gcn", "lin.weight", "bias"),
        ("sage", "lin_l.weight", "lin_l.bias"),
        ("mlp", "weight", "bias"),
    ],
)
def test_a_network_is_that_of_graphkd(name, weight, bias, found):
    model, params = made(f"{name}-7", found)
    network = readout.build(name, MANY, 7, 2, 0.0)
    names = {"layer0": "network.layers.0", "embedding": "network.layers.1"}
    own = {}
    for ours, theirs in names.items():
        own |= {f"{theirs}.{weight}": params[f"{ours}.weight"]}
        own |= {f"{theirs}.{bias}": params[f"{ours}.bias"]}
    for ours, theirs in (("inner", "head.0"), ("head", "head.2")):
        own |= {f"{theirs}.{part}": params[f"{ours}.{part}"] for part in ("weight", "bias")}
    network.load_state_dict(own)
    expected = network(MANY).logits
    torch.testing.assert_close(model.predict(params, found.table[1:]).logits, expected)


def test_gin_is_its_equation(found):
    model, params = made("gin-7", found)

    def linear(name, h):
        return h @ params[f"{name}.weight"].T + params[f"{name}.bias"]

    for place in (0, 5):
        graph = MANY.cut(torch.tensor([place]))
        total = torch.eye(len(graph.x))
        total[graph.edge_index[1], graph.edge_index[0]] += 1
        h = linear("layer0", linear("layer0.inner", total @ graph.x).relu()).relu()
        h = linear("embedding", linear("layer1.inner", total @ h).relu()).relu()
        pooled = h.sum(0) / (len(MANY.x) / 12)
        shown = linear("inner", pooled).relu()
        outputs = model.predict(params, found.table[[place + 1]])
        torch.testing.assert_close(outputs.hidden[-1][0], shown)
        torch.testing.assert_close(outputs.logits[0], linear("head", shown))


@pytest.mark.parametrize("name", STACKED)
def test_the_head_is_linear_on_what_is_shown(name, found):
    model, params = made(name, found)
    shown = model.predict(params, found.table[1:])
    weight, bias = list(params.values())[-2:]
    torch.testing.assert_close(shown.hidden[-1] @ weight.T + bias, shown.logits)


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("name", STACKED)
def test_a_stack_says_and_learns_what_each_model_does_alone(
    name, large, found, monkeypatch, double
):
    if large:  # models take turns
        monkeypatch.setattr(readouts, "AT_ONCE", 1)
        monkeypatch.setattr(readouts, "BLOCKS_AT_ONCE", 1)
    found = Collection(trees(12))
    model = build(name, found, found.table[1:4])
    each = [model.init(generator(k, "stack")) for k in range(3)]
    own = torch.tensor([[6, 8, 6, 0], [11, 7, 12, 0], [1, 2, 3, 4]])
    for x in (found.table[own], found.table[torch.tensor([[1, 12, 7, 8]])]):
        stacked = {k: torch.stack([p[k] for p in each]).requires_grad_() for k in each[0]}
        outputs = model.predict.stack(stacked, x)
        outputs.logits.square().sum().backward()
        for k, params in enumerate(each):
            leaves = {n: v.clone().requires_grad_() for n, v in params.items()}
            alone = model.predict(leaves, x[min(k, len(x) - 1)])
            torch.testing.assert_close(outputs.logits[k], alone.logits)
            torch.testing.assert_close(outputs.hidden[-1][k], alone.hidden[-1])
            alone.logits.square().sum().backward()
            for n, leaf in leaves.items():
                torch.testing.assert_close(stacked[n].grad[k], leaf.grad)


class Mine(nn.Module):
    """A user's network of whole graphs, in the form of PyTorch Geometric."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.lin = nn.Linear(in_channels, out_channels)

    def forward(self, x, edge_index, batch):
        h = self.lin(x)
        h = h.index_add(0, edge_index[1], h[edge_index[0]])
        return h.new_zeros(int(batch.max()) + 1, h.shape[1]).index_add(0, batch, h)


@pytest.mark.parametrize(
    "what", [Mine, "gat-8", "gat-8@4", "gin-8"], ids=["Mine", "gat", "gat@", "gin"]
)
def test_what_was_trained_answers_about_other_graphs(what, found):
    model = build(what, found, found.table[1:4])
    params = model.init(generator(0, "module"))
    network = model.module(params)
    expected = model.predict(params, found.table[[3, 1]]).logits
    few = MANY.cut(torch.tensor([2, 0]))
    torch.testing.assert_close(network(few.x, few.edge_index, few.owner), expected)
    alone = MANY.cut(torch.tensor([0]))
    torch.testing.assert_close(network(alone.x, alone.edge_index), expected[1:])
