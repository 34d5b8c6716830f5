"""The same training for a stack of K models of one architecture at once.

What `kdcore.training.loop` does for one model, this does for many, in the same number of
operations: parameters carry a leading axis of clients, and the sum of their losses is
differentiated, which gives each model its own gradient. Models with fewer steps leave the stack
when they are done.

A leading axis is K where each model has its own, and 1 where all share one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from kdcore.outputs import Outputs
from kdcore.training.batches import Batches, rows
from kdcore.training.optimizers import Gradient, TrainingConfig, rule

Params = dict[str, Tensor]
Predict = Callable[[Params, Any], Outputs]  # of (N, ...) features, or a tuple of such tables
Loss = Callable[..., Tensor]
AT_ONCE = 2000  # examples of a few models together, where each predicts its own


@dataclass(frozen=True)
class Network:
    """A network in two forms, of which tests hold the second to the first.

    Attributes:
        one: (params, x (N, ...)) -> Outputs.
        stack: the same for K models; x is (K, N, ...), or (1, N, ...) where all see the same.
        backward: (params, x, outputs, gradient of a scalar by each output) -> its gradient by each
            parameter, where that is quicker by hand than by autograd; see `Product`.
    """

    one: Predict
    stack: Predict
    backward: Callable[[Params, Tensor, Outputs, Outputs], dict[str, Gradient]] | None = None

    def __call__(self, params: Params, x: Tensor) -> Outputs:
        """The outputs of one model."""
        return self.one(params, x)


def stack_of(predict: Predict) -> Predict:
    """A network for a stack: its own form, or else `torch.func.vmap` of the form for one."""
    if isinstance(predict, Network):
        return predict.stack

    def stack(params: Params, x: Tensor) -> Outputs:
        outputs: Outputs = _mapped(predict, params, x)
        return outputs

    return stack


@dataclass(frozen=True)
class FitSpec:
    """All that is not a tensor about a training, see `kdcore.training.loop.fit`."""

    predict: Predict
    training: TrainingConfig
    loss: Loss
    penalty: Loss | None


def fit(lesson: FitSpec, params: Params, batches: Batches, context: tuple[Any, ...]) -> Params:
    """Train K models; every tensor has a leading axis of 1 or K, those of `params` of K.

    Steps of padding alone are left out, so that even momentum and Adam see nothing of them.
    """
    batches, steps = _without_idle_steps(batches)
    count = len(next(iter(params.values())))
    steps = steps.expand(count)
    longest_first = steps.argsort(descending=True, stable=True)
    in_order = bool((steps[1:] <= steps[:-1]).all())
    if not in_order:
        params, batches, context = tree_map(
            lambda v: v if len(v) == 1 else v[longest_first], (params, batches, context)
        )
    sorted_steps = steps[longest_first].tolist()
    values = [value.clone(memory_format=torch.contiguous_format) for value in params.values()]
    mask = batches.mask.to(values[0].dtype)
    weight = mask / mask.sum(dim=-1, keepdim=True).clamp(min=1)
    optimiser = rule(lesson.training)
    state = optimiser.init(values)
    active = 0
    for step in range(sorted_steps[0] if sorted_steps else 0):
        still = sum(mine > step for mine in sorted_steps)
        if still != active:
            active = still
            leaves = [value[:active].detach().requires_grad_() for value in values]
            model = dict(zip(params, leaves, strict=True))
            parts = {name: [v[:active] for v in column] for name, column in state.items()}
            x_table, y_table, heard = _first((batches.x, batches.y, context), active)
        order = batches.order[:active, step]
        x, y = _taken(x_table, order), _taken(y_table, order)
        gradients = _gradients(lesson, model, x, y, heard, weight[:active, step])
        with torch.no_grad():
            optimiser.step(leaves, [gradients[name] for name in model], parts, step + 1)
    if not in_order:
        back = longest_first.argsort()
        values = [value[back] for value in values]
    return dict(zip(params, values, strict=True))


def _gradients(
    lesson: FitSpec, model: Params, x: Tensor, y: Any, context: tuple[Any, ...], weight: Tensor
) -> dict[str, Gradient]:
    """By each parameter, of the sum of all models' losses; `weight` is (1 or K, B)."""

    def objective(outputs: Outputs) -> Tensor:
        each: Tensor = _mapped(lesson.loss, outputs, y, *context)
        total = (each * weight).sum()
        if lesson.penalty is not None:
            total = total + _mapped(lesson.penalty, model, y, *context).sum()
        return total

    predict = lesson.predict
    if isinstance(predict, Network) and predict.backward and lesson.penalty is None:
        with torch.no_grad():
            outputs = predict.stack(model, x)
        shown, spec = tree_flatten(outputs)
        shown = [value.detach().requires_grad_() for value in shown]
        with torch.enable_grad():
            total = objective(tree_unflatten(shown, spec))
        upstream = torch.autograd.grad(total, shown, allow_unused=True)
        with torch.no_grad():
            return predict.backward(model, x, outputs, tree_unflatten(upstream, spec))
    with torch.enable_grad():
        total = objective(stack_of(predict)(model, x))
    found = torch.autograd.grad(total, list(model.values()), materialize_grads=True)
    return dict(zip(model, found, strict=True))


