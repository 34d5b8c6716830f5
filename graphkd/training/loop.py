"""Fitting one network: epochs, early stopping on validation accuracy, and its own randomness."""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from graphkd.core import Epoch, StudentSpec, TeacherSpec
from graphkd.graph import Graph
from graphkd.models import readout
from kdcore import metrics
from kdcore.losses import response
from kdcore.outputs import Outputs
from kdcore.rng import generator, seed_of


class Fitted(NamedTuple):
    """A trained network with frozen weights, and the epoch that they are from."""

    network: nn.Module
    epoch: int


@runtime_checkable
class Learner(Protocol):
    """A network with losses of its own, that are learnt beside those of labels."""

    def learning(self, graph: Graph, nodes: Tensor | None = None) -> tuple[Outputs, Tensor]:
        """What it shows of these nodes in training, or of all, and the sum of its own losses."""


Step = Callable[[nn.Module, torch.optim.Optimizer, torch.Generator], float]
Fit = Generator[Epoch, None, Fitted]


def finish(fitting: Fit) -> Fitted:
    """Run a fit to its end without looking at its epochs."""
    while True:
        try:
            next(fitting)
        except StopIteration as stop:
            fitted: Fitted = stop.value
            return fitted


@contextmanager
def seeded(seed: int, device: torch.device, *purpose: int | str) -> Iterator[None]:
    """Torch's global streams start from (seed, purpose) inside, and go on as before after.

    Initialisation and dropout of PyTorch and PyG draw from there and take no generator.
    """
    with apart(device):
        start(seed, device, *purpose)
        yield


def apart(device: torch.device) -> AbstractContextManager[None]:
    """Torch's global streams go on after it as if nothing had been drawn inside."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def start(seed: int, device: torch.device, *purpose: int | str) -> None:
    """Torch's global streams start from (seed, purpose); for the inside of `apart`."""
    stream = seed_of(seed, *purpose)
    torch.default_generator.manual_seed(stream)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(stream)


def build(
    description: TeacherSpec | StudentSpec,
    graph: Graph,
    seed: int,
    role: str,
    network: Callable[..., nn.Module] | nn.Module | None = None,
) -> nn.Module:
    """A fresh network for a graph; the same for the same seed and role.

    It is the one that is described, or made of a class or a module of the user's.
    """
    name, hidden, layers, dropout = description[:4]
    with seeded(seed, graph.x.device, role, "weights"):
        return readout.build(network or name, graph, hidden, layers, dropout)


def fit(
    phase: str,
    network: nn.Module,
    description: TeacherSpec | StudentSpec,
    graph: Graph,
    val: Tensor,
    step: Step,
    seed: int,
    beside: Iterable[nn.Module] = (),
) -> Fit:
    """Train epoch by epoch with Adam, yield each, and give the network with the best weights.

    The best weights are those of the last epoch with the highest accuracy on the validation
    nodes; training stops when none such has come for `patience` epochs.

    Args:
        phase: the name of the epochs; "baseline" and "student" share their random streams, as do
            all whose name starts with "teacher".
        network: is trained in place.
        description: how.
        graph: whose validation labels select.
        val: (n,) validation nodes.
        step: one epoch of training; gives its loss.
        seed: of dropout and of what `step` draws.
        beside: modules with parameters that are trained too, and then forgotten.

    Raises:
        ValueError: the loss is no longer a number.
    """
    learnt = nn.ModuleList([network, *beside])
    optimiser = torch.optim.Adam(
        _by_rate(learnt, description.lr), weight_decay=description.weight_decay, fused=True
    )
    role = "teacher" if phase.startswith("teacher") else "student"
    highest, stale, chosen, weights = -math.inf, 0, 0, network.state_dict()
    for index in range(description.epochs):
        learnt.train()
        with seeded(seed, graph.x.device, role, index):
            loss = step(network, optimiser, generator(seed, role, "draw", index))
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss of the {phase} is {loss} in epoch {index}; training diverged: lower its "
                f"learning rate (now {description.lr}) or the weights of its terms"
            )
        accuracy = score(predict(network, graph, val).logits, graph.y[val])
        best = accuracy >= highest
        stale = 0 if best else stale + 1
        if best:
            highest, chosen = accuracy, index
            weights = {name: value.clone() for name, value in network.state_dict().items()}
        yield Epoch(phase, index, loss, accuracy, best)
        if stale == description.patience:
            break
    network.load_state_dict(weights)
    return Fitted(network.eval().requires_grad_(False), chosen)


