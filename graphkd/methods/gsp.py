"""GSP: how alike all pairs of nodes are."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from graphkd import losses
from graphkd.method import DistillationContext, LossTerm, Method, sample
from kdcore.settings import Setting


@dataclass(frozen=True)
class GSP(Method):
    r"""A graph network teaches the similarity of all pairs of embeddings: global structure.

    Joshi, Liu, Xun, Lin and Foo, "On Representation Knowledge Distillation for Graph Neural
    Networks", IEEE TNNLS 2022, https://arxiv.org/abs/2111.04964.

        L = mean_{train} CE + w mean_ij (K(t_i, t_j) - K(s_i, s_j))^2

    among `sample` nodes drawn anew at each step. Convention: w = 100, the least of those that the
    authors tried on ogbn-arxiv, and the cosine as kernel; on all nodes, not the training nodes.
    """

    needs = frozenset()

    kernel: Annotated[str, Setting("by which embeddings are alike")] = "cosine"
    scale: Annotated[float, Setting("of the rbf kernel", gt=0)] = 1.0
    structure_weight: Annotated[float, Setting("w, of the structure", ge=0)] = 100.0
    sample: Annotated[int, Setting("nodes drawn for a step", ge=2)] = 1024

    def __post_init__(self) -> None:
        """Refuse a kernel that does not exist."""
        super().__post_init__()
        losses.check_kernel(self.kernel, self.scale)

    def hidden_states(self) -> int:
        """The last one is compared."""
        return 1

    def terms(self, context: DistillationContext) -> tuple[LossTerm, ...]:
        """The global structure of the last hidden states."""
        loss = partial(losses.global_structure, kernel=self.kernel, scale=self.scale)
        return (LossTerm(loss, self.structure_weight, partial(sample, count=self.sample)),)
