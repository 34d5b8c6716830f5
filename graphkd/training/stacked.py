"""Many networks trained as one: several seeds of a method, or a grid of students.

Each network comes out as `graphkd.training.loop.fit` would have it, up to rounding: its own draws
of dropout, its own early stopping, its own Adam. Adam divides by the size of a gradient, so where
one is zero but for rounding, rounding can become a step: losses agree to 1e-5 on Cora in float32,
and to 1e-9 in float64 anywhere.

What is gained is the time that is not arithmetic, and the rows of a graph that no loss depends on;
the latter in a stack of one as well. With dense features or on large graphs stacking gains little
or nothing. Large graphs, and networks whose layers cannot be stacked, are trained one after the
other. docs/performance.md has figures.
"""

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from graphkd.core import Epoch, StudentSpec, TeacherSpec
from graphkd.graph import Graph
from graphkd.models.stacked import (
    ADJACENCY,
    Joint,
    MessageFlow,
    draw,
    dropped,
    forward,
    join,
    message_flow,
    stack,
    unstack,
)
from graphkd.training import loop
from graphkd.training.loop import Fitted, Step, apart, descend, hard, scores, start
from kdcore.losses import response
from kdcore.outputs import Outputs
from kdcore.rng import generator

LARGE = 100_000  # nodes of all graphs together from which a stack falls out of the cache


class Pass(NamedTuple):
    """One step of training: the nodes asked of the network, and the loss of what it shows there.

    Shapes:
        nodes: (n,) ids, or None for all; the loss is a scalar.
    """

    nodes: Tensor | None
    loss: Callable[[Outputs], Tensor]


@dataclass(frozen=True)
class OnLabels:
    """The mean loss on true targets (n,), times a weight; a stack has it of all members at once."""

    y: Tensor
    weight: float

    def __call__(self, outputs: Outputs) -> Tensor:
        """The loss of one network."""
        return self.weight * hard(outputs.logits, self.y)


Passes = Callable[[torch.Generator], Iterable[Pass]]  # of an epoch


class Member(NamedTuple):
    """A network to train with others: what `graphkd.training.loop.fit` takes, but for `passes`.

    Args:
        network: a fresh one; is trained in place.
        graph: whose validation labels select.
        val: (n,) validation nodes.
        passes: the steps of one epoch, which may draw from the generator.
        seed: of dropout and of what `passes` draws.
        beside: modules with parameters that are trained too, and then forgotten.
    """

    network: nn.Module
    graph: Graph
    val: Tensor
    passes: Passes
    seed: int
    beside: Sequence[nn.Module] = ()


Fits = Generator[tuple[int, Epoch], None, list[Fitted]]


def labels(graph: Graph, train: Tensor, weight: float = 1.0) -> Passes:
    """An epoch of one step on the labels of the training nodes, as `training.supervised`."""
    one = Pass(train, OnLabels(graph.y[train], weight))
    return lambda _: [one]


def alone(graph: Graph, passes: Passes) -> Step:
    """The same epoch for a network that is trained alone, by `training.fit`."""

    def step(network: nn.Module, optimiser: torch.optim.Optimizer, draw: torch.Generator) -> float:
        losses = [descend(one.loss(network(graph, one.nodes)), optimiser) for one in passes(draw)]
        return sum(losses) / len(losses)

    return step


def fit(phase: str, description: TeacherSpec | StudentSpec, members: Sequence[Member]) -> Fits:
    """Train all members by `training.fit`'s rules; yields (member, epoch), gives all `Fitted`.

    Args:
        phase: the name of the epochs, as for `training.fit`.
        description: how all of them are trained.
        members: networks of one kind and shape, each with a graph, nodes, losses and a seed of its
            own; graphs may be one and the same.

    Raises:
        ValueError: a loss is no longer a number, or the members' epochs have not the same number
            of steps.
    """
    kinds = {type(member.network) for member in members}
    nodes = sum(member.graph.num_nodes for member in members)
    if len(kinds) > 1 or not kinds <= set(ADJACENCY) or nodes > LARGE:
        return (yield from _one_by_one(phase, description, members))
    return (yield from _Stack(phase, description, members).fit())


