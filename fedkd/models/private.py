"""Whether a model can be trained so that each example's part in a step can be told, and clipped."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from fedkd.core import Model, Task
from fedkd.models import made_up
from kdcore.training.loop import Network, Params
from kdcore.training.stacked import STATE, learning, least_batch, statistics

WAY_OUT = (
    "leave out local.privacy, or the epsilon that asks for it, or take a model that looks at one "
    "example at a time, such as one with GroupNorm in the place of BatchNorm"
)
CLOSE = 1e-5


def check_private(task: Task) -> None:
    """Raise ValueError for a model in which one example reaches what is learnt from another."""
    few = task.few if task.few is not None else made_up(task.shape) if task.shape else None
    for group, model in task.models.items():
        if why := coupled(model, few):
            raise ValueError(f"local.privacy: {group} {why}; {WAY_OUT}")


def coupled(model: Model, few: Any) -> str | None:
    """By what the examples of a mini-batch are coupled as the model learns; None if by nothing.

    Args:
        model: whose network is looked at, and run, if there are at least two inputs.
        few: a few inputs, (N, ...); None where none are at hand.
    """
    if isinstance(model.predict, Network) and model.predict.whole:
        return "answers an example by others, as a node by its neighbours"
    if least_batch(model.predict) > 1:
        return "normalises over its mini-batches"
    params = model.init(torch.Generator().manual_seed(0))
    if kept := statistics(params):
        return f"keeps statistics of its mini-batches ({kept.removeprefix(STATE)})"
    if few is None or len(tree_leaves(few)[0]) < 2:
        return None
    moved = tree_map(lambda v: torch.cat([v[1:2], v[1:]]), few)
    before, after = (_learnt(model, params, x) for x in (few, moved))
    if all(torch.allclose(a[1:], b[1:], atol=CLOSE) for a, b in zip(before, after, strict=True)):
        return None
    return "answers an example otherwise when another one of its mini-batch changes"


def _learnt(model: Model, params: Params, x: Any) -> list[Tensor]:
    """What the network shows of some inputs as it learns from them."""
    with torch.no_grad():
        outputs, _ = learning(model.predict)(params, x)
    return [value for value in tree_leaves(outputs) if value.is_floating_point()]
