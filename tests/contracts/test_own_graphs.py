"""What every method of graph distillation does with a user's own graph, split, teacher, student.

A thing of one's own that is equal to one of the house gives the numbers of the house.
"""

from functools import cache

import networkx
import pytest
import torch
from torch import nn
from torch_geometric.nn.models import GCN

import graphkd
from graphkd import Graph, TeacherLogits, distill, methods
from graphkd.core import LeakError
from graphkd.data import datasets, splits
from graphkd.graph import HIDDEN

FAKE = datasets.fake(size=55)
SPLIT = splits.transductive(FAKE, 5)
QUICK = {"epochs": 2, "hidden": 8, "teacher_epochs": 2, "teacher_hidden": 8}
NAMES = [name for name in methods.names() if methods.get(name).task == "nodes"]
OFFLINE = [name for name in NAMES if methods.get(name).scheme == "offline"]
TAUGHT = [name for name in NAMES if methods.get(name).scheme in ("offline", "mutual")]
COMPARE = {name for name in NAMES if methods.get(name)().hidden_states()}
COPY = {name for name in NAMES if methods.get(name).copies}  # parameters, of networks of the house
MADE = {name for name in NAMES if methods.get(name).taught_by}  # makes a teacher of its own
every_method = pytest.mark.parametrize("name", NAMES)
every_student = pytest.mark.parametrize("name", [name for name in NAMES if name not in COPY])
WITHHELD = pytest.param("withheld", marks=pytest.mark.slow)


class Net(nn.Module):
    """The MLP of the house as a user writes it, but for the dropout; it shows its hidden states."""

    def __init__(self, sizes):
        super().__init__()
        pairs = zip(sizes, sizes[1:], strict=False)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)

    def forward(self, x):
        hidden = []
        for layer in self.layers[:-1]:
            hidden.append(layer(hidden[-1] if hidden else x).relu())
        return self.layers[-1](hidden[-1]), hidden


class Mute(Net):
    """The same without its hidden states."""

    def forward(self, x):
        return super().forward(x)[0]


def made(name, **more):
    return methods.get(name)(**QUICK | more)


def ran(name, data=SPLIT, *, seed=5, method=None, **more):
    """The epochs of a run, and its result."""
    *epochs, result = graphkd.run(method or made(name), data, seed=seed, **more)
    return epochs, result


@cache
def house(name, protocol="transductive"):
    """The same of the method as it comes, on the graph as it comes."""
    return ran(name, splits.split(FAKE, protocol, 5))


def of(phase, epochs):
    return [epoch for epoch in epochs if epoch.phase == phase]


def weights(result, who="student"):
    return result.trained.get(who, result.trained["baseline"]).network.state_dict()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def forms():
    """The graph as networkx and as PyG have it, with the parts of the split."""
    net = networkx.Graph()
    net.add_nodes_from((f"n{i}", {"x": x.numpy()}) for i, x in enumerate(FAKE.x))
    net.add_edges_from((f"n{a}", f"n{b}") for a, b in FAKE.edge_index.T.tolist())
    networkx.set_node_attributes(net, {f"n{i}": int(y) for i, y in enumerate(FAKE.y)}, "y")
    data, parts = FAKE.to_pyg(), SPLIT.parts
    data.edge_index, data.y = data.edge_index.int(), data.y.float()[:, None]
    for part, own in (("train", "train"), ("val", "val"), ("test", "tran")):
        data[f"{part}_mask"] = torch.isin(torch.arange(FAKE.num_nodes), parts[own])
    return Graph.from_networkx(net, name="fake"), Graph.from_pyg(data, name="fake")


def own_split(graph):
    parts = SPLIT.parts
    return splits.own(graph, parts["train"], parts["val"], parts["tran"], seed=5)


@pytest.mark.parametrize("phase", ["train", "distill", "evaluate"])
def test_a_graph_of_another_library_and_a_split_of_ones_own_are_the_same_views(phase):
    expected = SPLIT.view(phase)
    for graph in forms():
        for split in (splits.split(graph, "transductive", 5), own_split(graph)):
            found = split.view(phase)
            assert torch.equal(found.ids, expected.ids)
            assert same(found.parts, expected.parts)
            for name in ("x", "edge_index", "y"):
                assert torch.equal(getattr(found.graph, name), getattr(expected.graph, name))


