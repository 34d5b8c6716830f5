"""Low-rank adapters: of a pretrained module a few numbers are trained and sent."""

import copy
import math

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class LowRank(nn.Module):
    r"""A frozen linear layer, and beside it the product of two narrow ones.

    Edward Hu and others. "LoRA: Low-Rank Adaptation of Large Language Models". ICLR 2022.
    https://arxiv.org/abs/2106.09685

        x -> W x + b + B A x,   A (r, D) drawn as the weights of a linear layer, B (C, r) zero

    So nothing is changed before anything is trained. Their factor alpha / r is 1.

    Where clients average A and B, as FedAvg does, the product of the means is not the mean of the
    products; those who begin with the same A and differ little are near it.
    """

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer
        weight = layer.weight
        self.narrow = nn.Parameter(weight.new_empty(rank, weight.shape[1]))
        self.wide = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.narrow, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., C)."""
        found: Tensor = self.layer(x) + F.linear(F.linear(x, self.narrow), self.wide)
        return found


def adapted(module: nn.Module, rank: int = 4) -> nn.Module:
    """A copy of a module, frozen but for an adapter beside each of its linear layers.

    All clients begin with it (`kdsim.run(..., models=[adapted(pretrained)])`), and what is frozen
    is neither sent nor stored for each of them (`fedkd.models.modules`). Linear layers that torch
    reads the weights of, such as those in `nn.MultiheadAttention`, stay as they are.

    Args:
        module: as it was trained.
        rank: r; adapters of a layer have r (D + C) numbers.

    Raises:
        ValueError: a rank below 1, or a module without linear layers.
    """
    if rank < 1:
        raise ValueError(f"the rank of adapters must be at least 1, got {rank}")
    held = nn.ModuleDict({"module": copy.deepcopy(module)}).requires_grad_(False)
    places = [
        (parent, name)
        for parent in held.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]
    if not places:
        raise ValueError(
            f"{type(module).__name__} has no linear layer beside which an adapter could be; train "
            "it whole, or freeze parts of it with requires_grad_(False)"
        )
    for parent, name in places:
        parent.add_module(name, LowRank(parent.get_submodule(name), rank))  # type: ignore[arg-type]
    return held["module"]
