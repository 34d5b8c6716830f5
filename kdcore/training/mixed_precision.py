"""Mixed precision: a network computed in bfloat16, trained with weights in float32."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from kdcore.training.batches import leading
from kdcore.training.stacked import Network, Predict, stack_of

Precision = Literal["float32", "bfloat16"]


def in_precision(predict: Predict, precision: Precision) -> Predict:
    """A network whose convolutions and matrix products are computed in this precision.

    Paulius Micikevicius, Sharan Narang, Jonah Alben, Gregory Diamos, Erich Elsen, David Garcia,
    Boris Ginsburg, Michael Houston, Oleksii Kuchaiev, Ganesh Venkatesh, Hao Wu. "Mixed Precision
    Training". ICLR 2018. https://arxiv.org/abs/1710.03740

    In bfloat16 that is PyTorch's autocast, forward and back; it has the range of float32, and so
    losses are not scaled. Weights, optimiser, losses and what crosses the network stay in float32,
    and so do outputs. Parameters in float64 are not touched; nor are networks whose gradients are
    written by hand (`Network.backward`: perceptrons), which multiply in place in one type.
    """
    by_hand = isinstance(predict, Network) and predict.backward is not None
    if precision == "float32" or by_hand:
        return predict
    one, stack = _cast(predict), _cast(stack_of(predict))
    if not isinstance(predict, Network):
        return Network(one, stack)
    learn = None if predict.learn is None else _cast(predict.learn)
    return replace(predict, one=one, stack=stack, learn=learn)


def _cast(form: Callable[..., Any]) -> Callable[..., Any]:
    def computed(params: dict[str, Tensor], x: Any) -> Any:
        with torch.autocast(leading(x).device.type, torch.bfloat16):
            found = form(params, x)
        return tree_map(_widened, found)

    return computed


def _widened(value: Any) -> Any:
    """Numbers in bfloat16 in float32 again."""
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value
