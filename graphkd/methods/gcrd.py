"""G-CRD: each node's two embeddings find each other among those of other nodes."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from torch import Tensor, nn

from graphkd import losses
from graphkd.graph import Graph, Part
from graphkd.losses.projectors import heads
from graphkd.method import DistillationContext, LossTerm, Method, sample
from kdcore.outputs import Outputs
from kdcore.settings import WIDEST, Setting


@dataclass(frozen=True)
class GCRD(Method):
    r"""A graph network teaches by contrast which of its embeddings belongs to which node.

    Joshi, Liu, Xun, Lin and Foo, "On Representation Knowledge Distillation for Graph Neural
    Networks", IEEE TNNLS 2022, https://arxiv.org/abs/2111.04964.

        L = mean_{train} CE + w mean_i InfoNCE(g(s_i), f(t_i))

    with learned maps g and f to `width` features (`losses.contrastive`), among `sample` nodes drawn
    anew at each step. Convention: temperature and weight from the authors' search on ogbn-arxiv
    (0.05 to 0.1; 0.01 to 0.05 there, up to 0.5 in their paper); all nodes, not the training nodes.
    """

    needs = frozenset()

    temperature: Annotated[float, Setting("T, which softens logits", ge=1e-6)] = 0.1
    contrast_weight: Annotated[float, Setting("w, of the contrast", ge=0)] = 0.5
    width: Annotated[int, Setting("of both maps", ge=1, le=WIDEST)] = 128
    sample: Annotated[int, Setting("nodes drawn for a step", ge=2)] = 1024

    def hidden_states(self) -> int:
        """The last one is compared."""
        return 1

    def terms(self, context: DistillationContext) -> tuple[LossTerm, ...]:
        """The contrast between the last hidden states."""
        nodes = partial(sample, count=self.sample)
        return (LossTerm(_Contrast(context, self), self.contrast_weight, nodes),)


class _Contrast(nn.Module):
    """The contrastive loss between learned maps of both embeddings."""

    def __init__(self, context: DistillationContext, method: GCRD):
        super().__init__()
        self.maps = nn.ModuleDict(heads(*context.widths(), method.width))
        self.temperature = method.temperature

    def forward(self, student: Outputs, teacher: Outputs, graph: Graph | Part) -> Tensor:
        """One value per node."""
        maps = dict(self.maps.items())
        return losses.contrastive(student, teacher, graph, **maps, temperature=self.temperature)
