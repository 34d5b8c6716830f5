"""KRD: labels of neighbours, as far as they can be relied on."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from graphkd import losses
from graphkd.graph import Graph, Part
from graphkd.losses import reliability
from graphkd.method import DistillationContext, LossTerm, Method, Share, Temperature
from graphkd.models import networks
from graphkd.training import published
from graphkd.training.loop import predict
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.settings import Setting


@dataclass(frozen=True)
class KRD(Method):
    r"""A graph network teaches an MLP its labels of a node and of the reliable neighbours.

    Wu, Lin, Huang and Li, "Quantifying the Knowledge in GNNs for Reliable Distillation into
    MLPs", ICML 2023, https://arxiv.org/abs/2306.05628.

        L = \lambda mean_{train} CE + (1 - \lambda) mean_{(i, j) kept} KL(teacher_j || student_i)

    with both sides softened by the temperature. An edge from j is kept with probability
    1 - rho_j^a, where rho_j is how much the teacher's entropy at j changes under noise, and a
    follows, with `momentum`, how often student and teacher agree at nodes of this rho; see
    `losses.reliability`. For the first `warmup` epochs all edges are kept.

    Unreliability and agreement are of the nodes on which the teacher may teach, no others.

    Convention: as in the authors' code all nodes at once, 500 epochs at most, the temperature
    without its square, and a mean over the kept pairs and the nodes themselves, not over nodes.
    """

    asks_teacher_again = True
    published_settings = published.KRD

    hard_weight: Share = None
    temperature: Temperature = None
    epochs: int = 500
    momentum: Annotated[float, Setting("with which a is followed", ge=0, le=1)] = 0.99
    warmup: Annotated[int, Setting("epochs in which all edges are kept", ge=0)] = 50
    bins: Annotated[int, Setting("of rho, to find a by", ge=2)] = 50

    def terms(self, context: DistillationContext) -> tuple[LossTerm, ...]:
        """Labels along the edges that are kept."""
        assert self.hard_weight is not None
        assert self.temperature is not None
        weight = (1 - self.hard_weight) / self.temperature**2
        return (LossTerm(_Reliable(self, context), weight),)


class _Reliable(torch.nn.Module):
    """The loss along the edges that are kept, with the power that decides on them."""

    def __init__(self, method: KRD, context: DistillationContext):
        super().__init__()
        assert context.teacher is not None
        assert context.targets is not None
        self.method, self.power, self.calls = method, 1.0, 0
        self.draw = generator(context.seed, "kept edges")
        # Parameters of the networks are not this loss's own: no attributes that are modules.
        self.calm: Callable[[Outputs], Tensor] = partial(_calm, context.student, context.view.graph)
        self.targets, self.soft = context.targets, context.view.part("soft")
        noise = torch.randn(context.seen.x.shape, generator=generator(context.seed, "noise"))
        noisy = replace(context.seen, x=context.seen.x + noise.to(context.seen.x))
        calm, shaken = self.targets.logits, predict(context.teacher, noisy).logits
        rho = reliability.unreliability(calm[self.soft], shaken[self.soft])
        self.unreliable = rho.new_zeros(len(calm)).index_copy(0, self.soft.to(rho.device), rho)

    def forward(self, student: Outputs, teacher: Outputs, graph: Graph | Part) -> Tensor:
        """One value per node."""
        kept = torch.ones(graph.edge_index.shape[1], dtype=torch.bool, device=student.logits.device)
        if self.calls >= self.method.warmup:
            self.power = self._moved(student)
            nodes = graph.nodes if isinstance(graph, Part) else slice(None)
            kept = reliability.keep(self.unreliable[nodes], self.power, graph, self.draw)
        self.calls += 1
        temperature = self.method.temperature
        assert temperature is not None
        return losses.reliable_labels(student, teacher, graph, kept, temperature)

    def _moved(self, student: Outputs) -> float:
        agree = (self.calm(student).argmax(1) == self.targets.logits.argmax(1))[self.soft]
        fitted = reliability.fit_power(self.unreliable[self.soft], agree, self.method.bins)
        return self.method.momentum * self.power + (1 - self.method.momentum) * fitted


@torch.no_grad()
def _calm(network: torch.nn.Module, graph: Graph, shown: Outputs) -> Tensor:
    """What a network says of all nodes without dropout, in the midst of its training."""
    training = network.training
    network.eval()
    if isinstance(network, networks.MLP) and len(shown.logits) == graph.num_nodes:
        outputs = network.onward(shown.hidden[0])  # which is the same with dropout
    else:
        outputs = network(graph)
    network.train(training)
    return outputs.logits