@torch.no_grad()
def predict_logits(
    predict: Predict, params: Params, x: Tensor, wanted: Tensor, at_once: int
) -> Tensor:
    """The logits of K models for some rows of x.

    Where models have rows of their own, a few models predict all of theirs, and then the next few:
    so their weights stay in the cache. What they share, all of them predict at once.

    Shapes:
        x: (1 or K, N, ...); wanted: (1 or K, M) rows of it, or -1 for none, of which the logits are
            zero; gives (K, M, C).
    """
    count = len(next(iter(params.values())))
    shared = len(x) == 1 and len(wanted) == 1
    few = count if shared else max(1, AT_ONCE // max(1, min(at_once, wanted.shape[1])))
    stack = stack_of(predict)
    found = []
    for first in range(0, count, few):
        mine, table, part = tree_map(
            lambda v: v if len(v) == 1 else v[first : first + few],  # noqa: B023
            (params, x, wanted),
        )
        found.append(_logits_of_few(stack, mine, table, part, at_once))
    return torch.cat(found)


def _logits_of_few(
    stack: Predict, params: Params, x: Tensor, wanted: Tensor, at_once: int
) -> Tensor:
    """The same without the last columns of `wanted` where nobody wants a row."""
    known = wanted >= 0
    columns = known.any(dim=0).nonzero()
    width = 1 + int(columns.max()) if len(columns) else min(1, wanted.shape[1])
    parts = torch.split(wanted[:, :width].clamp(min=0), at_once, dim=1)
    logits = torch.cat([stack(params, _taken(x, part)).logits for part in parts], dim=1)
    if known.all():
        return logits
    logits = logits.masked_fill(~known[:, :width].unsqueeze(-1), 0)
    return torch.nn.functional.pad(logits, (0, 0, 0, wanted.shape[1] - width))


def _without_idle_steps(batches: Batches) -> tuple[Batches, Tensor]:
    """The batches with steps of padding alone at the end, and how many others there are, (K,)."""
    works = batches.mask.any(dim=-1)  # (K, S)
    if (works[:, 1:] & ~works[:, :-1]).any():
        first = works.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        place = first.unsqueeze(-1).expand(-1, -1, batches.mask.shape[-1])
        order = batches.order.expand(len(place), -1, -1).gather(1, place)
        batches = batches._replace(order=order, mask=batches.mask.gather(1, place))
    return batches, works.sum(dim=1)


def _taken(table: Any, index: Tensor) -> Any:
    """Rows of tables (1 or K, N, ...) at an index (1 or K, B): (1 or K, B, ...)."""
    if isinstance(table, tuple):
        return tuple(_taken(one, index) for one in table)
    if len(table) == 1:
        found: Tensor = rows(table[0], index)
        return found
    offset = torch.arange(len(table), device=index.device).unsqueeze(1) * table.shape[1]
    return rows(table.flatten(0, 1), index + offset)


def _first(tree: Any, count: int) -> Any:
    return tree_map(lambda v: v[:count], tree)


def _mapped(function: Callable[..., Any], *inputs: Any) -> Any:
    """The function under vmap over the leading axis, which is 1 for what all models share."""
    count = max(len(leaf) for leaf in tree_leaves(inputs))
    if count == 1:
        inputs = tree_map(lambda leaf: leaf[0], inputs)
        return tree_map(lambda leaf: leaf.unsqueeze(0), function(*inputs))
    dims = tree_map(lambda leaf: 0 if len(leaf) == count else None, inputs)
    given = tree_map(lambda leaf: leaf if len(leaf) == count else leaf[0], inputs)
    return torch.func.vmap(function, in_dims=dims)(*given)
