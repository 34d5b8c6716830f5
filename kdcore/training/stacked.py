"""The same training for a stack of K models of one architecture at once.

What `kdcore.training.loop` does for one model, this does for many, in the same number of
operations: parameters carry a leading axis of clients, and the sum of their losses is
differentiated, which gives each model its own gradient. Models with fewer steps leave the stack
when they are done.

A leading axis is K where each model has its own, and 1 where all share one.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from kdcore.outputs import Outputs
from kdcore.training import dp_sgd
from kdcore.training.batches import NOBODY, Batches, leading, rows, taken
from kdcore.training.by_hand import CrossEntropy, Slopes
from kdcore.training.optimizers import Gradient, TrainingConfig, rule

Params = dict[str, Tensor]
Predict = Callable[[Params, Any], Outputs]  # of (N, ...) features, or a tuple of such tables
Learn = Callable[[Params, Any], tuple[Outputs, Params]]
Loss = Callable[..., Tensor]
STATE = "~"  # in the names of what a model keeps beside its weights: statistics, a stream of chance
GRADIENTS = 2**22  # numbers in the gradients of examples that are there at once
AT_ONCE = 1000  # examples of a few models together, where each predicts its own


@dataclass(frozen=True)
class Network:
    """A network in two forms, of which tests hold the second to the first.

    Attributes:
        one: (params, x (N, ...)) -> Outputs.
        stack: the same for K models; x is (K, N, ...), or (1, N, ...) where all see the same.
        backward: (params, x, outputs, gradient of a scalar by each output) -> its gradient by each
            parameter, where that is quicker by hand than by autograd; see `Product`.
        learn: (params, x) -> Outputs and the new values of its state, where it learns otherwise
            than it predicts: it drops out at random, or keeps statistics of its mini-batches. What
            it keeps has names with `STATE` in them, before those of the weights in `params`.
        alone: why models cannot be stacked, in words, for an engine to run them in turn; None where
            they can.
        in_turn: whether a stack is no quicker on a CPU than one model after another, as of
            convolutions, so that engines run them in turn there.
        least: examples that a mini-batch needs for the network to learn; smaller ones are left out.
        whole: whether it costs as much to ask about a few examples as about all, as of the nodes of
            a graph, which it works out together.
        beside: a network of another name for the same inputs, of one whose inputs are no more than
            the numbers of what it knows.
        embedding: (N, ...) -> (N, D), of such inputs, numbers by which they can be compared, the
            same whatever the parameters are.
    """

    one: Predict
    stack: Predict
    backward: Callable[[Params, Tensor, Outputs, Outputs], dict[str, Gradient]] | None = None
    learn: Learn | None = None
    alone: str | None = None
    in_turn: bool = False
    least: int = 1
    whole: bool = False
    beside: Callable[[str], Predict] | None = None
    embedding: Callable[[Any], Tensor] | None = None

    def __call__(self, params: Params, x: Any) -> Outputs:
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


def learning(predict: Predict) -> Learn:
    """A network as it learns; most do so just as they predict, and keep nothing."""
    if isinstance(predict, Network) and predict.learn is not None:
        return predict.learn
    return lambda params, x: (predict(params, x), {})


def least_batch(predict: Predict) -> int:
    """How many examples a mini-batch needs for the network to learn from it."""
    return predict.least if isinstance(predict, Network) else 1


def asked_at_once(predict: Predict, few: int, wanted: Tensor) -> int:
    """About how many examples a network is asked at once: a few, or, of a `whole` one, all."""
    whole = isinstance(predict, Network) and predict.whole
    return max(1, wanted.shape[-1]) if whole else few


def changed(
    predict: Predict, change: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Predict:
    """A network whose inputs are changed on their way in, also while it learns.

    `change` makes of a form (params, x) -> anything another one.
    """
    one = change(predict)
    if not isinstance(predict, Network) or predict.learn is None:
        return one
    learn = change(predict.learn)
    return Network(one, stack_of(one), learn=learn, alone=predict.alone, least=predict.least)


def weights(params: Params) -> Params:
    """What an optimiser moves: all but the state."""
    return {name: value for name, value in params.items() if STATE not in name}


def statistics(params: Params) -> str | None:
    """The first of the real numbers that a network keeps beside its weights; None for nothing."""
    trained = weights(params)
    kept = (n for n, v in params.items() if n not in trained and v.is_floating_point())
    return next(kept, None)


@dataclass(frozen=True)
class FitSpec:
    """All that is not a tensor about a training, see `kdcore.training.loop.fit`."""

    predict: Predict
    training: TrainingConfig
    loss: Loss
    penalty: Loss | None


def fit(spec: FitSpec, params: Params, batches: Batches, context: tuple[Any, ...]) -> Params:
    """Train K models; every tensor has a leading axis of 1 or K, those of `params` of K.

    Steps of padding alone are left out, so that even momentum and Adam see nothing of them. Not so
    those of DP-SGD, where it is left to chance whether a step takes anybody.
    """
    private = spec.training.privacy is not None
    batches, steps = _private_steps(batches) if private else _without_idle_steps(batches)
    count = _count(params)
    steps = steps.expand(count)
    longest_first = steps.argsort(descending=True, stable=True)
    in_order = bool((steps[1:] <= steps[:-1]).all())
    if not in_order:
        params, batches, context = tree_map(
            lambda v: v if len(v) == 1 else v[longest_first], (params, batches, context)
        )
    sorted_steps = steps[longest_first].tolist()
    kept = {n: v.clone(memory_format=torch.contiguous_format) for n, v in params.items()}
    _fit_in_place(spec, kept, batches, context, sorted_steps)
    if not in_order:
        back = longest_first.argsort()
        kept = {name: value[back] for name, value in kept.items()}
    return kept


def evenly(count: int, most: int) -> list[slice]:
    """So many in parts of at most so many, as even as can be."""
    parts = max(1, -(-count // most))
    bounds = [-(-count * part // parts) for part in range(parts + 1)]
    return [slice(*pair) for pair in itertools.pairwise(bounds)]


def _fit_in_place(
    spec: FitSpec,
    kept: Params,
    batches: Batches,
    context: tuple[Any, ...],
    steps: Sequence[int],
) -> None:
    """Train models in place, of which those with many steps come first."""
    names = list(weights(kept))
    values = [kept[name] for name in names]
    gradients_of = _gradients(spec, kept, batches, context)
    optimiser = rule(spec.training)
    state = optimiser.init(values)
    active = 0
    for step in range(steps[0] if steps else 0):
        still = sum(mine > step for mine in steps)
        if still != active:
            active = still
            leaves = [value[:active].detach().requires_grad_() for value in values]
            model = _first(kept, active) | dict(zip(names, leaves, strict=True))
            parts = {name: [v[:active] for v in column] for name, column in state.items()}
            xs, ys, given = _first((batches.x, batches.y, context), active)
        order = batches.order[:active, step]
        gradients, fresh = gradients_of(model, xs, ys, given, order, step)
        with torch.no_grad():
            optimiser.step(leaves, [gradients[name] for name in names], parts, step + 1)
            for name, value in fresh.items():
                model[name].copy_(value)


# (model, tables of x and of y, context, rows (1 or K, B) of the tables, step) -> by each weight,
# and the new state
Step = Callable[
    [Params, Any, Any, tuple[Any, ...], Tensor, int], tuple[dict[str, Gradient], Params]
]


def _gradients(spec: FitSpec, kept: Params, batches: Batches, context: tuple[Any, ...]) -> Step:
    if spec.training.privacy is not None:
        return _private(spec, kept, batches, context)
    mask = batches.mask.to(next(iter(weights(kept).values())).dtype)
    weight = mask / mask.sum(dim=-1, keepdim=True).clamp(min=1)  # (1 or K, S, B)
    if _without_autograd(spec):
        return _known(spec, batches, context, weight)
    return _mean(spec, weight)


def _mean(spec: FitSpec, weight: Tensor) -> Step:
    """The gradients of each model's mean loss."""

    def gradients(
        model: Params, xs: Any, ys: Any, context: tuple[Any, ...], order: Tensor, step: int
    ) -> tuple[dict[str, Gradient], Params]:
        x, y = taken(xs, order), taken(ys, order)
        leaves, mine = weights(model), weight[: _count(model), step]
        if _by_hand(spec.predict) and spec.penalty is None:
            return _backward(spec, model, x, y, context, mine), {}
        with torch.enable_grad():
            outputs, fresh = _learning_stack(spec.predict)(model, x)
            total = _objective(spec, outputs, y, context, mine)
            if spec.penalty is not None:
                total = total + _mapped(spec.penalty, leaves, y, *context).sum()
        found = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, found, strict=True)), fresh

    return gradients


