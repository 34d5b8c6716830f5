"""The networks that teach and learn on graphs; each shows its `Outputs`.

The layers are PyTorch Geometric's and hold the weights; the products run through
`graphkd.ops.sparse` and `graphkd.ops.sparse_attention`, which the tests hold to PyG's own message
passing. Every network is called as `network(graph, nodes=None)` and gives the outputs of these
nodes, in order, or of all; with tensors, as `network(x)` or `network(x, edge_index)`, it gives
logits. A thin network is one with a small width.

Convention: hidden states are those after the activation and before dropout, one per hidden layer.
Dropout acts on hidden states, not on the input features, except in GAT and GATv2.

Initialisation: linear maps of the MLP, APPNP and GIN as PyTorch's default, uniform within
1 / sqrt(D); those of the others Glorot's, with biases of 0, as PyG's and DGL's convolutions.

Shapes (all networks):
    graph: N nodes with D features; nodes: (n,) ids; gives logits (n, C) and hidden (n, H) each.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from graphkd.graph import Graph
from graphkd.models import adapters
from graphkd.models.gat import GAT, GATv2
from graphkd.models.heterogeneous import HAN, HGT, RGCN
from graphkd.models.layers import answering, convolution, first, linear, outputs_of, rows
from graphkd.ops.dropout import dropout
from kdcore.outputs import Outputs
from kdcore.registry import Registry, members

__all__ = ["APPNP", "GAT", "GATv2", "GCN", "GIN", "HAN", "HGT", "MLP", "RGCN", "SAGE", "SGC"]
__all__ += ["NETWORKS", "REGISTRY", "TYPED", "build", "get", "names", "rows"]


class MLP(nn.Module):
    """A multilayer perceptron on the features of a node alone: a student that needs no graph.

    Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors", Nature
    1986, https://doi.org/10.1038/323533a0.
    """

    layers: Any

    def __init__(self, sizes: list[int], dropout: float):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.dropout = dropout

    @answering
    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Outputs:
        """See the module."""
        h = linear(graph.features, self.layers[0].weight, self.layers[0].bias, nodes)
        return self.onward(h.relu_()) if len(self.layers) > 1 else Outputs(h, ())

    def onward(self, h: Tensor) -> Outputs:
        """What the network shows from its first hidden state on, (n, H), which has no dropout."""
        hidden = [h]
        for layer in self.layers[1:-1]:
            hidden.append(layer(dropout(hidden[-1], self.dropout, self.training)).relu_())
        h = self.layers[-1](dropout(hidden[-1], self.dropout, self.training))
        return Outputs(h, tuple(hidden))


class GCN(nn.Module):
    r"""Kipf and Welling, "Semi-Supervised Classification with Graph Convolutional Networks".

    ICLR 2017, https://arxiv.org/abs/1609.02907.

        H' = D^{-1/2} (A + I) D^{-1/2} H W + b
    """

    layers: Any

    def __init__(self, sizes: list[int], dropout: float):
        super().__init__()
        self.layers = nn.ModuleList(convolution("GCNConv", a, b) for a, b in pairwise(sizes))
        self.dropout = dropout

    @answering
    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Outputs:
        """See the module."""
        h = first(graph, "normalized", self.layers[0].lin.weight, self.layers[0].bias)
        hidden = []
        for layer in self.layers[1:]:
            hidden.append(h.relu_())
            h = dropout(hidden[-1], self.dropout, self.training)
            h = graph.normalized @ F.linear(h, layer.lin.weight) + layer.bias
        return outputs_of(h, hidden, nodes)


class SAGE(nn.Module):
    r"""Hamilton, Ying and Leskovec, "Inductive Representation Learning on Large Graphs".

    NIPS 2017, https://arxiv.org/abs/1706.02216; with the aggregator that GLNN takes, DGL's 'gcn':

        h'_i = W mean(h_j, j in N(i) + {i}) + b

    Convention: PyG's default adds a second matrix for the node itself; this one does not. DGL on
    a graph that has self-loops already, as in GLNN's code, counts the node itself twice.
    """

    layers: Any

    def __init__(self, sizes: list[int], dropout: float):
        super().__init__()
        self.layers = nn.ModuleList(
            convolution("SAGEConv", a, b, aggr="mean", root_weight=False)
            for a, b in pairwise(sizes)
        )
        self.dropout = dropout
        for layer in self.layers:
            nn.init.xavier_uniform_(layer.lin_l.weight)
            nn.init.zeros_(layer.lin_l.bias)

    @answering
    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Outputs:
        """See the module."""
        h = first(graph, "mean", self.layers[0].lin_l.weight, self.layers[0].lin_l.bias)
        hidden = []
        for layer in self.layers[1:]:
            hidden.append(h.relu_())
            h = dropout(hidden[-1], self.dropout, self.training)
            # The mean commutes with the linear map.
            h = graph.mean @ F.linear(h, layer.lin_l.weight) + layer.lin_l.bias
        return outputs_of(h, hidden, nodes)


class GIN(nn.Module):
    r"""Xu, Hu, Leskovec and Jegelka, "How Powerful are Graph Neural Networks?", ICLR 2019.

    https://arxiv.org/abs/1810.00826.

        h'_i = W_2 relu(W_1 (h_i + \sum_{j in N(i)} h_j) + b_1) + b_2

    Convention: GIN-0, the paper's variant with epsilon fixed at 0; two linear maps in each layer,
    without the paper's batch normalisation, since running statistics do not survive stacking.
    """

    layers: Any

    def __init__(self, sizes: list[int], dropout: float):
        super().__init__()
        self.layers = nn.ModuleList(
            convolution("GINConv", nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Linear(b, b)))
            for a, b in pairwise(sizes)
        )
        self.dropout = dropout

    @answering
    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Outputs:
        """See the module."""
        inner, _, outer = self.layers[0].nn
        h = outer(first(graph, "total", inner.weight, inner.bias).relu_())
        hidden = []
        for layer in self.layers[1:]:
            hidden.append(h.relu_())
            h = dropout(hidden[-1], self.dropout, self.training)
            inner, _, outer = layer.nn
            h = outer((graph.total @ F.linear(h, inner.weight) + inner.bias).relu_())
        return outputs_of(h, hidden, nodes)


class SGC(nn.Module):
    r"""Wu, Zhang, de Souza, Fifty, Yu and Weinberger, "Simplifying Graph Convolutional Networks".

    ICML 2019, https://arxiv.org/abs/1902.07153; a GCN without activations, hence one linear map:

        (D^{-1/2} (A + I) D^{-1/2})^L X W + b

    Convention: L is the number of layers. There is no hidden state, so width and dropout have no
    effect, and losses on the embedding refuse it.
    """

    layer: Any

    def __init__(self, sizes: list[int], dropout: float):
        super().__init__()
        self.layer = convolution("SGConv", sizes[0], sizes[-1], K=len(sizes) - 1)

    @answering
    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Outputs:
        """See the module."""
        h = first(graph, "normalized", self.layer.lin.weight)
        for _ in range(self.layer.K - 1):
            h = graph.normalized @ h
        return outputs_of(h + self.layer.lin.bias, (), nodes)


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

    @answering
    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Outputs:
        """See the module."""
        logits, hidden = self.predict(graph)
        z = logits
        for _ in range(self.steps):
            z = (1 - self.alpha) * (graph.normalized @ z) + self.alpha * logits
        return outputs_of(z, hidden, nodes)


NETWORKS: dict[str, type[nn.Module]] = {
    network.__name__.lower(): network
    for network in (APPNP, GAT, GATv2, GCN, GIN, HAN, HGT, MLP, RGCN, SAGE, SGC)
}
TYPED = ("han", "hgt", "rgcn")  # are made for the types of nodes and edges that a graph has


REGISTRY: Registry[Callable[..., nn.Module]] = Registry(
    "network",
    members(NETWORKS),
    "kdsim.networks",
    expected="a torch.nn.Module class, see graphkd.models.adapters",
)
"""Networks on graphs: of one's own a `torch.nn.Module` class, such as `torch_geometric.nn:GCN`.

