"""Modules of one's own: how they are made, called and read, and what is said of those that fail."""

from types import SimpleNamespace

import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn

import graphkd
from graphkd.data import datasets, splits
from graphkd.methods.glnn import GLNN
from graphkd.models import adapters, networks
from graphkd.training.loop import build, predict
from graphkd.training.published import resolve
from kdcore.outputs import Outputs
from tests.graphkd.examples import graphs

FAKE = datasets.fake(size=55)
SPLIT = splits.transductive(FAKE, 0)
SIZES = [12, 8, 3]


class Two(nn.Module):
    def __init__(self, features, labels):
        super().__init__()
        self.first, self.last = nn.Linear(features, 5), nn.Linear(5, labels)

    def forward(self, x):
        return self.last(self.first(x).relu())


class Saying(Two):
    """Gives what a function makes of the hidden state and the logits."""

    def __init__(self, say):
        super().__init__(12, 3)
        self.say = say

    def forward(self, x):
        h = self.first(x)
        return self.say(h, self.last(h))


def failing(*given):
    raise RuntimeError("no luck")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda sizes, dropout: (sizes, dropout), ([12, 8, 3], 0.5)),
        (lambda in_channels, out_channels: (in_channels, out_channels), (12, 3)),
        (lambda shape, classes: (shape, classes), ((12,), 3)),
        (lambda width, labels: (width, labels), (12, 3)),
        (lambda a, h, b: (a, h, b), (12, 8, 3)),
        (lambda: "nothing", "nothing"),
        (lambda in_channels, hidden_channels, num_layers, out_channels=None, dropout=0.0, act="r": (
            in_channels, hidden_channels, num_layers, out_channels, dropout, act,
        ), (12, 8, 2, 3, 0.5, "r")),
        (lambda depth=4, dropout=0.1: (depth, dropout), (4, 0.5)),
    ],
)  # fmt: skip
def test_how_a_class_is_called_is_read_off_its_arguments(make, expected):
    assert make(**adapters.arguments(make, SIZES, 0.5)) == expected


def test_a_class_that_needs_what_nobody_knows_is_refused():
    with pytest.raises(
        ValueError, match="it needs a, b, c, d; expected arguments named as in_chan"
    ):
        adapters.arguments(lambda a, b, c, d: None, SIZES, 0.5)
    with pytest.raises(ValueError, match="failing cannot be made for 12 .*RuntimeError: no luck"):
        adapters.make(failing, SIZES, 0.5)
    with pytest.raises(ValueError, match="gives 3; expected a torch.nn.Module"):
        adapters.make(lambda: 3, SIZES, 0.5)


@pytest.mark.parametrize("kind", [pyg.GCN, pyg.GAT, pyg.GraphSAGE, pyg.GIN, pyg.MLP, pyg.GCNConv])
def test_models_of_pyg_are_built_and_called_as_pyg_does(kind):
    network = networks.build(kind, FAKE, 8, 2, 0.5)
    module = network.module.eval()
    plain = kind in (pyg.MLP,)
    expected = module(FAKE.x) if plain else module(FAKE.x, FAKE.edge_index)
    torch.testing.assert_close(predict(network, FAKE).logits, expected)
    some = torch.tensor([4, 1, 4])
    torch.testing.assert_close(predict(network, FAKE, some).logits, expected[some])
    assert type(network) is (adapters.FeatureModule if plain else adapters.EdgeModule)


def test_a_network_of_pyg_by_name():
    names = {"student": "torch_geometric.nn:MLP", "teacher": "torch_geometric.nn:GCN"}
    *_, result = graphkd.run(GLNN(epochs=2, teacher_epochs=2, hidden=8, **names), SPLIT)
    assert (result.teacher, result.student) == ("torch_geometric.nn:GCN", "torch_geometric.nn:MLP")
    assert resolve(GLNN(student="torch_geometric.nn:MLP"), "cora", "inductive").student.lr == 0.01


