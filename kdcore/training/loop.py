"""Local training as pure functions: parameters in, new parameters out, nothing hidden.

`fit` and `predict_logits` run for one model. Under `torch.func.vmap` they run for the whole stack
at once, by `kdcore.training.stacked`, with the same answer within rounding.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from kdcore.losses.response import cross_entropy
from kdcore.outputs import Outputs
from kdcore.training import stacked
from kdcore.training.batches import Batches, Examples, draw, rows
from kdcore.training.optimizers import OPTIMIZERS, Clipping, TrainingConfig, rule
from kdcore.training.stacked import STATE, FitSpec, Loss, Network, Params, Predict

__all__ = [
    "OPTIMIZERS",
    "STATE",
    "Batches",
    "Clipping",
    "Examples",
    "Loss",
    "Network",
    "Params",
    "Predict",
    "TrainingConfig",
    "draw",
    "fit",
    "logits_of",
    "predict_logits",
    "supervised",
]


def fit(
    predict: Predict,
    params: Params,
    batches: Batches,
    training: TrainingConfig,
    loss: Loss,
    *context: Any,
    penalty: Loss | None = None,
) -> Params:
    """Train a model on mini-batches and return its new parameters.

    The result has no gradient with regard to the inputs. What the network keeps beside its weights
    (names with `STATE` in them) is given to it at each step, and taken as it leaves it.

    Args:
        predict: the model, (params, x) -> Outputs.
        params: where training starts; left as it is.
        batches: what is seen, in which order; steps of padding alone change nothing.
        training: the optimiser (epochs and batch size have gone into `batches` already).
        loss: (outputs, y, *context) -> (B,), one value per example; its mean over a batch is
            minimised.
        context: whatever tensors (or dicts and tuples of them) the loss needs besides. A loss must
            not take them from around it: those of other clients would not be told apart.
        penalty: (weights, y, *context) -> (), added to the loss of each step.
    """
    if training.privacy is not None:
        raise NotImplementedError("training with privacy is described, and not there yet")
    spec = FitSpec(predict, training, loss, penalty)
    values = _Fit.apply(spec, params, batches, context)
    return dict(zip(params, values, strict=True))


def predict_logits(
    predict: Predict, params: Params, x: Any, wanted: Tensor, at_once: int = 500
) -> Tensor:
    """The logits for some rows of x, without gradient, a few hundred at a time to save memory.

    Shapes:
        x: (N, ...); wanted: (M,) rows of it, or -1 for none, of which the logits are zero; gives
            (M, C).
    """
    found: Tensor = _Logits.apply(predict, at_once, params, x, wanted)
    return found


@torch.no_grad()
def logits_of(
    predict: Predict, params: Params, x: Any, index: Tensor, at_once: int = 500
) -> Tensor:
    """`predict_logits` of one model, for rows that are all wanted: no device is waited for.

    Shapes:
        x: (N, ...); index: (M,) rows of it; gives (M, C).
    """
    parts = torch.split(index, at_once)
    return torch.cat([predict(params, rows(x, part)).logits for part in parts])


def supervised(outputs: Outputs, y: Tensor) -> Tensor:
    """The loss of training on labels alone: cross-entropy, (B, C) and (B,) -> (B,)."""
    return cross_entropy(outputs.logits, y)


def _fit_one(
    spec: FitSpec, params: Params, batches: Batches, context: tuple[Any, ...]
) -> tuple[Tensor, ...]:
    """The reference: a plain loop over the steps of one model."""
    trained = stacked.weights(params)
    leaves = [value.detach().clone().requires_grad_() for value in trained.values()]
    trained = dict(zip(trained, leaves, strict=True))
    held = {n: v.detach().clone() for n, v in params.items() if n not in trained}
    model = params | held | trained
    learn, least = stacked.learning(spec.predict), stacked.least_batch(spec.predict)
    optimiser, count = rule(spec.training), 0
    state = optimiser.init(leaves)
    for index in batches.examples():
        if len(index) < least:
            continue
        x, y = rows(batches.x, index), rows(batches.y, index)
        with torch.enable_grad():
            outputs, fresh = learn(model, x)
            total = spec.loss(outputs, y, *context).mean()
            if spec.penalty is not None:
                total = total + spec.penalty(trained, y, *context)
        gradients = torch.autograd.grad(total, leaves, materialize_grads=True)
        count += 1
        with torch.no_grad():
            optimiser.step(leaves, list(gradients), state, count)
        model |= fresh
    return tuple(value.detach() for value in model.values())


class _Fit(torch.autograd.Function):
    """`fit` as one operation, so that vmap does not look inside, but takes the stacked form."""

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        return _fit_one(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, spec: FitSpec, params: Params, batches: Batches, context: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        _, *dims = in_dims
        params, batches, context = _leading((params, batches, context), tuple(dims))
        params = {k: v.expand(info.batch_size, *v.shape[1:]) for k, v in params.items()}
        trained = stacked.fit(spec, params, batches, context)
        return tuple(trained.values()), (0,) * len(trained)


class _Logits(torch.autograd.Function):
    """`predict_logits` as one operation, see `_Fit`."""

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        predict, at_once, params, x, wanted = inputs
        known = (wanted >= 0).nonzero().flatten()
        found = logits_of(predict, params, x, wanted[known], at_once)
        return found.new_zeros(len(wanted), *found.shape[1:]).index_copy_(0, known, found)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: Any,
        predict: Predict,
        at_once: int,
        params: Params,
        x: Any,
        wanted: Tensor,
    ) -> tuple[Tensor, int]:
        _, _, *dims = in_dims
        params, x, wanted = _leading((params, x, wanted), tuple(dims))
        params = {k: v.expand(info.batch_size, *v.shape[1:]) for k, v in params.items()}
        return stacked.predict_logits(predict, params, x, wanted, at_once), 0


def _leading(tree: Any, dims: Any) -> Any:
    """The axis of clients in front: K where there is one, 1 where all clients share a tensor."""

    def lead(value: Tensor, dim: int | None) -> Tensor:
        return value.unsqueeze(0) if dim is None else value.movedim(dim, 0)

    return tree_map(lead, tree, dims, is_leaf=lambda value: isinstance(value, Tensor))