def _known(spec: FitSpec, batches: Batches, context: tuple[Any, ...], weight: Tensor) -> Step:
    """The same where loss and network bring their gradients."""
    predict, loss = spec.predict, spec.loss
    assert isinstance(loss, CrossEntropy)
    assert isinstance(predict, Network)
    assert predict.backward is not None
    backward, slopes = predict.backward, Slopes(loss, batches, weight, context)

    @torch.no_grad()
    def gradients(
        model: Params, xs: Any, ys: Any, context: tuple[Any, ...], order: Tensor, step: int
    ) -> tuple[dict[str, Gradient], Params]:
        x = taken(xs, order)
        outputs = predict.stack(model, x)
        nothing: Any = (None,) * len(outputs.hidden)
        upstream = Outputs(slopes.by_logits(outputs.logits, step), nothing)
        return backward(model, x, outputs, upstream), {}

    return gradients


def _private(spec: FitSpec, params: Params, batches: Batches, context: tuple[Any, ...]) -> Step:
    """Those of DP-SGD, see `kdcore.training.dp_sgd`; a penalty, which sees no example, is added."""
    privacy = spec.training.privacy
    assert privacy is not None
    if len(batches.noise) < _count(params):
        raise ValueError("models of a stack that share their mini-batches would share their noise")
    _check_loss(spec, params, batches, context)
    mask = batches.mask.to(next(iter(weights(params).values())).dtype)
    scale = 1 / batches.size.clamp(min=1, max=spec.training.batch_size).to(mask.dtype)  # (K,)
    seeds = batches.noise.T.tolist()

    def gradients(
        model: Params, xs: Any, ys: Any, context: tuple[Any, ...], order: Tensor, step: int
    ) -> tuple[dict[str, Gradient], Params]:
        x, y, count = taken(xs, order), taken(ys, order), _count(model)
        mine = mask[:count, step] * scale[:count].unsqueeze(1)
        found = _clipped(spec, privacy.norm, model, x, y, context, mine)
        with torch.no_grad():
            found = dp_sgd.with_noise(found, privacy, seeds[step][:count], scale[:count])
        if spec.penalty is not None:
            found = _with_penalty(spec, found, weights(model), y, context)
        fresh: Params = {}
        if len(weights(model)) < len(model):
            one = tree_map(lambda v: v[:, :1], x)
            with torch.no_grad():
                _, fresh = _learning_stack(spec.predict)(model, one)
        return found, fresh

    return gradients


