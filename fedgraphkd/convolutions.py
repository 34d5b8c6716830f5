"""GCN, GraphSAGE, GIN and MLP as pure functions of their parameters, of one model and of a stack.

A network is a row of linear maps with ReLU between them, before some of which neighbours are mixed:

    H_0 = X,   H_l = relu((A) H_{l-1} W_l^T + b_l),   logits = (A) H_{L-1} W_L^T + b_L

A map after a mixing is the same as a mixing after the map, so the networks are those of graphkd; in
this order the head is linear on what is shown, (A) H_{L-1}, which can therefore be compared and
averaged as features.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fedgraphkd.union import SideBySide, Union
from fedkd.models.stacked import in_turn
from graphkd.graph import Graph
from graphkd.models.layers import first, linear
from kdcore.outputs import Outputs
from kdcore.training.loop import Params

# Numbers in a hidden layer of all models: of more they take turns, on one graph for the memory, and
# on blocks of their own since these leave the cache: 10 blocks of 15,300 nodes took 1.6 times as
# long at once.
AT_ONCE = 2**25
BLOCKS_AT_ONCE = 2**21


class Layer(NamedTuple):
    """A linear map.

    Attributes:
        name: of its weight and bias in the parameters.
        mixes: whether neighbours are mixed before it.
        width: how wide it is: the place of that in the network's widths.
    """

    name: str
    mixes: bool
    width: int


class Plan(NamedTuple):
    """A network: by which attribute of `Graph` neighbours are mixed, "" for none, and its maps."""

    adjacency: str
    layers: tuple[Layer, ...]

    @property
    def last_mixing(self) -> int:
        """The layer from which on a node is by itself."""
        return max((place for place, layer in enumerate(self.layers) if layer.mixes), default=0)

    def shapes(self, sizes: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Of all parameters, of a network of some widths, from the features to the classes."""
        found: dict[str, tuple[int, ...]] = {}
        fan_in = sizes[0]
        for layer in self.layers:
            fan_out = sizes[layer.width]
            found[f"{layer.name}.weight"] = (fan_out, fan_in)
            found[f"{layer.name}.bias"] = (fan_out,)
            fan_in = fan_out
        return found


def _convolutions(adjacency: str, mixes: bool) -> Callable[[int], Plan]:
    def plan(depth: int) -> Plan:
        names = [*(f"layer{i}" for i in range(depth - 1)), "head"]
        return Plan(adjacency, tuple(Layer(n, mixes, i) for i, n in enumerate(names, 1)))

    return plan


def _gin(depth: int) -> Plan:
    """Two maps for each mixing. The second of the last is the head, and its features are as wide.

    In graphkd's GIN the last hidden layer is as wide as there are classes.
    """
    maps = []
    for i in range(depth):
        width = min(i + 1, depth - 1)
        maps += [Layer(f"layer{i}.inner", True, width), Layer(f"layer{i}", False, width)]
    return Plan("total", (*maps[:-1], Layer("head", False, depth)))


KINDS: dict[str, Callable[[int], Plan]] = {
    "gcn": _convolutions("normalized", True),
    "sage": _convolutions("mean", True),
    "gin": _gin,
    "mlp": _convolutions("", False),
}


def propagated(union: Union, x: Tensor) -> Tensor:
    r"""The features of nodes (B, 1) as two mixings with their neighbours leave them, (B, D).

    Felix Wu, Tianyi Zhang, Amauri Holanda de Souza Jr., Christopher Fifty, Tao Yu, Kilian Q.
    Weinberger. "Simplifying Graph Convolutional Networks". ICML 2019.
    https://arxiv.org/abs/1902.07153: \hat{A}^2 X, in the block in which the nodes are.
    """
    graph, places = union.found(x)
    found: Tensor = (graph.normalized @ graph.normalized_features)[places]
    return found


