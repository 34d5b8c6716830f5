"""Graph attention networks: `graphkd.models.networks` has their names and conventions."""

from itertools import pairwise
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from graphkd.graph import Graph
from graphkd.models.layers import answering, convolution, linear, outputs_of
from graphkd.ops import sparse_attention
from graphkd.ops.dropout import dropout, mask
from graphkd.ops.sparse import Matrix
from kdcore.outputs import Outputs


class _Attention(nn.Module):
    """Layers of attention: eight heads share the hidden width, the last layer has one."""

    heads = 8
    layers: Any

    def __init__(self, layer: str, sizes: list[int], dropout: float):
        super().__init__()
        if any(size % self.heads for size in sizes[1:-1]):
            raise ValueError(
                f"hidden is {sizes[1]}; attention divides it among {self.heads} heads: choose a "
                f"multiple of {self.heads}"
            )
        heads = [self.heads] * (len(sizes) - 2) + [1]
        self.layers = nn.ModuleList(
            convolution(layer, a, b // k, k)
            for (a, b), k in zip(pairwise(sizes), heads, strict=True)
        )
        self.dropout = dropout

    @answering
    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Outputs:
        """See the module."""
        h, hidden = self._pass(self.layers[0], graph.features, graph), []
        for layer in self.layers[1:]:
            hidden.append(F.elu(h, inplace=True))
            h = self._pass(layer, hidden[-1], graph)
        return outputs_of(h, hidden, nodes)

    def _pass(self, layer: Any, h: Matrix | Tensor, graph: Graph) -> Tensor:
        if isinstance(h, Tensor):
            h = dropout(h, self.dropout, self.training)
        elif self.dropout and self.training:  # what is zero stays so
            values = h.rows.values
            h = h.with_values(values * mask(values.shape, self.dropout, values))
        values, source, target = self.ends(layer, h)
        scores = self.scores(layer, source, target, graph.total)
        keep = None
        if self.dropout and self.training:
            keep = mask(scores.shape, self.dropout / 2, values)
        bias: Tensor = layer.bias
        return sparse_attention.attend(scores, values, graph.total, keep) + bias

    def ends(self, layer: Any, h: Matrix | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of each node the values, and what it brings to the scores as source and as target."""
        raise NotImplementedError

    def scores(self, layer: Any, source: Tensor, target: Tensor, edges: Matrix) -> Tensor:
        """The scores of edges (E, heads) from what their ends bring."""
        raise NotImplementedError


class GAT(_Attention):
    r"""Velickovic et al., "Graph Attention Networks", ICLR 2018.

    https://arxiv.org/abs/1710.10903.

        h'_i = \sum_{j in N(i) + {i}} \alpha_ij W h_j,
        \alpha_i = softmax_j(leaky_relu(a^T [W h_i, W h_j]))

    Eight heads share the hidden width; the last layer has one. Dropout acts on the inputs of each
    layer, and half as strongly on the attention, as in GLNN (0.6 and 0.3). Memory grows as E times
    the number of heads.
    """

    def __init__(self, sizes: list[int], dropout: float):
        super().__init__("GATConv", sizes, dropout)

    def ends(self, layer: Any, h: Matrix | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """W h, and its inner products with both halves of a."""
        values = linear(h, layer.lin.weight)
        by_head = values.view(len(values), layer.heads, -1)
        source, target = ((by_head * a).sum(2) for a in (layer.att_src, layer.att_dst))
        return values, source, target

    def scores(self, layer: Any, source: Tensor, target: Tensor, edges: Matrix) -> Tensor:
        """See `attention.additive`."""
        return sparse_attention.additive(source, target, edges)


class GATv2(_Attention):
    r"""Brody, Alon and Yahav, "How Attentive are Graph Attention Networks?", ICLR 2022.

    https://arxiv.org/abs/2105.14491.

        h'_i = \sum_{j in N(i) + {i}} \alpha_ij W_l h_j + b,
        \alpha_i = softmax_j(a^T leaky_relu(W_l h_j + b_l + W_r h_i + b_r))

    Heads and dropout as in GAT. Time grows as E H, memory as E times the number of heads.
    """

    def __init__(self, sizes: list[int], dropout: float):
        super().__init__("GATv2Conv", sizes, dropout)

    def ends(self, layer: Any, h: Matrix | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """W_l h + b_l twice, and W_r h + b_r."""
        source = linear(h, layer.lin_l.weight, layer.lin_l.bias)
        target = linear(h, layer.lin_r.weight, layer.lin_r.bias)
        return source, source, target

    def scores(self, layer: Any, source: Tensor, target: Tensor, edges: Matrix) -> Tensor:
        """See `attention.dynamic`."""
        return sparse_attention.dynamic(source, target, layer.att[0], edges)
