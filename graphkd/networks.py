"""The networks that teach and learn on graphs; each shows its `Outputs`.

The layers are PyTorch Geometric's and hold the weights; the products run through
`graphkd.sparse`, which the tests hold to PyG's own message passing. Every network is called as
`network(graph, nodes=None)` and gives the outputs of these nodes, in order, or of all.

Convention: hidden states are those after the activation and before dropout, one per hidden layer.
Dropout acts on hidden states, not on the input features, except in GAT.

Shapes (all networks):
    graph: N nodes with D features; nodes: (n,) ids; gives logits (n, C) and hidden (n, H) each.
"""

from collections.abc import Iterable
from itertools import pairwise

import torch.nn.functional as F  # noqa: N812
import torch_geometric.nn as pyg
from torch import Tensor, nn

from graphkd.graph import Graph
from graphkd.names import unknown
from graphkd.sparse import Matrix
from knowledge.outputs import Outputs


class MLP(nn.Module):
    """A multilayer perceptron on the features of a node alone: a student that needs no graph.

    Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors", Nature
    1986, https://doi.org/10.1038/323533a0.
    """

    def __init__(self, sizes: list[int], dropout: float):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.dropout = dropout
        for layer in self.layers:
            _glorot(layer)

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Outputs:
        """See the module."""
        h, hidden = _linear(graph.features, self.layers[0], nodes), []
        for layer in self.layers[1:]:
            hidden.append(h.relu())
            h = layer(F.dropout(hidden[-1], self.dropout, self.training))
        return Outputs(h, tuple(hidden))


class GCN(nn.Module):
    r"""Kipf and Welling, "Semi-Supervised Classification with Graph Convolutional Networks".

    ICLR 2017, https://arxiv.org/abs/1609.02907.

        H' = D^{-1/2} (A + I) D^{-1/2} H W + b
    """

    def __init__(self, sizes: list[int], dropout: float):
        super().__init__()
        self.layers = nn.ModuleList(pyg.GCNConv(a, b) for a, b in pairwise(sizes))
        self.dropout = dropout

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Outputs:
        """See the module."""
        h, hidden = graph.features, []
        for i, layer in enumerate(self.layers):
            if i:
                hidden.append(h.relu())
                h = F.dropout(hidden[-1], self.dropout, self.training)
            h = graph.normalized @ _linear(h, layer.lin) + layer.bias
        return _shown(h, hidden, nodes)


class SAGE(nn.Module):
    r"""Hamilton, Ying and Leskovec, "Inductive Representation Learning on Large Graphs".

    NIPS 2017, https://arxiv.org/abs/1706.02216; with the aggregator that GLNN takes, DGL's 'gcn':

        h'_i = W mean(h_j, j in N(i) + {i}) + b

    Convention: PyG's default adds a second matrix for the node itself; this one does not. DGL on
    a graph that has self-loops already, as in GLNN's code, counts the node itself twice.
    """

    def __init__(self, sizes: list[int], dropout: float):
        super().__init__()
        self.layers = nn.ModuleList(
            pyg.SAGEConv(a, b, aggr="mean", root_weight=False) for a, b in pairwise(sizes)
        )
        self.dropout = dropout
        for layer in self.layers:
            _glorot(layer.lin_l)

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Outputs:
        """See the module."""
        h, hidden = graph.features, []
        for i, layer in enumerate(self.layers):
            if i:
                hidden.append(h.relu())
                h = F.dropout(hidden[-1], self.dropout, self.training)
            h = graph.mean @ _linear(h, layer.lin_l)  # the mean commutes with the linear map
        return _shown(h, hidden, nodes)