def one(union: Union, plan: Plan, params: Params, x: Tensor) -> Outputs:
    """One model on nodes (B, 1): logits (B, C), hidden ((B, H),), what the head is linear on."""
    graph, places = union.found(x)
    (name, *_), *others = plan.layers
    weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
    if plan.adjacency:
        h = first(graph, plan.adjacency, weight, bias)
    else:
        h = linear(graph.features, weight, bias, places)
    for depth, (name, mixes, _) in enumerate(others, 1):
        h = h.relu()
        if mixes:
            h = getattr(graph, plan.adjacency) @ h
        if plan.adjacency and depth == plan.last_mixing:
            h = h[places]
        shown, h = h, F.linear(h, params[f"{name}.weight"], params[f"{name}.bias"])
    return Outputs(h, (shown,))


def stack(union: Union, plan: Plan, params: Params, x: Tensor) -> Outputs:
    """K models: each on nodes of a block of its own, (K, B, 1), or all on the same, (1, B, 1).

    Blocks are one block-diagonal problem; a graph that models have in common is multiplied once, by
    the hidden states of all of them side by side. Large blocks, and nodes of several for each
    model, which no algorithm asks for, are left to one model after another.
    """
    widest = max(bias.shape[-1] for bias in params.values() if bias.ndim == 2)
    if len(x) > 1:
        blocks = union.alone(x) if plan.adjacency else None
        if blocks is not None and len(x) * union.highest(blocks) * widest <= BLOCKS_AT_ONCE:
            beside = union.side_by_side(blocks, plan.adjacency, x.device)
            return _blocks(plan, params, beside, union.places(x, blocks))
        return in_turn(lambda p, given: one(union, plan, p, given), params, x)
    graph, places = union.found(x[0])
    if graph.num_nodes * len(params["head.bias"]) * widest > AT_ONCE:
        return in_turn(lambda p, given: one(union, plan, p, given), params, x)
    return _together(plan, params, graph, places)


def _blocks(plan: Plan, params: Params, beside: SideBySide, places: Tensor) -> Outputs:
    """Each model on its own block; h is (K, H, W) until the asked nodes are taken."""
    count = len(places)

    def mixed(h: Tensor) -> Tensor:
        product: Tensor = beside.adjacency @ h.flatten(0, 1)
        return product.view(count, -1, h.shape[-1])

    def opening(weight: Tensor, bias: Tensor) -> Tensor:
        if isinstance(beside.features, Tensor):
            return torch.baddbmm(bias.unsqueeze(1), beside.features, weight.mT)
        product = beside.features @ weight.mT.flatten(0, 1)
        return mixed(product.view(count, -1, weight.shape[1])) + bias.unsqueeze(1)

    def taken(h: Tensor) -> Tensor:
        return h.gather(1, places.unsqueeze(-1).expand(-1, -1, h.shape[-1]))

    return run(plan, params, opening, mixed, taken)


def _together(plan: Plan, params: Params, graph: Graph, places: Tensor) -> Outputs:
    """All models on one graph."""
    count = len(params["head.bias"])

    def mixed(h: Tensor) -> Tensor:
        side: Tensor = getattr(graph, plan.adjacency) @ h.transpose(0, 1).flatten(1)
        return apart(side, count)

    def opening(weight: Tensor, bias: Tensor) -> Tensor:
        wide = weight.flatten(0, 1), bias.flatten()
        if plan.adjacency:
            return apart(first(graph, plan.adjacency, *wide), count)
        return apart(linear(graph.features, *wide, places), count)

    def taken(h: Tensor) -> Tensor:
        return h[:, places]

    return run(plan, params, opening, mixed, taken)


def apart(side: Tensor, count: int) -> Tensor:
    """(N, K W) as (K, N, W)."""
    found: Tensor = side.unflatten(1, (count, -1))
    return found.transpose(0, 1)


def run(
    plan: Plan,
    params: Params,
    opening: Callable[[Tensor, Tensor], Tensor],
    mixed: Callable[[Tensor], Tensor],
    taken: Callable[[Tensor], Tensor],
) -> Outputs:
    """The layers of K models, (K, N, W) each."""
    (name, *_), *others = plan.layers
    h = opening(params[f"{name}.weight"], params[f"{name}.bias"])
    for depth, (name, mixes, _) in enumerate(others, 1):
        h = h.relu()
        if mixes:
            h = mixed(h)
        if plan.adjacency and depth == plan.last_mixing:
            h = taken(h)
        weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
        shown, h = h, torch.baddbmm(bias.unsqueeze(1), h, weight.mT)
    return Outputs(h, (shown,))
