"""Models that do not learn any more, asked together, and how unlike what they know inputs are.

Hongxu Yin, Pavlo Molchanov, Jose Alvarez, Zhizhong Li, Arun Mallya, Derek Hoiem, Niraj Jha, Jan
Kautz. "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion". CVPR 2020.
https://arxiv.org/abs/1912.08795
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedkd.models.module_forms import outputs_of

AT_ONCE = 500  # inputs that the models are asked about at once


class Ensemble(NamedTuple):
    """Models that do not learn any more, and how much each counts, (K,)."""

    members: list[nn.Module]
    weights: Tensor

    @classmethod
    def of(cls, modules: list[nn.Module], device: torch.device) -> Self:
        """All of them alike."""
        even = torch.full((len(modules),), 1 / len(modules), device=device)
        return cls([module.requires_grad_(False) for module in modules], even)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """sum_k w_k f_k(x) / sum_k w_k, (N, C), and how unlike what they know x is, on average."""
        said, unlike = zip(*(asked(member, x) for member in self.members), strict=True)
        return self._weighted(said), torch.stack(unlike).mean()

    def mean(self, x: Tensor) -> Tensor:
        """The first of these alone, for which no statistics are worked out."""
        return self._weighted([outputs_of(member(x)).logits for member in self.members])

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """What they say of many inputs, (N, C)."""
        return torch.cat([self.mean(part) for part in x.split(AT_ONCE)])

    def labels(self, x: Tensor) -> Tensor:
        """What they take many inputs for, (N,)."""
        return self.logits(x).argmax(dim=-1)

    def _weighted(self, said: Sequence[Tensor]) -> Tensor:
        return torch.einsum("k,knc->nc", self.weights / self.weights.sum(), torch.stack(list(said)))


def asked(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    r"""A module's logits for inputs (N, ...), and by how much these are unlike those it has seen.

        \sum_l |mean_l(x) - mean_l|_2 + |var_l(x) - var_l|_2

    over its layers of batch normalisation, where mean_l(x) and var_l(x) are those of what the layer
    is given, by channel, the variance divided by how many numbers there are; 0 where there is none.
    Both have gradients with regard to x.

    Shapes:
        gives (N, C), ().
    """
    found: list[Tensor] = []
    layers = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    hooks = [layer.register_forward_pre_hook(_noting(found)) for layer in layers]
    try:
        logits = outputs_of(module(x)).logits
    finally:
        for hook in hooks:
            hook.remove()
    return logits, sum(found, logits.new_zeros(()))


def _noting(found: list[Tensor]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """Has a layer note how far what it is given is from its running statistics."""

    def note(layer: nn.Module, given: tuple[Any, ...]) -> None:
        assert isinstance(layer, _BatchNorm)
        if layer.running_mean is None or layer.running_var is None:
            return
        values = given[0].transpose(0, 1).flatten(1)
        mean, variance = values.mean(dim=1), values.var(dim=1, correction=0)
        gaps = mean - layer.running_mean, variance - layer.running_var
        found.append(torch.stack([gap.norm() for gap in gaps]).sum())

    return note
