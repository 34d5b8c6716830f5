"""DP-SGD: the gradients of examples clipped, summed, and noise added; for a stack of models.

Martin Abadi, Andy Chu, Ian Goodfellow, Brendan McMahan, Ilya Mironov, Kunal Talwar, Li Zhang. "Deep
Learning with Differential Privacy". CCS 2016. https://arxiv.org/abs/1607.00133

A step moves against (sum_i g_i min(1, norm / |g_i|) + N(0, (noise norm)^2 I)) / b, where b is how
many examples a step takes on average, not how many it took: that would say something about them.
Steps that took none are steps like the others. An example whose gradient, or its norm, is no finite
number adds nothing: no factor would make it small, and one such record would show in all weights.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from kdcore.outputs import Outputs
from kdcore.training.optimizers import ByExample, Clipping, Gradient, Product

TINY = 1e-12  # a norm below which a gradient is left as it is
CLOSE = 1e-4  # how near, of the largest number, two ways to compute the same come


def factors(lengths: Tensor, norm: float) -> Tensor:
    """By what each example's gradient is multiplied, from its own norm."""
    found: Tensor = (norm / lengths.clamp(min=TINY)).clamp(max=1)
    return found


def apart(gradients: Mapping[str, Gradient], examples: int) -> bool:
    """Whether each gradient stands there as one summand for each example.

    Not so where something is formed already, or where a layer is used twice: there the gradient of
    an example has more summands than one, and its norm is none of their factors' norms.
    """
    return all(
        not isinstance(g, Tensor) and g.left.shape[1] == examples for g in gradients.values()
    )


def clipped(
    gradients: Mapping[str, Gradient], norm: float, weight: Tensor
) -> dict[str, Product | ByExample]:
    """Gradients that are `apart`, clipped by what their factors say, and never formed.

    |left_i right_i^T|^2 = |left_i|^2 |right_i|^2.

    Ian Goodfellow. "Efficient Per-Example Gradient Computations". 2015.
    https://arxiv.org/abs/1510.01799

    Shapes: `weight` is (1 or K, B), by what each example is multiplied behind that.
    """
    known = {name: g for name, g in gradients.items() if not isinstance(g, Tensor)}
    squares = torch.stack([g.squares() for g in known.values()]).sum(dim=0)  # (K, B)
    if not (finite := squares.isfinite()).all():
        known = {name: g.only(finite.unsqueeze(-1)) for name, g in known.items()}
        squares = squares.where(finite, 0)
    factor = (factors(squares.sqrt(), norm) * weight).unsqueeze(-1)
    return {name: g.scaled(factor) for name, g in known.items()}


def clipped_sum(each: Mapping[str, Tensor], norm: float, weight: Tensor) -> dict[str, Tensor]:
    """The same for the gradients themselves, (B, ...) of one model, and weights (B,)."""
    parts = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in each.values()])
    factor = factors(torch.linalg.vector_norm(parts, dim=0), norm) * weight
    return {name: torch.tensordot(factor, g, dims=1) for name, g in each.items()}


def finite(each: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradients (B, ...) of examples, with zeros for an example with a number not finite."""
    known = torch.stack([g.flatten(1).isfinite().all(dim=1) for g in each.values()]).all(dim=0)
    return {n: g.where(known.view(-1, *[1] * (g.ndim - 1)), 0) for n, g in each.items()}


def with_noise(
    gradients: Mapping[str, Gradient], privacy: Clipping, seeds: Sequence[int], scale: Tensor
) -> dict[str, Gradient]:
    """Gradients, which are multiplied by (K,) `scale` already, and as much of the noise.

    The noise of each model is drawn from its own seed, all numbers of all parameters at once, and
    on the CPU: it is the same in a stack, in turn and on any device.
    """
    if not privacy.noise:
        return dict(gradients)
    shapes = {name: _shape(g) for name, g in gradients.items()}
    sizes = [shape[1:].numel() for shape in shapes.values()]
    drawn = torch.empty(len(seeds), sum(sizes), dtype=scale.dtype, device="cpu")
    stream = torch.Generator()
    for row, seed in zip(drawn, seeds, strict=True):
        torch.randn(row.shape, generator=stream.manual_seed(seed), out=row, device="cpu")
    noise = drawn.to(scale.device).mul_((privacy.noise * privacy.norm * scale).unsqueeze(1))
    parts = noise.split(sizes, dim=1)
    return {
        name: _added(gradients[name], part.view(shape))
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def _shape(gradient: Gradient) -> torch.Size:
    """Of what is formed: (K, ...)."""
    if isinstance(gradient, Product):
        left, right = gradient
        return torch.Size((len(left), left.shape[-1], right.shape[-1]))
    if isinstance(gradient, ByExample):
        return torch.Size((len(gradient.left), gradient.left.shape[-1]))
    return gradient.shape


def _added(gradient: Gradient, noise: Tensor) -> Tensor:
    """The sum, in the place of the noise."""
    if isinstance(gradient, Product) and len(gradient.left) == len(gradient.right):
        return noise.baddbmm_(gradient.left.transpose(1, 2), gradient.right)
    return noise.add_(gradient if isinstance(gradient, Tensor) else gradient.formed())


def check_loss(loss: Any, outputs: Outputs, y: Any, context: tuple[Any, ...]) -> None:
    """Raise ValueError for a loss by which one example reaches the gradient of another.

    The first of some examples, (N, ...) with N >= 2, is replaced, and the others looked at.
    """
    first, structure = tree_flatten(outputs)

    def slopes(values: list[Tensor], y: Any) -> list[Tensor]:
        leaves = [value.detach().requires_grad_() for value in values]
        with torch.enable_grad():
            total = loss(tree_unflatten(leaves, structure), y, *context).sum()
        found = torch.autograd.grad(total, leaves, materialize_grads=True)
        return [value[1:] for value in found]

    others = [torch.cat([1 - 2 * value[:1], value[1:]]) for value in first]
    before = slopes(first, y)
    after = slopes(others, tree_map(lambda v: torch.cat([v[1:2], v[1:]]), y))
    if not all(_close(one, other) for one, other in zip(before, after, strict=True)):
        raise ValueError(
            "privacy of each example needs a loss that is one value for each, and this one couples "
            "the examples of a mini-batch; leave out privacy, or take a loss that does not"
        )


def _close(one: Tensor, other: Tensor) -> bool:
    known = one[one.isfinite()]
    size = float(known.abs().max()) if known.numel() else 0.0
    return bool(torch.allclose(one, other, rtol=CLOSE, atol=CLOSE * size, equal_nan=True))
