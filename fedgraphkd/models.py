"""Networks of clients that hold graphs: the inputs are numbers of nodes in a union of blocks.

Or numbers of whole graphs in a collection; then a network ends with a readout.

A model is named in one word, as in `fedkd.models`: `gcn-64`, `sage-64`, `gin-64`, `mlp-64` (its
hidden widths), any other network of graphkd (`gat-64`, `appnp-64`), or a reference to one of the
user's own, `net.py:Net`. A width after an @ sign is that of the features on which its head is
linear: `gat-64@64` has features that can be compared; those of GCN, SAGE, GIN and MLP can be as
they are.

Initialisation of the first four is torch's default of linear maps, uniform within 1 / sqrt(D).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedgraphkd import convolutions, readouts
from fedgraphkd.collection import Collection
from fedgraphkd.convolutions import KINDS
from fedgraphkd.union import Union
from fedkd.core import Model
from fedkd.models import TRIED, from_module
from fedkd.models.architectures import initialiser, with_features
from fedkd.models.stacked import in_turn
from graphkd.data.graph_collection import Graphs
from graphkd.graph import HIDDEN, Graph
from graphkd.models import adapters, networks, readout
from graphkd.models.layers import rows
from graphkd.ops import edges
from kdcore.outputs import Outputs
from kdcore.references import is_reference
from kdcore.registry import nearest
from kdcore.training.loop import Network, Params, Predict
from kdcore.training.torch_module import FunctionModule

WIDTH = 64  # of a hidden layer where a name says none
TURNS = "this network on graphs has no form for a stack"


class NodeNetwork(nn.Module):
    """A network of graphkd, or of a user's in its form, asked about nodes by their numbers.

    With features (N, D) and edges (2, E) it answers about these, as `network(x, edge_index)`.
    """

    def __init__(self, network: nn.Module, union: Union, width: int | None = None) -> None:
        """The network; if `width` is given its outputs are features, on which a head is linear."""
        super().__init__()
        self.network, self.union = network, union
        self.head = None if width is None else nn.Linear(width, union.classes)

    def forward(self, x: Tensor, edge_index: Tensor | None = None) -> Any:
        """The outputs of nodes (B, 1); or, of features and edges, logits of all."""
        if edge_index is not None or x.is_floating_point():
            found = self.network(x) if edge_index is None else self.network(x, edge_index)
            return found if self.head is None else self.head(found.relu())
        graph, places = self.union.found(x)
        outputs: Outputs = rows(self.network(graph), places)
        if self.head is None:
            return outputs
        features = outputs.logits.relu()
        return Outputs(self.head(features), (*outputs.hidden, features))


class GraphNetwork(nn.Module):
    """The same for whole graphs: a network with a readout, asked about graphs by their numbers.

    With features, edges and the graph of each node it answers as `network(x, edge_index, batch)`.
    """

    def __init__(
        self, network: nn.Module, collection: Collection, width: int | None = None
    ) -> None:
        """The network; if `width` is given its outputs are features, on which a head is linear."""
        super().__init__()
        self.network, self.collection = network, collection
        self.head = None if width is None else nn.Linear(width, collection.classes)

    def forward(
        self, x: Tensor, edge_index: Tensor | None = None, batch: Tensor | None = None
    ) -> Any:
        """The outputs of graphs (B, 1); or, of features, edges and graphs, logits of all."""
        if x.is_floating_point():
            other = _graphs(x, edge_index, batch, self.collection.classes)
            return self._outputs(other).logits
        return self._outputs(self.collection.cut(x))

    def _outputs(self, graphs: Graphs) -> Outputs:
        outputs: Outputs = self.network(graphs)
        if self.head is None:
            return outputs
        features = outputs.logits.relu()
        return Outputs(self.head(features), (*outputs.hidden, features))


def build(what: Any, union: Union | Collection, examples: Tensor) -> Model:
    """A model for the nodes of a union, or for the graphs of a collection.

    Args:
        what: a name, as above; or a module, its class, or a function that makes one, in a form that
            graphkd takes (`graphkd.models.adapters`).
        union: of all blocks whose nodes, or of all graphs, that it may be asked about.
        examples: the numbers of a few nodes, or graphs, (B, 1), to try a module with.

    Raises:
        ValueError: the name is none of a model, or the module cannot be run.
    """
    name = what if isinstance(what, str) else adapters.called(what)
    model = _made(what, union, examples)
    network = model.predict
    assert isinstance(network, Network)
    beside: Callable[[str], Predict] = partial(_beside, union, examples)
    embedding: Callable[[Any], Tensor] = (
        partial(readouts.propagated, union)
        if isinstance(union, Collection)
        else partial(convolutions.propagated, union)
    )
    whole = replace(network, whole=union.whole, beside=beside, embedding=embedding)
    restored = model.restored or partial(_restored, what, union, whole)
    held = partial(_held, what, union)
    return model._replace(predict=whole, restored=restored, held=held, name=name)


def names() -> list[str]:
    """The networks that a model's name may begin with: those that ask for no types of edges."""
    return [name for name in networks.names() if name not in networks.TYPED]


def _beside(union: Union | Collection, examples: Tensor, name: str) -> Predict:
    return build(name, union, examples).predict


def _restored(
    what: Any, union: Union | Collection, own: Predict, params: Mapping[str, Tensor]
) -> nn.Module:
    """A module with these parameters, of nodes (B, 1), or of features (N, D) and edges (2, E).

    Of whole graphs also the graph of each node (N,), as `network(x, edge_index, batch)`.
    """

    def predict(values: Params, x: Any) -> Outputs:
        if isinstance(x, Tensor) and not x.is_floating_point():
            return own(values, x)
        alone = _alone(union, *(x if isinstance(x, tuple) else (x,)))
        numbers = alone.table[1:]
        return build(what, alone, numbers[:TRIED]).predict(values, numbers)

    return FunctionModule(predict, params).eval()


