"""How a model is fitted, and optimisers as update rules in place, for one model or a stack of them.

An optimiser is a pair of functions: `init(params)` is the state before the first step; `step` makes
the step of a number, counted from 1, and writes over the parameters and the state. All arithmetic
is by element, so a leading axis of clients changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from kdcore.settings import Setting, check_ranges

OPTIMIZERS = ("sgd", "momentum", "adam")


@dataclass(frozen=True)
class Clipping:
    """What each step of DP-SGD does to the gradients of its examples.

    Martin Abadi, Andy Chu, Ian Goodfellow, Brendan McMahan, Ilya Mironov, Kunal Talwar, Li Zhang.
    "Deep Learning with Differential Privacy". CCS 2016. https://arxiv.org/abs/1607.00133

    Each example's gradient is clipped to a norm; to their sum is added N(0, (noise norm)^2 I). That
    is a Gaussian mechanism of this noise multiplier, when one record is added or removed.
    """

    norm: Annotated[float, Setting("L2 norm to which each example's gradient is clipped", gt=0)]
    noise: Annotated[
        float, Setting("standard deviation of the noise on the sum, in units of the norm", ge=0)
    ]

    def __post_init__(self) -> None:
        """Refuse what makes no mechanism."""
        check_ranges(self)


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is fitted: the optimiser, and how often the data passes by.

    With `steps`, so many mini-batches are taken whatever `epochs` says: from one shuffle after
    another until there are enough, so that every client does the same work.

    With `privacy`, training is DP-SGD: each of so many steps takes every example with probability
    `batch_size` / examples, and so few, many or none; see `Clipping`.

    The optimiser's state starts afresh at each call of `fit`: a client keeps its parameters from
    round to round, not its momentum.
    """

    optimizer: Annotated[
        Literal["sgd", "momentum", "adam"], Setting("by which rule steps are made")
    ] = "sgd"
    learning_rate: Annotated[float, Setting("size of a step", gt=0)] = 0.1
    weight_decay: Annotated[float, Setting("L2 decay, in the gradient", ge=0)] = 0.0
    epochs: Annotated[int, Setting("passes over the examples", ge=0)] = 1
    batch_size: Annotated[int, Setting("examples in a mini-batch; 0: all at once", ge=0)] = 32
    steps: Annotated[
        int | None,
        Setting("mini-batches, whatever epochs says; none: epochs count", ge=1),
    ] = None
    privacy: Annotated[Clipping | None, Setting("of each example, by DP-SGD")] = field(
        default=None, metadata={"added": True}
    )

    def __post_init__(self) -> None:
        """Refuse what makes no training."""
        check_ranges(self)
        if self.privacy is not None and not self.batch_size:
            raise ValueError(
                "batch_size is 0, all examples at once, and with privacy steps take them by "
                "chance; take 1 or more, how many there are in a mini-batch on average"
            )

    def passes(self, purpose: str) -> int:
        """How many epochs, for what cannot do with a part of one.

        Raises:
            ValueError: steps are counted instead.
        """
        if self.steps is not None:
            raise ValueError(
                f"{purpose} takes whole epochs, and steps is {self.steps}; leave out steps, and "
                "set epochs"
            )
        return self.epochs


class Product(NamedTuple):
    """The gradient of a stack of weight matrices as its two factors: left^T right, never formed.

    Added to the weights at once, it spares a write and two readings of all of them, which is most
    of what a step costs where batches are small.

    Shapes:
        left: (K, B, O), of the layer's outputs; right: (K, B, D), its inputs, or (1, B, D) where
        all models have the same; the gradient is (K, O, D).
    """

    left: Tensor
    right: Tensor

    def added_to(self, target: Tensor, keep: float, size: float) -> None:
        """Target <- keep target + size left^T right, in place."""
        if len(self.right) == len(self.left):
            target.baddbmm_(self.left.transpose(1, 2), self.right, beta=keep, alpha=size)
        else:
            wide = self.left.permute(0, 2, 1).flatten(0, 1)  # (K O, B)
            target.view(-1, target.shape[-1]).addmm_(wide, self.right[0], beta=keep, alpha=size)

    def formed(self) -> Tensor:
        """The gradient itself."""
        return self.left.transpose(1, 2) @ self.right

    def squares(self) -> Tensor:
        """(K, B), the square of the norm of what each row adds."""
        return self.left.square().sum(dim=-1) * self.right.square().sum(dim=-1)

    def scaled(self, factor: Tensor) -> "Product":
        """What each row adds multiplied by its factor, (K, B, 1)."""
        return Product(self.left * factor, self.right)

    def only(self, kept: Tensor) -> "Product":
        """What the rows add that are kept, (K, B, 1) bool; whatever stands in others is gone."""
        return Product(self.left.where(kept, 0), self.right.where(kept, 0))


