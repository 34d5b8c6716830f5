"""Training that stops where validation examples say that it gains no more."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from fedkd.core import Task
from kdcore.outputs import Outputs
from kdcore.training.batches import rows
from kdcore.training.loop import Batches, Params, Predict, TrainingConfig, logits_of
from kdcore.training.optimizers import rule
from kdcore.training.stacked import learning, least_batch, weights


def best(
    start: Params,
    found: Iterable[Params],
    reached: Callable[[Params], float],
    patience: int,
    before: float = -math.inf,
) -> Params:
    """The best of several parameters, until so many in a row bring no gain.

    Args:
        start: what there is without any.
        found: parameters in their order, such as `passes`.
        reached: how good parameters are; more is better.
        patience: how many without gain.
        before: how good the start is; by default it is no candidate.
    """
    most, kept, since = before, start, 0
    for params in found:
        now = reached(params)
        since += 1
        if now > most:
            most, kept, since = now, params, 0
        if since == patience:
            break
    return kept


def passes(
    predict: Predict,
    start: Params,
    batches: Batches,
    training: TrainingConfig,
    towards: Callable[[Outputs, Tensor], Tensor],
) -> Iterable[Params]:
    """The parameters after each pass, as `fit` has them, with one optimiser all along."""
    names = list(weights(start))
    leaves = [start[name].detach().clone().requires_grad_() for name in names]
    model = start | dict(zip(names, leaves, strict=True))
    learn, least = learning(predict), least_batch(predict)
    optimiser, steps = rule(training), batches.steps // training.epochs
    state, sizes = optimiser.init(leaves), batches.mask.sum(dim=1).tolist()
    for count, (index, mask) in enumerate(zip(batches.order, batches.mask, strict=True), start=1):
        if sizes[count - 1] < least:
            continue
        if least > 1:  # padding would be in the statistics
            index, mask = index[mask.bool()], mask[mask.bool()]
        outputs, fresh = learn(model, rows(batches.x, index))
        loss = (towards(outputs, batches.y[index]) * mask).sum() / mask.sum()
        gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)
        with torch.no_grad():
            optimiser.step(leaves, list(gradients), state, count)
        model |= fresh
        if count % steps == 0:
            yield {name: leaf.detach().clone() for name, leaf in model.items()}


def score(task: Task, predict: Predict, params: Params) -> float:
    """By how much a model is right on validation examples; more is better."""
    examples = task.validation
    assert examples is not None
    outputs = logits_of(predict, params, examples.x, examples.rows)
    return task.target.score(outputs, examples.y[examples.rows])