@pytest.mark.parametrize(
    ("say", "hidden"),
    [
        (lambda h, z: z, 0),
        (lambda h, z: (z, h), 1),
        (lambda h, z: (z, [h, h]), 2),
        (lambda h, z: Outputs(z, (h,)), 1),
        (lambda h, z: {"logits": z}, 0),
        (lambda h, z: {"logits": z, "hidden": (h,)}, 1),
        (lambda h, z: SimpleNamespace(logits=z, hidden=h), 1),
    ],
)
def test_what_a_module_gives_is_read(say, hidden):
    outputs = predict(networks.build(Saying(say), FAKE, 8, 2, 0.0), FAKE)
    assert outputs.logits.shape == (165, 3)
    assert [h.shape for h in outputs.hidden] == [(165, 5)] * hidden


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Two(12, 4), r"Two gives logits of shape \(165, 4\); expected \(165, 3\): a row for each"),
        (Two(11, 3), r"Two cannot run on 12 features of fake: RuntimeError: mat1 and mat2"),
        (Saying(lambda h, z: z.mean(0)), r"gives logits of shape \(3,\)"),
        (
            Saying(lambda h, z: (z, h[:3])),
            r"shows a hidden state of shape \(3, 5\); expected a row",
        ),
        (Saying(lambda h, z: "text"), "cannot run .*it gives str; expected logits, a tensor"),
        (pyg.GCNConv(12, 4), r"GCNConv gives logits of shape \(165, 4\)"),
    ],
)
def test_modules_that_cannot_be_are_refused_before_the_run(module, message):
    for side in ("teacher", "student"):
        run = graphkd.run(GLNN(), SPLIT, **{side: module})
        with pytest.raises(ValueError, match=message) as caught:
            next(run)
        assert "\n" not in str(caught.value)


def test_what_is_neither_name_nor_network_is_refused():
    with pytest.raises(
        ValueError, match="the teacher is a float; expected a name, a torch.nn.Module"
    ):
        next(graphkd.run(GLNN(), SPLIT, teacher=0.5))
    with pytest.raises(ValueError, match="unknown network 'gcnn'; did you mean 'gcn'"):
        next(graphkd.run(GLNN(), SPLIT, student="gcnn"))
    with pytest.raises(ValueError, match="expected the name of a data set, a Graph or a Split"):
        next(graphkd.run(GLNN(), torch.eye(3)))
    with pytest.raises(ValueError, match="the split is transductive, and the protocol asked for"):
        next(graphkd.run(GLNN(), SPLIT, "inductive"))


def test_a_fresh_network_follows_from_the_seed():
    how = resolve(GLNN(hidden=8), "fake", "transductive").student
    first, again, other = (build(how, FAKE, seed, "student", Two) for seed in (1, 1, 2))
    assert torch.equal(first.module.first.weight, again.module.first.weight)
    assert not torch.equal(first.module.first.weight, other.module.first.weight)


def test_parts_in_evaluation_mode_stay_so_and_frozen_weights_do_not_move():
    net = nn.Sequential(nn.BatchNorm1d(12), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3))
    net[0].eval()
    net[1].requires_grad_(False)
    *_, result = graphkd.run(graphkd.methods.get("mlp")(epochs=3), SPLIT, student=net)
    learnt = graphkd.plain(result)
    assert torch.equal(learnt[0].running_mean, torch.zeros(12))
    assert torch.equal(learnt[1].weight, net[1].weight)
    assert not torch.equal(learnt[3].weight, net[3].weight)
    net[0].train()
    *_, result = graphkd.run(graphkd.methods.get("mlp")(epochs=3), SPLIT, student=net)
    assert not torch.equal(graphkd.plain(result)[0].running_mean, torch.zeros(12))


class WholeGraphs(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = pyg.GCNConv(2, 6), nn.Linear(6, 2)

    def forward(self, x, edge_index, batch):
        return self.head(pyg.global_add_pool(self.conv(x, edge_index).relu(), batch))


def test_a_module_on_whole_graphs_gets_the_graph_of_each_node():
    many, module = graphs(), WholeGraphs()
    network = networks.build(module, many, 8, 2, 0.0)
    expected = network.module(many.x, many.edge_index, many.owner)
    torch.testing.assert_close(predict(network, many).logits, expected)
    some = torch.tensor([7, 2])
    torch.testing.assert_close(predict(network, many, some).logits, expected[some])
    method = GLNN(epochs=2, teacher_epochs=2, hidden=8)
    for given in ({"teacher": module}, {"student": module}, {"teacher": pyg.GCN}):
        *_, result = graphkd.run(method, many, "folds", **given)
        assert 0 <= result.metrics["accuracy"] <= 1
