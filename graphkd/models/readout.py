"""From the nodes of a graph to one answer for the graph."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from graphkd.data.graph_collection import Graphs
from graphkd.graph import Graph
from graphkd.models import networks
from kdcore.outputs import Outputs


class Readout(nn.Module):
    r"""A network on nodes, made one on graphs: the embeddings of nodes, added up and classified.

    Xu, Hu, Leskovec and Jegelka, "How Powerful are Graph Neural Networks?", ICLR 2019,
    https://arxiv.org/abs/1810.00826:

        h_G = 1/n \sum_{i in G} relu(network(x)_i),   logits_G = W_2 relu(W_1 h_G + b_1) + b_2

    Convention: sums, which know the size of a graph, over the mean size n of the graphs that the
    network was made for. With an MLP as network it is a student that sees a bag of nodes; without
    dropout equal nodes are then asked for once, which on molecules saves nearly all of its work.

    Shapes:
        logits (G, C); hidden: h_G, (G, H).
    """

    def __init__(self, network: nn.Module, hidden: int, classes: int, size: float):
        super().__init__()
        self.network, self.size = network, size
        self.head = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def forward(self, graphs: Graphs, examples: Tensor | None = None) -> Outputs:
        """See the module."""
        alone = isinstance(self.network, networks.MLP) and not self.network.dropout
        if alone and (bags := graphs.bags):
            nodes, counts = bags
            pooled = (counts if examples is None else counts[examples]) @ self._states(nodes)
        else:
            graphs = graphs if examples is None else graphs.take(examples)
            h = self._states(graphs.union)
            pooled = h.new_zeros(graphs.num_nodes, h.shape[1]).index_add(0, graphs.owner, h)
        return Outputs(self.head(pooled), (pooled,))

    def _states(self, nodes: Graph) -> Tensor:
        outputs: Outputs = self.network(nodes)
        return outputs.logits.relu() / self.size


READOUTS: dict[str, Callable[[nn.Module, int, int, float], nn.Module]] = {"sum": Readout}


def build(
    network: str | Callable[..., nn.Module] | nn.Module,
    graph: Graph,
    hidden: int,
    layers: int,
    dropout: float,
) -> nn.Module:
    """A fresh network for the examples of a graph: by its `readout` where it has one.

    The network before a readout gives as many outputs as its layers are wide. A module of the
    user's has a readout of its own.
    """
    if not graph.readout or isinstance(network, nn.Module):
        return networks.build(network, graph, hidden, layers, dropout)
    wide = replace(graph.union, classes=hidden)
    network = networks.build(network, wide, hidden, layers, dropout)
    size = len(graph.x) / graph.num_nodes
    whole = READOUTS[graph.readout](network, hidden, graph.classes, size)
    return whole.to(device=graph.x.device, dtype=graph.x.dtype)
