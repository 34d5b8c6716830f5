"""Epochs of learning links: known edges against pairs drawn anew, and what a teacher says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from graphkd.data.links import Pairs
from graphkd.method import LossTerm
from graphkd.models.readout import Hadamard
from graphkd.ops.edges import keys, non_edges
from graphkd.training.loop import Step, batches, descend, hard
from kdcore.outputs import Outputs

Asked = Callable[[Tensor, Pairs, Generator], Tensor]  # as `Method.asked`


@dataclass(frozen=True, eq=False)
class LinkDistillation:
    """What a teacher says of links, and the terms of the loss by which a student learns it.

    Args:
        teacher: its network, trained.
        seen: the pairs with the teacher's inputs.
        terms: of the loss.
        asked: about which pairs, see `graphkd.method.Method.asked`.
    """

    teacher: Hadamard
    seen: Pairs
    terms: Sequence[LossTerm]
    asked: Asked

    @torch.no_grad()
    def says(self) -> Callable[[Tensor], Outputs]:
        """The teacher's logits of pairs (2, A, M), (A, M); its embeddings are made once."""
        states = self.teacher.eval().states(self.seen)

        @torch.no_grad()
        def ask(asked: Tensor) -> Outputs:
            return _logits(self.teacher, states, asked)

        return ask


def supervised(
    graph: Pairs,
    train: Tensor,
    weight: float,
    batch: int,
    distillation: LinkDistillation | None = None,
) -> Step:
    """An epoch on the edges of training, all at once or in batches, the rest dropped.

    Beside each batch are as many pairs that no edge of training joins, drawn anew. The loss is

        weight * (mean BCE) + sum of the terms

    Args:
        graph: with the student's inputs.
        train: (E,) the places of the edges among the pairs.
        weight: of the labels; 0 skips them.
        batch: edges in a step, 0 for all at once.
        distillation: what a teacher says, if there is one.
    """
    edges = graph.pairs[:, train.to(graph.pairs.device)]
    known = keys(edges, len(graph.x)).cpu()  # draws are made there
    ask = None if distillation is None else distillation.says()

    def loss(network: Hadamard, ends: Tensor, draw: Generator) -> Tensor:
        apart = non_edges(known, len(graph.x), ends.shape[1], draw).to(ends.device)
        both, states = torch.cat([ends, apart], dim=1), network.states(graph)
        total = states.new_zeros(())
        if weight:
            y = torch.arange(both.shape[1], device=ends.device) < ends.shape[1]
            total = total + weight * hard(network.logits(states, both), y.long())
        if distillation is not None and ask is not None:
            asked = distillation.asked(both, graph, draw).to(ends.device)
            own, theirs = _logits(network, states, asked), ask(asked)
            for term in distillation.terms:
                total = total + term.weight * term.loss(own, theirs, graph).mean()
        return total

    def step(network: nn.Module, optimiser: torch.optim.Optimizer, draw: Generator) -> float:
        assert isinstance(network, Hadamard)
        steps = batches(edges.shape[1], batch, draw)
        found = [edges if places is None else edges[:, places] for places in steps]
        return sum(descend(loss(network, ends, draw), optimiser) for ends in found) / len(found)

    return step


def _logits(network: Hadamard, states: Tensor, asked: Tensor) -> Outputs:
    return Outputs(network.logits(states, asked.flatten(1)).view(asked.shape[1:]))
