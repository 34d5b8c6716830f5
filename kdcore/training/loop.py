"""Local training as pure functions: parameters in, new parameters out, nothing hidden.

`fit` and `predict_logits` run for one model. Under `torch.func.vmap` they run for the whole stack
at once, by `kdcore.training.stacked`, with the same answer within rounding.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from kdcore.losses.response import cross_entropy
from kdcore.outputs import Outputs
from kdcore.training import stacked
from kdcore.training.batches import NOBODY, Batches, Examples, draw, rows
from kdcore.training.dp_sgd import check_loss
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
        penalty: (weights, y, *context) -> (), added to the loss of each step; with
            `training.privacy` it is given none of the examples, an empty y.

    Raises:
        ValueError: with `training.privacy`, a loss that couples examples, a network that keeps
            statistics of them, or mini-batches that were drawn without privacy.
    """
    if (training.privacy is None) != (batches.own.shape[0] == 0):
        raise ValueError(
            "mini-batches are drawn with privacy where training has it, and otherwise without; "
            "draw them with the same TrainingConfig"
        )
    if training.privacy is not None:
        _check_state(params)
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
    parts = torch.split(index, stacked.asked_at_once(predict, at_once, index))
    return torch.cat([predict(params, rows(x, part)).logits for part in parts])


def supervised(outputs: Outputs, y: Tensor) -> Tensor:
    """The loss of training on labels alone: cross-entropy, (B, C) and (B,) -> (B,)."""
    return cross_entropy(outputs.logits, y)


def _check_state(params: Params) -> None:
    """Raise ValueError for statistics of mini-batches, in which examples are not clipped."""
    if kept := stacked.statistics(params):
        raise ValueError(
            f"privacy of each example: the network keeps statistics of its mini-batches ({kept})"
            ", which clipping does not protect; leave out privacy, or normalise within examples"
        )


def _fit_one(
    spec: FitSpec, params: Params, batches: Batches, context: tuple[Any, ...]
) -> tuple[Tensor, ...]:
    """The reference: a plain loop over the steps of one model."""
    if spec.training.privacy is not None:
        return _fit_one_privately(spec, params, batches, context)
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


def _fit_one_privately(
    spec: FitSpec, params: Params, batches: Batches, context: tuple[Any, ...]
) -> tuple[Tensor, ...]:
    """The reference of DP-SGD: a plain loop over the steps, and in each over its examples."""
    names = list(stacked.weights(params))
    leaves = [params[name].detach().clone().requires_grad_() for name in names]
    model = params | dict(zip(names, leaves, strict=True))
    learn, optimiser, checked = stacked.learning(spec.predict), rule(spec.training), False
    state = optimiser.init(leaves)
    steps = zip(batches.order, batches.mask, batches.noise.tolist(), strict=True)
    for count, (order, mask, seed) in enumerate(steps, start=1):
        if seed == NOBODY:
            break
        taken = order[mask]
        if len(taken) > 1 and not checked:
            checked, y = True, rows(batches.y, taken)
            check_loss(spec.loss, spec.predict(model, rows(batches.x, taken)), y, context)
        each = [
            _slopes_of_one(spec, model, leaves, batches, one, context) for one in taken.split(1)
        ]
        gradients = _noisy_mean(spec.training, leaves, each, int(batches.size), seed)
        if spec.penalty is not None:
            nobody = rows(batches.y, order[:0])
            with torch.enable_grad():
                total = spec.penalty(dict(zip(names, leaves, strict=True)), nobody, *context)
            more = torch.autograd.grad(total, leaves, materialize_grads=True)
            gradients = [one + other for one, other in zip(gradients, more, strict=True)]
        with torch.no_grad():
            optimiser.step(leaves, gradients, state, count)
            if len(names) < len(params):  # what it keeps beside goes on, whoever was taken
                model |= learn(model, rows(batches.x, order[:1]))[1]
    return tuple(value.detach() for value in model.values())


def _slopes_of_one(
    spec: FitSpec,
    model: Params,
    leaves: list[Tensor],
    batches: Batches,
    one: Tensor,
    context: tuple[Any, ...],
) -> tuple[Tensor, ...]:
    """The gradient of the loss of one example, of which `one` (1,) is the row."""
    with torch.enable_grad():
        outputs, _ = stacked.learning(spec.predict)(model, rows(batches.x, one))
        loss = spec.loss(outputs, rows(batches.y, one), *context).sum()
    return torch.autograd.grad(loss, leaves, materialize_grads=True)


def _noisy_mean(
    training: TrainingConfig,
    leaves: list[Tensor],
    each: list[tuple[Tensor, ...]],
    records: int,
    seed: int,
) -> list[Tensor]:
    """The gradients of examples clipped and summed, and noise, over how many are expected."""
    assert training.privacy is not None
    norm, noise = training.privacy.norm, training.privacy.noise
    stream = torch.Generator().manual_seed(seed)
    count, kind = sum(map(torch.numel, leaves)), leaves[0].dtype
    drawn = torch.randn(count, generator=stream, dtype=kind, device="cpu")
    parts = drawn.to(leaves[0].device).split([leaf.numel() for leaf in leaves])
    total = [noise * norm * part.view_as(leaf) for part, leaf in zip(parts, leaves, strict=True)]
    for slopes in each:
        length = float(torch.cat([slope.flatten() for slope in slopes]).norm())
        if not math.isfinite(length):
            continue  # no factor clips it, and its record would show
        factor = 1.0 if length <= norm else norm / length
        total = [part + factor * slope for part, slope in zip(total, slopes, strict=True)]
    return [part / min(training.batch_size, records) for part in total]


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