def _check_loss(spec: FitSpec, params: Params, batches: Batches, context: tuple[Any, ...]) -> None:
    """`dp_sgd.check_loss` with the examples of a step that has several."""
    several = (batches.mask.sum(dim=-1) > 1).nonzero()
    if not len(several):
        return
    k, step = several[0].tolist()
    index = batches.order[k, step][batches.mask[k, step]]
    mine = tree_map(lambda v: v[min(k, len(v) - 1)], (params, batches.x, batches.y, context))
    own, x, y, given = mine
    with torch.no_grad():
        outputs = spec.predict(own, rows(x, index))
    dp_sgd.check_loss(spec.loss, outputs, rows(y, index), given)


def _clipped(
    spec: FitSpec,
    norm: float,
    model: Params,
    x: Any,
    y: Any,
    context: tuple[Any, ...],
    weight: Tensor,
) -> dict[str, Gradient]:
    """The weighted sum of the examples' gradients, each clipped; `weight` is (K, B)."""
    leaves = weights(model)
    if _by_hand(spec.predict):
        with torch.no_grad():
            alone = replace(spec, loss=_of_each(spec.loss))
            slopes = _backward(alone, model, x, y, context, weight.ne(0).to(weight.dtype))
            if dp_sgd.apart(slopes, weight.shape[1]):
                small = dp_sgd.clipped(slopes, norm, weight)
                return {name: small[name] for name in leaves}
    held = {name: value for name, value in model.items() if name not in leaves}
    slopes_of = _each_in_a_stack if _numbered(spec.predict) else _each_by_vmap
    numbers = weight.shape[1] * sum(value[0].numel() for value in leaves.values())
    few = max(1, GRADIENTS // numbers)
    parts = []
    for first in range(0, _count(leaves), few):
        *mine, weights_of = tree_map(
            lambda v: v if len(v) == 1 else v[first : first + few],  # noqa: B023
            (leaves, held, x, y, context, weight),
        )
        each = slopes_of(spec, *mine)
        found = _clipped_sums(each, norm, weights_of)
        if not all(value.isfinite().all() for value in found.values()):
            each = torch.func.vmap(dp_sgd.finite)(each)  # hardly ever, and dear to do beforehand
            found = _clipped_sums(each, norm, weights_of)
        parts.append(found)
    return {name: torch.cat([part[name] for part in parts]) for name in leaves}


def _clipped_sums(each: Params, norm: float, weight: Tensor) -> dict[str, Tensor]:
    """`dp_sgd.clipped_sum` of K models: (K, B, ...) gradients and (1 or K, B) weights."""
    found: dict[str, Tensor] = _mapped(
        lambda own, mine: dp_sgd.clipped_sum(own, norm, mine), each, weight
    )
    return found


def _each_by_vmap(
    spec: FitSpec, leaves: Params, held: Params, x: Any, y: Any, context: Any
) -> Params:
    """The gradients of the loss of each example alone, (K, B, ...)."""
    learn = learning(spec.predict)

    def loss_of_one(leaves: Params, held: Params, x: Any, y: Any, context: Any) -> Tensor:
        x, y = tree_map(lambda v: v.unsqueeze(0), (x, y))
        outputs, _ = learn(held | leaves, x)
        loss: Tensor = spec.loss(outputs, y, *context).squeeze(0)
        return loss

    of_one = torch.func.vmap(torch.func.grad(loss_of_one), in_dims=(None, None, 0, 0, None))
    with torch.enable_grad():
        found: Params = _mapped(of_one, leaves, held, x, y, context)
    return found


def _each_in_a_stack(
    spec: FitSpec, leaves: Params, held: Params, x: Any, y: Any, context: Any
) -> Params:
    """The same by the network's form of a stack: of K B models, each shown one of the examples.

    For networks that look at the numbers of their inputs, which vmap does not let them.
    """
    count, wide = _count(leaves), leading(x).shape[1]

    def spread(table: Any) -> Any:
        return tree_map(lambda v: v.expand(count, *v.shape[1:]).repeat_interleave(wide, 0), table)

    def alone(table: Any) -> Any:
        return tree_map(lambda v: v.expand(count, *v.shape[1:]).flatten(0, 1).unsqueeze(1), table)

    models = {name: v.detach().requires_grad_() for name, v in spread(leaves).items()}
    with torch.enable_grad():
        outputs, _ = _learning_stack(spec.predict)(models | spread(held), alone(x))
        total = _mapped(spec.loss, outputs, alone(y), *spread(context)).sum()
    slopes = torch.autograd.grad(total, list(models.values()), materialize_grads=True)
    return {n: g.unflatten(0, (count, wide)) for n, g in zip(models, slopes, strict=True)}


def _with_penalty(
    spec: FitSpec,
    gradients: Mapping[str, Gradient],
    leaves: Params,
    y: Any,
    context: tuple[Any, ...],
) -> dict[str, Gradient]:
    """The gradients and those of the penalty, which is shown no example at all."""
    assert spec.penalty is not None
    nothing = tree_map(lambda v: v[:, :0], y)
    with torch.enable_grad():
        total = _mapped(spec.penalty, leaves, nothing, *context).sum()
    more = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
    formed = [g if isinstance(g, Tensor) else g.formed() for g in gradients.values()]
    return dict(zip(gradients, torch._foreach_add(formed, [*more]), strict=True))


def _of_each(loss: Loss) -> Loss:
    """The loss of each example as it is where there is no other, so that none reaches another's."""

    def each(outputs: Outputs, y: Any, *context: Any) -> Tensor:
        def one(outputs: Outputs, y: Any) -> Tensor:
            outputs, y = tree_map(lambda v: v.unsqueeze(0), (outputs, y))
            found: Tensor = loss(outputs, y, *context).squeeze(0)
            return found

        values: Tensor = torch.func.vmap(one)(outputs, y)
        return values

    return each


def _numbered(predict: Predict) -> bool:
    """Whether inputs are no more than the numbers of what a network knows."""
    return isinstance(predict, Network) and predict.beside is not None


def _by_hand(predict: Predict) -> bool:
    return isinstance(predict, Network) and predict.backward is not None


def _without_autograd(spec: FitSpec) -> bool:
    """Whether a step has no autograd in it at all."""
    if spec.penalty is not None or spec.training.privacy is not None:
        return False
    return _by_hand(spec.predict) and isinstance(spec.loss, CrossEntropy)


def _objective(
    spec: FitSpec, outputs: Outputs, y: Any, context: tuple[Any, ...], weight: Tensor
) -> Tensor:
    """The weighted sum of all losses; `weight` is (1 or K, B)."""
    each: Tensor = _mapped(spec.loss, outputs, y, *context)
    return (each * weight).sum()


def _backward(
    spec: FitSpec, model: Params, x: Any, y: Any, context: tuple[Any, ...], weight: Tensor
) -> dict[str, Gradient]:
    """The gradients of `_objective` by the network's own backward pass."""
    predict = spec.predict
    assert isinstance(predict, Network)
    assert predict.backward is not None
    with torch.no_grad():
        outputs = predict.stack(model, x)
    flat, structure = tree_flatten(outputs)
    flat = [value.detach().requires_grad_() for value in flat]
    with torch.enable_grad():
        total = _objective(spec, tree_unflatten(flat, structure), y, context, weight)
    upstream = torch.autograd.grad(total, flat, allow_unused=True)
    with torch.no_grad():
        return predict.backward(model, x, outputs, tree_unflatten(upstream, structure))


def _private_steps(batches: Batches) -> tuple[Batches, Tensor]:
    """The batches as they are, empty ones with them, and how many steps there are, (K,)."""
    return batches, (batches.noise != NOBODY).sum(dim=1)


def _learning_stack(predict: Predict) -> Learn:
    """A network for a stack as it learns."""
    if isinstance(predict, Network) and predict.learn is not None:
        return partial(_mapped, predict.learn)
    stack = stack_of(predict)
    return lambda params, x: (stack(params, x), {})


@torch.no_grad()
def predict_logits(
    predict: Predict, params: Params, x: Any, wanted: Tensor, at_once: int
) -> Tensor:
    """The logits of K models for some rows of x.

    Where models have rows of their own, a few models predict all of theirs, and then the next few:
    so their weights stay in the cache. What they share, all of them predict at once.

    Shapes:
        x: (1 or K, N, ...); wanted: (1 or K, M) rows of it, or -1 for none, of which the logits are
            zero; gives (K, M, C).
    """
    count, known = _count(params), wanted >= 0
    at_once = asked_at_once(predict, at_once, wanted)
    shared = len(leading(x)) == 1 and len(wanted) == 1
    few = count if shared else max(1, AT_ONCE // max(1, min(at_once, wanted.shape[1])))
    stack, wanted, widths = stack_of(predict), wanted.clamp(min=0), _widths(known)
    found = None
    for first in range(0, count, few):
        models = slice(first, first + few)
        mine, table, own = _few((params, x, wanted), models)
        width = max(widths[models] if len(widths) > 1 else widths)
        for column in range(0, max(width, 1), at_once):
            part = own[:, column : min(column + at_once, width)]
            logits = stack(mine, taken(table, part)).logits
            if found is None:
                found = logits.new_zeros(count, wanted.shape[1], *logits.shape[2:])
            found[models, column : column + part.shape[1]] = logits
    assert found is not None
    if known.all():
        return found
    return found.masked_fill_(~known.view(*known.shape, *[1] * (found.ndim - 2)), 0)


def _widths(known: Tensor) -> list[int]:
    """Of each row of a table of bools, how many columns there are up to the last that is true."""
    places = torch.arange(1, known.shape[1] + 1, device=known.device)
    last: list[int] = (places * known).amax(dim=1).tolist() if known.shape[1] else [0] * len(known)
    return last


def _without_idle_steps(batches: Batches) -> tuple[Batches, Tensor]:
    """The batches with steps of padding alone at the end, and how many others there are, (K,)."""
    works = batches.mask.any(dim=-1)  # (K, S)
    if (works[:, 1:] & ~works[:, :-1]).any():
        first = works.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        place = first.unsqueeze(-1).expand(-1, -1, batches.mask.shape[-1])
        order = batches.order.expand(len(place), -1, -1).gather(1, place)
        batches = batches._replace(order=order, mask=batches.mask.gather(1, place))
    return batches, works.sum(dim=1)


def _count(params: Params) -> int:
    """K."""
    return len(next(iter(params.values())))


def _few(tree: Any, models: slice) -> Any:
    """What some models of a stack have, of tensors with a leading axis of 1 or K."""
    return tree_map(lambda v: v if len(v) == 1 else v[models], tree)


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
