"""A user's own graph, split, teacher and student, from `import kdsim` alone."""

import networkx
import pytest
import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn.models import GCN

import graphkd
import kdsim
from graphkd.data import datasets, splits
from graphkd.methods.glnn import GLNN
from kdsim import settings

FAKE = datasets.fake(size=55)
SPLIT = splits.inductive(FAKE, 0)
QUICK = {"epochs": 2, "teacher_epochs": 2}


class Net(nn.Module):
    """The student of a user."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.layer = nn.Linear(in_channels, out_channels)

    def forward(self, x):
        return self.layer(x)


def told(records):
    *epochs, end = records
    return [(e["phase"], e["loss"], e["accuracy_validation"]) for e in epochs], end["metrics"]


def masked():
    """The graph as PyG's data, with the masks of the split."""
    data = FAKE.to_pyg()
    for part, own in (("train", "train"), ("val", "val"), ("test", "tran")):
        data[f"{part}_mask"] = torch.isin(
            torch.arange(165), splits.transductive(FAKE, 0).parts[own]
        )
    return data


def test_graphs_of_any_form_and_a_split_give_the_records_of_the_named_graph():
    settings = QUICK | {"protocol": "transductive"}
    *epochs, result = graphkd.run(GLNN(**QUICK), FAKE)
    expected = [(e.phase, e.loss, e.accuracy) for e in epochs], dict(result.metrics)
    net = networkx.Graph()
    net.add_nodes_from((i, {"x": x.numpy(), "y": int(FAKE.y[i])}) for i, x in enumerate(FAKE.x))
    net.add_edges_from(FAKE.edge_index.T.tolist())
    for data in (FAKE, masked(), net, splits.transductive(FAKE, 0)):
        assert told(kdsim.distill("glnn", data=data, **settings)) == expected


def test_a_split_that_holds_nodes_out_asks_for_its_protocol():
    with pytest.raises(ValueError, match="'transductive' holds none out: choose inductive or wit"):
        next(kdsim.distill("glnn", data=SPLIT))
    *_, result = graphkd.run(GLNN(**QUICK), SPLIT)
    found = kdsim.distill("glnn", data=SPLIT, protocol="inductive", **QUICK)
    assert told(found)[1] == dict(result.metrics)


@pytest.mark.parametrize(
    ("teacher", "name"),
    [
        (GCN, "GCN"),
        (GCN(12, 8, 2, 3), "GCN"),
        (kdsim.TeacherLogits(torch.randn(165, 3)), "logits"),
        ("gcn", None),
    ],
    ids=["class", "module", "table", "name"],
)
def test_teachers_and_students_of_ones_own(teacher, name):
    *_, end = kdsim.distill("glnn", data=FAKE, teacher=teacher, student=Net, **QUICK)
    assert end["student"] == "Net"
    assert end.get("teacher") == name
    assert 0 <= end["metrics"]["accuracy_teacher"] <= 1


def test_a_kept_run_takes_a_graph_and_names_its_networks(tmp_path):
    with pytest.raises(ValueError, match=r"a kept run cannot name: .*teacher='my_networks.py:Net'"):
        kdsim.run("glnn", FAKE, teacher=GCN, out=tmp_path / "no")
    given = QUICK | {"teacher": "torch_geometric.nn:GCN", "workers": 1, "progress": False}
    runs = kdsim.run("glnn", masked(), out=tmp_path / "out", **given)
    (run,) = runs
    assert run.experiment["data"].startswith("own:graph-")
    assert run.experiment["teacher"] == "torch_geometric.nn:GCN"
    assert runs.model("glnn")(FAKE.x).shape == (165, 3)


def labelled_graphs(count):
    """Paths of three nodes, each with one label."""
    ends = torch.tensor([[0, 1], [1, 2]])
    return [Data(x=torch.ones(3, 2) * i, edge_index=ends, y=i % 2) for i in range(count)]


def test_a_list_of_graphs_with_a_label_each_is_one_data_set_and_of_others_an_axis():
    many = labelled_graphs(20)
    *_, end = kdsim.distill("glnn", data=many, protocol="folds", **QUICK)
    assert 0 <= end["metrics"]["accuracy"] <= 1
    with pytest.raises(ValueError, match="graphs is many graphs, and the protocol .*choose folds"):
        next(kdsim.distill("glnn", data=many))
    named, objects = settings.named({"data": many})
    assert named["data"].startswith("own:graphs:graphs-")
    assert objects.given(named["data"]).num_nodes == 20
    several, objects = settings.named({"data": [masked(), "digits-knn", FAKE]})
    assert several["data"][1] == "digits-knn"
    assert [graph.num_nodes for graph in objects.data.values()] == [165, 165]


def test_what_is_said_of_a_node_is_said_by_the_name_that_the_user_gave_it():
    """Of three components the largest is taken; its nodes are those of the user, in any order."""
    net = networkx.disjoint_union(networkx.cycle_graph(30), networkx.path_graph(4))
    net.add_node(34)
    draw = torch.randn(35, 3, generator=torch.Generator().manual_seed(0))
    for i, about in net.nodes(data=True):
        about.update(x=draw[i].numpy(), y="ab"[i % 2])
    net = networkx.relabel_nodes(net, {i: f"node {35 - i}" for i in net})
    graph = kdsim.Graph.from_networkx(net)
    split = splits.split(graph, "inductive", 0, train=3, val=3)
    *_, result = graphkd.run(GLNN(**QUICK), split)
    said = graphkd.distill.predictions(result, split)
    assert list(said) == [f"node {35 - i}" for i in range(30)]
    assert result.node_names == tuple(said)
    assert "labels numbered: a is 0, b is 1" in result.notes
    assert result.notes[-1].endswith("30 of 35 nodes, and leaves out 5")
    student = graphkd.plain(result)
    for name in ("node 35", "node 20", "node 6"):
        alone = torch.as_tensor(net.nodes[name]["x"])[None]
        assert torch.allclose(student(alone)[0], said[name], atol=1e-6)
