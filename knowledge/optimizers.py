"""How a model is fitted, and optimisers as update rules in place, for one model or a stack of them.

An optimiser is a pair of functions: `init(params)` is the state before the first step; `step` makes
the step of a number, counted from 1, and writes over the parameters and the state. All arithmetic
is by element, so a leading axis of clients changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

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


State = dict[str, list[Tensor]]


class Rule(NamedTuple):
    """An optimiser; see the module."""

    init: Callable[[Sequence[Tensor]], State]
    step: Callable[[list[Tensor], list[Tensor], State, int], None]


def sgd(learning_rate: float, weight_decay: float = 0.0) -> Rule:
    """Stochastic gradient descent, w <- w - lr (g + wd w)."""

    def step(params: list[Tensor], gradients: list[Tensor], state: State, count: int) -> None:
        descent = _decayed(params, gradients, weight_decay)
        torch._foreach_add_(params, descent, alpha=-learning_rate)

    return Rule(lambda params: {}, step)


def momentum(learning_rate: float, weight_decay: float = 0.0, beta: float = 0.9) -> Rule:
    """Heavy-ball momentum as in torch.optim.SGD: v <- beta v + g + wd w; w <- w - lr v."""

    def step(params: list[Tensor], gradients: list[Tensor], state: State, count: int) -> None:
        velocity = state["velocity"]
        torch._foreach_mul_(velocity, beta)
        torch._foreach_add_(velocity, _decayed(params, gradients, weight_decay))
        torch._foreach_add_(params, velocity, alpha=-learning_rate)

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

    def step(params: list[Tensor], gradients: list[Tensor], state: State, count: int) -> None:
        descent = _decayed(params, gradients, weight_decay)
        mean, square = state["mean"], state["square"]
        torch._foreach_mul_(mean, first)
        torch._foreach_add_(mean, descent, alpha=1 - first)
        torch._foreach_mul_(square, second)
        torch._foreach_addcmul_(square, descent, descent, value=1 - second)
        size = torch._foreach_sqrt(square)
        torch._foreach_div_(size, (1 - second**count) ** 0.5)
        torch._foreach_add_(size, epsilon)
        torch._foreach_addcdiv_(params, mean, size, value=-learning_rate / (1 - first**count))

    return Rule(lambda params: {"mean": _zeros(params), "square": _zeros(params)}, step)


def rule(training: Training) -> Rule:
    """The optimiser that a `Training` names."""
    make = {"sgd": sgd, "momentum": momentum, "adam": adam}[training.optimizer]
    return make(training.learning_rate, training.weight_decay)


def _decayed(params: list[Tensor], gradients: list[Tensor], weight_decay: float) -> list[Tensor]:
    if weight_decay == 0:
        return gradients
    return list(torch._foreach_add(gradients, params, alpha=weight_decay))


def _zeros(params: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(value) for value in params]
