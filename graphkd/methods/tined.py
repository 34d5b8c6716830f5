"""TINED: the linear maps of the teacher go into the student, and how its layers smooth."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from graphkd import losses
from graphkd.graph import Graph, Part
from graphkd.method import DistillationContext, LossTerm, Method, Share, Width
from graphkd.models import networks
from graphkd.models.layers import linear
from graphkd.ops.dropout import dropout
from graphkd.ops.sparse import Matrix
from graphkd.training import published
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.settings import Setting


@dataclass(frozen=True)
class TINED(Method):
    r"""An MLP takes over the linear maps of a graph network, and learns how its layers smooth.

    Zhou, Ding, Shi, Li and Shen, "TINED: GNNs-to-MLPs by Teacher Injection and Dirichlet Energy
    Distillation", ICML 2025, https://arxiv.org/abs/2412.11180; the authors' code is at
    https://github.com/scottjiao/TINED_ICML25.

        L = \lambda mean_{train} CE + (1 - \lambda) mean_i KL(teacher_i || student_i)
            + \beta \sum_l (1/2 \log R^student_l - 1/2 \log R^teacher_l)^2
        R_l = E(output of l) / E(input of l)
        E(H) = \sum_{(i, j) in edges} | h_i / |h_i| - h_j / |h_j| |^2

    A layer of the teacher is a linear map and a propagation, the map first where it narrows. The
    student has a linear map in place of each: the teacher's own where that has one, trained on at
    `injected_share` of the learning rate, and one that begins as the identity (or at random) in
    place of the propagation. R says whether a step smooths (below 1). No gradient passes through
    the norms |h_i|.

    Convention: lambda is `hard_weight`, 1 minus theirs; logarithms of energies, both of them
    square roots, and a ReLU after each map but the last, as in their code. Ours: one step on the
    sum, where theirs takes one for each term and one on the energies in an epoch; a step in random
    batches; the epoch by validation accuracy, where theirs goes by the loss; only edges between
    nodes on which the teacher may teach; a layer without energy counts as R = 1; all maps in place
    of propagation begin as identities, where inductive records of theirs draw some. Layers are not
    normalised, as theirs are on the Amazon graphs. Teachers are gcn and sage; of gat and appnp,
    which the paper has too, none. The student alone has as many layers, and nobody's maps.
    """

    copies = ("gcn", "sage")
    published_settings = published.TINED

    teacher_hidden: Width = 128
    hard_weight: Share = None
    batch: int = 512
    epochs: int = 500
    energy_weight: Annotated[float | None, Setting("beta, of how layers smooth", ge=0)] = None
    edge_share: Annotated[
        float | None, Setting("of the edges, drawn for each step", ge=1e-6, le=1)
    ] = None
    injected_share: Annotated[
        float | None, Setting("of the learning rate, for the teacher's maps", ge=0, le=100)
    ] = None
    start: Annotated[
        Literal["identity", "random"], Setting("of the maps in place of propagation")
    ] = "identity"

    def __post_init__(self) -> None:
        """Refuse networks whose maps do not fit into one another."""
        super().__post_init__()
        if self.student != "mlp" or self.teacher not in self.copies:
            raise ValueError(
                f"the teacher is {self.teacher} and the student {self.student}; tined copies the "
                f"linear maps of a {' or '.join(self.copies)} into an mlp: take these, or glnn"
            )
        for size, theirs in (("hidden", self.teacher_hidden), ("layers", self.teacher_layers or 2)):
            if getattr(self, size) not in (None, theirs):
                raise ValueError(
                    f"{size} is {getattr(self, size)} and teacher_{size} {theirs}; tined copies "
                    f"the teacher's linear maps: give both of them the same {size}"
                )

    def build(self, network: nn.Module, graph: Graph) -> nn.Module:
        """An MLP with two maps for each of the teacher's layers."""
        assert isinstance(network, networks.MLP)
        sizes = [graph.x.shape[1]]
        for layer in network.layers:
            sizes += [layer.out_features if _narrows(layer.weight) else sizes[-1]]
            sizes += [layer.out_features]
        deeper = networks.MLP(sizes, network.dropout)
        for layer in [] if self.start == "random" else _split(deeper)[1]:
            nn.init.eye_(layer.weight)
            nn.init.zeros_(layer.bias)
        return deeper

    def begin(self, context: DistillationContext) -> None:
        """The teacher's linear maps, copied."""
        inner = _teacher(context)
        for own, theirs in zip(_split(context.student)[0], inner.layers, strict=True):
            weight, bias = _map(theirs)
            if own.weight.shape != weight.shape:
                raise ValueError(
                    f"a linear map of the teacher is {tuple(weight.shape)} and that of the student "
                    f"{tuple(own.weight.shape)}: tined needs the inputs 'features' and a teacher "
                    "of the same width"
                )
            own.load_state_dict({"weight": weight, "bias": bias})
            own.rate_share = self.injected_share

    def terms(self, context: DistillationContext) -> tuple[LossTerm, ...]:
        """Soft labels and energies."""
        assert self.hard_weight is not None
        assert self.energy_weight is not None
        soft = partial(losses.soft_labels, temperature=1.0)
        found = [LossTerm(soft, 1 - self.hard_weight)]
        if self.energy_weight:
            found.append(LossTerm(_Smoothing(self, context), self.energy_weight))
        return tuple(found)


