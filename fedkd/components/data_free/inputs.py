"""Inputs for a network made from nothing: what a generator finds, and noise as its control."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fedkd.components.features import comparable
from fedkd.core import Task
from kdcore.training.loop import Params, TrainingConfig
from kdcore.training.optimizers import rule

Objective = Callable[[Tensor, Tensor], Tensor]  # (inputs, labels) -> (), to be minimised
SPREAD = 0.02  # of initial weights, as in the generators of the papers


class Inputs(NamedTuple):
    """What is to be made, and by which generator.

    Attributes:
        shape: of one input; classes: labels there are; device: where they are to be.
        training: `batch_size` inputs are made at once, in as many steps as it has epochs.
        latent: the width of the noise z that the generator begins from.
        width: maps before its last layer.
    """

    shape: Sequence[int]
    classes: int
    device: torch.device
    training: TrainingConfig
    latent: int
    width: int


def generated(
    wanted: Inputs,
    objective: Objective,
    label: Callable[[Tensor], Tensor],
    dice: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Inputs made for labels that are drawn: of the steps of a new generator, the best.

    Generator and noise are trained together, on all inputs at once.

    Shapes:
        gives inputs (N, *shape) from 0 to 1, labels (N,).
    """
    shape, count = wanted.shape, wanted.training.batch_size
    y = torch.randint(wanted.classes, (count,), generator=dice).to(wanted.device)
    drawn = {"z": torch.randn(count, wanted.latent, generator=dice)}
    drawn |= initial(shape, wanted.latent, wanted.width, dice)
    params = {name: value.to(wanted.device).requires_grad_() for name, value in drawn.items()}
    leaves, optimiser = list(params.values()), rule(wanted.training)
    state, best = optimiser.init(leaves), made(params, shape).detach()
    least = best.new_tensor(torch.inf)
    for step in range(1, wanted.training.epochs + 1):
        with torch.enable_grad():
            x = made(params, shape)
            loss = objective(x, y)
        gradients = torch.autograd.grad(loss, leaves)
        better = loss.detach() < least
        best, least = x.detach().where(better, best), loss.detach().where(better, least)
        with torch.no_grad():
            optimiser.step(leaves, list(gradients), state, step)
    return best, y


def noise(
    wanted: Inputs,
    objective: Objective,
    label: Callable[[Tensor], Tensor],
    dice: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Numbers drawn evenly from 0 to 1, and the labels that they are given: nothing is learnt."""
    drawn = torch.rand(wanted.training.batch_size, *wanted.shape, generator=dice)
    x = drawn.to(wanted.device)
    return x, label(x)


SOURCES = {"generated": generated, "noise": noise}


def check_makeable(name: str, task: Task) -> None:
    """Raise ValueError for an algorithm of this name where inputs cannot be made."""
    if task.build is not None:
        raise ValueError(
            f"{name} makes inputs from noise, and those of a graph are the numbers of its nodes; "
            "take fedavg, or fedkt with public nodes"
        )
    table = bool(task.shape) and all(isinstance(side, int) for side in task.shape)
    if not table or not all(comparable(model, task.few) for model in task.models.values()):
        raise ValueError(
            f"{name} makes inputs from noise, in one table of real numbers, and an example has "
            f"shape {task.shape}, or other numbers; take fedavg, or fedkt with public examples"
        )


def initial(shape: Sequence[int], latent: int, width: int, dice: torch.Generator) -> Params:
    """The weights of a generator, N(0, 0.02^2), scales N(1, 0.02^2), and biases of 0.

    Of images (c, h, w) as in DENSE: a layer to 2 `width` maps of h / 4 by w / 4, convolutions to as
    many and to `width` maps, each doubled before; of all else a hidden layer, 2 `width` wide.
    """
    image = len(shape) == 3
    height, breadth = (-(-side // 4) for side in shape[1:]) if image else (1, 1)
    wide = 2 * width
    shapes = {"first.weight": (wide * height * breadth, latent), "norm0.weight": (wide,)}
    if image:
        shapes |= {"conv1.weight": (wide, wide, 3, 3), "norm1.weight": (wide,)}
        shapes |= {"conv2.weight": (width, wide, 3, 3), "norm2.weight": (width,)}
        shapes |= {"last.weight": (shape[0], width, 3, 3)}
    else:
        shapes |= {"last.weight": (math.prod(shape), wide)}
    params: Params = {}
    for name, size in shapes.items():
        params[name] = SPREAD * torch.randn(size, generator=dice) + name.startswith("norm")
        if not name.startswith("conv"):
            params[name.replace("weight", "bias")] = torch.zeros(size[0])
    return params


def made(params: Params, shape: Sequence[int]) -> Tensor:
    """What a generator makes of the noise beside its weights, "z" (N, latent): (N, *shape)."""
    z = params["z"]
    value = F.linear(z, params["first.weight"], params["first.bias"])
    if len(shape) != 3:
        value = F.leaky_relu(_normed(params, "norm0", value), 0.2)
        return (
            F.linear(value, params["last.weight"], params["last.bias"]).sigmoid().view(-1, *shape)
        )
    height, breadth = (-(-side // 4) for side in shape[1:])
    value = _normed(params, "norm0", value.view(len(z), -1, height, breadth))
    for number in (1, 2):
        value = F.interpolate(value, scale_factor=2.0)
        value = F.conv2d(value, params[f"conv{number}.weight"], padding=1)
        value = F.leaky_relu(_normed(params, f"norm{number}", value), 0.2)
    value = F.conv2d(value, params["last.weight"], params["last.bias"], padding=1)
    return value[..., : shape[1], : shape[2]].sigmoid()


def _normed(params: Params, name: str, x: Tensor) -> Tensor:
    """Batch normalisation by the batch alone: each generator makes one."""
    scale, shift = params[f"{name}.weight"], params[f"{name}.bias"]
    return F.batch_norm(x, None, None, scale, shift, training=True)
