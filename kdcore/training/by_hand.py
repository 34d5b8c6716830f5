"""Cross-entropies whose gradient needs no autograd, for a stack of models.

Whether towards labels, towards what others predict, or both at once: the loss is the sum over
classes of -t_c log p_c with targets t that are known before training begins, so that its gradient
is known but for p. Networks that bring a backward pass of their own learn from it without a graph.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdcore.losses.response import _check_labels, _check_pair
from kdcore.outputs import Outputs
from kdcore.training.batches import Batches, taken

NO_LABEL = -100
AHEAD = 2**22  # numbers in the targets of the steps that are worked out at once


@dataclass(frozen=True)
class CrossEntropy:
    r"""A cross-entropy in two forms, of which tests hold the second to the first.

    Attributes:
        one: (outputs, y, *context) -> (B,), one value per example.
        targets: (classes, y, *context) of a stack -> t, (1 or K, M, C), of which the first is
            -\sum_c t_c log softmax(logits)_c; they need not sum to 1. y is (1 or K, M, ...), and
            what is in the context has a leading axis of 1 or K, too.
    """

    one: Callable[..., Tensor]
    targets: Callable[..., Tensor]

    def __call__(self, outputs: Outputs, y: Any, *context: Any) -> Tensor:
        """One value per example."""
        return self.one(outputs, y, *context)


def of_labels(classes: int, y: Tensor) -> Tensor:
    """The targets of labels (1 or K, M): 1 at the label, and nothing where there is none."""
    _check_labels(torch.empty(y.shape[1], classes, device=y.device), y[0])
    known = (y != NO_LABEL).unsqueeze(-1)
    place = y.long().unsqueeze(-1).where(known, 0)
    return torch.zeros(*y.shape, classes, dtype=torch.bool, device=y.device).scatter_(
        2, place, known
    )


def of_probabilities(classes: int, q: Tensor) -> Tensor:
    """The targets (1 or K, M, C) of what others predict: just that."""
    _check_pair(q.new_empty(q.shape[1], classes), q[0])
    return q


class Slopes:
    """The gradients of a stack's steps by the logits; the targets of many steps are made at once.

    The classes stand before the examples: over the last axis torch's softmax goes from example to
    example, which takes ten times as long.
    """

    def __init__(
        self, loss: CrossEntropy, batches: Batches, weight: Tensor, context: tuple[Any, ...]
    ) -> None:
        """Of mini-batches, of which `weight` (1 or K, S, B) are the examples' weights."""
        self._loss, self._batches, self._weight, self._context = loss, batches, weight, context
        self._first, self._known = 0, weight.new_empty(0)  # slopes by log p from a step on

    def by_logits(self, logits: Tensor, step: int) -> Tensor:
        """Those of the first models of the stack, (A, B, C)."""
        if not 0 <= step - self._first < len(self._known):
            self._first, self._known = step, self._from(step, logits)
        slope = self._known[step - self._first, : len(logits)]
        log_p = logits.mT.contiguous().log_softmax(1)
        slope = slope.expand(len(logits), -1, -1)
        by_logits: Tensor = torch._log_softmax_backward_data(slope, log_p, 1, log_p.dtype)
        return by_logits.mT

    def _from(self, step: int, logits: Tensor) -> Tensor:
        """(T, 1 or K, C, B), of this step and those after it."""
        steps = slice(step, step + max(1, AHEAD // logits.numel()))
        order, weight = self._batches.order[:, steps], self._weight[:, steps]
        y = taken(self._batches.y, order.flatten(1))
        targets = self._loss.targets(logits.shape[-1], y, *self._context)
        by_step = targets.to(logits.dtype).view(len(targets), *order.shape[1:], -1)
        return (by_step * -weight.unsqueeze(-1)).permute(1, 0, 3, 2).contiguous()
