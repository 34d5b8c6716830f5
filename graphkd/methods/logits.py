"""Logit matching: what the teacher says before the softmax, or its real-valued answer."""

from dataclasses import dataclass

from torch import Tensor

from graphkd.graph import Graph, Part
from graphkd.method import DistillationContext, LossTerm, Method, Share
from kdcore.outputs import Outputs


@dataclass(frozen=True)
class Logits(Method):
    r"""A graph network teaches its logits by regression; of real targets, its predictions.

    Ba and Caruana, "Do Deep Nets Really Need to be Deep?", NIPS 2014,
    https://arxiv.org/abs/1312.6184.

        L = \lambda hard + (1 - \lambda) mean_i |student_i - teacher_i|^2 / C

    Convention: the authors have lambda 0 and the squared norm over the classes, without 1 / C.
    """

    needs = frozenset()

    hard_weight: Share = 0.5

    def terms(self, context: DistillationContext) -> tuple[LossTerm, ...]:
        """Squared differences, with the weight that the hard targets leave."""
        assert self.hard_weight is not None
        return (LossTerm(squared_difference, 1 - self.hard_weight),)


def squared_difference(student: Outputs, teacher: Outputs, graph: Graph | Part) -> Tensor:
    """The mean over the classes of the squared difference of logits, (N,)."""
    return (student.logits - teacher.logits.detach()).square().mean(-1)
