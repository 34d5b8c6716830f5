"""Graph networks trained as research code does it: PyG's layers on `edge_index`, one run at a time.

This is what `graphkd` is compared with. The models are its own, with the same weights; what differs
is how they are run.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch_geometric.utils import softmax

from graphkd.graph import Graph


class Plain(nn.Module):
    """A network of `graphkd` run by PyG's own forward passes; GCN keeps its normalisation."""

    def __init__(self, network: nn.Module, graph: Graph) -> None:
        super().__init__()
        self.layers, self.dropout = network.layers, network.dropout
        self.x, self.edge_index = graph.x, graph.edge_index
        self.kind = type(network).__name__
        self.bend = F.elu if self.kind.startswith("GAT") else F.relu
        if self.kind == "SAGE":
            loops = torch.arange(graph.num_nodes).repeat(2, 1)
            self.edge_index = torch.cat([graph.edge_index, loops], 1)
        for layer in self.layers:
            layer.cached = self.kind == "GCN"

    def forward(self) -> Tensor:
        """The logits of all nodes."""
        edges = () if self.kind == "MLP" else (self.edge_index,)
        h = self.x
        for i, layer in enumerate(self.layers):
            if i:
                h = F.dropout(self.bend(h), self.dropout, self.training)
            h = layer(h, *edges)
        return h


def fit(
    model: Plain, y: Tensor, train: Tensor, val: Tensor, lr: float, decay: float, epochs: int
) -> float:
    """The usual loop: Adam, a validation in every epoch, the best weights kept."""
    optimiser = torch.optim.Adam(model.parameters(), lr, weight_decay=decay)
    best, weights = -1.0, model.state_dict()
    for _ in range(epochs):
        model.train()
        optimiser.zero_grad()
        F.cross_entropy(model()[train], y[train]).backward()
        optimiser.step()
        model.eval()
        with torch.no_grad():
            accuracy = (model()[val].argmax(1) == y[val]).float().mean().item()
        if accuracy >= best:
            best = accuracy
            weights = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(weights)
    return best


def local_structure(student: Tensor, teacher: Tensor, edge_index: Tensor) -> Tensor:
    """LSP with an RBF kernel, gathering both ends of every edge."""
    j, i = edge_index

    def structure(h: Tensor) -> Tensor:
        kernel = torch.exp(-(h[j] - h[i]).square().sum(1) / 2)
        return softmax(kernel, i, num_nodes=len(h))

    s, t = structure(student), structure(teacher)
    per_edge = s * (s.clamp(min=1e-12).log() - t.clamp(min=1e-12).log())
    return torch.zeros(len(student)).index_add(0, i, per_edge)
