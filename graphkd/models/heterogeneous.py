"""Networks for nodes and edges of several types: `graphkd.models.networks` has their conventions.

On a graph without types there is one relation, that of all edges, and one type of nodes.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from graphkd.graph import Graph, Types
from graphkd.models.layers import answering, convolution, linear, outputs_of
from graphkd.ops.dropout import dropout
from graphkd.ops.sparse import Matrix
from kdcore.outputs import Outputs

HEADS = 8


class RGCN(nn.Module):
    r"""Schlichtkrull et al., "Modeling Relational Data with Graph Convolutional Networks".

    ESWC 2018, https://arxiv.org/abs/1703.06103.

        h'_i = W_0 h_i + b + \sum_r 1/|N_r(i)| \sum_{j in N_r(i)} W_r h_j

    Convention: a matrix for each relation, without the paper's bases or blocks.
    """

    layers: Any

    def __init__(self, sizes: list[int], dropout: float, types: Types):
        super().__init__()
        self.layers = nn.ModuleList(
            convolution("RGCNConv", a, b, len(types.relations)) for a, b in pairwise(sizes)
        )
        self.dropout, self.types = dropout, types

    @answering
    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Outputs:
        """See the module."""
        _check(self.types, graph, "rgcn")
        h, hidden = self._pass(self.layers[0], graph.features, graph), []
        for layer in self.layers[1:]:
            hidden.append(h.relu_())
            h = self._pass(layer, dropout(hidden[-1], self.dropout, self.training), graph)
        return outputs_of(h, hidden, nodes)

    def _pass(self, layer: Any, h: Matrix | Tensor, graph: Graph) -> Tensor:
        weights = torch.cat([layer.root, *layer.weight], dim=1).T
        own, *others = linear(h, weights).split(layer.out_channels, dim=1)
        for mean, other in zip(graph.relation_means, others, strict=True):
            own = own + mean @ other
        total: Tensor = own + layer.bias
        return total


class HGT(nn.Module):
    r"""Hu, Dong, Wang and Sun, "Heterogeneous Graph Transformer", WWW 2020.

    https://arxiv.org/abs/2003.01332: attention with keys, queries and values by the type of a node,
    and maps of them by relation; PyG's layer as it is.

        h^0_i = relu(W_{type(i)} x_i),   h' = HGTConv(h),   logits = W h^{L-1} + b

    Convention: as in PyG's example a linear map before the layers and one after, so that L layers
    are L - 1 of attention; eight heads; dropout between them.
    """

    layers: Any

    def __init__(self, sizes: list[int], dropout: float, types: Types):
        super().__init__()
        width = _divided(sizes)
        named = [str(i) for i in range(len(types.nodes))]
        relations = [(str(a), f"r{r}", str(b)) for r, (a, b) in enumerate(types.relations)]
        self.inputs = nn.Linear(sizes[0], width * len(named))
        self.layers = nn.ModuleList(
            convolution("HGTConv", width, width, (named, relations), HEADS) for _ in sizes[2:]
        )
        self.outputs = nn.Linear(width, sizes[-1])
        self.dropout, self.types, self.relations = dropout, types, relations

    @answering
    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Outputs:
        """See the module."""
        _check(self.types, graph, "hgt")
        kind, count = graph.node_type, len(self.types.nodes)
        wide = linear(graph.features, self.inputs.weight, self.inputs.bias)
        h = wide.view(len(kind), count, -1)[torch.arange(len(kind), device=kind.device), kind]
        h, hidden = h.relu(), []
        groups = [(kind == t).nonzero()[:, 0] for t in range(count)]
        place = torch.empty_like(kind)
        for group in groups:
            place[group] = torch.arange(len(group), device=place.device)
        pairs = dict(zip(self.relations, (place[e] for e in graph.relations), strict=True))
        for layer in self.layers:
            split = {str(t): h[group] for t, group in enumerate(groups)}
            mixed = layer(split, pairs)
            rows = [mixed.get(t, own) for t, own in split.items()]  # a type without edges
            h = torch.empty_like(h).index_copy(0, torch.cat(groups), torch.cat(rows))
            hidden.append(h)
            h = dropout(h, self.dropout, self.training)
        return outputs_of(self.outputs(h), hidden, nodes)


class HAN(nn.Module):
    r"""Wang et al., "Heterogeneous Graph Attention Network", WWW 2019.

    https://arxiv.org/abs/1903.07293: attention among the nodes that a meta-path joins, and over the
    meta-paths; PyG's layer, with its linear map outside, where sparse features multiply faster.

        h_i^p = relu(\sum_{j in N_p(i)} \alpha_ij^p W x_j),   h_i = \sum_p \beta_p h_i^p

    with \alpha a softmax over leaky_relu(a_p . W x_j + b_p . W x_i), and \beta one over the mean of
    q . tanh(K h_i^p + k) of the nodes. Convention: meta-paths are `Types.meta_paths`, which on IMDB
    are the paper's two, and of DBLP only the shortest of its three; a node is among its neighbours,
    as in the paper; eight heads; dropout of hidden states, and none of attention. L layers are
    L - 1 of attention and a linear map. It answers for nodes of the type with labels: of others,
    whose hidden states are 0, it says the same.
    """

    layers: Any
    inputs: Any

    def __init__(self, sizes: list[int], dropout: float, types: Types):
        super().__init__()
        width, paths = _divided(sizes), types.meta_paths
        if not paths:
            raise ValueError(
                f"no meta-path joins nodes {types.nodes[types.target]} with each other, which han "
                "attends to: take rgcn or hgt"
            )
        named = [("node", f"p{p}", "node") for p in range(len(paths))]
        self.inputs = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes[:-1]))
        self.layers = nn.ModuleList()
        for _ in self.inputs:
            layer: Any = convolution("HANConv", width, width, (["node"], named), HEADS)
            layer.proj = nn.ModuleDict({"node": nn.Identity()})
            self.layers.append(layer)
        self.outputs = nn.Linear(width, sizes[-1])
        self.dropout, self.types, self.paths = dropout, types, named
        self.hops = max(map(len, paths)) * len(self.layers)

    @answering
    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Outputs:
        """See the module."""
        _check(self.types, graph, "han")
        own = (graph.node_type == self.types.target).nonzero()[:, 0]
        place = own.new_zeros(graph.num_nodes).index_copy(0, own, torch.arange(len(own)).to(own))
        pairs = dict(zip(self.paths, (place[joined] for joined in graph.meta_paths), strict=True))
        given, hidden = linear(graph.features, self.inputs[0].weight, self.inputs[0].bias, own), []
        for last, layer in enumerate(self.layers, start=1):
            h = layer({"node": given}, pairs)["node"]
            hidden.append(h.new_zeros(graph.num_nodes, h.shape[1]).index_copy(0, own, h))
            h = dropout(h, self.dropout, self.training)
            given = self.inputs[last](h) if last < len(self.layers) else h
        everywhere = h.new_zeros(graph.num_nodes, h.shape[1]).index_copy(0, own, h)
        return outputs_of(self.outputs(everywhere), hidden, nodes)


def _divided(sizes: list[int]) -> int:
    """The one width of the hidden layers, which heads of attention divide among them."""
    width = sizes[1]
    if any(size != width or size % HEADS for size in sizes[1:-1]):
        raise ValueError(
            f"hidden is {width}; attention divides it among {HEADS} heads: choose a multiple of "
            f"{HEADS}"
        )
    return width


def _check(types: Types, graph: Graph, name: str) -> None:
    """Raise ValueError unless a graph has the types that a network was made for."""
    if graph.types != types:
        raise ValueError(
            f"{name} was made for {len(types.relations)} relations among {', '.join(types.nodes)}, "
            f"and the graph has {len(graph.types.relations)} among {', '.join(graph.types.nodes)}: "
            "call it with a graphkd.graph.TypedGraph of these types"
        )