def _one_by_one(phase: str, how: TeacherSpec | StudentSpec, members: Sequence[Member]) -> Fits:
    found = []
    for k, one in enumerate(members):
        step = alone(one.graph, one.passes)
        fitting = loop.fit(phase, one.network, how, one.graph, one.val, step, one.seed, one.beside)
        while True:
            try:
                yield k, next(fitting)
            except StopIteration as stop:
                found.append(stop.value)
                break
    return found


class _Progress:
    """What early stopping knows of a member."""

    def __init__(self) -> None:
        self.highest, self.stale, self.chosen = -math.inf, 0, 0
        self.weights: list[tuple[Tensor, Tensor]] = []


class _Stack:
    """The members that are still in training, their parameters and their optimiser."""

    def __init__(self, phase: str, how: TeacherSpec | StudentSpec, members: Sequence[Member]):
        self.phase, self.how, self.members = phase, how, members
        self.role = "teacher" if phase.startswith("teacher") else "student"
        self.kind, self.device = type(members[0].network), members[0].graph.x.device
        self.progress = [_Progress() for _ in members]
        self.stacked = stack([member.network for member in members])
        self.optimiser = self._adam([x for layer in self.stacked for x in layer])
        self.beside = nn.ModuleList(one for member in members for one in member.beside)
        learnt = list(self.beside.parameters())
        self.others = [self._adam(learnt)] if learnt else []
        self.judged = [self._flow(member.graph, member.val) for member in members]
        self.joint: Joint | None = None
        self.lasts: list[tuple[Tensor | None, MessageFlow] | None] = [None] * len(members)
        self._go_on(list(range(len(members))))

    def fit(self) -> Fits:
        for index in range(self.how.epochs):
            losses = self._epoch(index)
            for k, loss in zip(self.active, losses, strict=True):
                if not math.isfinite(loss):
                    raise ValueError(
                        f"the loss of the {self.phase} is {loss} in epoch {index} of seed "
                        f"{self.members[k].seed}; training diverged: lower its learning rate (now "
                        f"{self.how.lr}) or the weights of its terms"
                    )
            accuracies = self._judge()
            for place, (k, loss) in enumerate(zip(self.active, losses, strict=True)):
                best = self._select(place, k, index, accuracies[place])
                yield k, Epoch(self.phase, index, loss, accuracies[place], best)
            patience = self.how.patience
            going = [p for p, k in enumerate(self.active) if self.progress[k].stale != patience]
            if not going:
                break
            if len(going) < len(self.active):
                self._drop(going)
        return [self._finish(k) for k in range(len(self.members))]

    def _epoch(self, index: int) -> list[float]:
        """One epoch of every active member; gives their mean losses."""
        self.beside.train()
        epochs, drawn = [], []
        widths = [bias.shape[1] for _, bias in self.stacked[:-1]] if self.how.dropout else []
        with apart(self.device):
            for k in self.active:
                _, graph, _, passes, seed, _ = self.members[k]
                start(seed, self.device, self.role, index)
                steps = list(passes(generator(seed, self.role, "draw", index)))
                drawn.append([draw(self.kind, graph, one.nodes, widths) for one in steps])
                epochs.append(steps)
        if len({len(steps) for steps in epochs}) > 1:
            raise ValueError(
                f"the members of a stack take {sorted(map(len, epochs))} steps an epoch; expected "
                "the same number: train them in stacks of their own"
            )
        losses = [
            self._step(own, [parts[step] for parts in drawn])
            for step, own in enumerate(zip(*epochs, strict=True))
        ]
        return [sum(own) / len(own) for own in zip(*losses, strict=True)]

    def _step(self, passes: Sequence[Pass], drawn: list[list[Tensor]]) -> list[float]:
        joint = self._joint([one.nodes for one in passes])
        noise = dropped(joint, drawn, self.how.dropout, self.stacked[0][0].dtype)
        hidden, logits = forward(self.stacked, joint, noise)
        losses = _losses([one.loss for one in passes], hidden, logits, joint.counts)
        for optimiser in (self.optimiser, *self.others):
            optimiser.zero_grad()
        losses.sum().backward()
        for optimiser in (self.optimiser, *self.others):
            optimiser.step()
        found: list[float] = losses.detach().tolist()
        return found

    def _joint(self, nodes: Sequence[Tensor | None]) -> Joint:
        """The flow of a pass; nothing is worked out anew for the very same nodes."""
        same = self.joint is not None
        for k, ids in zip(self.active, nodes, strict=True):
            last = self.lasts[k]
            if last is None or last[0] is not ids:
                self.lasts[k] = ids, self._flow(self.members[k].graph, ids)
                same = False
        if self.joint is None or not same:
            flows = [last[1] for k in self.active if (last := self.lasts[k]) is not None]
            self.joint = join(flows)
        return self.joint

    def _flow(self, graph: Graph, nodes: Tensor | None) -> MessageFlow:
        return message_flow(self.kind, len(self.stacked), graph, nodes)

    @torch.no_grad()
    def _judge(self) -> list[float]:
        _, logits = forward(self.stacked, self.val)
        return scores(logits, self.y)

    def _select(self, place: int, k: int, index: int, accuracy: float) -> bool:
        progress = self.progress[k]
        best = accuracy >= progress.highest
        progress.stale = 0 if best else progress.stale + 1
        if best:
            progress.highest, progress.chosen = accuracy, index
            progress.weights = [
                (weight[place].detach().clone(), bias[place].detach().clone())
                for weight, bias in self.stacked
            ]
        return best

    def _go_on(self, active: list[int]) -> None:
        """From now on these members are trained."""
        self.active, self.joint = active, None
        self.val = join([self.judged[k] for k in active])
        self.y = [self.members[k].graph.y[self.members[k].val] for k in active]

    def _drop(self, going: list[int]) -> None:
        """Go on with these places of the stack."""
        place = torch.tensor(going, device=self.device)
        before, states = self.stacked, self.optimiser.state
        self.stacked = [
            (weight.detach()[place].requires_grad_(), bias.detach()[place].requires_grad_())
            for weight, bias in before
        ]
        self.optimiser = self._adam([x for layer in self.stacked for x in layer])
        for old, new in zip(before, self.stacked, strict=True):
            for a, b in zip(old, new, strict=True):
                moments = {name: states[a][name][place] for name in ("exp_avg", "exp_avg_sq")}
                self.optimiser.state[b] = {"step": states[a]["step"], **moments}
        self._go_on([self.active[p] for p in going])

    def _adam(self, parameters: Sequence[Tensor]) -> torch.optim.Adam:
        how = self.how
        return torch.optim.Adam(parameters, how.lr, weight_decay=how.weight_decay, fused=True)

    def _finish(self, k: int) -> Fitted:
        network, progress = self.members[k].network, self.progress[k]
        unstack(network, progress.weights)
        return Fitted(network.eval().requires_grad_(False), progress.chosen)


def _losses(
    losses: Sequence[Callable[[Outputs], Tensor]],
    hidden: Sequence[Tensor],
    logits: Tensor,
    counts: list[int],
) -> Tensor:
    """The loss of each member, (K,), of what all of them show one under the other."""
    known = [one for one in losses if isinstance(one, OnLabels)]
    classes = logits.shape[1] > 1 and not any(one.y.is_floating_point() for one in known)
    if classes and len(known) == len(losses):
        return _on_labels(known, logits, counts)
    own = zip(*(h.split_with_sizes(counts) for h in [*hidden, logits]), strict=True)
    shown = (Outputs(parts[-1], tuple(parts[:-1])) for parts in own)
    return torch.stack([loss(one) for loss, one in zip(losses, shown, strict=True)])


def _on_labels(losses: Sequence[OnLabels], logits: Tensor, counts: list[int]) -> Tensor:
    each = response.cross_entropy(logits, torch.cat([one.y for one in losses]))
    if len(set(counts)) == 1:
        means = each.view(len(counts), -1).mean(dim=1)
    else:
        means = torch.stack([part.mean() for part in each.split_with_sizes(counts)])
    return means * means.new_tensor([one.weight for one in losses])
