"""Modules of the user's, called and answering as `graphkd.models.networks` do.

| forward | what it is called with |
|---|---|
| forward(graph, nodes=None) | as the networks here |
| forward(x, edge_index) | as of PyTorch Geometric: all nodes; edges both ways, without loops |
| forward(x, edge_index, batch) | the same of whole graphs: the graph of each node |
| forward(x) | the features of the nodes that are asked for: it needs no graph |

It gives logits (n, C); or, where a method compares hidden states, `Outputs`, a tuple (logits,
hidden state, ...), or something with `logits` and `hidden`, each state (n, H).
"""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphkd.data.graph_collection import Graphs
from graphkd.graph import Graph
from graphkd.models.layers import answering, rows
from kdcore.outputs import Outputs

BY_NAME = "in_channels, hidden_channels, num_layers, out_channels, dropout"  # as PyG names them


class Adapter(nn.Module):
    """A module of the user's, `module`, in the form of a network.

    Parts that the user has put in evaluation mode, such as frozen batch normalisation in a module
    that is in training mode, stay so in training.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module
        self._still = [m for m in module.modules() if module.training and not m.training]

    def train(self, mode: bool = True) -> "Adapter":
        """As of any module, but for parts that stay in evaluation mode."""
        super().train(mode)
        for part in self._still:
            part.eval()
        return self


class FeatureModule(Adapter):
    """forward(x): each node by itself."""

    @answering
    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Outputs:
        """See the module."""
        return read(self.module(graph.x if nodes is None else graph.x[nodes]))


class EdgeModule(Adapter):
    """forward(x, edge_index): all nodes at once, of which some are asked for."""

    @answering
    def forward(self, graph: Graph, nodes: Tensor | None = None) -> Outputs:
        """See the module."""
        outputs = read(self.module(graph.x, graph.edge_index))
        return outputs if nodes is None else rows(outputs, nodes)


class BatchModule(Adapter):
    """forward(x, edge_index, batch): whole graphs, of which some are asked for."""

    def forward(self, graphs: Graphs, examples: Tensor | None = None) -> Outputs:
        """See the module."""
        asked = graphs if examples is None else graphs.take(examples)
        return read(self.module(asked.x, asked.edge_index, asked.owner))


def adapt(module: nn.Module, graph: Graph) -> nn.Module:
    """A module in the form of a network for the examples of a graph; one in that form itself."""
    names = list(inspect.signature(module.forward).parameters)
    if names[:1] in (["graph"], ["graphs"]):
        return module
    if isinstance(graph, Graphs) and "batch" in names:
        return BatchModule(module)
    return EdgeModule(module) if takes_edges(module) else FeatureModule(module)


def takes_edges(module: nn.Module) -> bool:
    """Whether a module's forward wants edges beside the features."""
    given = inspect.signature(module.forward).parameters
    needed = [p for p in given.values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    several = any(p.kind is p.VAR_POSITIONAL for p in needed)
    return "edge_index" in given or len(needed) > 1 or several


def read(found: Any) -> Outputs:
    """What a module of the user's gives, as `Outputs`.

    Raises:
        ValueError: there are no logits in it.
    """
    if isinstance(found, Outputs):
        return found
    if isinstance(found, Tensor):
        return Outputs(found)
    if isinstance(found, Sequence) and found and isinstance(found[0], Tensor):
        return Outputs(found[0], _states(found[1:]))
    logits = found.get("logits") if isinstance(found, Mapping) else getattr(found, "logits", None)
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"it gives {type(found).__name__}; expected logits, a tensor with a row for each node, "
            "or (logits, hidden state, ...)"
        )
    held = found if isinstance(found, Mapping) else vars(found)
    return Outputs(logits, _states([held.get("hidden", ())]))


def _states(found: Sequence[Any]) -> tuple[Tensor, ...]:
    """The hidden states in a tuple of tensors and of tuples of them."""
    opened = [[one] if isinstance(one, Tensor) else list(one or ()) for one in found]
    return tuple(one for several in opened for one in several)


def make(
    network: Callable[..., nn.Module] | nn.Module, sizes: Sequence[int], dropout: float
) -> nn.Module:
    """A fresh module: a copy of one, or what a class or function gives.

    It is called with those of (sizes, dropout) or of PyG's in_channels, hidden_channels,
    num_layers, out_channels and dropout that it has arguments of; with nothing if it needs nothing;
    else with the number of features and of classes, and the width between them if it needs three.

    Raises:
        ValueError: it cannot be made so.
    """
    if isinstance(network, nn.Module):
        return copy.deepcopy(network)
    try:
        made = network(**arguments(network, sizes, dropout))
    except Exception as error:
        raise ValueError(
            f"network {called(network)} cannot be made for {sizes[0]} features and {sizes[-1]} "
            f"classes: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"network {called(network)} gives {made!r}; expected a torch.nn.Module")
    return made


def arguments(
    network: Callable[..., Any], sizes: Sequence[int], dropout: float
) -> dict[str, object]:
    """With which arguments a class or function makes a network from `sizes[0]` to `sizes[-1]`.

    Raises:
        ValueError: it needs others.
    """
    given = inspect.signature(network).parameters
    plain = [p for p in given.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    known: dict[str, object] = {
        "sizes": list(sizes),
        "shape": (sizes[0],),
        "in_channels": sizes[0],
        "hidden_channels": sizes[1],
        "num_layers": len(sizes) - 1,
        "out_channels": sizes[-1],
        "classes": sizes[-1],
        "dropout": dropout,
    }
    needed = [p.name for p in plain if p.default is p.empty]
    if set(needed) <= set(known):
        return {p.name: known[p.name] for p in plain if p.name in known}
    by_place = {2: (sizes[0], sizes[-1]), 3: (sizes[0], sizes[1], sizes[-1])}
    if len(needed) not in by_place:
        raise ValueError(
            f"it needs {', '.join(needed)}; expected arguments named as {BY_NAME}, or two: the "
            "number of features and of classes"
        )
    return dict(zip(needed, by_place[len(needed)], strict=True))


def called(network: object) -> str:
    """What a network is called: a name, or that of its class or function."""
    if isinstance(network, str):
        return network
    named = type(network) if isinstance(network, nn.Module) else network
    return str(getattr(named, "__name__", type(network).__name__))


@torch.no_grad()
def tried(network: nn.Module, graph: Graph, name: str) -> nn.Module:
    """The network after it has run once, which gives lazy layers their sizes.

    Raises:
        ValueError: it cannot run on this graph, or its logits are not a row of C for each node.
    """
    try:
        outputs = network.eval()(graph)
    except Exception as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"network {name} cannot run on {graph.x.shape[1]} features of {graph.name}: "
            f"{type(error).__name__}: {said}"
        ) from error
    expected = (graph.num_nodes, graph.classes)
    if tuple(outputs.logits.shape) != expected:
        raise ValueError(
            f"network {name} gives logits of shape {tuple(outputs.logits.shape)}; expected "
            f"{expected}: a row for each example and a column for each class"
        )
    if wrong := [tuple(h.shape) for h in outputs.hidden if h.ndim != 2 or len(h) != expected[0]]:
        raise ValueError(
            f"network {name} shows a hidden state of shape {wrong[0]}; expected a row for each of "
            f"{expected[0]} examples"
        )
    return network.train()
