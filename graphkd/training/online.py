"""Networks that learn together: each from the labels and from what the others say at the time."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from graphkd.core import View
from graphkd.graph import Graph
from graphkd.training.loop import Step, descend
from kdcore.losses import response
from kdcore.outputs import Outputs


class MutualLearners(nn.Module):
    """Networks that are trained as one; what they show together is what the first one shows."""

    def __init__(self, networks: Sequence[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Outputs:
        """The outputs of the first."""
        outputs: Outputs = self.networks[0](graph, nodes)
        return outputs


def together(
    peers: MutualLearners, graphs: Sequence[Graph], view: View, weight: float, temperature: float
) -> Step:
    """An epoch of one step in which every peer learns from the labels and from all others.

    Args:
        peers: the networks.
        graphs: the graph of the view with the inputs of each.
        view: of the phase "distill".
        weight: of the peers' labels; that of the true ones is 1.
        temperature: of the peers' labels.
    """
    train, soft = view.part("train"), view.part("soft")
    y = view.graph.y[train]

    def step(network: nn.Module, optimiser: torch.optim.Optimizer, draw: Generator) -> float:
        said = [peer(graph).logits for peer, graph in zip(peers.networks, graphs, strict=True)]
        total = torch.zeros(())
        for k, logits in enumerate(said):
            total = total + response.cross_entropy(logits[train], y).mean()
            others = [other for j, other in enumerate(said) if j != k]
            for other in others:
                value = response.kl(logits[soft], other[soft].detach(), temperature).mean()
                total = total + weight / len(others) * value
        return descend(total, optimiser)

    return step
