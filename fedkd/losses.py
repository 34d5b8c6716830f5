"""Losses in the place of those that follow from a target: some by name, and a user's own.

    REGISTRY.get("squared")                       # ours
    REGISTRY.get("mine.py:hellinger")             # a user's
    with_losses(task, clients, loss=hellinger)    # the task, learnt by it

A loss is a function (outputs (B, *S), y) -> (B,): one value per example, which depends on no other
example. On private examples y is what they have; towards others it is what these predict, in the
form in which it is sent: probabilities of classes or labels, real numbers as they are, and of a
sequence NaN at places of which nothing is to be learnt.
"""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fedkd.core import Client, Model, Task
from fedkd.targets import Target
from kdcore.losses.precision import in_float32
from kdcore.outputs import Outputs
from kdcore.registry import Registry, members
from kdcore.rng import generator
from kdcore.training.batches import rows
from kdcore.training.stacked import Network, stack_of

Loss = Callable[[Tensor, Tensor], Tensor]
FEW = 8  # examples that a loss is tried with
CLOSE = 1e-4  # relative: what two ways to compute the same may differ by


def absolute(outputs: Tensor, y: Tensor) -> Tensor:
    """Absolute error of real numbers: 1/D sum_d |f_d - y_d|, which outliers pull at no harder."""
    return (outputs - y).abs().mean(dim=-1)


def squared(outputs: Tensor, y: Tensor) -> Tensor:
    """Squared error of real numbers: 1/D sum_d (f_d - y_d)^2, whose slope grows with the error.

    Outliers weigh most, and learning rates have to be small.
    """
    return (outputs - y).square().mean(dim=-1)


def focal(outputs: Tensor, y: Tensor) -> Tensor:
    """Focal loss of classes: -(1 - p_y)^2 log p_y, which leaves alone what is known already.

    Tsung-Yi Lin and others. "Focal Loss for Dense Object Detection". ICCV 2017.
    https://arxiv.org/abs/1708.02002. Their gamma is 2; without weights of classes.
    """
    log_p = -F.cross_entropy(outputs, y, reduction="none")
    return -((1 - log_p.exp()) ** 2) * log_p


OURS: Mapping[str, Loss] = {"absolute": absolute, "focal": focal, "squared": squared}
_OF = {absolute: "real", squared: "real", focal: "class"}  # the target that each of ours is for

REGISTRY: Registry[Loss] = Registry(
    "loss",
    members(OURS),
    "kdsim.losses",
    expected="a function (outputs, y) that gives one value per example",
)


def with_losses(
    task: Task,
    clients: Sequence[Client],
    loss: Loss | None = None,
    distillation: Loss | None = None,
) -> Task:
    """The task with other losses, tried on examples of its clients.

    Where a loss cannot be stacked (`torch.func.vmap` refuses it, or gives something else than for
    one client), engines run the clients in turn.

    Args:
        task: what is learnt.
        clients: whose examples the losses are tried on.
        loss: on private examples; by default the target's.
        distillation: towards what others predict, for algorithms that learn from that by the
            target (`Properties.distils`); by default the target's.

    Raises:
        ValueError: a loss that cannot be, in a line that says why.
    """
    y = torch.cat([rows(c.private.y, c.private.rows[:FEW]).cpu() for c in clients])[:FEW]
    whys = []
    if loss is not None:
        on_labels = _ready(loss, "loss", task.target)
        whys.append(_tried(on_labels, "loss", _made_up(task, len(y)), y))
        task = replace(task, target=replace(task.target, loss=partial(_on_outputs, on_labels)))
    if distillation is not None:
        says, towards = task.target.prediction, _ready(distillation, "distillation", task.target)
        said = task.target.known(says(_made_up(task, len(y), "peer")), y)
        whys.append(_tried(towards, "distillation", _made_up(task, len(y)), said))
        target = replace(
            task.target,
            towards=partial(_on_outputs, towards),
            divergence=partial(_from_peer, towards, says),
        )
        task = replace(task, target=target)
    why = next(filter(None, whys), None)
    if why is None:
        return task
    return replace(task, models={name: _alone(one, why) for name, one in task.models.items()})


def _on_outputs(loss: Loss, outputs: Outputs, y: Tensor) -> Tensor:
    return in_float32(loss)(outputs.logits, y.detach())


def _from_peer(
    loss: Loss, prediction: Callable[[Tensor], Tensor], outputs: Tensor, peer: Tensor
) -> Tensor:
    return in_float32(loss)(outputs, prediction(peer.detach()))


