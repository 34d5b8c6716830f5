"""Local training as pure functions: parameters in, new parameters out, nothing hidden.

Everything here may run for one model, or under `torch.func.vmap` for many of them at once. For
that reason shuffles are drawn beforehand (`draw`), and a step whose examples are all padding
changes nothing, not even with momentum, weight decay or Adam.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from knowledge.outputs import Outputs

Params = dict[str, Tensor]
Predict = Callable[[Params, Tensor], Outputs]
Loss = Callable[[Outputs, Tensor], Tensor]


@dataclass(frozen=True)
class Examples:
    """Some rows of a data set; the tensors may be shared with many others, the rows say which.

    Shapes:
        x: (N, ...) features; y: (N,) labels; rows: (M,) indices into both, M <= N.
    """

    x: Tensor
    y: Tensor
    rows: Tensor

    def __len__(self) -> int:
        """How many examples there are, M."""
        return len(self.rows)


class Batches(NamedTuple):
    """Shuffled, padded mini-batches, drawn before training begins.

    Shapes:
        x: (N, ...) features and y: (N, ...) targets: labels, or one row of probabilities each.
        order: (S, B) rows of x and y; mask: (S, B) 1 for an example, 0 for padding.
        size: () how many different examples there are.

    `full` says that no step is padding alone, which spares a check in each of them.
    """

    x: Tensor
    y: Tensor
    order: Tensor
    mask: Tensor
    size: Tensor
    full: bool = True

    @property
    def steps(self) -> int:
        """S, the number of mini-batches over all epochs."""
        return self.order.shape[0]

    def padded(self, steps: int) -> "Batches":
        """The same batches followed by all-padding ones, `steps` in total."""
        missing = (steps - self.steps, self.order.shape[1])
        return self._replace(
            order=torch.cat([self.order, self.order.new_zeros(missing)]),
            mask=torch.cat([self.mask, self.mask.new_zeros(missing)]),
            full=False,
        )


OPTIMIZERS = ("sgd", "momentum", "adam")


@dataclass(frozen=True)
class Training:
    """How a model is fitted: the optimiser, and how often the data passes by.

    The optimiser's state starts afresh at each call of `fit`: a client keeps its parameters from
    round to round, not its momentum.
    """

    optimizer: Literal["sgd", "momentum", "adam"] = "sgd"
    learning_rate: float = 0.1
    weight_decay: float = 0.0
    epochs: int = 1
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"unknown optimizer {self.optimizer!r}; choose one of {', '.join(OPTIMIZERS)}"
            )
        if not self.learning_rate > 0 or self.weight_decay < 0:
            raise ValueError(
                f"learning_rate must be > 0 and weight_decay >= 0, got {self.learning_rate} "
                f"and {self.weight_decay}"
            )
        if self.epochs < 0 or self.batch_size < 1:
            raise ValueError(
                f"epochs must be >= 0 and batch_size >= 1, got {self.epochs} and {self.batch_size}"
            )


def draw(examples: Examples, training: Training, generator: torch.Generator) -> Batches:
    """Cut examples into shuffled mini-batches, anew for each epoch; the last one is padded.

    No example is dropped: a client with a single example trains on it in every epoch. The padding
    repeats examples of the client's own, so that nobody's else are ever touched.
    """
    count, width = len(examples), training.batch_size
    steps = -(-count // width)
    places = torch.arange(steps * width)
    index = torch.zeros(training.epochs, steps * width, dtype=torch.long)
    for epoch in index:
        order = torch.randperm(count, generator=generator)
        epoch[:] = examples.rows[order[places % max(count, 1)]]
    mask = (places < count).to(examples.x.dtype)
    return Batches(
        x=examples.x,
        y=examples.y,
        order=index.reshape(-1, width),
        mask=mask.repeat(training.epochs).reshape(-1, width),
        size=torch.tensor(float(count), dtype=examples.x.dtype),
    )


State = dict[str, Params]


class Rule(NamedTuple):
    """An optimiser as two pure functions.

    `init(params)` is its state before the first step; `step(params, gradients, state)` gives the
    next parameters and the next state. `idle` says that a gradient of zero changes nothing.
    """

    init: Callable[[Params], State]
    step: Callable[[Params, Params, State], tuple[Params, State]]
    idle: bool = False


def sgd(learning_rate: float, weight_decay: float = 0.0) -> Rule:
    """Stochastic gradient descent, w <- w - lr (g + wd w)."""

    def step(params: Params, gradients: Params, state: State) -> tuple[Params, State]:
        descent = _decayed(params, gradients, weight_decay)
        return _descend(params, descent, learning_rate), state

    return Rule(lambda params: {}, step, idle=weight_decay == 0)


def momentum(learning_rate: float, weight_decay: float = 0.0, beta: float = 0.9) -> Rule:
    """Heavy-ball momentum as in torch.optim.SGD: v <- beta v + g + wd w; w <- w - lr v."""

    def step(params: Params, gradients: Params, state: State) -> tuple[Params, State]:
        descent = _decayed(params, gradients, weight_decay)
        velocity = {k: torch.add(descent[k], state["velocity"][k], alpha=beta) for k in params}
        return _descend(params, velocity, learning_rate), {"velocity": velocity}

    return Rule(lambda params: {"velocity": _zeros(params)}, step)


def adam(
    learning_rate: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> Rule:
    """Adam with L2 decay in the gradient, as in torch.optim.Adam.

    Diederik Kingma, Jimmy Ba. "Adam: A Method for Stochastic Optimization". ICLR 2015.
    https://arxiv.org/abs/1412.6980
    """
    first, second = betas

    def init(params: Params) -> State:
        count = next(iter(params.values())).new_zeros(())
        return {"mean": _zeros(params), "square": _zeros(params), "count": {"steps": count}}

    def step(params: Params, gradients: Params, state: State) -> tuple[Params, State]:
        descent = _decayed(params, gradients, weight_decay)
        count = state["count"]["steps"] + 1
        mean = {k: first * state["mean"][k] + (1 - first) * descent[k] for k in params}
        square = {k: second * state["square"][k] + (1 - second) * descent[k] ** 2 for k in params}
        size = learning_rate / (1 - first**count)
        root = (1 - second**count).sqrt()
        new = {k: params[k] - size * mean[k] / (square[k].sqrt() / root + epsilon) for k in params}
        return new, {"mean": mean, "square": square, "count": {"steps": count}}

    return Rule(init, step)


def rule(training: Training) -> Rule:
    """The optimiser that a `Training` names."""
    make = {"sgd": sgd, "momentum": momentum, "adam": adam}[training.optimizer]
    return make(training.learning_rate, training.weight_decay)


def fit(
    predict: Predict, params: Params, batches: Batches, training: Training, loss: Loss
) -> Params:
    """Train a model on mini-batches and return its new parameters.

    Args:
        predict: the model, (params, x) -> Outputs.
        params: where training starts; left as it is.
        batches: what is seen, in which order.
        training: the optimiser (epochs and batch size have gone into `batches` already).
        loss: (outputs, y) -> (B,), one value per example; its mean over a batch is minimised.
    """
    optimiser = rule(training)
    state = optimiser.init(params)
    for index, mask in zip(batches.order, batches.mask, strict=True):
        x, y = _rows(batches.x, index), _rows(batches.y, index)

        def objective(params: Params, x: Tensor = x, y: Tensor = y, mask: Tensor = mask) -> Tensor:
            return masked_mean(loss(predict(params, x), y), mask)

        gradients = torch.func.grad(objective)(params)
        moved, moved_state = optimiser.step(params, gradients, state)
        if not (batches.full or optimiser.idle):  # a step of padding has a gradient of zero
            active = mask.any()
            moved = _where(active, moved, params)
            moved_state = {name: _where(active, moved_state[name], state[name]) for name in state}
        params, state = moved, moved_state
    return params


def logits_of(
    predict: Predict, params: Params, x: Tensor, rows: Tensor, at_once: int = 500
) -> Tensor:
    """The logits for some rows of x, a few hundred at a time, to bound the memory that it takes.

    Shapes:
        x: (N, ...); rows: (M,); gives (M, C).
    """
    return torch.cat(
        [predict(params, _rows(x, part)).logits for part in torch.split(rows, at_once)]
    )


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of the values whose mask is 1; zero where no mask is. Shapes: (B,), (B,) -> ()."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """table[index] for the first axis; as an embedding, which vmap gathers much faster."""
    if not table.is_floating_point():
        return table[index]
    rows = torch.nn.functional.embedding(index, table.reshape(len(table), -1))
    return rows.reshape(*index.shape, *table.shape[1:])


def _descend(params: Params, direction: Params, size: float) -> Params:
    return {k: torch.sub(params[k], direction[k], alpha=size) for k in params}


def _where(active: Tensor, new: Params, old: Params) -> Params:
    return {k: torch.where(active, new[k], old[k]) for k in old}


def _decayed(params: Params, gradients: Params, weight_decay: float) -> Params:
    if weight_decay == 0:
        return gradients
    return {k: gradients[k] + weight_decay * params[k] for k in params}


def _zeros(params: Params) -> Params:
    return {k: torch.zeros_like(v) for k, v in params.items()}