@every_method
def test_a_graph_of_another_library_and_a_split_of_ones_own_give_the_same_run(name):
    assert ran(name, own_split(forms()[0])) == house(name)


@pytest.mark.parametrize("name", OFFLINE)
def test_a_teacher_that_is_a_module_a_class_or_a_name_teaches_what_that_of_the_house_does(name):
    single = made(name, teacher="gcn")
    epochs, ours = ran(name, method=single)
    module = ours.trained["teacher"].network.train()
    again, result = ran(name, teacher=module)
    assert not of("teacher", again)
    assert "teacher" not in result.epochs
    assert of("student", again) == of("student", epochs)
    assert same(weights(result), weights(ours))
    assert result.metrics == ours.metrics
    assert (result.teacher, ours.teacher) == (type(module).__name__, "gcn")
    assert module.training, "the user's own module is not touched"
    if name == "glnn":
        assert ran(name, teacher="gcn")[0] == epochs


@pytest.mark.parametrize("name", TAUGHT)
def test_a_network_of_pyg_teaches_or_shows_too_little(name):
    """PyTorch Geometric's model gives logits alone; it is made and trained here, or is there."""
    for teacher in (GCN, GCN(FAKE.x.shape[1], 8, 2, 3)):
        if name not in COMPARE | {"glnn", "mutual"} and teacher is not GCN:
            continue
        if name in COMPARE | COPY | MADE:
            said = (
                "the teacher shows no hidden state, and|copies the linear maps of|makes a teacher"
            )
            with pytest.raises(ValueError, match=said):
                next(distill.run(made(name), SPLIT, teacher=teacher))
            continue
        epochs, result = ran(name, teacher=teacher)
        assert result.teacher == "GCN"
        trained = of("teacher", epochs)
        offline = methods.get(name).scheme == "offline"
        assert len(trained) == (2 if teacher is GCN and offline else 0)
        assert 0 <= result.metrics["accuracy_teacher"] <= 1


@pytest.mark.parametrize("name", [n for n in NAMES if n not in TAUGHT])
def test_a_method_without_a_teacher_refuses_one(name):
    for teacher in (GCN, TeacherLogits(torch.zeros(165, 3))):
        with pytest.raises(ValueError, match=f"{name} has no teacher, and one is given"):
            next(distill.run(made(name), SPLIT, teacher=teacher))


@pytest.mark.parametrize("name", TAUGHT)
@pytest.mark.parametrize("protocol", ["transductive", "inductive", WITHHELD])
def test_a_table_of_logits_teaches_what_the_network_does_that_it_is_from(name, protocol):
    split = splits.split(FAKE, protocol, 5)
    if name in COMPARE | COPY or name in ("krd", "mutual"):
        said = {"krd": "about noisy features", "mutual": "the teacher learns too"}
        said |= dict.fromkeys(COPY, "copies the linear maps of")
        said |= dict.fromkeys(MADE, "makes a teacher of its own")
        with pytest.raises(ValueError, match=said.get(name, "shows no hidden state")):
            next(distill.run(made(name), split, teacher=TeacherLogits(torch.randn(165, 3))))
        return
    epochs, ours = house(name, protocol)
    said = distill.predictions(ours, split, "teacher")
    table = torch.stack([said[i] for i in range(165)])
    again, result = ran(name, split, teacher=TeacherLogits(table))
    assert of("student", again) == of("student", epochs)
    assert result.metrics == ours.metrics
    assert result.teacher == "logits"
    if name == "glnn":
        by_name = {node: row.tolist() for node, row in said.items()}
        assert same(weights(ran(name, split, teacher=TeacherLogits(by_name))[1]), weights(ours))


