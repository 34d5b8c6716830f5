"""GLNN: soft labels on every node."""

from dataclasses import dataclass
from functools import partial

from graphkd import losses
from graphkd.method import DistillationContext, LossTerm, Method, Share, Temperature


@dataclass(frozen=True)
class GLNN(Method):
    r"""A graph network teaches an MLP its soft labels on every node it may see.

    Zhang, Liu, Sun and Shah, "Graph-less Neural Networks: Teaching Old MLPs New Tricks via
    Distillation", ICLR 2022, https://arxiv.org/abs/2110.08727.

        L = \lambda mean_{train} CE + (1 - \lambda) mean_i KL(teacher_i || student_i)

    Convention: lambda is `hard_weight`, 0 as in all of the authors' scripts; temperature 1. The
    authors' code takes a step with a loss of zero even then, which still moves the weights by
    momentum and weight decay; ours takes none.
    """

    needs = frozenset({"classes"})

    hard_weight: Share = 0.0
    batch: int = 512
    temperature: Temperature = 1.0

    def terms(self, context: DistillationContext) -> tuple[LossTerm, ...]:
        """Soft labels, with the weight that the hard ones leave."""
        assert self.hard_weight is not None
        assert self.temperature is not None
        loss = partial(losses.soft_labels, temperature=self.temperature)
        return (LossTerm(loss, 1 - self.hard_weight),)
