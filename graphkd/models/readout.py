"""From the nodes of a graph to one answer for the graph, or for a pair of its nodes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from graphkd.data.graph_collection import Graphs
from graphkd.data.links import Pairs
from graphkd.graph import Graph
from graphkd.models import networks
from graphkd.ops.dropout import dropout
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


class Hadamard(nn.Module):
    r"""A network on nodes, made one on pairs of nodes: is there a link?

    Guo, Shiao, Zhang, Liu, Chawla, Shah and Zhao, "Linkless Link Prediction via Relational
    Distillation", ICML 2023, https://arxiv.org/abs/2210.05801; the decoder of the OGB's examples:

        logit_ij = w_2^T relu(W_1 (h_i * h_j) + b_1) + b_2,   h = network(x)

    Convention: the embedding h has no activation, as in the authors' code. It is called as
    `network(pairs)` or, with tensors, as `network(x, ends)` or `network(x, ends, edge_index)`.

    Shapes:
        ends: (2, P), nodes; logits (P, 1).
    """

    def __init__(self, network: nn.Module, hidden: int, dropout: float):
        super().__init__()
        self.network, self.dropout = network, dropout
        self.inner, self.outer = nn.Linear(hidden, hidden), nn.Linear(hidden, 1)

    def forward(self, graph: Pairs | Tensor, of: Tensor | None = None, *edges: Tensor) -> Any:
        """See the module; `of` are some of the pairs, by number, or beside features their ends."""
        if isinstance(graph, Tensor):
            assert of is not None
            return self.logits(self.network(graph, *edges), of)
        ends = graph.pairs if of is None else graph.pairs[:, of.to(graph.pairs.device)]
        return Outputs(self.logits(self.states(graph), ends))

    def states(self, graph: Pairs) -> Tensor:
        """The embedding of every node, (N, H)."""
        outputs: Outputs = self.network(graph.union)
        return outputs.logits

    def logits(self, states: Tensor, ends: Tensor) -> Tensor:
        """Of links between these nodes, (P, 1)."""
        h = self.inner(states[ends[0]] * states[ends[1]]).relu_()
        logits: Tensor = self.outer(dropout(h, self.dropout, self.training))
        return logits


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
    whole: nn.Module
    if isinstance(graph, Pairs):
        whole = Hadamard(network, hidden, dropout)
    else:
        size = len(graph.x) / graph.num_nodes
        whole = Readout(network, hidden, graph.classes, size)
    return whole.to(device=graph.x.device, dtype=graph.x.dtype)