How it is made is said at `graphkd.models.adapters.make`, for instance called with (sizes, dropout),
sizes being the widths from the features to the classes, such as [64, 128, 10]; how its forward is
called, and what it may give, in `graphkd.models.adapters`.
"""


def names() -> list[str]:
    """The names of all networks."""
    return REGISTRY.names()


def get(name: str) -> Callable[..., nn.Module]:
    """The network of this name, or at `module:Name` or `path/file.py:Name`.

    Raises:
        ValueError: there is none; the message names the nearest and lists all.
    """
    return REGISTRY.get(name)


def build(
    network: str | Callable[..., nn.Module] | nn.Module,
    graph: Graph,
    hidden: int,
    layers: int,
    dropout: float,
) -> nn.Module:
    """A fresh network for the features and classes of a graph, on the graph's device.

    Draws its weights from torch's global stream: see `graphkd.training.loop.seeded`.

    Args:
        network: a name, a class or function of the user's, or a module, of which it is a copy.
        graph: whose sizes it has.
        hidden: its width.
        layers: their number.
        dropout: a share.

    Raises:
        ValueError: the name is unknown, a size makes no network, or one of the user's cannot be
            made or run.
    """
    name = adapters.called(network)
    if layers < 2 or hidden < 1:
        raise ValueError(
            f"{name} with {layers} layers of width {hidden}: expected 2 layers or more, 1 wide or "
            "more; the default is 2 layers"
        )
    sizes = [graph.x.shape[1], *[hidden] * (layers - 1), graph.classes]
    found = get(network) if isinstance(network, str) else network
    if found in NETWORKS.values():
        typed = (graph.types,) if found in (HAN, HGT, RGCN) else ()
        made = found(sizes, dropout, *typed)
        return made.to(device=graph.x.device, dtype=graph.x.dtype)
    made = adapters.adapt(adapters.make(found, sizes, dropout), graph)
    return adapters.tried(made.to(device=graph.x.device, dtype=graph.x.dtype), graph, name)