@pytest.mark.parametrize("name", [n for n in OFFLINE if n not in COMPARE | COPY | {"krd"}])
@pytest.mark.parametrize("protocol", ["inductive", WITHHELD])
def test_what_a_table_says_of_held_out_nodes_teaches_nobody(name, protocol):
    parts = SPLIT.parts
    held_out, test = parts["tran"][::3], parts["tran"][1::3]
    split = splits.own(FAKE, parts["train"], parts["val"], test, held_out, protocol)
    table = torch.randn(165, 3, generator=torch.Generator().manual_seed(0))
    silent, liar, other = table.clone(), table.clone(), table.clone()
    silent[held_out], liar[held_out] = torch.nan, 100.0
    other[test] *= -1
    told = (table, silent, liar, other)
    results = [ran(name, split, teacher=TeacherLogits(one))[1] for one in told]
    found = [weights(result) for result in results]
    assert same(found[0], found[1])
    assert same(found[0], found[2])
    listens = name != "privileged"  # to what is said of nodes without a label
    assert same(found[0], found[3]) != listens
    assert "accuracy_teacher" in results[0].metrics
    assert "accuracy_teacher" not in results[1].metrics


def test_a_view_that_has_held_out_nodes_gets_no_logits():
    split = splits.inductive(FAKE, 0)
    encode = TeacherLogits(torch.randn(165, 3)).encoder(split)
    leaking = splits.transductive(FAKE, 0).view("distill")
    with pytest.raises(LeakError, match="nodes of this view are held out, first "):
        encode(leaking)
    assert torch.isfinite(encode(split.view("evaluate")).x).all()


@pytest.mark.parametrize("name", sorted(COPY))
def test_a_method_that_copies_parameters_refuses_a_student_of_ones_own(name):
    for student in (Net, Net([12, 8, 8, 3])):
        with pytest.raises(ValueError, match="into an mlp of its own: give no student"):
            next(distill.run(made(name), SPLIT, student=student))


@every_student
def test_a_student_of_ones_own_that_is_the_mlp_learns_what_the_mlp_does(name):
    settings = {"dropout": 0.0, "student": "mlp", "layers": 3 if name == "gnnsd" else 2}
    epochs, result = ran(name, method=made(name, **settings))
    again, own = ran(name, method=made(name, **settings), student=Net)
    assert (result.student, own.student) == ("mlp", "Net")
    for one, other in zip(again, epochs, strict=True):
        assert (one.phase, one.index) == (other.phase, other.index)
        assert one.loss == pytest.approx(other.loss, rel=1e-3, abs=1e-5)
    assert own.metrics == pytest.approx(result.metrics, abs=0.03)


@every_student
def test_a_student_that_shows_no_hidden_states_learns_or_is_refused_before_the_run(name):
    if name in COMPARE:
        with pytest.raises(ValueError, match=f"student shows no hidden state, and {name} needs"):
            next(distill.run(made(name), SPLIT, student=Mute))
        return
    _, result = ran(name, student=Mute)
    assert 0 <= result.metrics["accuracy"] <= 1


@every_student
def test_a_student_that_is_a_graph_network_of_ones_own(name):
    if name in COMPARE:
        with pytest.raises(ValueError, match="the student shows no hidden state"):
            next(distill.run(made(name), SPLIT, student=GCN))
        return
    epochs, result = ran(name, student=GCN)
    assert result.student == "GCN"
    if name in ("glnn", "mutual"):
        assert ran(name, student=GCN)[0] == epochs, "its weights and dropout are the run's"


@every_student
def test_a_module_is_trained_from_the_weights_that_it_has_and_is_not_touched(name):
    width = {"cpf": 15, "nosmog": 76}.get(name, 12)
    module = Net([width, 8, 8, 3])
    before = {key: value.clone() for key, value in module.state_dict().items()}
    epochs, result = ran(name, student=module)
    assert same(module.state_dict(), before)
    learnt = weights(result)
    moved = {key.rpartition("module.")[2]: value for key, value in learnt.items()}
    assert not same({key: moved[key] for key in before}, before)
    first = of("baseline", epochs) or of("student", epochs)
    assert first[0].loss == of("student" if name == "mlp" else "baseline", epochs)[0].loss


@every_method
def test_partly_labelled_nodes_and_those_in_no_part_are_no_obstacle(name):
    y = FAKE.y.clone()
    y[::5] = HIDDEN
    graph = Graph(FAKE.x, FAKE.edge_index, y, 3, "half")
    labelled = (y != HIDDEN).nonzero()[:, 0]
    split = splits.own(graph, labelled[::3], labelled[1::3], labelled[2::6])
    _, result = ran(name, split)
    assert all(0 <= value <= 1 for value in result.metrics.values())