def _alone(
    union: Union | Collection,
    x: Tensor,
    pairs: Tensor | None = None,
    batch: Tensor | None = None,
) -> Union | Collection:
    """Other nodes, or graphs, in the place of those that a network knows."""
    if isinstance(union, Collection):
        return Collection(_graphs(x, pairs, batch, union.classes), union.mean_size)
    pairs = x.new_empty(2, 0, dtype=torch.long) if pairs is None else pairs
    unknown = pairs.new_full((len(x),), HIDDEN)
    return Union([Graph(x, edges.simple(pairs, len(x)), unknown, union.classes)])


def _graphs(x: Tensor, pairs: Tensor | None, batch: Tensor | None, classes: int) -> Graphs:
    """Features (N, D), edges (2, E) and the graph of each node, by default the same of all."""
    pairs = x.new_empty(2, 0, dtype=torch.long) if pairs is None else pairs
    owner = pairs.new_zeros(len(x)) if batch is None else batch
    unknown = pairs.new_full((int(owner.max()) + 1,), HIDDEN)
    return Graphs(x, edges.simple(pairs, len(x)), unknown, classes, owner=owner)


def _held(what: Any, union: Union | Collection, x: Tensor) -> Model:
    """The same model with the graphs of some nodes (N, 1), or with some graphs, alone."""
    return build(what, union.only(x[:, 0]), x[:TRIED])


def _made(what: Any, union: Union | Collection, examples: Tensor) -> Model:
    if not isinstance(what, str):
        return _of_module(what, (WIDTH,), union, examples)
    body, at, width = what.partition("@")
    family, *numbers = body.split("-")
    if family not in networks.NETWORKS and (is_reference(what) or what in networks.names()):
        return _of_module(networks.get(what), (WIDTH,), union, examples)
    given = [*numbers, *([width] if at else [])]
    if family not in networks.NETWORKS or not all(n.isdecimal() and int(n) > 0 for n in given):
        raise ValueError(
            f"unknown model {what!r} on a graph; {nearest(family, names())}models there are "
            f"{', '.join(names())}, each also with hidden widths, as in gcn-64, and with a width "
            "of its features, as in gat-64@64"
        )
    if family in networks.TYPED:
        raise ValueError(
            f"model {what}: {family} looks at the types of nodes and edges, and clients have none; "
            "take a network to which all edges are alike, such as gcn or gat"
        )
    last = int(width) if at else union.classes
    widths = tuple(int(n) for n in numbers) or (WIDTH,)
    if family not in KINDS:
        shown = last if at else None
        return _of_module(networks.NETWORKS[family], widths, union, examples, shown)
    if isinstance(union, Collection):
        model = readouts.model(family, widths, last, union)
    else:
        model = _of_nodes(family, [union.features, *widths, last], union)
    return with_features(model, last, union.classes) if at else model


def _of_nodes(family: str, sizes: list[int], union: Union) -> Model:
    plan = KINDS[family](len(sizes) - 1)
    one, stack = partial(convolutions.one, union, plan), partial(convolutions.stack, union, plan)
    return Model(initialiser(plan.shapes(sizes)), Network(one, stack))


def _of_module(
    network: Any,
    widths: tuple[int, ...],
    union: Union | Collection,
    examples: Tensor,
    shown: int | None = None,
) -> Model:
    """A model of a network of graphkd, or of a module of the user's; clients run in turn.

    Args:
        network: of which kind.
        widths: of its hidden layers.
        union: what it knows.
        examples: a few numbers, to try it with.
        shown: how wide the features are on which a head of its own is linear; None without one.
    """

    def make() -> nn.Module:
        if isinstance(union, Collection):
            return GraphNetwork(_on_graphs(network, widths, union, examples, shown), union, shown)
        return NodeNetwork(_on_nodes(network, widths, union, examples, shown), union, shown)

    make.__name__ = adapters.called(network)  # what messages call it
    given = isinstance(network, nn.Module)
    model = from_module(make() if given else make, examples=examples, num_classes=union.classes)
    forms = model.predict
    assert isinstance(forms, Network)
    stackable = forms.alone is None or "cannot be stacked" in forms.alone
    why = TURNS if stackable else forms.alone
    notes = (f"clients run in turn: {why}",)
    turns = partial(in_turn, forms.one)
    return model._replace(predict=replace(forms, stack=turns, alone=why), notes=notes)


def _on_nodes(
    network: Any, widths: tuple[int, ...], union: Union, examples: Tensor, shown: int | None
) -> nn.Module:
    sizes = [union.features, *widths, shown or union.classes]
    if network in networks.NETWORKS.values():
        found: nn.Module = network(sizes, 0.0)
        return found
    graph, _ = union.found(examples)
    own = adapters.adapt(adapters.make(network, sizes, 0.0), graph)
    return adapters.tried(own, graph, adapters.called(network))


def _on_graphs(
    network: Any, widths: tuple[int, ...], union: Collection, examples: Tensor, shown: int | None
) -> nn.Module:
    """A network of graphkd with a readout; a module of the user's has its own."""
    outputs = shown or union.classes
    if network in networks.NETWORKS.values():
        nodes = network([union.features, *widths, widths[-1]], 0.0)
        return readout.Readout(nodes, widths[-1], outputs, union.mean_size)
    graphs = union.cut(examples)
    own = adapters.make(network, [union.features, *widths, outputs], 0.0)
    return adapters.tried(adapters.adapt(own, graphs), graphs, adapters.called(network))