class ByExample(NamedTuple):
    """The gradient of a stack of vectors, such as biases, by what each example adds to it.

    Shapes:
        left: (K, B, O); the gradient is (K, O).
    """

    left: Tensor

    def formed(self) -> Tensor:
        """The gradient itself."""
        return self.left.sum(dim=1)

    def squares(self) -> Tensor:
        """(K, B), the square of the norm of what each row adds."""
        return self.left.square().sum(dim=-1)

    def scaled(self, factor: Tensor) -> "ByExample":
        """What each row adds multiplied by its factor, (K, B, 1)."""
        return ByExample(self.left * factor)

    def only(self, kept: Tensor) -> "ByExample":
        """What the rows add that are kept, (K, B, 1) bool; whatever stands in others is gone."""
        return ByExample(self.left.where(kept, 0))


Gradient = Tensor | Product | ByExample
State = dict[str, list[Tensor]]


class Rule(NamedTuple):
    """An optimiser; see the module."""

    init: Callable[[Sequence[Tensor]], State]
    step: Callable[[list[Tensor], Sequence[Gradient], State, int], None]


def sgd(learning_rate: float, weight_decay: float = 0.0) -> Rule:
    """Stochastic gradient descent, w <- w - lr (g + wd w)."""

    def step(params: list[Tensor], gradients: Sequence[Gradient], state: State, count: int) -> None:
        _accumulate(params, gradients, 1 - learning_rate * weight_decay, -learning_rate)

    return Rule(lambda params: {}, step)


def momentum(learning_rate: float, weight_decay: float = 0.0, beta: float = 0.9) -> Rule:
    """Heavy-ball momentum as in torch.optim.SGD: v <- beta v + g + wd w; w <- w - lr v."""

    def step(params: list[Tensor], gradients: Sequence[Gradient], state: State, count: int) -> None:
        velocity = state["velocity"]
        _accumulate(velocity, gradients, beta, 1.0)
        if weight_decay:
            torch._foreach_add_(velocity, params, alpha=weight_decay)
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

    def step(params: list[Tensor], gradients: Sequence[Gradient], state: State, count: int) -> None:
        descent = [g if isinstance(g, Tensor) else g.formed() for g in gradients]
        if weight_decay:
            descent = list(torch._foreach_add(descent, params, alpha=weight_decay))
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


def rule(training: TrainingConfig) -> Rule:
    """The optimiser that a `TrainingConfig` names."""
    make = {"sgd": sgd, "momentum": momentum, "adam": adam}[training.optimizer]
    return make(training.learning_rate, training.weight_decay)


def _accumulate(
    targets: list[Tensor], gradients: Sequence[Gradient], keep: float, size: float
) -> None:
    """Each target <- keep target + size gradient."""
    formed = []
    for target, gradient in zip(targets, gradients, strict=True):
        if isinstance(gradient, Product):
            gradient.added_to(target, keep, size)
        else:
            formed.append((target, gradient if isinstance(gradient, Tensor) else gradient.formed()))
    if formed:
        plain, added = map(list, zip(*formed, strict=True))
        if keep != 1:
            torch._foreach_mul_(plain, keep)
        torch._foreach_add_(plain, added, alpha=size)


def _zeros(params: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(value) for value in params]