class GAT(nn.Module):
    r"""Velickovic et al., "Graph Attention Networks", ICLR 2018.

    https://arxiv.org/abs/1710.10903.

        h'_i = \sum_{j in N(i) + {i}} \alpha_ij W h_j,
        \alpha_i = softmax_j(leaky_relu(a^T [W h_i, W h_j]))

    Eight heads share the hidden width; the last layer has one. Dropout acts on the inputs of each
    layer, and half as strongly on the attention, as in GLNN (0.6 and 0.3). Memory grows as E H.
    """

    heads = 8

    def __init__(self, sizes: list[int], dropout: float):
        super().__init__()
        if any(size % self.heads for size in sizes[1:-1]):
            raise ValueError(
                f"hidden is {sizes[1]}; a GAT divides it among {self.heads} heads: choose a "
                f"multiple of {self.heads}"
            )
        heads = [self.heads] * (len(sizes) - 2) + [1]
        self.layers = nn.ModuleList(
            pyg.GATConv(a, b // k, k, dropout=dropout / 2)
            for (a, b), k in zip(pairwise(sizes), heads, strict=True)
        )
        self.dropout = dropout

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Outputs:
        """See the module."""
        h, hidden = graph.x, []
        for i, layer in enumerate(self.layers):
            if i:
                hidden.append(F.elu(h))
                h = hidden[-1]
            h = layer(F.dropout(h, self.dropout, self.training), graph.edge_index)
        return _shown(h, hidden, nodes)


class APPNP(nn.Module):
    r"""Gasteiger, Bojchevski and Guennemann, "Predict then Propagate", ICLR 2019.

    https://arxiv.org/abs/1810.05997; personalised PageRank on the outputs of an MLP:

        Z_0 = MLP(X),   Z_{k+1} = (1 - \alpha) D^{-1/2} (A + I) D^{-1/2} Z_k + \alpha Z_0

    with K = 10 steps and \alpha = 0.1. Convention: no dropout on the edges.
    """

    steps, alpha = 10, 0.1

    def __init__(self, sizes: list[int], dropout: float):
        super().__init__()
        self.predict = MLP(sizes, dropout)

    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Outputs:
        """See the module."""
        logits, hidden = self.predict(graph)
        z = logits
        for _ in range(self.steps):
            z = (1 - self.alpha) * (graph.normalized @ z) + self.alpha * logits
        return _shown(z, hidden, nodes)


NETWORKS = {"mlp": MLP, "gcn": GCN, "sage": SAGE, "gat": GAT, "appnp": APPNP}


def names() -> list[str]:
    """The names of all networks."""
    return sorted(NETWORKS)


def get(name: str) -> type[nn.Module]:
    """The network of this name; ValueError if there is none."""
    if name not in NETWORKS:
        raise unknown("network", name, NETWORKS)
    return NETWORKS[name]


def build(name: str, graph: Graph, hidden: int, layers: int, dropout: float) -> nn.Module:
    """A fresh network for the features and classes of a graph, on the graph's device.

    Draws its weights from torch's global stream: see `graphkd.training.seeded`.

    Raises:
        ValueError: the name is unknown, or a size makes no network.
    """
    network = get(name)
    if layers < 2 or hidden < 1:
        raise ValueError(
            f"{name} with {layers} layers of width {hidden}: expected 2 layers or more, 1 wide or "
            "more; the default is 2 layers"
        )
    sizes = [graph.x.shape[1], *[hidden] * (layers - 1), graph.classes]
    return network(sizes, dropout).to(device=graph.x.device, dtype=graph.x.dtype)


def _glorot(layer: nn.Module) -> None:
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)


def _linear(h: Matrix | Tensor, layer: nn.Module, nodes: Tensor | None = None) -> Tensor:
    """`layer` on some rows of h: a sparse h is multiplied whole, a dense one is cut first."""
    if isinstance(h, Tensor):
        return F.linear(h if nodes is None else h[nodes], layer.weight, layer.bias)
    product = h @ layer.weight.T
    product = product if nodes is None else product[nodes]
    return product if layer.bias is None else product + layer.bias


def rows(outputs: Outputs, index: Tensor | slice) -> Outputs:
    """The outputs at some of their rows."""
    return Outputs(outputs.logits[index], tuple(h[index] for h in outputs.hidden))


def _shown(logits: Tensor, hidden: Iterable[Tensor], nodes: Tensor | None) -> Outputs:
    outputs = Outputs(logits, tuple(hidden))
    return outputs if nodes is None else rows(outputs, nodes)