def _by_rate(learnt: nn.Module, lr: float) -> list[dict[str, Any]]:
    """The parameters by learning rate: those of a module with a `rate_share` have so much of lr."""
    shares = {
        parameter: float(getattr(module, "rate_share", 1.0))
        for module in learnt.modules()
        for parameter in module.parameters(recurse=False)
    }
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in learnt.parameters():
        groups.setdefault(lr * shares[parameter], []).append(parameter)
    return [{"params": group, "lr": rate} for rate, group in groups.items()]


@torch.no_grad()
def predict(network: nn.Module, graph: Graph, nodes: Tensor | None = None) -> Outputs:
    """The outputs of a network without dropout or gradients, at some nodes or all."""
    network.eval()
    outputs: Outputs = network(graph, nodes)
    return outputs


def supervised(graph: Graph, train: Tensor, weight: float = 1.0, batch: int = 0) -> Step:
    """An epoch on the labels of the training nodes, all at once or in batches, the rest dropped."""

    def step(network: nn.Module, optimiser: torch.optim.Optimizer, draw: torch.Generator) -> float:
        losses = []
        for places in batches(len(train), batch, draw):
            nodes = train if places is None else train[places]
            own: Tensor | float = 0.0
            if isinstance(network, Learner):
                outputs, own = network.learning(graph, nodes)
            else:
                outputs = network(graph, nodes)
            loss = weight * hard(outputs.logits, graph.y[nodes]) + own
            losses.append(descend(loss, optimiser))
        return sum(losses) / len(losses)

    return step


def batches(count: int, size: int, draw: torch.Generator) -> list[Tensor | None]:
    """A fresh order cut into full batches, the rest dropped as in GLNN; None is all at once."""
    if size == 0 or size >= count:
        return [None]
    order = torch.randperm(count, generator=draw)
    return list(order[: count // size * size].split(size))


def hard(logits: Tensor, y: Tensor) -> Tensor:
    """The mean loss on true targets: cross-entropy, or of real ones the squared error.

    Of one logit for two answers, as of links, it is the binary cross-entropy.
    """
    if y.is_floating_point():
        return (logits[:, 0] - y).square().mean()
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], y.to(logits))
    return response.cross_entropy(logits, y).mean()


def score(logits: Tensor, y: Tensor) -> float:
    r"""How well true targets are met: the accuracy, or of real ones the share of variance.

        R^2 = 1 - \sum_i (f_i - y_i)^2 / \sum_i (y_i - mean(y))^2

    which is below 0 where the mean would do better, and 0 by convention if all y are the same.
    Of one logit for two answers, as of links, it is the area under the ROC curve.
    """
    if not y.is_floating_point():
        ranked = logits.shape[1] == 1
        return metrics.auc(logits[:, 0], y) if ranked else metrics.accuracy(logits, y)
    spread = (y - y.mean()).square().sum()
    return float(1 - (logits[:, 0] - y).square().sum() / spread) if spread else 0.0


def scores(logits: Tensor, ys: Sequence[Tensor]) -> list[float]:
    """`score` of each of several networks, whose logits stand one under the other."""
    sizes = [len(y) for y in ys]
    if logits.shape[1] == 1 or any(y.is_floating_point() for y in ys):
        return [score(*one) for one in zip(logits.split(sizes), ys, strict=True)]
    return metrics.accuracies(logits, torch.cat(list(ys)), sizes)


def descend(loss: Tensor, optimiser: torch.optim.Optimizer) -> float:
    """One step down the gradient of a loss; gives its value."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return float(loss.detach())
