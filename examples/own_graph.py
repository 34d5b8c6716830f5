"""A graph, a split, a teacher and a student of your own: Zachary's karate club."""

import networkx
import torch
from torch import nn
from torch_geometric.nn.models import GCN

import graphkd
from graphkd.methods.glnn import GLNN


class Student(nn.Module):
    """Sees the features of a member alone, never the graph."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(in_channels, 16), nn.ReLU(), nn.Linear(16, out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of both clubs, from (N, in_channels)."""
        return self.net(x)


def club() -> graphkd.Graph:
    """Who is whose friend, which of four members are one's own, and whom one followed."""
    friends = networkx.karate_club_graph()
    for i, row in enumerate(networkx.to_numpy_array(friends, weight=None)):
        friends.nodes[i]["near"] = row[[0, 1, 32, 33]]
    named = networkx.relabel_nodes(friends, {i: f"member {i + 1}" for i in friends})
    return graphkd.Graph.from_networkx(named, features="near", label="club", name="karate")


def taught(split: graphkd.Split, epochs: int = 100) -> nn.Module:
    """A network of PyTorch Geometric, trained by hand on what training may see."""
    torch.manual_seed(0)
    view = split.view("train")
    teacher, train = GCN(view.graph.x.shape[1], 16, 2, view.graph.classes), view.part("train")
    optimiser = torch.optim.Adam(teacher.parameters(), lr=0.02)
    for _ in range(epochs):
        optimiser.zero_grad()
        logits = teacher(view.graph.x, view.graph.edge_index)[train]
        nn.functional.cross_entropy(logits, view.graph.y[train]).backward()
        optimiser.step()
    return teacher


def distilled() -> tuple[graphkd.Result, dict[str, int]]:
    """The result of GLNN, and the club (0: Mr. Hi's) that the student gives to each member."""
    graph, known = club(), [f"member {i}" for i in (1, 2, 33, 34, 8, 24)]  # three of each club
    test = [member for member in graph.node_names if member not in known]
    split = graphkd.splits.own(graph, known[:4], known[4:], test)
    *_, result = graphkd.run(GLNN(lr=0.02), split, teacher=taught(split), student=Student)
    said = graphkd.distill.predictions(result, split)
    return result, {str(name): int(logits.argmax()) for name, logits in said.items()}


if __name__ == "__main__":
    result, clubs = distilled()
    print(dict(result.metrics), clubs)
    graphkd.save(result, "student.safetensors")  # the weights of a plain torch module