class _Smoothing:
    """How far the student's layers are from smoothing as the teacher's do; one number."""

    def __init__(self, method: TINED, context: DistillationContext):
        assert method.edge_share is not None
        assert isinstance(context.student, networks.MLP)
        self.network, self.graph = context.student, context.view.graph
        part = self.graph.take(context.view.part("soft").to(self.graph.x.device))
        joined = part.total.row != part.total.rows.columns  # which is not so of a node and itself
        self.energy = _Energy(part.nodes, part.total.with_values(joined.to(self.graph.x.dtype)))
        self.places = joined.nonzero()[:, 0]
        self.count = max(1, int(method.edge_share * len(self.places)))
        self.draw = generator(context.seed, "energies")
        with torch.no_grad():
            self.of_inputs = self.energy(self.graph.x)
            self.targets = list(_of_teacher(_teacher(context), context.seen, self.energy))

    def __call__(self, student: Outputs, teacher: Outputs, graph: Graph | Part) -> Tensor:
        """The sum over layers, whatever the nodes of the step are."""
        energy, before = self.energy, self.of_inputs
        if self.count < len(self.places):
            chosen = torch.randperm(len(self.places), generator=self.draw)[: self.count]
            energy = energy.of(self.places[chosen.to(self.places.device)])
            before = energy(self.graph.x)
        total = before.new_zeros(())
        for target, ratio in zip(self.targets, self._ratios(energy, before), strict=True):
            total = total + (0.5 * ratio - 0.5 * target).square()
        return total

    def _ratios(self, energy: "_Energy", before: Tensor) -> Iterator[Tensor]:
        """Log R of each layer of the student."""
        network, last = self.network, len(self.network.layers) - 1
        h: Any = self.graph.features
        for i, layer in enumerate(network.layers):
            h = linear(h, layer.weight, layer.bias)
            yield _log_ratio(before, energy(h))
            if i < last:
                h = dropout(h.relu(), network.dropout, network.training)
                before = energy(h)


class _Energy:
    r"""E(H) of some nodes: \sum_ij A_ij |u_i - u_j|^2, by ends |u_i|^2 less twice u_i . (A u)_i."""

    def __init__(self, nodes: Tensor, matrix: Matrix):
        self.nodes, self.matrix = nodes, matrix
        ones = matrix.rows.values.new_ones(len(nodes), 1)
        self.ends = matrix.rows.times(ones) + matrix.transposed.times(ones)

    def of(self, entries: Tensor) -> "_Energy":
        """The same of these entries of A alone."""
        values = torch.zeros_like(self.matrix.rows.values).index_fill(0, entries, 1.0)
        return _Energy(self.nodes, self.matrix.with_values(values))

    def __call__(self, h: Tensor) -> Tensor:
        """One number; rows of zeros have no direction and stay zeros."""
        own = h[self.nodes]
        norms = own.detach().norm(dim=1, keepdim=True)
        unit = own / torch.where(norms > 0, norms, 1.0)
        return (unit * (self.ends * unit - 2 * (self.matrix @ unit))).sum()


def _of_teacher(network: Any, graph: Graph, energy: _Energy) -> Iterator[Tensor]:
    """Log R of each step of a teacher, in the order in which the student has them."""
    adjacency = graph.mean if isinstance(network, networks.SAGE) else graph.normalized
    h = graph.x
    for layer in network.layers:
        weight, bias = _map(layer)
        inner = h @ weight.T if _narrows(weight) else adjacency @ h
        outer = adjacency @ inner if _narrows(weight) else inner @ weight.T
        first, second, third = (energy(one) for one in (h, inner, outer))
        yield from (_log_ratio(first, second), _log_ratio(second, third))
        h = (outer + bias).relu()


def _log_ratio(before: Tensor, after: Tensor) -> Tensor:
    """The logarithm of a ratio, 0 where one of the two is 0, or below it by rounding."""
    positive = bool(before > 0) and bool(after > 0)
    return after.log() - before.log() if positive else before.new_zeros(())


def _narrows(weight: Tensor) -> bool:
    return weight.shape[1] > weight.shape[0]


def _split(network: Any) -> tuple[list[Any], list[Any]]:
    """The layers in place of linear maps, and those in place of propagations."""
    pairs = list(zip(network.layers[::2], network.layers[1::2], strict=True))
    first = [_narrows(a.weight) for a, _ in pairs]
    ordered = [pair if yes else pair[::-1] for yes, pair in zip(first, pairs, strict=True)]
    return [a for a, _ in ordered], [b for _, b in ordered]


def _map(layer: Any) -> tuple[Tensor, Tensor]:
    """The weight and bias of a convolution of PyG's."""
    return (
        (layer.lin_l.weight, layer.lin_l.bias)
        if hasattr(layer, "lin_l")
        else (layer.lin.weight, layer.bias)
    )


def _teacher(context: DistillationContext) -> Any:
    """The graph network that teaches."""
    assert context.teacher is not None
    inside = context.teacher.modules()
    return next(one for one in inside if isinstance(one, networks.GCN | networks.SAGE))
