"""Kernel self-distillation: a regression on its own predictions, in closed form."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from kdcore.schemes.self_distillation import kernel_generations
from kdcore.settings import Setting
from simulations.survey.datasets import Table, split
from simulations.survey.recipes import Metrics


@dataclass(frozen=True)
class KernelSelf:
    """Self-distillation of kernel ridge regression, generation after generation.

    Hossein Mobahi, Mehrdad Farajtabar, Peter Bartlett. "Self-Distillation Amplifies Regularization
    in Hilbert Space". NeurIPS 2020. https://arxiv.org/abs/2002.05715

    Generation 0 fits the targets with too small a ridge; each next one fits what the one before it
    says of the same examples, with the same ridge. Controls: `rmse_ridge` is generation 0 with the
    larger ridge that leaves as many effective degrees of freedom as the last generation has, so
    the same amount of regularisation without any teacher; `rmse_constant` predicts the mean.
    """

    data: ClassVar[str] = "diabetes"

    train: Annotated[int, Setting("examples that the regression fits", ge=2)] = 221
    generations: Annotated[int, Setting("regressions on predictions, one after another", ge=2)] = 8
    ridge: Annotated[float, Setting("of every generation", gt=0)] = 0.1
    width: Annotated[float, Setting("of the Gaussian kernel", gt=0)] = 3.0

    def measure(self, data: Table, seed: int) -> Metrics:
        """Test error in standard deviations of the target, and effective degrees of freedom."""
        known, unseen = split(len(data.y), (self.train,), seed)
        x, y = data.x / data.x.std(0), data.y
        y = (y - y[known].mean()) / y[known].std()
        gram = self.kernel(x[known], x[known])

        def error(weights: Tensor) -> float:
            predicted = self.kernel(x[unseen], x[known]) @ weights
            return float((predicted - y[unseen]).square().mean().sqrt())

        ridges = [self.ridge] * (self.generations + 1)
        first, second, *_, last = map(error, kernel_generations(gram, y[known], ridges))
        values = torch.linalg.eigvalsh(gram).clamp(min=0)
        left = float(freedom(values, ridges))
        same = ridge_of(values, left)
        (alone,) = kernel_generations(gram, y[known], [same])
        return {
            "rmse": last,
            "rmse_once": second,
            "rmse_baseline": first,
            "rmse_ridge": error(alone),
            "rmse_constant": float(y[unseen].square().mean().sqrt()),
            "freedom": left,
            "freedom_baseline": float(freedom(values, ridges[:1])),
            "ridge_ratio": same / self.ridge,
        }

    def kernel(self, one: Tensor, other: Tensor) -> Tensor:
        """The Gaussian kernel, exp(-|a - b|^2 / (2 width^2)): (N, D) and (M, D) give (N, M)."""
        squared = torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist").square()
        return (-squared / (2 * self.width**2)).exp()


def freedom(values: Tensor, ridges: list[float]) -> Tensor:
    r"""Effective degrees of freedom: the trace of what maps targets to the last predictions.

    \sum_j \prod_t d_j / (d_j + c_t),   d_j the eigenvalues (N,) of the kernel matrix
    """
    return torch.stack([values / (values + ridge) for ridge in ridges]).prod(0).sum()


def ridge_of(values: Tensor, wanted: float) -> float:
    """The ridge that alone leaves so many degrees of freedom; they fall as it grows."""
    from scipy.optimize import brentq

    def gap(logarithm: float) -> float:
        return float(freedom(values, [10**logarithm])) - wanted

    return float(10 ** brentq(gap, -12, 12))
