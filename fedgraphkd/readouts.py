r"""The networks of `convolutions` on whole graphs: embeddings of nodes, added up and classified.

    h_G = 1/n \sum_{i in G} relu(network(x)_i),   f_G = relu(W_1 h_G + b_1)
    logits = W_2 f_G + b_2

with n the mean size of graphs, as `graphkd.models.readout` has it; the head is linear on f_G.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fedgraphkd.collection import Collection, GraphBatch
from fedgraphkd.convolutions import AT_ONCE, BLOCKS_AT_ONCE, KINDS, Plan, apart, run
from fedkd.core import Model
from fedkd.models.architectures import initialiser
from fedkd.models.stacked import in_turn
from kdcore.outputs import Outputs
from kdcore.training.loop import Network, Params


class Readout(NamedTuple):
    """A network on nodes, and the widths of its layers, of which the last is that of graphs."""

    nodes: Plan
    sizes: tuple[int, ...]

    def shapes(self, outputs: int) -> dict[str, tuple[int, ...]]:
        """Of all parameters."""
        wide = self.sizes[-1]
        return {
            **self.nodes.shapes(self.sizes),
            "inner.weight": (wide, wide),
            "inner.bias": (wide,),
            "head.weight": (outputs, wide),
            "head.bias": (outputs,),
        }


def model(family: str, widths: Sequence[int], outputs: int, collection: Collection) -> Model:
    """A network of `convolutions.KINDS` for graphs; graphs are as wide as its last hidden layer."""
    sizes = collection.features, *widths, widths[-1]
    nodes = KINDS[family](len(sizes) - 1)
    *layers, last = nodes.layers
    plan = Readout(nodes._replace(layers=(*layers, last._replace(name="embedding"))), sizes)
    forms = partial(one, collection, plan), partial(stack, collection, plan)
    return Model(initialiser(plan.shapes(outputs)), Network(*forms))


def propagated(collection: Collection, x: Tensor) -> Tensor:
    """The mean over the nodes of graphs (B, 1) of their features, mixed twice; (B, D)."""
    graphs = collection.cut(x)
    mixed = graphs.union.normalized @ graphs.union.normalized_features
    sizes = torch.bincount(graphs.owner, minlength=len(x)).clamp(min=1)
    total = mixed.new_zeros(len(x), mixed.shape[1]).index_add(0, graphs.owner, mixed)
    return total / sizes.unsqueeze(1)


def one(collection: Collection, plan: Readout, params: Params, x: Tensor) -> Outputs:
    """One model on graphs (B, 1): a stack of one."""
    found = stack(collection, plan, {n: v.unsqueeze(0) for n, v in params.items()}, x.unsqueeze(0))
    return Outputs(found.logits[0], tuple(h[0] for h in found.hidden))


def stack(collection: Collection, plan: Readout, params: Params, x: Tensor) -> Outputs:
    """K models, each on graphs of its own (K, B, 1), or all on the same (1, B, 1).

    What they have in common is multiplied once, by all of them side by side.
    """
    count = len(params["head.bias"])
    most = AT_ONCE if len(x) == 1 else BLOCKS_AT_ONCE
    if count > 1 and count * collection.nodes(x) * max(plan.sizes[1:]) > most:
        return in_turn(partial(one, collection, plan), params, x)
    batch, places = collection.batch(x, plan.nodes.adjacency)
    nodes = _nodes(plan.nodes, params, batch)
    pooled = _sums(nodes.relu(), batch) / collection.mean_size
    taken = places.expand(count, -1).unsqueeze(-1).expand(-1, -1, pooled.shape[-1])
    pooled = pooled.gather(1, taken)
    shown = torch.baddbmm(params["inner.bias"].unsqueeze(1), pooled, params["inner.weight"].mT)
    shown = shown.relu()
    logits = torch.baddbmm(params["head.bias"].unsqueeze(1), shown, params["head.weight"].mT)
    return Outputs(logits, (shown,))


def _nodes(plan: Plan, params: Params, batch: GraphBatch) -> Tensor:
    """The embeddings of all nodes, (K, H, W)."""
    alone, height = len(batch.first) > 1, batch.first.shape[1]

    def opening(weight: Tensor, bias: Tensor) -> Tensor:
        if alone:
            return torch.baddbmm(bias.unsqueeze(1), batch.first, weight.mT)
        wide = F.linear(batch.first[0], weight.flatten(0, 1), bias.flatten())
        return apart(wide, len(bias))

    def mixed(h: Tensor) -> Tensor:
        assert batch.adjacency is not None
        if alone:
            product: Tensor = batch.adjacency @ h.flatten(0, 1)
            return product.view(-1, height, h.shape[-1])
        return apart(batch.adjacency @ h.transpose(0, 1).flatten(1), len(h))

    return run(plan, params, opening, mixed, lambda h: h).logits


def _sums(h: Tensor, batch: GraphBatch) -> Tensor:
    """The sums over the nodes of each graph, (K, H, W) -> (K, G, W)."""
    if len(batch.first) == 1:
        found = h.new_zeros(len(h), batch.each + 1, h.shape[-1]).index_add(1, batch.owner, h)
        return found[:, :-1]
    graphs = len(h) * batch.each
    found = h.new_zeros(graphs + 1, h.shape[-1]).index_add(0, batch.owner, h.flatten(0, 1))
    return found[:-1].view(len(h), batch.each, -1)