def _ready(loss: Any, what: str, target: Target) -> Loss:
    """The loss as it is called; of a class an instance."""
    if inspect.isclass(loss):
        try:
            loss = loss()
        except (Exception, SystemExit) as error:
            raise ValueError(f"{_said(loss, what)} cannot be made: {_line(error)}") from error
    of = next((own for ours, own in _OF.items() if ours is loss), target.name)
    if of != target.name:
        raise ValueError(
            f"{_said(loss, what)} is for the target {of}, and each example has {target.words}; "
            "take another, or module:name of your own"
        )
    found: Loss = loss
    return found


def _made_up(task: Task, count: int, *purpose: str) -> Tensor:
    """Outputs for some examples, as an untrained model might have them."""
    return torch.randn(count, *task.outputs, generator=generator(0, "loss", *purpose))


def _tried(loss: Loss, what: str, outputs: Tensor, y: Tensor) -> str | None:
    """Why clients cannot be stacked with a loss; None if they can.

    Raises:
        ValueError: it is no loss.
    """
    said = _said(loss, what)
    values, slopes = _checked(loss, said, outputs, y)
    again, _ = _checked(loss, said, outputs, y)
    if not _close(again, values):
        raise ValueError(f"{said} gives other values the second time: it must draw nothing")
    alone, _ = _checked(loss, said, outputs[:1], y[:1])
    if not _close(alone, values[:1]):
        raise ValueError(
            f"{said} depends on the other examples of a mini-batch: of an example it gives "
            f"{float(values[0]):.4g} among {len(y)} and {float(alone[0]):.4g} alone; it must give "
            "one value per example, of that example alone"
        )
    both = torch.stack([outputs, outputs.flip(0)]), torch.stack([y, y.flip(0)])
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*performance drop")
            found = _with_slopes(torch.func.vmap(loss), *both)
    except Exception as error:
        return f"{said} cannot be stacked ({_line(error)})"
    fits = zip(found, (values, slopes), strict=True)
    if all(_close(stacked, torch.stack([one, one.flip(0)])) for stacked, one in fits):
        return None
    return f"{said} computes something else when it is stacked"


def _checked(loss: Loss, said: str, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The values for some examples and their slopes; ValueError where it is no loss."""
    leaf = outputs.clone().requires_grad_()
    try:
        with torch.enable_grad():
            values: Any = loss(leaf, y.clone())
    except (Exception, SystemExit) as error:
        shapes = f"outputs {tuple(outputs.shape)} and y {tuple(y.shape)}"
        raise ValueError(f"{said} fails with {shapes}: {_line(error)}") from error
    if not isinstance(values, Tensor):
        raise ValueError(f"{said} gives a {type(values).__name__}; expected a tensor (B,)")
    if values.shape != y.shape[:1]:
        hint = '; leave out the mean (reduction="none" in torch)' if not values.ndim else ""
        raise ValueError(
            f"{said} gives shape {tuple(values.shape)} for {len(y)} examples; expected one value "
            f"per example, ({len(y)},){hint}"
        )
    found = torch.autograd.grad(values.sum(), [leaf], allow_unused=True) if values.grad_fn else ()
    if not found or found[0] is None:
        raise ValueError(f"{said} has no gradient: something is detached or rounded on the way")
    (slopes,) = found
    if not (values.isfinite().all() and slopes.isfinite().all()):
        bad = "values" if not values.isfinite().all() else "gradients"
        raise ValueError(
            f"{said} gives {bad} that are no finite numbers for outputs of about 1; take "
            "log_softmax for log(softmax), and keep roots and logarithms off zero"
        )
    return values.detach(), slopes


def _with_slopes(loss: Loss, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    leaf = outputs.clone().requires_grad_()
    with torch.enable_grad():
        values = loss(leaf, y)
    (slopes,) = torch.autograd.grad(values.sum(), [leaf])
    return values.detach(), slopes


def _close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found, expected, CLOSE, CLOSE)


def _alone(model: Model, why: str) -> Model:
    """The model, whose clients run in turn."""
    predict = model.predict
    network = predict if isinstance(predict, Network) else Network(predict, stack_of(predict))
    return model._replace(predict=replace(network, alone=network.alone or why))


def _said(loss: Any, what: str) -> str:
    """`the loss mine`, `the distillation loss Focal`."""
    name = getattr(loss, "__name__", type(loss).__name__)
    return f"the {'' if what == 'loss' else f'{what} '}loss {name}"


def _line(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
