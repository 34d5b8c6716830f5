"""Generalised distillation: the edges are privileged information, which only the teacher has."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator, Tensor

from graphkd import losses
from graphkd.graph import Graph, Part
from graphkd.method import DistillationContext, LossTerm, Method, Share, Temperature
from kdcore.outputs import Outputs
from kdcore.settings import Setting


@dataclass(frozen=True)
class Privileged(Method):
    r"""A teacher that sees the graph helps an MLP that never does, at the labelled nodes alone.

    Lopez-Paz, Bottou, Schoelkopf and Vapnik, "Unifying distillation and privileged information",
    ICLR 2016, https://arxiv.org/abs/1511.03643; Vapnik and Vashist, "A new learning paradigm:
    Learning using privileged information", Neural Networks 2009,
    https://doi.org/10.1016/j.neunet.2009.06.042.

        L = mean_{train} ((1 - \lambda) CE + \lambda T^2 KL(teacher || student))

    with x the features of a node, and x* these and the graph; 1 - lambda is `hard_weight`. What
    tells it from GLNN is that unlabelled nodes teach nothing. Convention: T^2, as everywhere here;
    in each step all nodes are there, so `batch` has to be 0.
    """

    needs = frozenset({"classes"})

    hard_weight: Share = 0.5
    temperature: Temperature = 2.0
    batch: Annotated[int, Setting("0: all nodes at once", ge=0, le=0)] = 0

    def terms(self, context: DistillationContext) -> tuple[LossTerm, ...]:
        """Soft labels at the training nodes, with the weight that the hard ones leave."""
        assert self.hard_weight is not None
        assert self.temperature is not None
        view, temperature = context.view, self.temperature
        train = torch.isin(view.part("soft"), view.part("train")).nonzero()[:, 0]

        def loss(student: Outputs, teacher: Outputs, graph: Graph | Part) -> Tensor:
            return losses.soft_labels(student, teacher, graph, temperature)

        def labelled(n: int, draw: Generator) -> Tensor:
            return train

        return (LossTerm(loss, 1 - self.hard_weight, labelled),)
