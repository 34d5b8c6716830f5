"""Fitting one network: epochs, early stopping on validation accuracy, and its own randomness."""

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from graphkd import networks
from graphkd.core import Epoch, Student, Teacher
from graphkd.graph import Graph
from knowledge import fidelity, response
from knowledge.outputs import Outputs
from knowledge.randomness import generator


class Fitted(NamedTuple):
    """A trained network with frozen weights, and the epoch that they are from."""

    network: nn.Module
    epoch: int


Step = Callable[[nn.Module, torch.optim.Optimizer, torch.Generator], float]
Fit = Generator[Epoch, None, Fitted]


def finish(fitting: Fit) -> Fitted:
    """Run a fit to its end without looking at its epochs."""
    while True:
        try:
            next(fitting)
        except StopIteration as stop:
            return stop.value


@contextmanager
def seeded(seed: int, device: torch.device, *purpose: int | str) -> Iterator[None]:
    """Torch's global streams start from (seed, purpose) inside, and go on as before after.

    Initialisation and dropout of PyTorch and PyG draw from there and take no generator.
    """
    stream = generator(seed, *purpose).initial_seed()
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):
        torch.default_generator.manual_seed(stream)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(stream)
        yield


def build(description: Teacher | Student, graph: Graph, seed: int, role: str) -> nn.Module:
    """A fresh network for a graph; the same for the same seed and role."""
    name, hidden, layers, dropout = description[:4]
    with seeded(seed, graph.x.device, role, "weights"):
        return networks.build(name, graph, hidden, layers, dropout)


def fit(
    phase: str,
    network: nn.Module,
    description: Teacher | Student,
    graph: Graph,
    val: Tensor,
    step: Step,
    seed: int,
) -> Fit:
    """Train epoch by epoch with Adam, yield each, and give the network with the best weights.

    The best weights are those of the last epoch with the highest accuracy on the validation
    nodes; training stops when none such has come for `patience` epochs.

    Args:
        phase: the name of the epochs; "baseline" and "student" share their random streams.
        network: is trained in place.
        description: how.
        graph: whose validation labels select.
        val: (n,) validation nodes.
        step: one epoch of training; gives its loss.
        seed: of dropout and of what `step` draws.

    Raises:
        ValueError: the loss is no longer a number.
    """
    optimiser = torch.optim.Adam(
        network.parameters(), description.lr, weight_decay=description.weight_decay, fused=True
    )
    role = "teacher" if phase == "teacher" else "student"
    highest, stale, chosen, weights = -1.0, 0, 0, network.state_dict()
    for index in range(description.epochs):
        network.train()
        with seeded(seed, graph.x.device, role, index):
            loss = step(network, optimiser, generator(seed, role, "draw", index))
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss of the {phase} is {loss} in epoch {index}; training diverged: lower its "
                f"learning rate (now {description.lr}) or the weights of its terms"
            )
        accuracy = fidelity.accuracy(predict(network, graph, val).logits, graph.y[val])
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


@torch.no_grad()
def predict(network: nn.Module, graph: Graph, nodes: Tensor | None = None) -> Outputs:
    """The outputs of a network without dropout or gradients, at some nodes or all."""
    network.eval()
    return network(graph, nodes)


def supervised(graph: Graph, train: Tensor, weight: float = 1.0) -> Step:
    """An epoch of one step on the labels of the training nodes."""

    def step(network: nn.Module, optimiser: torch.optim.Optimizer, _: torch.Generator) -> float:
        logits = network(graph, train).logits
        loss = weight * response.cross_entropy(logits, graph.y[train]).mean()
        return descend(loss, optimiser)

    return step


def descend(loss: Tensor, optimiser: torch.optim.Optimizer) -> float:
    """One step down the gradient of a loss; gives its value."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return float(loss.detach())
