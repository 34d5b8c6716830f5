"""Online mutual distillation: networks that learn together."""

from dataclasses import dataclass
from typing import Annotated

from graphkd.method import Method
from kdcore.settings import Setting


@dataclass(frozen=True)
class Mutual(Method):
    r"""Networks of several kinds learn at the same time, each from all others: no one is trained.

    Zhang, Xiang, Hospedales and Lu, "Deep Mutual Learning", CVPR 2018,
    https://arxiv.org/abs/1706.00384; of graph networks for instance Wang et al., "Online
    Adversarial Distillation for Graph Neural Networks", 2021, https://arxiv.org/abs/2112.13966,
    without their adversary.

        L = \sum_k (mean_{train} CE_k + w / (K - 1) \sum_{l != k} mean_i T^2 KL(p_l || p_k))

    The student is the one that is reported, and whose accuracy selects; the others are the networks
    named by `teacher`, the first of them reported as the teacher. All have the student's optimiser.
    By default a GCN beside a SAGE and a GAT.
    """

    scheme = "mutual"

    teacher: str = "sage+gat"
    student: str = "gcn"
    hidden: int | None = 64
    mutual_weight: Annotated[float, Setting("w, of the others", ge=0)] = 1.0
    temperature: Annotated[float, Setting("T, which softens logits", ge=1e-6)] = 1.0

    def exchange(self) -> tuple[float, float]:
        """The weight and the temperature of what the others say."""
        return self.mutual_weight, self.temperature
