"""What is kept of a finished run for its pictures: what its networks say of the test nodes.

Small tensors by name, for a safe file of some 100 kB, in 32 bits. The n test nodes (of many graphs:
graphs) are those that `accuracy` is about, or MOST of them, drawn at random; WHO is "teacher",
"baseline" (the student without a teacher) or "student", as far as the method has them.

    label (n,)          the true class
    degree (n,)         neighbours in the graph of the evaluation; of a whole graph, its nodes
    WHO.predicted, WHO.confidence (n,)
                        the class with the largest probability, and that probability
    placed (m,)         which of the n are in the pictures of embeddings
    WHO.place (m, 2)    their last hidden states (of a network without any: logits), by principal
                        components
    WHO.variance (2,)   the share of the variance that each component has
    WHO.seconds (c,)    latency of one node, in the scenario "cold" of `graphkd.evaluation.latency`
    drawn.edges (2, e)  a small graph: k nodes around a test node; of many graphs, some of them
    drawn.label (k,)    the true class of its nodes
    WHO.drawn (k,)      the predicted one; not of many graphs
    drawn.known (k,)    whether the label of a node was known in training; not of many graphs
    drawn.owner, drawn.kind (k,)
                        of many graphs alone: which of the n a node is in, and its largest feature
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from graphkd.core import Split, Trained, View
from graphkd.data.graph_collection import Graphs
from graphkd.data.links import Pairs
from graphkd.data.neighbor_sampling import all_neighbours
from graphkd.evaluation import latency
from graphkd.graph import Graph
from graphkd.training.loop import predict
from kdcore.outputs import Outputs
from kdcore.rng import generator

MOST = 20_000  # test nodes
PLACED = 600  # of them, in pictures of embeddings
DRAWN = 40  # nodes of a small graph
GRAPHS = 10  # of many, that are drawn
CALLS, SECONDS = 10, 1.0  # that are timed of each network, and for how long at the most


def predictions(split: Split, trained: Mapping[str, Trained], seed: int) -> dict[str, Tensor]:
    """What pictures of a run are drawn from, on the CPU; nothing for real targets and links.

    Args:
        split: that the networks were trained on.
        trained: by name, as `graphkd.core.Result` has it.
        seed: of what is drawn at random.
    """
    view = split.view("evaluate")
    if view.graph.y.is_floating_point() or isinstance(view.graph, Pairs):
        return {}
    draw = generator(seed, "portrait")
    test = view.part("ind" if "ind" in split.parts else "tran")
    test = test[torch.randperm(len(test), generator=draw)[:MOST].sort().values]
    placed = torch.randperm(len(test), generator=draw)[:PLACED].sort().values
    around = _few(view.graph, test, draw)
    found = {
        "label": view.graph.y[test].cpu(),
        "degree": _degree(view.graph)[test],
        "placed": placed,
        **_drawn(view, test, around),
    }
    for who, one in trained.items():
        graph = one.encode(view)
        outputs = predict(one.network, graph)
        about = _about(outputs, test, test[placed])
        if not isinstance(graph, Graphs):
            about["drawn"] = outputs.logits[around].argmax(1).cpu()
        about["seconds"] = _seconds(one.network, graph, seed)
        found |= {f"{who}.{name}": value for name, value in about.items()}
    return {name: _small(value) for name, value in found.items()}


def _small(value: Tensor) -> Tensor:
    kinds = {torch.int64: torch.int32, torch.float64: torch.float32}
    return value.to(kinds.get(value.dtype, value.dtype)).contiguous()


def _seconds(network: nn.Module, graph: Graph, seed: int) -> Tensor:
    """The latency of some calls, (c,); of one if that is slow."""

    def calls(repeats: int, warmup: int) -> tuple[float, ...]:
        settings = {"repeats": repeats, "warmup": warmup, "seed": seed}
        return latency.measure({"it": network}, graph, "cold", **settings)["it"].seconds

    first = calls(1, 1)
    more = min(CALLS, int(SECONDS / first[0]))
    return torch.tensor(calls(more, 0) if more else first)


def _about(outputs: Outputs, test: Tensor, placed: Tensor) -> dict[str, Tensor]:
    """What a network says of the test nodes, and where it has those that are placed."""
    confidence, predicted = outputs.logits[test].double().softmax(1).max(1)
    states = (outputs.hidden or (outputs.logits,))[-1][placed].cpu().double()
    place, variance = _components(states)
    return {
        "predicted": predicted.cpu(),
        "confidence": confidence.cpu(),
        "place": place.float(),
        "variance": variance.float(),
    }


def _components(states: Tensor) -> tuple[Tensor, Tensor]:
    """The first two principal components (m, 2) of states (m, H), and their shares of variance.

    Pearson, "On lines and planes of closest fit to systems of points in space", Philosophical
    Magazine 1901, https://doi.org/10.1080/14786440109462720. Convention: the entry of a component
    that is largest in size is positive, so that the same states are the same picture.
    """
    centred = states - states.mean(0)
    _, spread, axes = torch.linalg.svd(centred, full_matrices=False)
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    place, share = centred @ (axes * largest).T, spread**2 / (spread**2).sum().clamp(min=1e-30)
    room = (0, max(0, 2 - place.shape[1]))
    return F.pad(place[:, :2], room), F.pad(share[:2], room)


def _degree(graph: Graph) -> Tensor:
    ends = graph.owner if isinstance(graph, Graphs) else graph.edge_index[1]
    return torch.bincount(ends, minlength=graph.num_nodes).cpu()


def _few(graph: Graph, test: Tensor, draw: torch.Generator) -> Tensor:
    """Nodes around a test node, nearest first; of many graphs, some that are not large."""
    order = test[torch.randperm(len(test), generator=draw)]
    degree = _degree(graph)[order]
    if isinstance(graph, Graphs):
        return order[degree <= DRAWN][:GRAPHS]
    ids = order[[int((degree > 0).int().argmax())]].to(graph.x.device)  # one with neighbours
    while len(ids) < DRAWN:
        near = all_neighbours(graph, ids)[1]
        fresh = near[~torch.isin(near, ids)].unique()
        if not len(fresh):
            break
        ids = torch.cat([ids, fresh])
    return ids[:DRAWN].cpu()


def _drawn(view: View, test: Tensor, few: Tensor) -> dict[str, Tensor]:
    """The small graph of these nodes; or these graphs, side by side in one."""
    part = view.graph.subgraph(few.to(view.graph.x.device))
    found = {"edges": part.edge_index}
    if isinstance(part, Graphs):
        owner = torch.searchsorted(test, few)[part.owner.cpu()]
        found |= {"owner": owner, "kind": part.x.argmax(1), "label": part.y[part.owner]}
    else:
        known = torch.cat([view.part(name) for name in ("train", "val")])
        found |= {"known": torch.isin(few, known), "label": part.y}
    return {f"drawn.{name}": value.cpu() for name, value in found.items()}
