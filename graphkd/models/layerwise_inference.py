"""Logits of a trained network on a graph whose hidden states do not all fit, layer by layer.

A layer is worked out for all nodes before the next one, some nodes at a time, from all of their
neighbours: the same numbers as `graphkd.training.loop.predict` gives. At no time more than the
inputs and outputs of one layer are held, nothing is kept for a backward pass, and features may be a
memory-mapped tensor.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from graphkd.graph import Graph
from graphkd.models import networks
from graphkd.ops import sparse_attention
from graphkd.ops.sparse import Rows

SIZE = 2**14  # nodes at a time


class Layer(NamedTuple):
    """What a layer does with each node, with its neighbours, and with each node again.

    Shapes:
        before: (n, H) to one or several (n, H'); mix: these for all N nodes and the span of nodes
        first .. last, to (last - first, H''); after: (n, H'') to (n, H''').
    """

    before: Callable[[Tensor], tuple[Tensor, ...]]
    mix: Callable[[tuple[Tensor, ...], int, int], Tensor]
    after: Callable[[Tensor], Tensor]


@torch.no_grad()
def logits(network: nn.Module, graph: Graph, size: int = SIZE) -> Tensor:
    """The logits of a network at every node, (N, C), without dropout.

    Args:
        network: one of `graphkd.models.networks`.
        graph: the whole.
        size: nodes at a time.

    Raises:
        ValueError: the network is of no known kind, or the size is less than 1.
    """
    if size < 1:
        raise ValueError(f"size is {size}; expected 1 node or more at a time, such as {SIZE}")
    network.eval()
    h = graph.x
    for layer in _layers(network, graph):
        parts = [layer.before(part) for part in torch.split(h, size)]
        ready = tuple(torch.cat(own) for own in zip(*parts, strict=True))
        del parts, h
        spans = [(a, min(a + size, graph.num_nodes)) for a in range(0, graph.num_nodes, size)]
        h = torch.cat([layer.after(layer.mix(ready, a, b)) for a, b in spans])
    return h


def _layers(network: Any, graph: Graph) -> Iterator[Layer]:
    if isinstance(network, networks.MLP):
        return _mlp(network)
    if isinstance(network, networks.GCN | networks.SAGE):
        return _convolutions(network, graph)
    if isinstance(network, networks.GIN):
        return _gin(network, graph)
    if isinstance(network, networks.SGC):
        return _sgc(network, graph)
    if isinstance(network, networks.APPNP):
        return _appnp(network, graph)
    if isinstance(network, networks.GAT | networks.GATv2):
        return _attention(network, graph)
    raise ValueError(
        f"{type(network).__name__} cannot be run layer by layer; expected one of "
        f"{', '.join(n for n in networks.names() if n not in networks.TYPED)}: use "
        "graphkd.training.loop.predict"
    )


def _same(h: Tensor) -> Tensor:
    return h


def _one(h: Tensor) -> tuple[Tensor]:
    return (h,)


def _linear(weight: Tensor, bend: bool, h: Tensor) -> tuple[Tensor]:
    return (F.linear(h.relu() if bend else h, weight),)


def _shift(bias: Tensor, h: Tensor) -> Tensor:
    return h + bias


def _times(rows: Rows, ready: tuple[Tensor, ...], first: int, last: int) -> Tensor:
    return rows.between(first, last).times(ready[0])


def _mlp(network: Any) -> Iterator[Layer]:
    def run(h: Tensor) -> tuple[Tensor]:
        for i, layer in enumerate(network.layers):
            h = layer(h.relu() if i else h)
        return (h,)

    yield Layer(run, lambda ready, first, last: ready[0][first:last], _same)


def _convolutions(network: Any, graph: Graph) -> Iterator[Layer]:
    gcn = isinstance(network, networks.GCN)
    mix = partial(_times, (graph.normalized if gcn else graph.mean).rows)
    for i, layer in enumerate(network.layers):
        weight = layer.lin.weight if gcn else layer.lin_l.weight
        bias = layer.bias if gcn else layer.lin_l.bias
        yield Layer(partial(_linear, weight, i > 0), mix, partial(_shift, bias))


def _gin(network: Any, graph: Graph) -> Iterator[Layer]:
    def after(inner: nn.Linear, outer: nn.Linear, h: Tensor) -> Tensor:
        out: Tensor = outer((h + inner.bias).relu())
        return out

    mix = partial(_times, graph.total.rows)
    for i, layer in enumerate(network.layers):
        inner, _, outer = layer.nn
        yield Layer(partial(_linear, inner.weight, i > 0), mix, partial(after, inner, outer))


def _sgc(network: Any, graph: Graph) -> Iterator[Layer]:
    linear, depth = network.layer.lin, network.layer.K
    mix = partial(_times, graph.normalized.rows)
    for i in range(depth):
        before = _one if i else partial(_linear, linear.weight, False)
        yield Layer(before, mix, _same if i < depth - 1 else partial(_shift, linear.bias))


def _appnp(network: Any, graph: Graph) -> Iterator[Layer]:
    start: list[Tensor] = []
    (predict,) = _mlp(network.predict)

    def keep(ready: tuple[Tensor, ...], first: int, last: int) -> Tensor:
        if not first:
            start.append(ready[0])
        return ready[0][first:last]

    def walk(ready: tuple[Tensor, ...], first: int, last: int) -> Tensor:
        mixed = (1 - network.alpha) * _times(graph.normalized.rows, ready, first, last)
        out: Tensor = mixed + network.alpha * start[0][first:last]
        return out

    yield predict._replace(mix=keep)
    for _ in range(network.steps):
        yield Layer(_one, walk, _same)


def _attention(network: Any, graph: Graph) -> Iterator[Layer]:
    def before(layer: Any, bend: bool, h: Tensor) -> tuple[Tensor, ...]:
        ends: tuple[Tensor, ...] = network.ends(layer, F.elu(h) if bend else h)
        return ends

    def mix(layer: Any, ready: tuple[Tensor, ...], first: int, last: int) -> Tensor:
        edges = graph.total.take(torch.arange(first, last, device=graph.x.device))
        values, source, target = ready
        scores = network.scores(layer, source, target[first:last], edges)
        return sparse_attention.attend(scores, values, edges)

    for i, layer in enumerate(network.layers):
        after = partial(_shift, layer.bias)
        yield Layer(partial(before, layer, i > 0), partial(mix, layer), after)
